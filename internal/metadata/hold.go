package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/image"
)

// sweepLock is the name of the lock file of the collector, among those of the holders.
const sweepLock = "gc.lock"

// A Hold is the lease of a running operation. It keeps what it lists until [Hold.Release], or
// until its process ends in whatever way, and nothing else ends it. Goroutines may share it.
type Hold struct {
	store    *Store
	ns, name string

	mu   sync.Mutex
	lock *os.File // nil: released
}

// Hold keeps digests, and all that is below them, from collection: whatever of them has its
// bytes in the content store once Hold has returned will stay. Digests need not be here. Without
// digests it holds everything, for operations that cannot know what will come; then nothing is
// collected until their end.
//
// Hold waits for a collection that has condemned one of them and is deleting its bytes.
func (s *Store) Hold(ctx context.Context, ns string, digests ...image.Digest) (*Hold, error) {
	if err := CheckNamespace(ns); err != nil {
		return nil, err
	}
	h := &Hold{store: s, ns: ns, name: rand.Text()}
	lock, err := s.lockFile(ctx, h.name, flock.Exclusive)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hold: %w", err), s.removeHolder(h.name))
	}
	h.lock = lock
	row := Lease{ID: h.name, CreatedAt: time.Now().UTC(), Holder: h.name, All: len(digests) == 0}
	if err := h.add(ctx, row, digests); err != nil {
		return nil, errors.Join(err, h.Release(context.WithoutCancel(ctx)))
	}
	return h, nil
}

func (h *Hold) key() []byte { return key(leaseRows, h.ns, h.name) }

// Add holds more digests, as [Store.Hold] does.
func (h *Hold) Add(ctx context.Context, digests ...image.Digest) error {
	h.mu.Lock()
	released := h.lock == nil
	h.mu.Unlock()
	if released {
		return fmt.Errorf("hold %s was released: %w", h.name, errdefs.ErrFailedPrecondition)
	}
	return h.add(ctx, Lease{}, digests)
}

// add puts digests into the row of the hold, which is as given if there is none yet.
func (h *Hold) add(ctx context.Context, row Lease, digests []image.Digest) error {
	if err := checkDigests(digests...); err != nil {
		return err
	}
	var doomed []Garbage
	err := h.store.update(ctx, func(c change) error {
		if _, err := h.store.dropDead(c); err != nil {
			return err
		}
		if err := c.get(h.key(), &row); err != nil && (row.ID == "" || !errdefs.IsNotFound(err)) {
			return err
		}
		row.Digests = append(row.Digests, digests...)
		if err := c.put(h.key(), row); err != nil {
			return err
		}
		all, err := c.doomed(func(image.Digest) bool { return true })
		if err != nil {
			return err
		}
		doomed = nil
		for _, g := range all {
			above, err := c.above(g.Digest) // what is evicted is below what is held
			if err != nil {
				return err
			}
			if row.holds(above) {
				doomed = append(doomed, g)
			}
		}
		return nil
	})
	if err != nil || len(doomed) == 0 {
		return err
	}
	return h.store.pardon(ctx, doomed)
}

// pardon waits for the end of a sweep that may be deleting bytes of what is held now. A
// sweep that died before it was done has left its marks; bytes that it did not come to are
// whole, and nobody will delete them now.
func (s *Store) pardon(ctx context.Context, doomed []Garbage) error {
	lock, err := s.lockFile(ctx, sweepLock, flock.Shared)
	if err != nil {
		return err
	}
	err = s.update(ctx, func(c change) error {
		for _, g := range doomed {
			if err := c.w.Delete(doomedKey(g.Digest)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, lock.Close())
}

// Release ends the hold. Ending it again does nothing.
func (h *Hold) Release(ctx context.Context) error {
	h.mu.Lock()
	released := h.lock == nil
	h.mu.Unlock()
	if released {
		return nil
	}
	err := h.store.update(ctx, func(c change) error { return c.w.Delete(h.key()) })
	// Without its lock the hold does not count, row or no row.
	return errors.Join(err, h.unlock())
}

// unlock removes the lock file of a hold whose row is gone.
func (h *Hold) unlock() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lock == nil {
		return nil
	}
	err := errors.Join(h.store.removeHolder(h.name), h.lock.Close())
	h.lock = nil
	return err
}

// lockFile opens and locks a lock file, made if absent.
func (s *Store) lockFile(ctx context.Context, name string, m flock.Mode) (*os.File, error) {
	if err := os.MkdirAll(s.holders, 0o700); err != nil {
		return nil, err
	}
	// A collector may take it for a file that a dead process had left, and remove it.
	return flock.Open(ctx, m, func() (*os.File, error) {
		return os.OpenFile(filepath.Join(s.holders, name), os.O_RDWR|os.O_CREATE, 0o600)
	})
}

// alive tells whether the process of a holder still has its lock.
func (s *Store) alive(holder string) (bool, error) {
	if !identifier.MatchString(holder) {
		return false, nil
	}
	f, err := os.Open(filepath.Join(s.holders, holder))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	free, err := flock.TryLock(f, flock.Shared)
	return !free, errors.Join(err, f.Close())
}

// removeHolder removes the lock file of a holder.
func (s *Store) removeHolder(name string) error {
	if !identifier.MatchString(name) {
		return nil
	}
	if err := os.Remove(filepath.Join(s.holders, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

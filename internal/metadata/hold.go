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
// Hold waits for a round of a collection that has condemned one of them and is deleting its bytes.
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
	s.own.Store(h.name, nil)
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
	waits := map[string][]image.Digest{} // by the rounds that are deleting them
	err := h.store.update(ctx, func(c change) error {
		if row.ID != "" { // whoever begins tidies up behind those that died
			if _, err := h.store.dropDead(c); err != nil {
				return err
			}
		}
		if err := c.get(h.key(), &row); err != nil && (row.ID == "" || !errdefs.IsNotFound(err)) {
			return err
		}
		row.Digests = append(row.Digests, digests...)
		if err := c.put(h.key(), row); err != nil {
			return err
		}
		return c.eachDoomed(func(d image.Digest, doomed doomedRow) error {
			above, err := c.above(d) // what is evicted is below what is held
			if err != nil || !row.holds(above) {
				return err
			}
			return h.store.spareDoomed(c, d, doomed, waits)
		})
	})
	for round, digests := range waits {
		if err == nil {
			err = h.store.await(ctx, round, digests)
		}
	}
	return err
}

// spareDoomed takes back that a blob which is held now was condemned: its bytes are whole, and
// nobody will delete them. If a round is about to, that has to be waited for.
func (s *Store) spareDoomed(c change, d image.Digest, row doomedRow, waits map[string][]image.Digest) error {
	busy, err := s.claimed(row)
	if err != nil {
		return err
	}
	if busy {
		waits[row.Round] = append(waits[row.Round], d)
		return nil
	}
	return c.w.Delete(doomedKey(d))
}

// await waits for the end of a round, or of its process, and takes the marks away of what is held
// now. Bytes that the round did not come to are whole.
func (s *Store) await(ctx context.Context, round string, digests []image.Digest) error {
	f, err := os.Open(filepath.Join(s.holders, round))
	if err == nil {
		err = errors.Join(flock.Lock(ctx, f, flock.Shared), f.Close())
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		for _, d := range digests {
			if err := c.pardon(d, func(of string) bool { return of == round }); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachDoomed calls f for what is condemned.
func (c change) eachDoomed(f func(image.Digest, doomedRow) error) error {
	rows := map[image.Digest]doomedRow{}
	for e, err := range c.Scan([]byte(doomedRows)) {
		if err != nil {
			return err
		}
		d, err := lastDigest(e.Key, []byte(doomedRows))
		if err != nil {
			return err
		}
		var row doomedRow
		if err := decode(e.Key, e.Value, &row); err != nil {
			return err
		}
		rows[d] = row
	}
	for d, row := range rows {
		if err := f(d, row); err != nil {
			return err
		}
	}
	return nil
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
	h.store.own.Delete(h.name)
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
	if _, own := s.own.Load(holder); own {
		return true, nil
	}
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

package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/layer"
)

// A Folder is one that this process fills. It stays locked until Keep or Discard.
type Folder struct {
	Name    string // in the rows
	Path    string
	lock    *os.File // the folder itself
	remover Remover  // nil: nothing is kept elsewhere
}

// nameLength keeps the names short: overlay's list of folders has to fit into a page. 2⁴⁰ names
// are enough to find a free one at once.
const nameLength = 8

// NewFolder makes an empty folder and locks it.
func (s *Store) NewFolder() (*Folder, error) {
	if err := s.writing(); err != nil {
		return nil, err
	}
	f, err := NewFolder(s.dir)
	if err == nil {
		f.remover, _ = s.driver.(Remover)
	}
	return f, err
}

// NewFolder makes an empty folder among those of the snapshotter whose folder is dir, and locks
// it. What of it outlives its process is swept.
func NewFolder(dir string) (*Folder, error) {
	for {
		name := strings.ToLower(rand.Text()[:nameLength])
		path := filepath.Join(dir, name)
		err := os.Mkdir(path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make a folder for a snapshot: %w", err)
		}
		lock, err := lockFree(path)
		if err != nil {
			return nil, fmt.Errorf("make a folder for a snapshot: %w", err)
		}
		if lock != nil {
			return &Folder{Name: name, Path: path, lock: lock}, nil
		}
	}
}

// lockFree locks a file or a folder, or returns nil if somebody else has locked it or it is gone.
func lockFree(path string) (*os.File, error) {
	f, err := flock.TryOpen(flock.Exclusive, func() (*os.File, error) { return os.Open(path) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// Keep leaves the folder to the row that names it now.
func (f *Folder) Keep() error { return release(f.lock) }

// release gives up a lock. Closing alone would leave it to a process that is just being started,
// which has what we had open until it runs its own program.
func release(f *os.File) error { return errors.Join(flock.Unlock(f), f.Close()) }

// Discard removes the folder. What of it cannot be removed is left to a sweep.
func (f *Folder) Discard() error {
	if f.remover != nil {
		if err := f.remover.Remove(context.Background(), f.Path); err != nil {
			return errors.Join(err, release(f.lock))
		}
	}
	return errors.Join(layer.RemoveAll(f.Path), release(f.lock))
}

// Path of a folder, by its name in the rows.
func (s *Store) Path(name string) string { return filepath.Join(s.dir, name) }

// paths of the folders of a chain.
func (s *Store) paths(chain []Snapshot) []string {
	list := make([]string, len(chain))
	for i, row := range chain {
		list[i] = s.Path(row.Folder)
	}
	return list
}

// There tells whether the folder of a snapshot is there, and is not condemned; people remove them
// by hand.
func (s *Store) There(row Snapshot) bool {
	if row.Folder == "" {
		return false
	}
	info, err := os.Lstat(s.Path(row.Folder))
	if err != nil || !info.IsDir() {
		return false
	}
	_, err = os.Lstat(filepath.Join(s.Path(row.Folder), condemnedFile))
	return errors.Is(err, fs.ErrNotExist)
}

// A LayerLock is the right to unpack one layer, which one process has at a time.
type LayerLock struct{ file *os.File }

// LockLayer takes the right to unpack a layer. While another process has it, it waits, or
// answers [errdefs.ErrUnavailable].
func (s *Store) LockLayer(ctx context.Context, diffID digest.Digest, wait bool) (*LayerLock, error) {
	name := filepath.Join(s.dir, busyDir, diffID.Algorithm().String()+"-"+diffID.Encoded())
	open := func() (*os.File, error) { return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600) }
	var f *os.File
	var err error
	if wait {
		f, err = flock.Open(ctx, flock.Exclusive, open)
	} else if f, err = flock.TryOpen(flock.Exclusive, open); f == nil && err == nil {
		return nil, fmt.Errorf("layer %s is being unpacked: %w", diffID, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("lock layer %s: %w", diffID, err)
	}
	return &LayerLock{f}, nil
}

// Unlock gives it up.
func (l *LayerLock) Unlock() error {
	// Removed while it is locked: who waits for it notices that the name is gone.
	err := os.Remove(l.file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, release(l.file))
}

// Sweep removes the folders that nobody fills, no row names and no mount shows, and answers what
// they took.
func (s *Store) Sweep(ctx context.Context) (freed Usage, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return Usage{}, err
	}
	if err := s.sweepLocks(); err != nil {
		return Usage{}, err
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) == nameLength && e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return Usage{}, nil
	}
	rows, err := s.meta.SnapshotFolders(ctx, s.name, names...)
	if err != nil {
		return Usage{}, err
	}
	return s.Discard(ctx, slices.DeleteFunc(names, func(name string) bool { return rows[name] })...)
}

// Discard is [Store.Sweep] for some folders. One that is not there is nothing to remove.
func (s *Store) Discard(ctx context.Context, names ...string) (freed Usage, err error) {
	var strays []*Folder
	remover, _ := s.driver.(Remover)
	for _, name := range names {
		lock, lockErr := lockFree(s.Path(name))
		err = errors.Join(err, lockErr)
		if lock != nil {
			strays = append(strays, &Folder{name, s.Path(name), lock, remover})
		}
	}
	if len(strays) == 0 {
		return Usage{}, err
	}
	// Whoever filled one wrote its row before giving up the lock that we have now.
	rows, rowsErr := s.meta.SnapshotFolders(ctx, s.name, names...)
	err = errors.Join(err, rowsErr)
	var waiting []string
	for _, f := range strays {
		if rowsErr != nil || rows[f.Name] {
			err = errors.Join(err, f.Keep())
			continue
		}
		u, sweepErr := s.sweep(ctx, f)
		freed.Size += u.Size
		freed.Inodes += u.Inodes
		if errdefs.IsFailedPrecondition(sweepErr) {
			s.log.Debug("a folder that no snapshot has is in use", "snapshotter", s.name, "folder", f.Name, "reason", sweepErr)
			waiting = append(waiting, f.Name)
			sweepErr = nil
		}
		err = errors.Join(err, sweepErr)
	}
	// What is kept elsewhere goes from the top.
	if remover != nil && len(waiting) > 0 && len(waiting) < len(strays) {
		u, restErr := s.Discard(ctx, waiting...)
		return Usage{freed.Size + u.Size, freed.Inodes + u.Inodes}, errors.Join(err, restErr)
	}
	return freed, err
}

// sweep removes one stray. What is mounted, an [errdefs.ErrFailedPrecondition], has to wait for a later
// sweep.
func (s *Store) sweep(ctx context.Context, f *Folder) (freed Usage, err error) {
	if err := s.driver.Release(ctx, f.Path); err != nil {
		return Usage{}, errors.Join(err, f.Keep())
	}
	freed.Size, freed.Inodes, err = layer.Usage(f.Path)
	return freed, errors.Join(err, f.Discard())
}

// sweepLocks removes the files of locks whose owners were killed.
func (s *Store) sweepLocks() error {
	dir := filepath.Join(s.dir, busyDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := lockFree(filepath.Join(dir, e.Name()))
		if f == nil && err == nil {
			continue
		}
		if err != nil {
			return err
		}
		// Removed while it is locked: who waits for it notices that the name is gone.
		if err = os.Remove(f.Name()); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

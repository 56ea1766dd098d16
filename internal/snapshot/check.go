package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
)

// Look says what makes the folder of an unpacked layer suspect, by what can be told without
// reading its files; empty if nothing does. It was unpacked before since. What is plainly damaged
// is an [errdefs.ErrDataLoss].
func (s *Store) Look(ctx context.Context, row Snapshot, since time.Time) (why string, err error) {
	return s.driver.Look(ctx, s.Path(row.Folder), row.Size, since)
}

// Compare tells in what the topmost folder of a chain differs from its layer, whose uncompressed
// tar r streams, and how many differences are not listed. What of the folder cannot be read at all
// is an [errdefs.ErrDataLoss]; that of one below it is an [errdefs.ErrFailedPrecondition].
func (s *Store) Compare(ctx context.Context, chain []Snapshot, r io.Reader, limits layer.Limits) (list []layer.Difference, more int, err error) {
	folders, top := s.paths(chain), chain[len(chain)-1]
	below, err := s.driver.Tree(ctx, folders[:len(folders)-1])
	if errdefs.IsDataLoss(err) {
		err = fmt.Errorf("what is below is damaged: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	tree, err := s.driver.Tree(ctx, folders)
	if errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	list, more, err = layer.Compare(ctx, r, below, tree, layer.CompareOptions{Limits: limits, Losses: top.Losses})
	if err != nil {
		return nil, 0, err
	}
	return list, more, s.driver.Audit(ctx, folders)
}

// condemnedFile is in a folder that is found damaged, and says why.
const condemnedFile = "damaged"

// maxCondemned is how much is written and read of a reason, in bytes.
const maxCondemned = 4 << 10

// Condemn says that a folder is damaged. From then on it counts as gone, in every process, but for
// those who have it mounted: whoever needs it unpacks it again.
func (s *Store) Condemn(folder, why string) (err error) {
	name := filepath.Join(s.Path(folder), condemnedFile)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("condemn folder %s: %w", folder, err)
	}
	_, err = f.WriteString(why[:min(len(why), maxCondemned)])
	if err == nil && !s.nosync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Condemned tells whether a folder was found damaged, and why.
func (s *Store) Condemned(folder string) (why string, is bool, err error) {
	f, err := os.OpenFile(filepath.Join(s.Path(folder), condemnedFile), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCondemned))
	return string(b), true, errors.Join(err, f.Close())
}

// Folders tells which folders rows of any namespace name. Errors: [errdefs.ErrDataLoss] when a row
// is damaged: nobody knows then which it names.
func (s *Store) Folders(ctx context.Context) (map[string]bool, error) {
	return s.meta.SnapshotFolders(ctx, s.name)
}

// Strays lists the folders beside those of snapshots that nobody fills, no row names and no mount
// shows.
func (s *Store) Strays(ctx context.Context) (names []string, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == busyDir {
			continue
		}
		lock, err := lockFree(s.Path(e.Name()))
		if err == nil && lock != nil {
			names = append(names, e.Name())
			err = release(lock)
		}
		if err != nil {
			return nil, err
		}
	}
	// Whoever filled one wrote its row before giving up its lock.
	rows, err := s.Folders(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := mount.Beneath("/")
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		for _, name := range s.Shows(m) {
			rows[name] = true
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return rows[name] }), nil
}

// RemoveStray removes a folder of [Store.Strays], unless somebody fills it or has it mounted by now.
// One that is not called as those of snapshots are holds who knows what, and is moved to
// snapshots/quarantine.
func (s *Store) RemoveStray(ctx context.Context, name string) error {
	if len(name) != nameLength {
		_, err := s.aside(name)
		return err
	}
	_, err := s.Discard(ctx, name)
	return err
}

// asideDir is where folders are moved that hold what nobody can make again, beside the folders of
// the snapshotters.
const asideDir = "quarantine"

// SetAside removes a snapshot that nothing stands on, as [Store.Remove] does, but for what somebody
// wrote there: its folder is moved to snapshots/quarantine, and its new name is returned. It is
// empty if there was nothing to keep.
func (s *Store) SetAside(ctx context.Context, key string) (moved string, err error) {
	row, err := s.meta.Snapshot(ctx, s.ns, s.name, key)
	if err != nil {
		return "", err
	}
	folder := s.Path(row.Folder)
	if row.Kind == View || row.Kind == Committed && row.DiffID != "" || !s.There(row) {
		if err := s.removeRow(ctx, key, folder); err != nil || row.Folder == "" {
			return "", err
		}
		_, err := s.Discard(ctx, row.Folder)
		return "", err
	}
	// Locked, so that it is not swept when no row names it any more.
	lock, err := lockFree(folder)
	if err != nil {
		return "", err
	}
	if lock == nil {
		return "", fmt.Errorf("set snapshot %s aside: its folder is in use: %w", key, errdefs.ErrFailedPrecondition)
	}
	defer func() { err = errors.Join(err, release(lock)) }()
	if err := s.removeRow(ctx, key, folder); err != nil {
		return "", err
	}
	return s.aside(row.Folder)
}

// SetAllAside moves the folders of the snapshotter whose folder is dir to snapshots/quarantine, when the rows
// that named them are lost: what somebody wrote there cannot be told from what can be made again. What
// is mounted stays mounted.
func SetAllAside(name, dir string) error {
	s := &Store{name: name, dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || len(e.Name()) != nameLength {
			continue
		}
		lock, err := lockFree(s.Path(e.Name()))
		if err == nil && lock != nil { // else somebody fills it
			_, err = s.aside(e.Name())
			err = errors.Join(err, release(lock))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// aside moves a folder to the quarantine.
func (s *Store) aside(name string) (moved string, err error) {
	aside := filepath.Join(filepath.Dir(s.dir), asideDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return "", err
	}
	moved = filepath.Join(aside, s.name+"-"+name)
	return moved, os.Rename(s.Path(name), moved)
}

// removeRow removes a snapshot that is not mounted, and leaves its folder.
func (s *Store) removeRow(ctx context.Context, key, folder string) error {
	if err := s.driver.Release(ctx, folder); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	_, err := s.meta.RemoveSnapshot(ctx, s.ns, s.name, key)
	return err
}

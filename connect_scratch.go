package stowage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/mount"
)

// A scratch is a folder for what a connected store needs beside its peer: lock files, and places to mount
// at. It is locked as long as it is used.
type scratch struct {
	dir  string
	lock *os.File
}

const scratchPrefix = "stowage-peer-"

// newScratch makes one, and takes away those that killed processes have left, with their mounts.
func newScratch() (*scratch, error) {
	sweepScratches(os.TempDir())
	for {
		dir, err := os.MkdirTemp("", scratchPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := flock.TryOpen(flock.Exclusive, func() (*os.File, error) { return os.Open(dir) })
		switch {
		case err == nil && lock != nil:
			return &scratch{dir, lock}, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, errors.Join(err, os.Remove(dir))
		}
		// Another took it for one that was left, before it was locked.
	}
}

// close takes the folder away.
func (s *scratch) close() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }

// sweepScratches is for what nobody uses any more. What cannot be taken away stays: the next one tries again.
func sweepScratches(temp string) {
	names, err := filepath.Glob(filepath.Join(temp, scratchPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range names {
		sweepScratch(dir)
	}
}

func sweepScratch(dir string) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // it was read from, and locked
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return // another's
	}
	if mine, err := flock.TryLock(f, flock.Exclusive); !mine || err != nil {
		return
	}
	mounts, err := mount.Beneath(dir)
	if err != nil {
		return
	}
	for _, m := range mounts {
		if mount.Unmount(m.Target) != nil {
			return
		}
	}
	_ = os.RemoveAll(dir)
}

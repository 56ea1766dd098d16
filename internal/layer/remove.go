package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// RemoveAll removes dir and all beneath it, following no links: also what is immutable, and
// folders that their owner may not read. It removes several folders side by side. Where something
// is mounted beneath dir the error is [unix.EBUSY]; what is mounted stays as it was, which the
// rest need not. That there is no dir is no error.
func RemoveAll(dir string) error {
	dir = filepath.Clean(dir)
	parent, err := unix.Open(filepath.Dir(dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		err = errors.Join(removeAt(parent, filepath.Base(dir)), unix.Close(parent))
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// removeAt removes what has a name in an open folder, with all beneath it.
func removeAt(dir int, name string) error {
	err := unlink(dir, name)
	if err != unix.ENOTEMPTY {
		return err
	}
	top, err := openToEmpty(dir, name)
	if err != nil {
		return err
	}
	r := &remover{top: top, helpers: make(chan struct{}, runtime.GOMAXPROCS(0)-1)}
	if err := errors.Join(r.empty(top, 0), top.Close()); err != nil {
		return err
	}
	return unlink(dir, name)
}

// maxDescent is how deep a remover goes before it moves what is deeper to the top: each folder on
// the way is open, and trees can be deeper than there are descriptors.
const maxDescent = 100

// A remover removes what is in one folder.
type remover struct {
	top     *os.File
	helpers chan struct{} // has room while another goroutine may be started
	lifted  atomic.Int64  // folders moved to the top
}

// empty removes what is in a folder, and waits for it.
func (r *remover) empty(dir *os.File, depth int) error {
	for {
		// In parts, so that memory has a bound. Those that are lifted meanwhile are met again.
		entries, err := dir.ReadDir(1024)
		if len(entries) == 0 && (err == nil || err == io.EOF) {
			return nil
		}
		if err == nil {
			err = r.remove(dir, entries, depth)
		}
		if err == nil {
			_, err = dir.Seek(0, io.SeekStart)
		}
		if err != nil {
			return err
		}
	}
}

func (r *remover) remove(dir *os.File, entries []fs.DirEntry, depth int) error {
	var helpers errgroup.Group
	var err error
	for _, e := range entries {
		if err = r.removeOne(int(dir.Fd()), e, depth, &helpers); err != nil {
			break
		}
	}
	return errors.Join(err, helpers.Wait())
}

// removeOne removes a name in a folder, or has it removed while others are.
func (r *remover) removeOne(dir int, e fs.DirEntry, depth int, helpers *errgroup.Group) error {
	name := e.Name()
	if !e.IsDir() {
		if err := unlink(dir, name); err != unix.ENOTEMPTY {
			return err
		}
	}
	if depth == maxDescent {
		return r.lift(dir, name)
	}
	child, err := openToEmpty(dir, name)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	remove := func() error {
		return errors.Join(r.empty(child, depth+1), child.Close(), unlink(dir, name))
	}
	select {
	case r.helpers <- struct{}{}:
		helpers.Go(func() error {
			defer func() { <-r.helpers }()
			return remove()
		})
		return nil
	default:
		return remove()
	}
}

// lift moves a folder to the top, under a name that is free there.
func (r *remover) lift(dir int, name string) error {
	for {
		free := "lifted." + strconv.FormatInt(r.lifted.Add(1), 10)
		err := changing(dir, name, func() error {
			return unix.Renameat2(dir, name, int(r.top.Fd()), free, unix.RENAME_NOREPLACE)
		})
		if err != unix.EEXIST {
			return err
		}
	}
}

// unlink removes a name in an open folder. The error is ENOTEMPTY for a folder with something in
// it.
func unlink(dir int, name string) error {
	return changing(dir, name, func() error {
		err := unix.Unlinkat(dir, name, 0)
		if err == unix.EISDIR {
			err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		switch err {
		case unix.ENOENT:
			return nil
		case unix.EEXIST: // what some filesystems say
			return unix.ENOTEMPTY
		}
		return err
	})
}

// changing does something with a name in an open folder. What keeps it from that is changed: a
// mode that locks out its owner, and flags of both.
func changing(dir int, name string, do func() error) error {
	err := retry(do)
	var changed bool
	var fault error
	switch err {
	case unix.EACCES:
		changed, fault = unlock(dir)
	case unix.EPERM:
		var both [2]bool
		both[0], fault = makeMutable(dir, ".")
		if fault == nil {
			both[1], fault = makeMutable(dir, name)
		}
		changed = both[0] || both[1]
	}
	if !changed || fault != nil {
		return err
	}
	return retry(do)
}

// unlock gives the owner of an open folder all rights to it.
func unlock(fd int) (changed bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o700 == 0o700 {
		return false, err
	}
	return true, chmodPath(fd, st.Mode&0o7777|0o700)
}

// openToEmpty opens a folder to remove what is in it. The error is EBUSY if something is mounted
// there.
func openToEmpty(dir int, name string) (*os.File, error) {
	fd, err := openSameMount(dir, name)
	if err == unix.EACCES {
		at, pathErr := openFolder(dir, name)
		if pathErr != nil {
			return nil, err
		}
		changed, unlockErr := unlock(at)
		if err := errors.Join(unlockErr, unix.Close(at)); err != nil {
			return nil, err
		}
		if changed {
			fd, err = openSameMount(dir, name)
		}
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openSameMount(dir int, name string) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	err = retry(func() (err error) {
		fd, err = unix.Openat2(dir, name, &how)
		return err
	})
	switch err {
	case unix.EXDEV:
		return -1, unix.EBUSY
	case unix.ENOSYS, unix.EPERM: // before Linux 5.6, or a filter of that time
	default:
		return fd, err
	}
	if fd, err = openReal(dir, name); err != nil {
		return -1, err
	}
	var above, here unix.Stat_t
	err = errors.Join(unix.Fstat(dir, &above), unix.Fstat(fd, &here))
	if err == nil && above.Dev != here.Dev { // mounts of the same filesystem are not seen by this
		err = unix.EBUSY
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

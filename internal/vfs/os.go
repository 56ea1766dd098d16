package vfs

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the folder root of a real disk. It must exist, and is read-only if its disk is. The
// folder stays open until the FS is garbage.
func OS(root string) (FS, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil { // without /proc nothing unsynced is believed
		boot = []byte(rand.Text())
	}
	return &osDisk{root: f, boot: strings.TrimSpace(string(boot))}, nil
}

// osDisk makes every call relative to root.
type osDisk struct {
	root *os.File
	boot string
}

func (d *osDisk) Create(name string, perm fs.FileMode) (File, error) {
	fd, err := d.openat("create", name, unix.O_RDWR|unix.O_CREAT, perm)
	if err != nil {
		return nil, err
	}
	return osFile{os.NewFile(uintptr(fd), d.full(name))}, nil
}

func (d *osDisk) Open(name string) (File, error) {
	// A fifo put in place of a file must not make us wait for its writer.
	fd, err := d.openat("open", name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := osFile{os.NewFile(uintptr(fd), d.full(name))}
	switch fi, err := f.Stat(); {
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case fi.IsDir():
		return nil, errors.Join(d.fault("open", name, unix.EISDIR), f.Close())
	case !fi.Mode().IsRegular():
		return nil, errors.Join(d.fault("open", name, unix.EINVAL), f.Close())
	}
	return f, nil
}

func (d *osDisk) Mkdir(name string, perm fs.FileMode) error {
	return d.at("mkdir", name, func(fd int) error { return unix.Mkdirat(fd, name, uint32(perm.Perm())) })
}

func (d *osDisk) Rename(oldname, newname string) error {
	if !fs.ValidPath(newname) {
		return d.fault("rename", newname, fs.ErrInvalid)
	}
	return d.at("rename", oldname, func(fd int) error { return unix.Renameat(fd, oldname, fd, newname) })
}

func (d *osDisk) Remove(name string) error {
	return d.at("remove", name, func(fd int) error {
		err := unix.Unlinkat(fd, name, 0)
		if err == unix.EISDIR {
			return unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
		}
		return err
	})
}

func (d *osDisk) Chmod(name string, perm fs.FileMode) error {
	return d.at("chmod", name, func(fd int) error { return unix.Fchmodat(fd, name, uint32(perm.Perm()), 0) })
}

func (d *osDisk) ReadDir(name string) ([]fs.DirEntry, error) {
	fd, err := d.openat("readdir", name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.full(name))
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	list := make([]osEntry, len(entries))
	for i, e := range entries {
		list[i] = osEntry{e, e.Name(), d, name}
	}
	slices.SortFunc(list, func(a, b osEntry) int { return cmp.Compare(a.name, b.name) })
	for i := range list {
		entries[i] = &list[i]
	}
	return entries, nil
}

func (d *osDisk) Lstat(name string) (fs.FileInfo, error) {
	fi := &osInfo{name: path.Base(name)}
	err := d.at("lstat", name, func(fd int) error {
		return unix.Fstatat(fd, name, &fi.st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return nil, err
	}
	return fi, nil
}

func (d *osDisk) SyncDir(name string) error {
	fd, err := d.openat("syncdir", name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), d.full(name))
	return errors.Join(f.Sync(), f.Close())
}

func (d *osDisk) SyncAll() error { return d.at("syncfs", ".", unix.Syncfs) }

func (d *osDisk) BootID() string { return d.boot }

func (d *osDisk) openat(op, name string, flags int, perm fs.FileMode) (fd int, err error) {
	err = d.at(op, name, func(root int) (err error) {
		fd, err = unix.Openat(root, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm.Perm()))
		return err
	})
	return fd, err
}

// at makes one system call with the root's descriptor.
func (d *osDisk) at(op, name string, call func(root int) error) error {
	if !fs.ValidPath(name) {
		return d.fault(op, name, fs.ErrInvalid)
	}
	err := uninterrupted(func() error { return call(int(d.root.Fd())) })
	runtime.KeepAlive(d)
	return d.fault(op, name, err)
}

// fault makes err, if it is one, a *[fs.PathError].
func (d *osDisk) fault(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.full(name), Err: err}
}

func (d *osDisk) full(name string) string { return filepath.Join(d.root.Name(), name) }

// uninterrupted repeats a call that a signal broke off.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// osFile is an open file of a real disk.
type osFile struct{ *os.File }

func (f osFile) Stat() (fs.FileInfo, error) {
	fi := &osInfo{name: filepath.Base(f.Name())}
	if err := f.control("stat", func(fd int) error { return unix.Fstat(fd, &fi.st) }); err != nil {
		return nil, err
	}
	return fi, nil
}

func (f osFile) Lock(ctx context.Context) error { return lock(ctx, f.Name(), f.TryLock) }

func (f osFile) TryLock() (bool, error) {
	err := f.control("lock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func (f osFile) writeback(off, n int64) {
	// What cannot be begun early is waited for by Sync, which also tells of any failure.
	_ = f.control("writeback", func(fd int) error {
		return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

func (f osFile) sequential() {
	// It is only advice.
	_ = f.control("advise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_SEQUENTIAL) })
}

func (f osFile) control(op string, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		err = uninterrupted(func() error { return call(int(fd)) })
	})
	if err = cmp.Or(ctlErr, err); err != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}

// osEntry describes itself through the root, wherever its folder has been moved.
type osEntry struct {
	fs.DirEntry
	name string
	disk *osDisk
	dir  string
}

func (e *osEntry) Name() string { return e.name }

func (e *osEntry) Info() (fs.FileInfo, error) { return e.disk.Lstat(path.Join(e.dir, e.name)) }

// osInfo is a [fs.FileInfo] over what the kernel says.
type osInfo struct {
	name string
	st   unix.Stat_t
}

func (fi *osInfo) Name() string         { return fi.name }
func (fi *osInfo) Size() int64          { return fi.st.Size }
func (fi *osInfo) ModTime() time.Time   { return time.Unix(fi.st.Mtim.Unix()) }
func (fi *osInfo) changedAt() time.Time { return time.Unix(fi.st.Ctim.Unix()) }
func (fi *osInfo) IsDir() bool          { return fi.Mode().IsDir() }
func (fi *osInfo) Sys() any             { return &fi.st }

func (fi *osInfo) Mode() fs.FileMode {
	mode := fs.FileMode(fi.st.Mode & 0o777)
	switch fi.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	default:
		mode |= fs.ModeIrregular
	}
	return mode
}

func (fi *osInfo) same(other fs.FileInfo) bool {
	o, ok := other.(*osInfo)
	return ok && fi.st.Dev == o.st.Dev && fi.st.Ino == o.st.Ino
}

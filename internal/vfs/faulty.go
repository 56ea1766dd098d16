package vfs

import (
	"context"
	"io/fs"
	"sync"
	"syscall"
)

// Faulty is an FS whose calls fail, as [FailNth] or [FullNth] say. BootID and Stat of an open
// file are not counted as calls; closing a file closes it even when the call fails.
type Faulty struct {
	// Fired tells whether a call has failed. It may be read when no call is running.
	Fired bool

	fs   FS
	nth  int
	full bool

	mu    sync.Mutex
	calls int
}

// FailNth makes the call number n, from 0, to fsys or its files fail with EIO and without effect.
func FailNth(fsys FS, n int) *Faulty { return &Faulty{fs: fsys, nth: n} }

// FullNth fills the disk at call number n: from there on, every call that needs room fails with
// ENOSPC, and a write writes half of its bytes first.
func FullNth(fsys FS, n int) *Faulty { return &Faulty{fs: fsys, nth: n, full: true} }

// fail counts a call and says whether it must fail.
func (d *Faulty) fail(op, name string, needsRoom bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.calls
	d.calls++
	switch {
	case d.full && needsRoom && n >= d.nth:
		d.Fired = true
		return &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
	case !d.full && n == d.nth:
		d.Fired = true
		return &fs.PathError{Op: op, Path: name, Err: syscall.EIO}
	}
	return nil
}

// Create implements [FS].
func (d *Faulty) Create(name string, perm fs.FileMode) (File, error) {
	if err := d.fail("create", name, true); err != nil {
		return nil, err
	}
	return d.file(name)(d.fs.Create(name, perm))
}

// Open implements [FS].
func (d *Faulty) Open(name string) (File, error) {
	if err := d.fail("open", name, false); err != nil {
		return nil, err
	}
	return d.file(name)(d.fs.Open(name))
}

func (d *Faulty) file(name string) func(File, error) (File, error) {
	return func(f File, err error) (File, error) {
		if err != nil {
			return nil, err
		}
		return &faultyFile{File: f, disk: d, name: name}, nil
	}
}

// Mkdir implements [FS].
func (d *Faulty) Mkdir(name string, perm fs.FileMode) error {
	if err := d.fail("mkdir", name, true); err != nil {
		return err
	}
	return d.fs.Mkdir(name, perm)
}

// Rename implements [FS].
func (d *Faulty) Rename(oldname, newname string) error {
	if err := d.fail("rename", oldname, false); err != nil {
		return err
	}
	return d.fs.Rename(oldname, newname)
}

// Remove implements [FS].
func (d *Faulty) Remove(name string) error {
	if err := d.fail("remove", name, false); err != nil {
		return err
	}
	return d.fs.Remove(name)
}

// Chmod implements [FS].
func (d *Faulty) Chmod(name string, perm fs.FileMode) error {
	if err := d.fail("chmod", name, false); err != nil {
		return err
	}
	return d.fs.Chmod(name, perm)
}

// ReadDir implements [FS].
func (d *Faulty) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := d.fail("readdir", name, false); err != nil {
		return nil, err
	}
	return d.fs.ReadDir(name)
}

// Lstat implements [FS].
func (d *Faulty) Lstat(name string) (fs.FileInfo, error) {
	if err := d.fail("lstat", name, false); err != nil {
		return nil, err
	}
	return d.fs.Lstat(name)
}

// SyncDir implements [FS].
func (d *Faulty) SyncDir(name string) error {
	if err := d.fail("syncdir", name, false); err != nil {
		return err
	}
	return d.fs.SyncDir(name)
}

// SyncAll implements [FS].
func (d *Faulty) SyncAll() error {
	if err := d.fail("syncfs", ".", false); err != nil {
		return err
	}
	return d.fs.SyncAll()
}

// BootID implements [FS].
func (d *Faulty) BootID() string { return d.fs.BootID() }

type faultyFile struct {
	File
	disk *Faulty
	name string
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.disk.fail("read", f.name, false); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.disk.fail("write", f.name, true)
	switch {
	case err == nil:
		return f.File.WriteAt(p, off)
	case !f.disk.full:
		return 0, err
	}
	n, writeErr := f.File.WriteAt(p[:len(p)/2], off)
	if writeErr != nil {
		return n, writeErr
	}
	return n, err
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.disk.fail("truncate", f.name, false); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.disk.fail("sync", f.name, false); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Lock(ctx context.Context) error {
	if err := f.disk.fail("lock", f.name, false); err != nil {
		return err
	}
	return f.File.Lock(ctx)
}

func (f *faultyFile) TryLock() (bool, error) {
	if err := f.disk.fail("lock", f.name, false); err != nil {
		return false, err
	}
	return f.File.TryLock()
}

func (f *faultyFile) Close() error {
	failErr := f.disk.fail("close", f.name, false)
	if err := f.File.Close(); err != nil {
		return err
	}
	return failErr
}

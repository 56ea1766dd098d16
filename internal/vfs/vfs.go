// Package vfs is the disk as the store sees it.
//
// Everything that the content store does to a disk goes through [FS], so that tests can put a
// memory disk in its place, make any one call fail, and cut the power between two calls.
// The package knows nothing of images; which calls make a file durable, and in which order, is
// the business of its callers.
//
// Names are slash-separated, relative to the root of the FS, and must satisfy [fs.ValidPath].
//
// [OS] gives a real disk and [NewMem] a memory disk that can lose power; [FailNth] and [FullNth]
// make calls fail; [NoSync] trades durability for speed. One suite holds both disks to the contract.
package vfs

import (
	"context"
	"io"
	"io/fs"
	"time"
)

// An FS is one directory tree on one filesystem. Goroutines may share it.
//
// Errors are *[fs.PathError] and answer to [fs.ErrNotExist], [fs.ErrExist] and the errno below.
type FS interface {
	// Create opens name for reading and writing, made if absent, with perm before umask.
	// Its parent must exist.
	Create(name string, perm fs.FileMode) (File, error)
	// Open opens a regular file read-only. A symlink as the last element is refused.
	Open(name string) (File, error)
	// Mkdir makes one directory; [fs.ErrExist] if there is one.
	Mkdir(name string, perm fs.FileMode) error
	// Rename moves a file, replacing newname. It is durable after SyncDir of both parents.
	Rename(oldname, newname string) error
	// Remove deletes a file or an empty directory.
	Remove(name string) error
	// Chmod sets the permission bits of name.
	Chmod(name string, perm fs.FileMode) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Lstat describes name without following a link.
	Lstat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of directory name durable: files made, renamed or removed in it.
	SyncDir(name string) error
	// SyncAll makes all that was written to this filesystem so far durable, data and names.
	SyncAll() error
	// BootID names the time since the machine was started: data that was written but not
	// synced can be believed only while it stays the same.
	BootID() string
}

// A File is an open file. ReadAt and WriteAt may be called by several goroutines.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Truncate cuts or extends the file to size bytes.
	Truncate(size int64) error
	// Sync makes the file's data and size durable; its name is durable only after SyncDir.
	Sync() error
	// Stat describes the open file; [SameFile] tells whether a name still leads to it.
	Stat() (fs.FileInfo, error)
	// Lock takes the file's exclusive advisory lock, which every process sees and the kernel
	// drops when the file is closed or its owner dies. It waits until ctx ends.
	Lock(ctx context.Context) error
	// TryLock is Lock without waiting: false if another open file holds it.
	TryLock() (bool, error)
}

// SameFile tells whether two descriptions, of one FS, are of the same file.
func SameFile(a, b fs.FileInfo) bool {
	x, ok := a.(interface{ same(fs.FileInfo) bool })
	return ok && x.same(b)
}

// Syncs tells whether syncing does anything on fsys; it does not under [NoSync].
func Syncs(fsys FS) bool {
	_, no := fsys.(noSync)
	return !no
}

// ChangedAt is when anything of a file was last changed, its mode and names included; zero where
// the disk does not tell.
func ChangedAt(fi fs.FileInfo) time.Time {
	if c, ok := fi.(interface{ changedAt() time.Time }); ok {
		return c.changedAt()
	}
	return time.Time{}
}

// Writeback asks the disk to begin writing n bytes of f from off, so that a later Sync has less
// to wait for. It promises nothing and does nothing where it cannot help.
func Writeback(f File, off, n int64) {
	if w, ok := f.(interface{ writeback(off, n int64) }); ok {
		w.writeback(off, n)
	}
}

// Sequential tells the disk that all of f is about to be read, from its beginning on, so that it
// reads further ahead. It promises nothing and does nothing where it cannot help.
func Sequential(f File) {
	if s, ok := f.(interface{ sequential() }); ok {
		s.sequential()
	}
}

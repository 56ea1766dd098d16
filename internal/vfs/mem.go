package vfs

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mem is a disk in memory that remembers what was synced, so that the power can be cut: see
// [Mem.AfterCrash]. It has no symlinks and does not enforce permissions.
type Mem struct {
	boot int

	mu   sync.Mutex // guards every node
	root *node
}

// NewMem returns an empty disk.
func NewMem() *Mem { return &Mem{boot: 1, root: newNode(true, 0o755)} }

// A node is a file or a directory: as it is now, and as a power loss would surely leave it.
type node struct {
	dir    bool
	mtime  time.Time
	now    state
	disk   state
	dirty  bool
	holder *memFile // who has the lock
}

type state struct {
	perm  fs.FileMode
	data  []byte           // of a file
	names map[string]*node // of a directory
}

func newNode(dir bool, perm fs.FileMode) *node {
	n := &node{dir: dir, mtime: time.Now(), dirty: true}
	n.now.perm, n.disk.perm = perm.Perm(), perm.Perm()
	if dir {
		n.now.names = map[string]*node{}
	}
	return n
}

func (n *node) touch() { n.mtime, n.dirty = time.Now(), true }

func (n *node) sync() {
	if n.dirty {
		n.disk = n.now
		n.disk.data, n.disk.names = slices.Clone(n.now.data), maps.Clone(n.now.names)
		n.dirty = false
	}
}

// find walks to name.
func (d *Mem) find(name string) (*node, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	n := d.root
	if name == "." {
		return n, nil
	}
	for elem := range strings.SplitSeq(name, "/") {
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		if n = n.now.names[elem]; n == nil {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

// parent walks to the directory that name is in.
func (d *Mem) parent(name string) (dir *node, base string, err error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, "", fs.ErrInvalid
	}
	dir, err = d.find(path.Dir(name))
	if err == nil && !dir.dir {
		err = syscall.ENOTDIR
	}
	return dir, path.Base(name), err
}

// do makes one call under the mutex.
func (d *Mem) do(op, name string, call func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := call(); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Create implements [FS].
func (d *Mem) Create(name string, perm fs.FileMode) (File, error) {
	f := &memFile{disk: d, name: name, writable: true}
	return f.opened(d.do("create", name, func() error {
		dir, base, err := d.parent(name)
		if err != nil {
			return err
		}
		if f.node = dir.now.names[base]; f.node == nil {
			f.node = newNode(false, perm)
			dir.now.names[base] = f.node
			dir.touch()
		}
		return f.node.regular()
	}))
}

// Open implements [FS].
func (d *Mem) Open(name string) (File, error) {
	f := &memFile{disk: d, name: name}
	return f.opened(d.do("open", name, func() (err error) {
		if f.node, err = d.find(name); err != nil {
			return err
		}
		return f.node.regular()
	}))
}

func (n *node) regular() error {
	if n.dir {
		return syscall.EISDIR
	}
	return nil
}

// Mkdir implements [FS].
func (d *Mem) Mkdir(name string, perm fs.FileMode) error {
	return d.do("mkdir", name, func() error {
		dir, base, err := d.parent(name)
		if err != nil {
			return err
		}
		if dir.now.names[base] != nil {
			return syscall.EEXIST
		}
		dir.now.names[base] = newNode(true, perm)
		dir.touch()
		return nil
	})
}

// Rename implements [FS].
func (d *Mem) Rename(oldname, newname string) error {
	return d.do("rename", oldname, func() error {
		from, oldbase, err := d.parent(oldname)
		if err != nil {
			return err
		}
		to, newbase, err := d.parent(newname)
		if err != nil {
			return err
		}
		n, there := from.now.names[oldbase], to.now.names[newbase]
		switch {
		case n == nil:
			return syscall.ENOENT
		case n == there:
			return nil
		case n.dir:
			return syscall.ENOTSUP // a directory's move is asked for by nobody
		case there != nil && there.dir:
			return syscall.EISDIR
		}
		delete(from.now.names, oldbase)
		to.now.names[newbase] = n
		from.touch()
		to.touch()
		return nil
	})
}

// Remove implements [FS].
func (d *Mem) Remove(name string) error {
	return d.do("remove", name, func() error {
		dir, base, err := d.parent(name)
		if err != nil {
			return err
		}
		n := dir.now.names[base]
		switch {
		case n == nil:
			return syscall.ENOENT
		case len(n.now.names) > 0:
			return syscall.ENOTEMPTY
		}
		delete(dir.now.names, base)
		dir.touch()
		return nil
	})
}

// Chmod implements [FS].
func (d *Mem) Chmod(name string, perm fs.FileMode) error {
	return d.do("chmod", name, func() error {
		n, err := d.find(name)
		if err != nil {
			return err
		}
		n.now.perm, n.dirty = perm.Perm(), true
		return nil
	})
}

// ReadDir implements [FS].
func (d *Mem) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = d.do("readdir", name, func() error {
		n, err := d.find(name)
		if err != nil {
			return err
		}
		if !n.dir {
			return syscall.ENOTDIR
		}
		for base, child := range n.now.names {
			entries = append(entries, fs.FileInfoToDirEntry(child.info(base)))
		}
		return nil
	})
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

// Lstat implements [FS].
func (d *Mem) Lstat(name string) (fi fs.FileInfo, err error) {
	err = d.do("lstat", name, func() error {
		n, err := d.find(name)
		if err == nil {
			fi = n.info(path.Base(name))
		}
		return err
	})
	return fi, err
}

// SyncDir implements [FS].
func (d *Mem) SyncDir(name string) error {
	return d.do("syncdir", name, func() error {
		n, err := d.find(name)
		if err != nil {
			return err
		}
		if !n.dir {
			return syscall.ENOTDIR
		}
		n.sync()
		return nil
	})
}

// SyncAll implements [FS].
func (d *Mem) SyncAll() error {
	return d.do("syncfs", ".", func() error {
		d.root.syncAll()
		return nil
	})
}

func (n *node) syncAll() {
	n.sync()
	for _, child := range n.now.names {
		child.syncAll()
	}
}

// BootID implements [FS].
func (d *Mem) BootID() string { return fmt.Sprintf("boot %d", d.boot) }

// memInfo is a [fs.FileInfo] of a node at one moment.
type memInfo struct {
	node  *node
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func (n *node) info(name string) fs.FileInfo {
	mode := n.now.perm
	if n.dir {
		mode |= fs.ModeDir
	}
	return &memInfo{node: n, name: name, size: int64(len(n.now.data)), mode: mode, mtime: n.mtime}
}

func (fi *memInfo) Name() string       { return fi.name }
func (fi *memInfo) Size() int64        { return fi.size }
func (fi *memInfo) Mode() fs.FileMode  { return fi.mode }
func (fi *memInfo) ModTime() time.Time { return fi.mtime }
func (fi *memInfo) IsDir() bool        { return fi.mode.IsDir() }
func (fi *memInfo) Sys() any           { return nil }

func (fi *memInfo) same(other fs.FileInfo) bool {
	o, ok := other.(*memInfo)
	return ok && fi.node == o.node
}

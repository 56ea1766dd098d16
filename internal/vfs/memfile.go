package vfs

import (
	"context"
	"io"
	"io/fs"
	"syscall"
)

// memFile is an open file of a [Mem]. It outlives its name.
type memFile struct {
	disk     *Mem
	node     *node
	name     string
	writable bool
	closed   bool
}

func (f *memFile) opened(err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (f *memFile) do(op string, call func(n *node) error) error {
	return f.disk.do(op, f.name, func() error {
		if f.closed {
			return fs.ErrClosed
		}
		return call(f.node)
	})
}

func (f *memFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.do("read", func(node *node) error {
		if off < 0 {
			return syscall.EINVAL
		}
		if off < int64(len(node.now.data)) {
			n = copy(p, node.now.data[off:])
		}
		return nil
	})
	if err == nil && n < len(p) {
		err = io.EOF // bare, as an os.File gives it
	}
	return n, err
}

func (f *memFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.do("write", func(node *node) error {
		switch {
		case !f.writable:
			return syscall.EBADF
		case off < 0:
			return syscall.EINVAL
		case len(p) == 0:
			return nil
		}
		node.resize(max(int64(len(node.now.data)), off+int64(len(p))))
		n = copy(node.now.data[off:], p)
		node.touch()
		return nil
	})
	return n, err
}

func (f *memFile) Truncate(size int64) error {
	return f.do("truncate", func(node *node) error {
		if size < 0 || !f.writable {
			return syscall.EINVAL
		}
		node.resize(size)
		node.touch()
		return nil
	})
}

// resize cuts the data or extends it by zeros.
func (n *node) resize(size int64) {
	have := int64(len(n.now.data))
	if size <= have {
		n.now.data = n.now.data[:size]
		return
	}
	n.now.data = append(n.now.data, make([]byte, size-have)...)
}

func (f *memFile) Sync() error {
	return f.do("sync", func(node *node) error {
		node.sync()
		return nil
	})
}

func (f *memFile) Stat() (fi fs.FileInfo, err error) {
	err = f.do("stat", func(node *node) error {
		fi = node.info(f.name)
		return nil
	})
	return fi, err
}

func (f *memFile) Lock(ctx context.Context) error { return lock(ctx, f.name, f.TryLock) }

func (f *memFile) TryLock() (ok bool, err error) {
	err = f.do("lock", func(node *node) error {
		if ok = node.holder == nil || node.holder == f; ok {
			node.holder = f
		}
		return nil
	})
	return ok, err
}

func (f *memFile) Close() error {
	return f.do("close", func(node *node) error {
		if node.holder == f {
			node.holder = nil
		}
		f.closed = true
		return nil
	})
}

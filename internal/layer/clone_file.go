package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// make makes what is no folder, with its attributes.
func (c *cloner) make(ctx context.Context, dir *folder, n *Node, entry int64, buffer []byte) (err error) {
	_, name := split(n.Path)
	o := &object{dir: dir, name: name, entry: entry, fd: -1}
	mode := n.Mode & 0o777
	switch kind := n.Mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
		if len(n.Xattrs) > 0 {
			mode |= 0o600 // so that we may set them
		}
		o.fd, err = unix.Openat(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err != nil {
			o.fd = -1
			break
		}
		defer func() { err = errors.Join(err, unix.Close(o.fd)) }()
		err = c.content(ctx, o.fd, n, buffer)
	case unix.S_IFLNK:
		o.link = true
		err = unix.Symlinkat(n.Target, dir.fd, name)
	default:
		err = unix.Mknodat(dir.fd, name, kind|mode, int(unix.Mkdev(n.Major, n.Minor)))
		if err == unix.EPERM && (kind == unix.S_IFCHR || kind == unix.S_IFBLK) {
			return c.made.lose(o, LostDevice, deviceName(n))
		}
	}
	if err != nil {
		return fault("copy", n.Path, err)
	}
	c.inodes.Add(1)
	now, err := c.made.created(o, mode)
	if err != nil {
		return err
	}
	return c.made.finish(o, now, wanted(n), sortedXattrs(n.Xattrs))
}

func deviceName(n *Node) string {
	kind := 'b'
	if n.Mode&unix.S_IFMT == unix.S_IFCHR {
		kind = 'c'
	}
	return fmt.Sprintf("%c %d:%d", kind, n.Major, n.Minor)
}

func wanted(n *Node) attributes { return attributes{n.Mode & 0o7777, n.UID, n.GID, n.ModTime} }

// content copies what a file holds into a new one.
func (c *cloner) content(ctx context.Context, to int, n *Node, buffer []byte) (err error) {
	if n.Size == 0 {
		return nil
	}
	f, err := c.tree.Open(n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	shared := c.share(to, f)
	end := int64(0)
	err = eachRun(f, n.Size, func(start, stop int64) error {
		c.size.Add(stop - start)
		for off := start; off < stop && !shared; off += int64(len(buffer)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buffer[:min(int64(len(buffer)), stop-off)]
			if got, err := f.ReadAt(b, off); got < len(b) {
				return cutShort(err)
			}
			if err := writeAt(to, b, off); err != nil {
				return err
			}
		}
		end = stop
		return nil
	})
	if err == nil && end < n.Size && !shared {
		err = unix.Ftruncate(to, n.Size)
	}
	return err
}

// share makes a file share the blocks of another, where the filesystem can do that.
func (c *cloner) share(to int, f File) bool {
	from, ok := f.(diskFile)
	if !ok || c.noReflink.Load() {
		return false
	}
	err := unix.IoctlFileClone(to, int(from))
	if slices.Contains([]error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.ENOSYS}, err) {
		c.noReflink.Store(true) // no other file can
	}
	return err == nil
}

func writeAt(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrShortWrite
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// link gives a file that was made another name.
func (c *cloner) link(n *Node) (err error) {
	first := c.first[n.File].Path
	from, err := c.to.openParent(first)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(from)) }()
	to, err := c.to.openParent(n.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(to)) }()
	_, name := split(first)
	_, other := split(n.Path)
	err = unix.Linkat(from, name, to, other, 0)
	if kind := n.Mode & unix.S_IFMT; err == unix.ENOENT && (kind == unix.S_IFCHR || kind == unix.S_IFBLK) {
		return c.made.losses.Add(c.entries, Loss{LostDevice, n.Path, deviceName(n), 1}) // as its first name
	}
	return err
}

// finishFolder gives a folder its attributes.
func (c *cloner) finishFolder(f cloneFolder) (err error) {
	fd, err := c.to.open(f.node.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fault("open", f.node.Path, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fault("look at", f.node.Path, err)
	}
	o := &object{dir: f.dir.parent, name: f.dir.name, entry: f.entry, fd: fd}
	now := attributes{mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid}
	return c.made.finish(o, now, wanted(f.node), sortedXattrs(f.node.Xattrs))
}

package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// copyUp makes a file of the layers below on the folder of a stack, so that it can have another
// name there.
func (a *applier) copyUp(from linkTarget) error {
	if err := a.imply(from.dir); err != nil {
		return err
	}
	fd, err := a.open(from.dir)
	if err != nil {
		return err
	}
	n := from.below
	o := object{dir: from.dir, name: from.name, entry: a.number(), fd: -1}
	kind := n.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFREG:
		o.fd, err = unix.Openat(fd, o.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = a.copyContent(o.fd, n)
		}
	case unix.S_IFLNK:
		o.link = true
		err = unix.Symlinkat(n.Target, fd, o.name)
	default:
		err = unix.Mknodat(fd, o.name, kind|0o600, int(unix.Mkdev(n.Major, n.Minor)))
	}
	if err == nil {
		var now attributes
		if now, err = a.created(&o, 0o600); err == nil {
			want := attributes{n.Mode & 0o7777, n.UID, n.GID, n.ModTime}
			err = a.finish(&o, now, want, sortedXattrs(n.Xattrs))
		}
	}
	if o.fd >= 0 {
		err = errors.Join(err, unix.Close(o.fd))
	}
	if err != nil {
		return fault("copy up", o.path(), err)
	}
	a.result.Inodes++
	if err := a.copied(from.dir, from.name); err != nil {
		return err
	}
	if n.File == (FileID{}) {
		return nil
	}
	// It is to stay one file with those that are below.
	others, err := a.namesBelow(n.File)
	if err != nil {
		return err
	}
	for _, path := range others {
		if err := a.copyName(from, path); err != nil {
			return fault("copy up", path, err)
		}
	}
	return nil
}

// copied notes that the layers below have a file, too.
func (a *applier) copied(dir *folder, name string) error {
	if dir.copies == nil {
		dir.copies = map[string]struct{}{}
	}
	dir.copies[name] = struct{}{}
	return a.keep(len(name), 64)
}

// copyName gives a file that was copied up another name that it has below, unless the layer has
// hidden that one.
func (a *applier) copyName(from linkTarget, path string) error {
	above, name := split(path)
	dir, err := a.shown(above)
	if err != nil || dir == nil {
		return err
	}
	_, hidden := dir.hides[name]
	switch {
	case dir == from.dir && name == from.name, hidden, dir.covered(), dir.children[name] != nil,
		a.written.has(a.written.key(dir, name)):
		return nil
	}
	if err := a.imply(dir); err != nil {
		return err
	}
	err = a.linking(dir, from.dir, func(to, source int) error { return unix.Linkat(source, from.name, to, name, 0) })
	if err != nil {
		return err
	}
	return a.copied(dir, name)
}

// shown is the folder at a path of the layers below, if this layer shows it.
func (a *applier) shown(path string) (*folder, error) {
	at := a.root
	if path == "." {
		return at, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		next, target, err := a.enter(at, name, marking)
		if err != nil || next == nil || target != "" {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// namesBelow are the paths of a file of the layers below. All that have several are looked for
// once: few layers have hard links to such files.
func (a *applier) namesBelow(id FileID) ([]string, error) {
	if a.linked == nil {
		a.linked = map[FileID][]string{}
		root, err := a.o.Below.Lookup(".")
		if err == nil {
			err = a.findLinked(root)
		}
		if err != nil {
			return nil, fmt.Errorf("look for hard links below: %w", err)
		}
	}
	return a.linked[id], nil
}

func (a *applier) findLinked(dir *Node) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	nodes, err := a.o.Below.List(dir)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		switch {
		case n.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = a.findLinked(n)
		case n.File != (FileID{}):
			a.linked[n.File] = append(a.linked[n.File], n.Path)
			err = a.keep(len(n.Path), 64)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyContent copies what a file below has into a new one. Its holes stay holes.
func (a *applier) copyContent(fd int, n *Node) (err error) {
	below, err := a.o.Below.Open(n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	b := make([]byte, pieceSize)
	err = eachRun(below, n.Size, func(off, end int64) error {
		for off < end {
			if err := a.ctx.Err(); err != nil {
				return err
			}
			piece := b[:min(int64(len(b)), end-off)]
			if got, err := below.ReadAt(piece, off); got < len(piece) {
				return cutShort(err)
			}
			if err := writeAt(fd, piece, off); err != nil {
				return err
			}
			a.crew.stored.Add(int64(len(piece)))
			off += int64(len(piece))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return unix.Ftruncate(fd, n.Size)
}

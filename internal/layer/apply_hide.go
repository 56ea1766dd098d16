package layer

import (
	"errors"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// hide takes a name of the layers below away.
func (a *applier) hide(path, name string) error {
	dir, _, err := a.walk(path, marking)
	if err != nil || dir == nil { // nothing is below
		return err
	}
	if a.o.Form == Whole {
		return a.prune(dir, name)
	}
	if err := a.dropCopy(dir, name); err != nil {
		return err
	}
	f := dir.children[name]
	switch {
	case f != nil && (f.named || f.touched):
		a.renew(f)
		return a.cover(f)
	case f != nil: // only markers mention it, or it was made for a copy
		if err := a.discard(f); err != nil {
			return err
		}
	case a.written.has(a.written.key(dir, name)): // which hides it
		return nil
	}
	if dir.hides == nil {
		dir.hides = map[string]struct{}{}
	}
	dir.hides[name] = struct{}{}
	return a.keep(len(name), 64)
}

// hideAll takes all that the layers below have in a folder away.
func (a *applier) hideAll(path string) error {
	dir, _, err := a.walk(path, marking)
	if err != nil || dir == nil {
		return err
	}
	if a.o.Form == Whole {
		return a.pruneAll(dir)
	}
	return a.cover(dir)
}

// cover makes a folder of a stack opaque. What is beneath it is no longer as it is below.
func (a *applier) cover(f *folder) error {
	if f.opaque { // since when that is so
		return nil
	}
	f.opaque = true
	return a.uncover(f)
}

func (a *applier) uncover(f *folder) error {
	for name := range f.copies {
		if err := a.dropCopy(f, name); err != nil {
			return err
		}
	}
	for _, child := range f.children {
		if !child.named && !child.touched {
			if err := a.discard(child); err != nil {
				return err
			}
			continue
		}
		a.renew(child)
		if child.opaque {
			continue
		}
		if err := a.uncover(child); err != nil {
			return err
		}
	}
	return nil
}

// dropCopy removes a file that was copied up: what it was copied from is taken away.
func (a *applier) dropCopy(dir *folder, name string) error {
	if _, ok := dir.copies[name]; !ok {
		return nil
	}
	delete(dir.copies, name)
	fd, err := a.open(dir)
	if err != nil {
		return err
	}
	if err := unlink(fd, name); err != nil {
		return fault("remove", join(dir.path(), name), err)
	}
	return nil
}

// prune removes what a whole tree has at a name, but for what this layer brought.
func (a *applier) prune(dir *folder, name string) error {
	f := dir.children[name]
	ours := a.written.has(a.written.key(dir, name))
	switch {
	case f != nil && (ours || f.touched):
		a.renew(f)
		return a.pruneAll(f)
	case ours:
		return nil
	case f != nil:
		a.forget(f)
	}
	dir.pruned = true
	fd, err := a.open(dir)
	if err != nil {
		return err
	}
	if err := removeAt(fd, name); err != nil {
		return fault("remove", join(dir.path(), name), err)
	}
	return nil
}

// pruneAll removes what a whole tree has in a folder, but for what this layer brought.
func (a *applier) pruneAll(dir *folder) error {
	if dir.opaque { // from the beginning, or since an earlier marker
		return nil
	}
	dir.opaque = true
	fd, err := a.open(dir)
	if err != nil {
		return err
	}
	if fd, err = openReal(fd, "."); err != nil {
		return fault("read", dir.path(), err)
	}
	list := os.NewFile(uintptr(fd), dir.name)
	for err == nil {
		var names []string
		names, err = list.Readdirnames(1024)
		for _, name := range names {
			if err := a.ctx.Err(); err != nil {
				return errors.Join(err, list.Close())
			}
			if err := a.prune(dir, name); err != nil {
				return errors.Join(err, list.Close())
			}
		}
	}
	if err != io.EOF {
		return fault("read", dir.path(), errors.Join(err, list.Close()))
	}
	return list.Close()
}

// hideBelow makes the whiteouts of a folder, at the end of the layer: by then it is known what the
// layer itself has at their names.
func (a *applier) hideBelow(f *folder) error {
	for _, name := range sortedKeys(f.hides) {
		path := join(f.path(), name)
		if a.o.Below != nil {
			switch _, err := a.o.Below.Lookup(path); {
			case errdefs.IsNotFound(err):
				continue
			case err != nil:
				return fault("look below for", path, err)
			}
		}
		if err := a.imply(f); err != nil {
			return err
		}
		fd, err := a.open(f)
		if err != nil {
			return err
		}
		if err := retry(func() error { return unix.Mknodat(fd, name, unix.S_IFCHR, 0) }); err != nil {
			return fault("white out", path, err)
		}
		a.result.Inodes++
		if a.o.Below == nil {
			a.result.Needs.Whiteouts = append(a.result.Needs.Whiteouts, path)
			if err := a.keep(len(path), 16); err != nil {
				return err
			}
		}
	}
	return nil
}

package layer

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// settle ends the tree: it makes the marks of a stack, and gives folders their attributes, which
// would change or be in the way while something is put into them.
func (a *applier) settle() error {
	a.result.Opaque = a.root.opaque && a.o.Form != Whole
	if err := a.settleFolder(a.root, false); err != nil {
		return err
	}
	needs := &a.result.Needs
	for _, list := range [][]string{needs.Folders, needs.Through, needs.Links, needs.Whiteouts} {
		slices.Sort(list)
	}
	return nil
}

// settleFolder ends a folder after all that is beneath it. Covered says that nothing of the layers
// below shows through at its place.
func (a *applier) settleFolder(f *folder, covered bool) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	inside := covered || f.opaque
	for _, name := range sortedKeys(f.children) {
		if err := a.settleFolder(f.children[name], inside); err != nil {
			return err
		}
	}
	switch {
	case a.o.Form == Whole:
	case !inside:
		if err := a.hideBelow(f); err != nil {
			return err
		}
	case !f.made && covered && f.needs && (f.opaque || len(f.hides) > 0):
		// The layer would have looked elsewhere, were this a link below.
		a.through(f)
	case f.opaque && !covered:
		if err := a.imply(f); err != nil {
			return err
		}
	}
	if !f.made {
		return nil
	}
	if f.needs {
		path := f.path()
		a.result.Needs.Folders = append(a.result.Needs.Folders, path)
		if err := a.keep(len(path), 16); err != nil {
			return err
		}
	}
	return a.finishFolder(f)
}

// finishFolder gives a folder what it is to have at the end.
func (a *applier) finishFolder(f *folder) error {
	mark := f.opaque && a.o.Form != Whole
	if a.stays(f) {
		if mark {
			if err := a.mark(f, func(name string) error { return unix.Setxattr(procPath(f.fd), name, []byte("y"), 0) }); err != nil {
				return err
			}
		}
		return a.restore(f)
	}
	o := object{dir: f.parent, name: f.name, entry: f.entry, fd: -1}
	if f.parent != nil {
		if _, err := a.open(f.parent); err != nil {
			return err
		}
	}
	// Most folders are reached by their names, which saves opening them.
	if f.parent == nil || f.found || mark || len(f.xattrs) > 0 || f.now.mode != f.want.mode {
		dir, name := a.root.fd, "."
		if f.parent != nil {
			dir, name = f.parent.fd, f.name
		}
		var err error
		if o.fd, err = openReal(dir, name); err != nil {
			return fault("open", f.path(), err)
		}
	}
	err := a.finishOpen(f, &o, mark)
	if o.fd >= 0 {
		err = errors.Join(err, unix.Close(o.fd))
	}
	return err
}

func (a *applier) finishOpen(f *folder, o *object, mark bool) error {
	if f.found { // as in a stack, where only its own count
		if err := clearXattrs(o.fd); err != nil {
			return fault("remove the xattrs of", f.path(), err)
		}
	}
	if mark {
		if err := a.mark(f, func(name string) error { return o.setXattr(name, "y") }); err != nil {
			return err
		}
	}
	return a.finish(o, f.now, f.want, f.xattrs)
}

// mark makes a folder opaque for overlay.
func (a *applier) mark(f *folder, set func(name string) error) error {
	name := a.o.Form.opaqueXattr()
	if err := set(name); err != nil {
		return fault("set "+name+" on", f.path(), err)
	}
	return nil
}

// stays says that a folder was in the tree before and has no entry: it keeps its attributes. So
// does the root of a stack while it is not known what is below.
func (a *applier) stays(f *folder) bool {
	return f.found && !f.named && !f.anew && (a.o.Form == Whole || a.o.Below == nil)
}

// restore undoes what was done to a folder so that something could be put into it.
func (a *applier) restore(f *folder) error {
	if f.inherit == nil && f.now.mode == f.want.mode && !f.touched && !f.pruned {
		return nil
	}
	fd, err := a.open(f)
	if err != nil {
		return err
	}
	if f.inherit != nil {
		if err := unix.Setxattr(procPath(fd), defaultACL, f.inherit, 0); err != nil {
			return fault("restore the default acl of", f.path(), err)
		}
	}
	if f.now.mode != f.want.mode {
		if err := chmodPath(fd, f.want.mode); err != nil {
			return fault("restore the mode of", f.path(), err)
		}
	}
	if f.touched || f.pruned {
		if err := a.restoreTime(f, fd); err != nil {
			return fault("restore the time of", f.path(), err)
		}
	}
	return nil
}

func (a *applier) restoreTime(f *folder, fd int) error {
	ts, err := unix.TimeToTimespec(f.want.mtime)
	if err != nil {
		return err
	}
	omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), []unix.Timespec{omit, ts}, 0)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

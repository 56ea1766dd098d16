package layer

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// put makes what an entry describes.
func (a *applier) put(e *tarstream.Entry, path, target string) error {
	unkept, made := Unkept(e, path)
	for _, loss := range unkept {
		a.losses.Note(a.number(), loss)
	}
	switch {
	case !made:
		return nil
	case path == ".":
		a.describe(a.root, e)
		return nil
	}
	above, name := split(path)
	dir, err := a.folder(above)
	if err != nil {
		return err
	}
	if e.Type == tarstream.TypeDir {
		return a.putFolder(dir, name, e)
	}

	// The target is found before something is removed for its name.
	var from linkTarget
	if e.Type == tarstream.TypeLink {
		if from, err = a.target(e, dir, name, target); err != nil {
			return err
		}
	}
	if e.Type == tarstream.TypeChar || e.Type == tarstream.TypeBlock {
		if may, err := a.mayMakeDevices(dir); err != nil {
			return fault("make", join(dir.path(), name), err)
		} else if !may { // what is there stays
			o := object{dir: dir, name: name, entry: a.number()}
			return a.lose(&o, LostDevice, fmt.Sprintf("%c %d:%d", "cb"[e.Type-tarstream.TypeChar], e.Major, e.Minor))
		}
	}
	if err := a.makeWay(dir, name); err != nil {
		return err
	}
	switch e.Type {
	case tarstream.TypeReg:
		return a.putFile(dir, name, e)
	case tarstream.TypeLink:
		return a.putLink(dir, name, from)
	default:
		return a.putSpecial(dir, name, e)
	}
}

// makeWay readies a name for something that is no folder.
func (a *applier) makeWay(dir *folder, name string) error {
	delete(dir.hides, name)
	delete(dir.copies, name)
	dir.touch()
	if a.written.add(a.written.key(dir, name)) {
		// What is there may not be made yet.
		if err := a.crew.wait(); err != nil {
			return err
		}
	}
	if f := dir.children[name]; f != nil {
		return a.discard(f)
	}
	return nil
}

// discard removes a folder for something else.
func (a *applier) discard(f *folder) error {
	if err := a.crew.wait(); err != nil { // for what is in it
		return err
	}
	a.forget(f)
	if !f.made {
		return nil
	}
	dir, err := a.open(f.parent)
	if err != nil {
		return err
	}
	if err := removeAt(dir, f.name); err != nil {
		return fault("remove", f.path(), err)
	}
	return nil
}

// putFolder makes a folder, or gives the one that is there the attributes of its entry.
func (a *applier) putFolder(dir *folder, name string, e *tarstream.Entry) error {
	again := a.written.add(a.written.key(dir, name))
	f := dir.children[name]
	if f == nil {
		var err error
		if f, err = a.makeFolder(dir, name, e.Mode, again); err != nil {
			return err
		}
	} else if err := a.imply(f); err != nil {
		return err
	}
	a.describe(f, e)
	return nil
}

// makeFolder makes a folder where none is known. With again an earlier entry has its name.
func (a *applier) makeFolder(dir *folder, name string, mode uint32, again bool) (*folder, error) {
	if again {
		if err := a.crew.wait(); err != nil {
			return nil, err
		}
	}
	f, err := a.know(dir, name)
	if err != nil {
		return nil, err
	}
	if _, hidden := dir.hides[name]; hidden {
		delete(dir.hides, name)
		f.opaque = true
	}
	err = a.create(f, mode)
	if err == unix.EEXIST {
		if _, err = a.open(f); err == nil { // a folder of the layers below
			return f, a.find(f)
		}
		if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return nil, err
		}
		// The layers below may have a folder behind what the layer brought before.
		f.opaque = f.opaque || again
		if err = a.removeFor(f); err == nil {
			err = a.create(f, mode)
		}
	}
	if err != nil {
		return nil, fault("make", f.path(), err)
	}
	return f, nil
}

// putSpecial makes a symbolic link, a device or a fifo.
func (a *applier) putSpecial(dir *folder, name string, e *tarstream.Entry) error {
	fd, err := a.open(dir)
	if err != nil {
		return err
	}
	o := object{dir: dir, name: name, entry: a.number(), fd: -1, link: e.Type == tarstream.TypeSymlink}
	kind, device := uint32(0), 0
	switch e.Type {
	case tarstream.TypeFifo:
		kind = unix.S_IFIFO
	case tarstream.TypeChar:
		kind, device = unix.S_IFCHR, int(unix.Mkdev(e.Major, e.Minor))
	case tarstream.TypeBlock:
		kind, device = unix.S_IFBLK, int(unix.Mkdev(e.Major, e.Minor))
	}
	err = a.replacing(dir, name, func() error {
		if o.link {
			return unix.Symlinkat(e.Linkname, fd, name)
		}
		return unix.Mknodat(fd, name, kind|e.Mode&0o777, device)
	})
	if err != nil {
		return fault("make", o.path(), err)
	}
	a.result.Inodes++
	now, err := a.created(&o, e.Mode)
	if err != nil {
		return err
	}
	return a.finish(&o, now, attributes{e.Mode, e.UID, e.GID, e.ModTime}, keptXattrs(e.Xattrs))
}

// mayMakeDevices says whether we may, by making one in an open folder: what a device that we may
// not make would replace stays.
func (a *applier) mayMakeDevices(dir *folder) (bool, error) {
	if a.devices == nil {
		if _, err := a.open(dir); err != nil {
			return false, err
		}
		name := "device." + rand.Text()
		err := a.mutably(dir, func() error { return unix.Mknodat(dir.fd, name, unix.S_IFCHR, int(unix.Mkdev(1, 3))) })
		may := err == nil
		if may {
			err = unix.Unlinkat(dir.fd, name, 0)
		}
		if err != nil && err != unix.EPERM {
			return false, err
		}
		a.devices = &may
	}
	return *a.devices, nil
}

// A linkTarget is what a hard link leads to.
type linkTarget struct {
	dir   *folder
	name  string
	below *Node // what is only in the layers below, and is to be copied
}

// target finds what a hard link at a name in a folder leads to.
func (a *applier) target(e *tarstream.Entry, dir *folder, name, target string) (linkTarget, error) {
	refuse := func(why string) (linkTarget, error) {
		return linkTarget{}, a.doubt(invalid(e.Name, "hard link to %s, which %s", quote(target), why))
	}
	above, base := split(target)
	from, _, err := a.walk(above, marking)
	switch {
	case err != nil:
		return linkTarget{}, err
	case from == nil:
		return refuse("is not there")
	case from == dir && base == name:
		return refuse("is itself")
	case from.children[base] != nil:
		return refuse("is a folder")
	case dir.children[name] != nil && from.within(dir.children[name]):
		return refuse("is in what it replaces")
	}
	if a.written.has(a.written.key(from, base)) {
		if err := a.crew.wait(); err != nil {
			return linkTarget{}, err
		}
	}
	if from.made {
		fd, err := a.open(from)
		if err != nil {
			return linkTarget{}, err
		}
		var st unix.Stat_t
		switch err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return refuse("is a folder")
		case err == nil:
			return linkTarget{dir: from, name: base}, nil
		case err != unix.ENOENT:
			return linkTarget{}, fault("look at", join(from.path(), base), err)
		}
	}
	_, hidden := from.hides[base]
	switch {
	case a.o.Form == Whole || hidden || from.covered():
		return refuse("is not there")
	case a.o.Below == nil:
		return linkTarget{}, errAnew
	}
	below, err := a.o.Below.Lookup(join(from.path(), base))
	switch {
	case errdefs.IsNotFound(err):
		return refuse("is not there")
	case err != nil:
		return linkTarget{}, fault("look below for", target, err)
	case below.Mode&unix.S_IFMT == unix.S_IFDIR:
		return refuse("is a folder")
	}
	return linkTarget{dir: from, name: base, below: below}, nil
}

// putLink makes a hard link.
func (a *applier) putLink(dir *folder, name string, from linkTarget) error {
	if from.below != nil {
		if err := a.copyUp(from); err != nil {
			return err
		}
	}
	err := a.linking(dir, from.dir, func(to, source int) error {
		return a.replacing(dir, name, func() error {
			err := unix.Linkat(source, from.name, to, name, 0)
			if err == unix.EPERM && a.o.Form == Whole {
				if changed, flagErr := makeMutable(source, from.name); flagErr == nil && changed {
					err = unix.Linkat(source, from.name, to, name, 0)
				}
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("link %s to %s: %w", quote(join(dir.path(), name)), quote(join(from.dir.path(), from.name)), err)
	}
	return nil
}

// linking calls link with the folder that a new name is for and that of its target, both open.
func (a *applier) linking(dir, source *folder, link func(to, source int) error) error {
	to, err := a.open(dir)
	if err != nil {
		return err
	}
	dir.users.Add(1) // stays open while the other is opened
	defer dir.users.Add(-1)
	from, err := a.open(source)
	if err != nil {
		return err
	}
	return link(to, from)
}

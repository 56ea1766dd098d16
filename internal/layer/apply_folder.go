package layer

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// A folder is one that the layer has to do with. Together they are the part of the tree that is
// known. The goroutine that reads the tar owns them; the crew reads fd, name and parent only.
type folder struct {
	parent   *folder // nil: the root
	name     string
	key      uint64 // stands for its path
	children map[string]*folder
	// hides are the names in it that are to be hidden at the end, on a folder of a stack.
	hides map[string]struct{}
	// copies are the files in it that were copied up, and are in the layers below too.
	copies map[string]struct{}

	fd     int          // O_PATH, for what is in it; -1: to be opened
	users  atomic.Int32 // files not yet made that need fd
	recent bool         // fd was used since the cache last looked
	owner  owner        // what new files in it get

	made    bool // or else only markers mention it so far
	found   bool // was there before the layer, in a whole tree
	named   bool // has an entry
	touched bool // the layer put something into it, or deeper
	pruned  bool // the layer took something out of it
	anew    bool // was there before the layer, which hides it all the same
	opaque  bool // has nothing of the layers below in it
	bare    bool // is no folder below, which is known
	needs   bool // is to get attributes from below, which is not known
	entry   int64

	now  attributes // of what is there
	want attributes // for the end
	// xattrs that are to be there at the end, for a folder that is not found or is named.
	xattrs []tarstream.Xattr
	// inherit is a default ACL that was there, and is not to apply to what the layer brings.
	inherit []byte
}

// attributes are those that everything but links has.
type attributes struct {
	mode     uint32 // permissions only
	uid, gid uint32
	mtime    time.Time
}

// unnamed are the attributes of folders that neither the layer nor those below say anything of.
var unnamed = attributes{mode: 0o755, mtime: time.Unix(0, 0)}

// path is relative to the root and clean.
func (f *folder) path() string {
	if f.parent == nil {
		return "."
	}
	length := -1
	for at := f; at.parent != nil; at = at.parent {
		length += len(at.name) + 1
	}
	b := make([]byte, length)
	for at := f; at.parent != nil; at = at.parent {
		length -= len(at.name)
		copy(b[length:], at.name)
		if length--; length >= 0 {
			b[length] = '/'
		}
	}
	return string(b)
}

// covered says that nothing in f or above it lets the layers below through.
func (f *folder) covered() bool {
	for ; f != nil; f = f.parent {
		if f.opaque || f.bare {
			return true
		}
	}
	return false
}

// within says whether f is top or beneath it.
func (f *folder) within(top *folder) bool {
	for ; f != nil; f = f.parent {
		if f == top {
			return true
		}
	}
	return false
}

// touch notes that the layer puts something into f.
func (f *folder) touch() {
	for ; f != nil && !f.touched; f = f.parent {
		f.touched = true
	}
}

// folderMemory is about what a folder costs, beside its name.
const folderMemory = 400

// know adds a folder to the known part of the tree.
func (a *applier) know(parent *folder, name string) (*folder, error) {
	if err := a.keep(len(name), folderMemory); err != nil {
		return nil, err
	}
	name = strings.Clone(name) // out of the longer string that the path is
	f := &folder{
		parent: parent,
		name:   name,
		key:    a.written.key(parent, name),
		fd:     -1,
		entry:  a.number(),
		want:   unnamed,
	}
	if parent.children == nil {
		parent.children = map[string]*folder{}
	}
	parent.children[name] = f
	return f, nil
}

// openRoot sees what the root is.
func (a *applier) openRoot() error {
	if err := a.find(a.root); err != nil {
		return err
	}
	if a.o.Form == Whole || a.o.Below == nil {
		return nil
	}
	n, err := a.o.Below.Lookup(".")
	if err != nil {
		return fmt.Errorf("the root below: %w", err)
	}
	a.root.resemble(n)
	return nil
}

// find sees what a folder is that is there already, and readies it to be put into.
func (a *applier) find(f *folder) error {
	if err := a.look(f); err != nil {
		return err
	}
	f.made, f.found, f.want = true, true, f.now
	var err error
	if f.inherit, err = takeDefaultACL(f.fd); err != nil {
		return fault("read the default acl of", f.path(), err)
	}
	return a.unlock(f)
}

// unlock lets us put something into an open folder, which not every mode does. A privileged
// process needs no mode for that.
func (a *applier) unlock(f *folder) error {
	if a.privileged || f.now.mode&0o700 == 0o700 {
		return nil
	}
	if err := chmodPath(f.fd, f.now.mode|0o700); err != nil {
		return fault("change the mode of", f.path(), err)
	}
	f.now.mode |= 0o700
	return nil
}

// look reads the attributes of an open folder.
func (a *applier) look(f *folder) error {
	var st unix.Stat_t
	if _, err := a.open(f); err != nil {
		return err
	}
	if err := unix.Fstat(f.fd, &st); err != nil {
		return fault("look at", f.path(), err)
	}
	f.now = attributes{st.Mode & 0o7777, st.Uid, st.Gid, time.Unix(st.Mtim.Unix())}
	return nil
}

// create makes a folder on disk where there is nothing.
func (a *applier) create(f *folder, mode uint32) error {
	dir, err := a.open(f.parent)
	if err != nil {
		return err
	}
	// Ours to write to until the end.
	err = a.mutably(f.parent, func() error { return unix.Mkdirat(dir, f.name, mode&0o777|0o700) })
	if err != nil {
		return err
	}
	f.made = true
	f.opaque = f.opaque || a.o.Form == Whole
	a.result.Inodes++
	if err := a.look(f); err != nil {
		return err
	}
	return a.unlock(f) // for strange umasks
}

// imply makes a folder, and those above it, that were only mentioned so far.
func (a *applier) imply(f *folder) error {
	if f.made {
		return nil
	}
	if err := a.imply(f.parent); err != nil {
		return err
	}
	err := a.create(f, f.want.mode)
	if err == unix.EEXIST {
		if err = a.removeFor(f); err == nil {
			err = a.create(f, f.want.mode)
		}
	}
	if err != nil {
		return fault("make", f.path(), err)
	}
	return nil
}

// removeFor removes what is in the way of a folder.
func (a *applier) removeFor(f *folder) error {
	dir, err := a.open(f.parent)
	if err != nil {
		return err
	}
	delete(f.parent.copies, f.name)
	return removeAt(dir, f.name)
}

// resemble makes a folder like the one below.
func (f *folder) resemble(n *Node) {
	f.want = attributes{n.Mode & 0o7777, n.UID, n.GID, n.ModTime}
	f.xattrs = sortedXattrs(n.Xattrs)
}

// describe gives a folder the attributes of its entry.
func (a *applier) describe(f *folder, e *tarstream.Entry) {
	if f.needs {
		f.needs = false
		a.through(f)
	}
	f.named = true
	a.result.Root = a.result.Root || f == a.root
	f.entry = a.number()
	f.want = attributes{e.Mode, e.UID, e.GID, e.ModTime}
	f.xattrs = keptXattrs(e.Xattrs)
	f.inherit = nil
	f.parent.touch()
}

// renew makes a folder that an entry went into before a marker hid it one that has no entry and is
// not below: the order of the two does not count.
func (a *applier) renew(f *folder) {
	if f.named {
		return
	}
	if f.needs {
		f.needs = false
		a.through(f)
	}
	f.anew = true
	f.want, f.xattrs, f.inherit = unnamed, nil, nil
}

// through notes that the layer went through a folder that is no longer as it is below.
func (a *applier) through(f *folder) {
	path := f.path()
	a.result.Needs.Through = append(a.result.Needs.Through, path)
	a.memory += int64(len(path))
}

// forget drops a folder, with all beneath it, out of the known part of the tree.
func (a *applier) forget(f *folder) {
	a.last = nil
	if f.needs && (f.made || f.opaque || len(f.hides) > 0) {
		a.through(f)
	}
	for _, child := range f.children {
		a.forget(child)
	}
	a.fds.drop(f)
	if f.parent != nil && f.parent.children[f.name] == f {
		delete(f.parent.children, f.name)
	}
}

// fault says what could not be done with a path.
func fault(verb, path string, err error) error {
	return fmt.Errorf("%s %s: %w", verb, quote(path), err)
}

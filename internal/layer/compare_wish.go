package layer

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// A wish is what a layer says that there should be, on top of a tree.
type wish struct {
	below  Tree
	o      CompareOptions
	root   *wished
	linked map[string]*wished // by the paths below of files that the layer links to
}

// A wished is what a layer says of a name: a file or the like that it puts there, or a folder that
// it has to do with.
type wished struct {
	Attr
	entry uint64 // that it comes from, unless it is of below
	sum   sum    // of a regular file's content
	names int    // that it has in the layer
	link  *Node  // the file below that it is a hard link to; nil: none
	*wishedFolder
}

// A wishedFolder is what there is to know of a folder.
type wishedFolder struct {
	parent *wished
	path   string
	items  map[string]*wished
	hidden map[string]bool // names that are taken away from what is below

	named   bool // has an entry, so that Attr counts
	brought bool // the layer puts something into it, or deeper
	opaque  bool // has nothing of the layers below in it
	anew    bool // is not the one below, even if it has no entry
}

// readWish reads a layer to its end, and that of r.
func readWish(ctx context.Context, r io.Reader, below Tree, o CompareOptions) (*wish, error) {
	w := &wish{below: below, o: o, linked: map[string]*wished{}}
	w.root = newFolder(nil, ".")
	tar, meter := tarstream.NewReader(r), Meter{Limits: o.Limits}
	var sums summer
	for {
		e, err := tar.Next()
		if err == io.EOF {
			return w, tar.Drain()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = meter.Count(e)
		}
		if err != nil {
			return nil, err
		}
		op, path, target, err := Meaning(e)
		if err != nil {
			return nil, err
		}
		switch op {
		case Put:
			if _, made := Unkept(e, path); made {
				err = w.put(tar, &sums, e, &wished{entry: uint64(meter.Entries)}, path, target)
			}
		case Hide:
			err = w.hide(path)
		case HideAll:
			err = w.hideAll(path)
		}
		if err != nil {
			return nil, err
		}
	}
}

func newFolder(parent *wished, path string) *wished {
	return &wished{wishedFolder: &wishedFolder{parent: parent, path: path, items: map[string]*wished{}}}
}

// covered tells that nothing of the layers below shows in a folder.
func (f *wished) covered() bool {
	for ; f != nil; f = f.parent {
		if f.opaque {
			return true
		}
	}
	return false
}

// touch notes that the layer puts something into a folder.
func (f *wished) touch() {
	for ; f != nil && !f.brought; f = f.parent {
		f.brought = true
	}
}

// walk finds the folder at a clean path, as [applier.walk] does.
func (w *wish) walk(path string, way way) (*wished, error) {
	at, links := w.root, 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if at.parent != nil {
				at = at.parent
			}
			continue
		}
		next, target, err := w.enter(at, name, way)
		switch {
		case err != nil:
			return nil, err
		case target != "":
			if links++; links > maxLinks || len(target)+len(rest) > maxRest {
				return nil, fmt.Errorf("follow %s: too many links: %w", quote(path), errdefs.ErrInvalidArgument)
			}
			if target[0] == '/' {
				at = w.root
			}
			rest = target + "/" + rest
		case next == nil:
			return nil, nil
		default:
			at = next
		}
	}
	if way == making {
		at.touch()
	}
	return at, nil
}

// enter goes one step: to a folder, or to the target of a link.
func (w *wish) enter(at *wished, name string, way way) (next *wished, target string, err error) {
	path := join(at.path, name)
	if item := at.items[name]; item != nil {
		switch {
		case item.wishedFolder != nil:
			return item, "", nil
		case item.Target != "":
			return nil, item.Target, nil
		}
		return nil, "", invalid(path, "something is put into it, but it is no folder")
	}
	below, err := w.lookup(at, name)
	switch {
	case err != nil:
		return nil, "", err
	case below != nil && below.Target != "":
		return nil, below.Target, nil
	case way == marking && (below == nil || !isFolder(below)):
		return nil, "", nil
	}
	return w.know(at, name), "", nil
}

// lookup finds what the layers below show in a folder; nil if that is nothing.
func (w *wish) lookup(at *wished, name string) (*Node, error) {
	if at.hidden[name] || at.covered() {
		return nil, nil
	}
	n, err := w.below.Lookup(join(at.path, name))
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return n, err
}

// know adds a folder where the layer has none yet.
func (w *wish) know(at *wished, name string) *wished {
	f := newFolder(at, join(at.path, name))
	if at.hidden[name] {
		delete(at.hidden, name)
		f.opaque, f.anew = true, true
	}
	at.items[name] = f
	return f
}

// put does what an entry says, unless the unpacker could not.
func (w *wish) put(tar *tarstream.Reader, sums *summer, e *tarstream.Entry, item *wished, path, target string) error {
	if path == "." {
		w.root.describe(e)
		return nil
	}
	above, name := split(path)
	dir, err := w.walk(above, making)
	if err != nil {
		return err
	}
	old := dir.items[name]
	if e.Type == tarstream.TypeDir {
		if old == nil || old.wishedFolder == nil {
			f := w.know(dir, name)
			f.opaque = f.opaque || old != nil // what the layer had put there hid what is below
			old = f
		}
		old.describe(e)
		old.touch()
		return nil
	}
	switch e.Type {
	case tarstream.TypeLink:
		if item, err = w.target(dir, name, target); err != nil {
			return err
		}
	case tarstream.TypeChar, tarstream.TypeBlock:
		if w.o.lost(LostDevice, fmt.Sprintf("%c %d:%d", "cb"[e.Type-tarstream.TypeChar], e.Major, e.Minor)) {
			return nil // what is there stays
		}
		fallthrough
	default:
		item.describe(e)
	}
	if e.Type == tarstream.TypeReg {
		if item.sum, err = sums.entry(tar, e); err != nil {
			return err
		}
	}
	if old != nil && old.wishedFolder == nil {
		old.names--
	}
	item.names++
	delete(dir.hidden, name)
	dir.items[name] = item
	return nil
}

// target finds what a hard link leads to.
func (w *wish) target(dir *wished, name, target string) (*wished, error) {
	refuse := func(why string) (*wished, error) {
		return nil, invalid(join(dir.path, name), "hard link to %s, which %s", quote(target), why)
	}
	above, base := split(target)
	from, err := w.walk(above, marking)
	if err != nil {
		return nil, err
	}
	if from == nil {
		return refuse("is not there")
	}
	item := from.items[base]
	switch {
	case item != nil && item.wishedFolder == nil:
		return item, nil
	case item != nil && (item.named || item.brought):
		return refuse("is a folder")
	}
	below, err := w.lookup(from, base)
	switch {
	case err != nil:
		return nil, err
	case below == nil:
		return refuse("is not there")
	case isFolder(below):
		return refuse("is a folder")
	}
	if item = w.linked[below.Path]; item == nil {
		item = &wished{Attr: below.Attr, link: below}
		w.linked[below.Path] = item
	}
	return item, nil
}

// hide takes a name of the layers below away.
func (w *wish) hide(path string) error {
	above, name := split(path)
	dir, err := w.walk(above, marking)
	if err != nil || dir == nil {
		return err
	}
	item := dir.items[name]
	switch {
	case item != nil && item.wishedFolder == nil: // which hides it
		return nil
	case item != nil && (item.named || item.brought):
		item.opaque, item.anew = true, true
		return nil
	case item != nil: // only markers mention it
		delete(dir.items, name)
	}
	if dir.hidden == nil {
		dir.hidden = map[string]bool{}
	}
	dir.hidden[name] = true
	return nil
}

// hideAll takes all that the layers below have in a folder away.
func (w *wish) hideAll(path string) error {
	dir, err := w.walk(path, marking)
	if err != nil || dir == nil {
		return err
	}
	dir.opaque = true
	return nil
}

// describe gives something the attributes of its entry.
func (f *wished) describe(e *tarstream.Entry) {
	f.Attr = Attr{Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime}
	switch e.Type {
	case tarstream.TypeReg:
		f.Mode |= unix.S_IFREG
		f.Size = e.Size
	case tarstream.TypeDir:
		f.Mode |= unix.S_IFDIR
		f.named = true
	case tarstream.TypeSymlink:
		f.Mode = unix.S_IFLNK | 0o777
		f.Target = e.Linkname
	case tarstream.TypeChar:
		f.Mode |= unix.S_IFCHR
		f.Major, f.Minor = e.Major, e.Minor
	case tarstream.TypeBlock:
		f.Mode |= unix.S_IFBLK
		f.Major, f.Minor = e.Major, e.Minor
	case tarstream.TypeFifo:
		f.Mode |= unix.S_IFIFO
	}
	for _, x := range e.Xattrs {
		keep := Keeps(x.Name)
		if keep && isACL(x.Name) && ValidACL(x.Value) && f.Target == "" {
			f.Mode, keep = AfterXattr(f.Mode, x)
		}
		if keep {
			set(&f.Xattrs, x.Name, x.Value)
		}
	}
}

// identity tells files apart: what has the same one should be one file.
func (f *wished) identity() FileID {
	if f.link != nil {
		return identityBelow(f.link)
	}
	return FileID{Inode: f.entry}
}

func identityBelow(n *Node) FileID {
	if n.File != (FileID{}) {
		return n.File
	}
	return FileID{Tree: "/" + n.Path}
}

package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Diff writes the layer that makes upper out of lower, as a tar that is not compressed. Without
// lower it is all of upper. Trees that are alike give the same bytes, whatever they are kept in:
//
//   - Entries are ordered by their names, a folder before what is in it. Every folder that
//     something is changed in has one, so that the layer needs nothing from those below; the root
//     has one only if it changed itself.
//   - What is gone has a marker, one for a folder with all in it. No marker hides a whole folder's
//     content, and none stands beside an entry of the same name: the entry is enough.
//   - A file that has several names is written at the first and linked to at the others. All of
//     them are written when one is, or when they were not one file below; and of files that were
//     one below, but no longer are, all but the first. So no link leads to a layer below.
//   - Sockets are not written, as if they were not there, nor are xattrs that the
//     kernel makes, such as security.selinux. Holes are written as zeros.
//
// Content is compared only where nothing else tells files apart, and where they are not known to
// be the same. The changes of a layer are kept in memory, about 400 bytes for each, unless lower
// is nil.
//
// Errors: [errdefs.ErrFailedPrecondition] for what layers cannot have, a name that reads as a
// marker or a path of more than 4095 bytes; [io.ErrUnexpectedEOF] for a file that became shorter meanwhile; those of w and the trees.
func Diff(ctx context.Context, w io.Writer, lower, upper Tree) error {
	return DiffUntil(ctx, w, lower, upper, time.Time{})
}

// DiffUntil is [Diff] for builds that are to come out the same at any time: what changed after latest
// gets that time. Zero: whatever it has.
func DiffUntil(ctx context.Context, w io.Writer, lower, upper Tree, latest time.Time) error {
	d := &differ{
		ctx:   ctx,
		lower: lower,
		upper: upper,
		tar:   newTarWriter(ctx, w),
		plan:  map[string]*Node{},
		first: map[FileID]string{},
	}
	d.tar.latest = latest
	if err := d.diff(); err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	return nil
}

// A differ is one call of [Diff]. What is new is written as it is met where there is no lower
// tree. Otherwise all changes are found first, since a hard link may turn out to be one only when
// another name of its file is met.
type differ struct {
	ctx          context.Context
	lower, upper Tree
	tar          *tarWriter
	plan         map[string]*Node // by the names of entries, without the "/"; nil: a marker
	links        linkFinder
	first        map[FileID]string // the first name of files that were written
	bufs         [2][]byte         // for comparing
}

func (d *differ) diff() error {
	root, err := d.upper.Lookup(".")
	if err != nil {
		return err
	}
	below := &Node{Path: ".", Attr: Attr{Mode: unix.S_IFDIR | unnamed.mode, ModTime: unnamed.mtime}}
	if d.lower != nil {
		if below, err = d.lower.Lookup("."); err != nil {
			return err
		}
	}
	if !alike(below, root) {
		if err := d.put(root); err != nil {
			return err
		}
	}
	if d.lower == nil {
		err = d.putBeneath(root)
	} else if !same(below, root) {
		err = d.compareBeneath(below, root)
	}
	if err == nil {
		err = d.putLinked()
	}
	if err == nil {
		err = d.write()
	}
	if err != nil {
		return err
	}
	return d.tar.close()
}

// compareBeneath compares what is in a folder of both trees.
func (d *differ) compareBeneath(lower, upper *Node) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	below, err := d.lower.List(lower)
	if err != nil {
		return err
	}
	above, err := d.upper.List(upper)
	if err != nil {
		return err
	}
	for len(below) > 0 || len(above) > 0 {
		order := 0
		switch {
		case len(below) == 0:
			order = 1
		case len(above) == 0:
			order = -1
		default:
			order = strings.Compare(below[0].Path, above[0].Path)
		}
		var was, is *Node
		if order <= 0 {
			was, below = below[0], below[1:]
		}
		if order >= 0 {
			is, above = above[0], above[1:]
		}
		if err := d.compare(was, is); err != nil {
			return err
		}
	}
	return nil
}

// compare finds what is to be done about a name. A nil node is none.
func (d *differ) compare(was, is *Node) error {
	if is != nil && tarType(is.Mode) == 0 {
		if was != nil && tarType(was.Mode) == 0 {
			return nil
		}
		is = nil
	}
	switch {
	case is == nil && was == nil:
		return nil
	case is == nil:
		return d.hide(was.Path)
	case was == nil || isFolder(was) != isFolder(is):
		return d.putAll(is)
	case !isFolder(is):
		return d.compareFiles(was, is)
	case same(was, is):
		d.links.skip(is)
		return nil
	}
	if !alike(was, is) {
		if err := d.put(is); err != nil {
			return err
		}
	}
	return d.compareBeneath(was, is)
}

func (d *differ) compareFiles(was, is *Node) error {
	changed := false
	if !same(was, is) {
		var err error
		if changed, err = d.changed(was, is); err != nil {
			return err
		}
	}
	d.links.add(was, is, changed)
	if changed {
		return d.put(is)
	}
	return nil
}

// putAll writes a node with all that is beneath.
func (d *differ) putAll(n *Node) error {
	if tarType(n.Mode) == 0 {
		return nil
	}
	if err := d.put(n); err != nil {
		return err
	}
	if isFolder(n) {
		return d.putBeneath(n)
	}
	if d.lower != nil {
		d.links.add(nil, n, true)
	}
	return nil
}

func (d *differ) putBeneath(folder *Node) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	list, err := d.upper.List(folder)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := d.putAll(n); err != nil {
			return err
		}
	}
	return nil
}

// put is for a node that has an entry.
func (d *differ) put(n *Node) error {
	if err := d.nameable(n.Path); err != nil {
		return err
	}
	if d.lower == nil {
		return d.writeNode(n)
	}
	d.plan[n.Path] = n
	return d.putAbove(n.Path)
}

// hide is for a name that is gone.
func (d *differ) hide(path string) error {
	if err := d.nameable(path); err != nil {
		return err
	}
	dir, base := split(path)
	d.plan[join(dir, marker+base)] = nil
	return d.putAbove(path)
}

// nameable refuses what has no name in layers.
func (d *differ) nameable(path string) error {
	_, base := split(path)
	switch {
	case strings.HasPrefix(base, marker):
		return fmt.Errorf("the name of %s is a marker in layers: %w", quote(path), errdefs.ErrFailedPrecondition)
	case len(path) > maxPath:
		return fmt.Errorf("the path %s is too long for layers: %w", quote(path), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// putAbove is for the folders on the way to a change.
func (d *differ) putAbove(path string) error {
	for dir, _ := split(path); dir != "."; dir, _ = split(dir) {
		if d.plan[dir] != nil {
			break // and all above it
		}
		n, err := d.upper.Lookup(dir)
		if err != nil {
			return err
		}
		d.plan[dir] = n
	}
	return nil
}

// write writes what is planned.
func (d *differ) write() error {
	for _, name := range slices.SortedFunc(maps.Keys(d.plan), comparePaths) {
		n := d.plan[name]
		var err error
		if n != nil {
			err = d.writeNode(n)
		} else {
			err = d.tar.whiteout(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// comparePaths orders a folder before what is in it, and that before what is beside the folder.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

func (d *differ) writeNode(n *Node) (err error) {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	if n.File != (FileID{}) {
		if first, ok := d.first[n.File]; ok {
			return d.tar.entry(n.Path, first, &n.Attr)
		}
		d.first[n.File] = n.Path
	}
	if n.Mode&unix.S_IFMT != unix.S_IFREG || n.Size == 0 {
		return d.tar.entry(n.Path, "", &n.Attr)
	}
	f, err := d.upper.Open(n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := d.tar.entry(n.Path, "", &n.Attr); err != nil {
		return err
	}
	if err := d.tar.content(f, n.Size); err != nil {
		return fmt.Errorf("copy %s: %w", quote(n.Path), err)
	}
	return nil
}

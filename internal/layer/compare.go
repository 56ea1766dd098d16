package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Reason says in what a path differs from what it should be.
type Reason string

// The reasons.
const (
	Missing         Reason = "missing"
	Extra           Reason = "extra" // nothing should be there
	DiffersType     Reason = "type"
	DiffersSize     Reason = "size"
	DiffersMode     Reason = "mode"
	DiffersOwner    Reason = "owner"
	DiffersTime     Reason = "time"
	DiffersXattr    Reason = "xattr"
	DiffersTarget   Reason = "link target"
	DiffersDevice   Reason = "device"
	DiffersHardLink Reason = "hard link" // it is one file with others, or not, and should not be, or should
	DiffersContent  Reason = "content"
)

// A Difference is a path of a tree that is not as its layers say. Of a folder that is missing or
// extra, what is in it is not told.
type Difference struct {
	Path   string // relative to the root
	Reason Reason
	Detail string // such as "0 bytes instead of 12"; may be empty
}

func (d Difference) String() string {
	if d.Detail == "" {
		return fmt.Sprintf("%s: %s", printable(d.Path), d.Reason)
	}
	return fmt.Sprintf("%s: %s: %s", printable(d.Path), d.Reason, d.Detail)
}

// printable is a name as it is, or quoted if it would not stay on its line.
func printable(name string) string {
	if q := quote(name); q[1:len(q)-1] != name {
		return q
	}
	return name
}

// CompareOptions tune [Compare].
type CompareOptions struct {
	Limits Limits
	// Losses are what the unpacker could not keep: that is no difference.
	Losses []Loss
	// Most is how many differences are listed; 0: 1,000.
	Most int
}

// Compare tells in what tree differs from what the layer that r streams, uncompressed, makes of
// below, and how many differences there are beyond those that it lists. It reads r to its end,
// beyond that of the tar. What tree and below are known to have in common, by [Node.Same], is not
// read.
//
// What the layer says is kept in memory, about 250 bytes for each of its entries beside its names.
// Contents are told apart by their SHA-256. What cannot be read of tree for an error of the disk is
// a difference.
//
// Errors: [errdefs.ErrInvalidArgument] for what is no layer, or none on below;
// [errdefs.ErrResourceExhausted] beyond the limits; those of r and of the trees.
func Compare(ctx context.Context, r io.Reader, below, tree Tree, o CompareOptions) (list []Difference, more int, err error) {
	if o.Most == 0 {
		o.Most = 1000
	}
	c := &comparer{
		ctx: ctx, below: below, tree: tree, o: o,
		files: map[FileID]FileID{}, names: map[FileID]FileID{},
	}
	if err := c.compare(r); err != nil {
		return nil, 0, fmt.Errorf("compare with layer: %w", err)
	}
	return c.list, c.more, nil
}

// A comparer is one call of [Compare]: first all that the layer says is read, and then the tree.
type comparer struct {
	ctx         context.Context
	below, tree Tree
	o           CompareOptions
	sums        [2]summer // of the tree, and of what is below
	// files tells which file of the tree the one that should be there is, and names the way back.
	files, names map[FileID]FileID
	wish         *wish

	list []Difference
	more int
}

func (c *comparer) compare(r io.Reader) error {
	w, err := readWish(c.ctx, r, c.below, c.o)
	if err != nil {
		return err
	}
	c.wish = w
	below, err := c.below.Lookup(".")
	if err != nil {
		return err
	}
	root, err := c.tree.Lookup(".")
	if err != nil {
		return err
	}
	return c.folder(w.root, below, root)
}

func (c *comparer) differs(path string, why Reason, format string, args ...any) {
	if len(c.list) >= c.o.Most {
		c.more++
		return
	}
	c.list = append(c.list, Difference{path, why, fmt.Sprintf(format, args...)})
}

// folder compares a folder, and all in it, with what the layer says, nil if it says nothing, and
// what is below, nil if that is hidden or no folder.
func (c *comparer) folder(item *wished, below, is *Node) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	want := Attr{Mode: unix.S_IFDIR | unnamed.mode, ModTime: unnamed.mtime}
	switch {
	case item != nil && item.named:
		want = item.Attr
	case below != nil && !(item != nil && item.anew):
		want = below.Attr
	}
	c.attributes(&want, is)
	if item != nil && item.opaque {
		below = nil
	}
	return c.beneath(item, below, is)
}

func (c *comparer) beneath(item *wished, below, is *Node) error {
	there, err := c.tree.List(is)
	if err != nil {
		return err
	}
	nodes := make(map[string]*Node, len(there))
	for _, n := range there {
		_, base := split(n.Path)
		nodes[base] = n
	}
	names := make([]string, 0, len(nodes))
	for base := range nodes {
		names = append(names, base)
	}
	under := map[string]*Node{}
	if below != nil {
		list, err := c.below.List(below)
		if err != nil {
			return err
		}
		for _, n := range list {
			_, base := split(n.Path)
			if item == nil || !item.hidden[base] {
				under[base] = n
				names = append(names, base)
			}
		}
	}
	if item != nil {
		for base := range item.items {
			names = append(names, base)
		}
	}
	slices.Sort(names)
	for _, base := range slices.Compact(names) {
		var said *wished
		if item != nil {
			said = item.items[base]
		}
		if err := c.name(join(is.Path, base), said, under[base], nodes[base]); err != nil {
			return err
		}
	}
	return nil
}

// name compares what is at a path, if anything.
func (c *comparer) name(path string, item *wished, below, is *Node) error {
	if item == nil || item.wishedFolder != nil && !item.named && !item.brought && (below == nil || !isFolder(below)) {
		return c.untouched(path, below, is)
	}
	if is == nil {
		c.differs(path, Missing, "")
		return nil
	}
	if item.wishedFolder != nil {
		if !c.typed(unix.S_IFDIR, is) {
			return nil
		}
		if below != nil && !isFolder(below) {
			below = nil
		}
		return c.folder(item, below, is)
	}
	if !c.typed(item.Mode, is) {
		return nil
	}
	c.attributes(&item.Attr, is)
	c.identity(item.identity(), item.names > 1 || item.link != nil, is)
	if item.link != nil {
		return c.contents(item.link, is)
	}
	if item.Mode&unix.S_IFMT != unix.S_IFREG || item.Size != is.Size {
		return nil
	}
	return c.content(item.sum, is)
}

// untouched compares what the layer leaves as it is below.
func (c *comparer) untouched(path string, below, is *Node) error {
	switch {
	case below == nil && is == nil:
		return nil
	case below == nil:
		c.differs(path, Extra, "")
		return nil
	case is == nil:
		c.differs(path, Missing, "")
		return nil
	case same(below, is), !c.typed(below.Mode, is):
		return nil
	case isFolder(below):
		return c.folder(nil, below, is)
	}
	c.attributes(&below.Attr, is)
	c.identity(identityBelow(below), below.File != FileID{} || c.wish.linked[below.Path] != nil, is)
	return c.contents(below, is)
}

var typeNames = map[uint32]string{
	unix.S_IFREG: "a file", unix.S_IFDIR: "a folder", unix.S_IFLNK: "a symbolic link", unix.S_IFIFO: "a fifo",
	unix.S_IFCHR: "a character device", unix.S_IFBLK: "a block device", unix.S_IFSOCK: "a socket",
}

// typed tells whether something is of the type that a mode has.
func (c *comparer) typed(mode uint32, is *Node) bool {
	got, want := is.Mode&unix.S_IFMT, mode&unix.S_IFMT
	if got != want {
		c.differs(is.Path, DiffersType, "%s instead of %s", typeNames[got], typeNames[want])
	}
	return got == want
}

// attributes compares what all but content tells of something, which is of the type wanted.
func (c *comparer) attributes(want *Attr, is *Node) {
	if want.Size != is.Size {
		c.differs(is.Path, DiffersSize, "%d bytes instead of %d", is.Size, want.Size)
	}
	owner := fmt.Sprintf("%d:%d", want.UID, want.GID)
	owned := want.UID == is.UID && want.GID == is.GID
	if !owned && !c.o.lost(LostOwner, owner) {
		c.differs(is.Path, DiffersOwner, "%d:%d instead of %s", is.UID, is.GID, owner)
	}
	if got, want := is.Mode&0o7777, want.Mode&0o7777; got != want {
		lost := want &^ got
		if got&^want != 0 || lost&^special != 0 || !c.o.lost(LostMode, fmt.Sprintf("%04o", lost)) {
			c.differs(is.Path, DiffersMode, "%04o instead of %04o", got, want)
		}
	}
	if !sameTime(want.ModTime, is.ModTime) {
		c.differs(is.Path, DiffersTime, "%s instead of %s", is.ModTime.UTC().Format(time.RFC3339Nano), want.ModTime.UTC().Format(time.RFC3339Nano))
	}
	if want.Target != is.Target {
		c.differs(is.Path, DiffersTarget, "%s instead of %s", quote(is.Target), quote(want.Target))
	}
	if want.Major != is.Major || want.Minor != is.Minor {
		c.differs(is.Path, DiffersDevice, "%d:%d instead of %d:%d", is.Major, is.Minor, want.Major, want.Minor)
	}
	for _, name := range sortedKeys(want.Xattrs) {
		value, ok := is.Xattrs[name]
		switch {
		case ok && value == want.Xattrs[name], !keepsInLayer(name), !ok && c.o.lostXattr(name):
		case ok:
			c.differs(is.Path, DiffersXattr, "%s has another value", clip(name))
		default:
			c.differs(is.Path, DiffersXattr, "%s is missing", clip(name))
		}
	}
	for _, name := range sortedKeys(is.Xattrs) {
		if _, ok := want.Xattrs[name]; !ok && keepsInLayer(name) {
			c.differs(is.Path, DiffersXattr, "%s is extra", clip(name))
		}
	}
}

// sameTime tells whether a file has the time that it should have. Filesystems keep times within
// bounds, and some only whole seconds.
func sameTime(want, got time.Time) bool {
	if want.Unix() < 0 || want.Unix() > 1<<31-1 {
		return true
	}
	return want.Unix() == got.Unix() && (want.Nanosecond() == got.Nanosecond() || got.Nanosecond() == 0)
}

// lost tells whether the unpacker could not keep something.
func (o *CompareOptions) lost(kind Kind, detail string) bool {
	return slices.ContainsFunc(o.Losses, func(l Loss) bool {
		return l.Kind == kind && (l.Detail == detail || l.Detail == "and others")
	})
}

func (o *CompareOptions) lostXattr(name string) bool {
	return slices.ContainsFunc(o.Losses, func(l Loss) bool {
		return l.Kind == LostXattr && (strings.HasPrefix(l.Detail, clip(name)+": ") || l.Detail == "and others")
	})
}

// identity compares with which other names something is one file. Linked says whether it should be
// one with any.
func (c *comparer) identity(file FileID, linked bool, is *Node) {
	if !linked && is.File == (FileID{}) {
		return
	}
	before, met := c.files[file]
	name, other := c.names[is.File], is.File != FileID{}
	switch {
	case met && (before != is.File || !other):
		c.differs(is.Path, DiffersHardLink, "it should be one file with another name")
	case other && name != (FileID{}) && name != file:
		c.differs(is.Path, DiffersHardLink, "it should not be one file with another name")
	}
	c.files[file] = is.File
	if other {
		c.names[is.File] = file
	}
}

// content compares what a file holds with what the layer has.
func (c *comparer) content(want sum, is *Node) error {
	got, err := c.sums[0].of(c.ctx, c.tree, is)
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case err != nil && !damaged(err):
		return err
	case err != nil:
		c.differs(is.Path, DiffersContent, "%v", err)
	case got != want:
		c.differs(is.Path, DiffersContent, "")
	}
	return nil
}

// contents compares what a file holds with what one below does.
func (c *comparer) contents(below, is *Node) error {
	if below.Mode&unix.S_IFMT != unix.S_IFREG || below.Size != is.Size {
		return nil
	}
	want, err := c.sums[1].of(c.ctx, c.below, below)
	if err != nil {
		return err
	}
	return c.content(want, is)
}

// damaged tells an error of what is stored from one of the way to it.
func damaged(err error) bool {
	return errdefs.IsDataLoss(err) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) ||
		errors.Is(err, unix.EBADMSG) || errors.Is(err, io.ErrUnexpectedEOF)
}

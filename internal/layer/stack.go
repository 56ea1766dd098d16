package layer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OpenStack reads folders as overlay shows them when they are mounted, the lowest first; or one
// alone, of the form [Whole]. A folder whose root is opaque hides those below it; overlay itself
// takes no notice of that.
//
// Folders that overlay itself wrote to must not have been mounted with redirect_dir, metacopy or
// index: what the first two leave is refused as [errdefs.ErrNotImplemented] where it is met, and
// names that only an index links stand for themselves. The marks of the form Overlay are hidden
// from those who lack CAP_SYS_ADMIN, and then do not count.
//
// A tree holds one descriptor for each folder. What changes in them meanwhile may be seen or not.
func OpenStack(form Form, dirs []string) (Tree, error) {
	if len(dirs) == 0 || form == Whole && len(dirs) != 1 {
		return nil, fmt.Errorf("open a stack of %d folders: %w", len(dirs), errdefs.ErrInvalidArgument)
	}
	return openStack(form, dirs, nil)
}

// OpenOver is [OpenStack] for one folder, of another form than [Whole], on top of a tree that
// need not be of folders. What the folder leaves as it is below has the same [Node.Same] there and
// here. The tree below is closed with this one, or when there is an error.
func OpenOver(form Form, dir string, below Tree) (Tree, error) {
	if form == Whole {
		err := fmt.Errorf("open a whole tree over another: %w", errdefs.ErrInvalidArgument)
		return nil, errors.Join(err, below.Close())
	}
	return openStack(form, []string{dir}, below)
}

func openStack(form Form, dirs []string, below Tree) (Tree, error) {
	s := &stack{folders: folderCache{young: map[string]merged{}}, below: below}
	switch form {
	case Overlay:
		s.marks = "trusted.overlay."
	case UserOverlay:
		s.marks = "user.overlay."
	}
	for _, name := range slices.Backward(dirs) {
		d, err := openRealDir(name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open folder %s: %w", name, withKind(err)), s.Close())
		}
		s.dirs = append(s.dirs, d)
		s.roots = append(s.roots, openPart{part: part{dir: d}, fd: d.fd})
	}
	if below != nil {
		s.roots = append(s.roots, openPart{})
	}
	// The roots are merged as all folders are.
	if _, err := s.Lookup("."); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// A stack is the view of folders on top of one another. One alone is a stack without marks.
type stack struct {
	marks   string     // the prefix of overlay's xattrs; empty: there are none, nor whiteouts
	dirs    []*realDir // from the topmost down
	below   Tree       // beneath all of them; nil: nothing
	roots   []openPart
	folders folderCache
}

// A merged folder is made up of real ones, from the topmost down. It is never empty.
type merged []part

// A part is a real folder, at the same path as the merged one, or that of the tree below.
type part struct {
	dir *realDir // nil: of the tree below
	id  FileID
	// marked is set where a whiteout may be an empty file with a mark instead of a device.
	marked bool
}

// same is what [Node.Same] is for a folder: all beneath it follows from its parts.
func (m merged) same() FileID {
	if len(m) == 1 {
		return m[0].id
	}
	var all strings.Builder
	for _, p := range m {
		if p.id == (FileID{}) {
			return FileID{}
		}
		fmt.Fprintf(&all, "%s:%x+", p.id.Tree, p.id.Inode)
	}
	return FileID{Tree: all.String(), Inode: m[0].id.Inode}
}

// An openPart is a part in which names are looked up.
type openPart struct {
	part
	fd int
	*os.File
}

// open opens the parts of the folder at a path, for as long as use runs.
func (m merged) open(path string, use func([]openPart) error) (err error) {
	parts := make([]openPart, 0, len(m))
	defer func() {
		for _, p := range parts {
			if p.File != nil {
				err = errors.Join(err, p.File.Close())
			}
		}
	}()
	for _, p := range m {
		if p.dir == nil {
			parts = append(parts, openPart{part: p})
			continue
		}
		fd, err := p.dir.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		parts = append(parts, openPart{part: p, fd: fd, File: os.NewFile(uintptr(fd), path)})
	}
	return use(parts)
}

// Close implements [Tree].
func (s *stack) Close() error {
	var errs []error
	for _, d := range s.dirs {
		errs = append(errs, unix.Close(d.fd))
	}
	if s.below != nil {
		errs = append(errs, s.below.Close())
	}
	s.dirs, s.roots, s.below = nil, nil, nil
	return errors.Join(errs...)
}

// Lookup implements [Tree].
func (s *stack) Lookup(path string) (*Node, error) {
	n, _, err := s.lookup(path)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", path, withKind(err))
	}
	return n, nil
}

// lookup also tells what a folder is made up of. That is nil for all else.
func (s *stack) lookup(name string) (n *Node, m merged, err error) {
	r := &nodeReader{marks: s.marks}
	if name == "." {
		return s.merge(s.roots, ".", ".", r)
	}
	if !filepath.IsLocal(name) || path.Clean(name) != name {
		return nil, nil, errdefs.ErrInvalidArgument
	}
	parent, base := split(name)
	in, err := s.folder(parent)
	if err != nil {
		return nil, nil, err
	}
	err = in.open(parent, func(parts []openPart) error {
		n, m, err = s.merge(parts, base, name, r)
		return err
	})
	return n, m, err
}

// folder tells what the folder at a path is made up of.
func (s *stack) folder(path string) (merged, error) {
	if m := s.folders.get(path); m != nil {
		return m, nil
	}
	_, m, err := s.lookup(path)
	if err == nil && m == nil {
		err = unix.ENOTDIR
	}
	return m, err
}

// List implements [Tree].
func (s *stack) List(dir *Node) (nodes []*Node, err error) {
	m, err := s.folder(dir.Path)
	if err == nil {
		err = m.open(dir.Path, func(parts []openPart) error {
			nodes, err = s.list(parts, dir.Path)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir.Path, withKind(err))
	}
	return nodes, nil
}

func (s *stack) list(parts []openPart, dir string) ([]*Node, error) {
	type seen struct {
		name string
		part int
	}
	var all []seen
	for i, p := range parts {
		names, err := s.names(p, dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, seen{name, i})
		}
	}
	slices.SortFunc(all, func(a, b seen) int {
		return cmp.Or(strings.Compare(a.name, b.name), a.part-b.part)
	})
	r := &nodeReader{marks: s.marks}
	nodes := make([]*Node, 0, len(all))
	having := make([]openPart, 0, len(parts)) // those that have one name
	for i, entry := range all {
		having = append(having, parts[entry.part])
		if i+1 < len(all) && all[i+1].name == entry.name {
			continue
		}
		n, _, err := s.merge(having, entry.name, join(dir, entry.name), r)
		switch {
		case err == nil:
			nodes = append(nodes, n)
		case err != unix.ENOENT:
			return nil, fmt.Errorf("%s: %w", entry.name, err)
		}
		having = having[:0]
	}
	return nodes, nil
}

// names lists what one part of the folder at a path has.
func (s *stack) names(p openPart, dir string) ([]string, error) {
	if p.dir != nil {
		return p.Readdirnames(-1)
	}
	n, err := s.below.Lookup(dir)
	if err != nil {
		return nil, err
	}
	nodes, err := s.below.List(n)
	names := make([]string, len(nodes))
	for i, n := range nodes {
		_, names[i] = split(n.Path)
	}
	return names, err
}

// merge makes the node that the parts of a folder have under a name, and remembers what it is
// made up of when it is itself a folder. It fails with ENOENT when there is none.
func (s *stack) merge(parts []openPart, name, path string, r *nodeReader) (n *Node, m merged, err error) {
	for _, p := range parts {
		if p.dir == nil { // the last one
			if n, m, err = s.mergeBelow(n, m, path); err != nil {
				return nil, nil, err
			}
			break
		}
		var st unix.Stat_t
		err := unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if absent(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if s.isDevice(&st) || n != nil && !folder {
			break
		}
		attr, marks, err := r.attr(p.fd, name, &st)
		if absent(err) {
			if unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue // it went meanwhile
			}
			err = fmt.Errorf("xattrs cannot be read where /proc is not mounted: %w", errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return nil, nil, err
		}
		if _, ok := marks[markWhiteout]; ok && p.marked && st.Size == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG {
			break
		}
		for _, mark := range []string{markRedirect, markMetacopy} {
			if _, ok := marks[mark]; ok {
				return nil, nil, fmt.Errorf("the mark %s of overlay: %w", mark, errdefs.ErrNotImplemented)
			}
		}
		id := p.dir.fileID(&st)
		if n == nil {
			n = &Node{Path: path, Attr: attr, Same: id}
			if !folder {
				if st.Nlink > 1 {
					n.File = id
				}
				return n, nil, nil
			}
		}
		m = append(m, part{dir: p.dir, id: id, marked: marks[markOpaque] == "x"})
		if marks[markOpaque] == "y" {
			break
		}
	}
	if n == nil {
		return nil, nil, unix.ENOENT
	}
	if m == nil { // of the tree below, and no folder
		return n, nil, nil
	}
	n.Same = m.same()
	s.folders.put(path, m)
	return n, m, nil
}

// mergeBelow adds what the tree below has at a path to what is above it, which is nothing or a
// folder.
func (s *stack) mergeBelow(n *Node, m merged, path string) (*Node, merged, error) {
	below, err := s.below.Lookup(path)
	if errdefs.IsNotFound(err) {
		return n, m, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if n == nil {
		copied := *below
		n = &copied
	}
	if isFolder(below) {
		m = append(m, part{id: below.Same})
	}
	return n, m, nil
}

// The xattrs of overlay that say what is seen, without their prefix.
const (
	markOpaque   = "opaque"   // "y": hides the folders below; "x": may hold marked whiteouts
	markWhiteout = "whiteout" // of an empty file, in a folder that is marked
	markRedirect = "redirect" // the folders below have another name
	markMetacopy = "metacopy" // the content is in a folder below
)

// isDevice tells a whiteout that is a device.
func (s *stack) isDevice(st *unix.Stat_t) bool {
	return s.marks != "" && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// Open implements [Tree].
func (s *stack) Open(n *Node) (File, error) {
	f, err := s.open(n)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", n.Path, withKind(err))
	}
	return f, nil
}

func (s *stack) open(n *Node) (File, error) {
	tree, _, _ := strings.Cut(n.Same.Tree, "@")
	i := slices.IndexFunc(s.dirs, func(d *realDir) bool { return d.id == tree })
	if i < 0 && s.below != nil {
		return s.below.Open(n)
	}
	if i < 0 || n.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("no file of this tree: %w", errdefs.ErrInvalidArgument)
	}
	// Should it be a fifo by now, this does not wait for a writer.
	fd, err := s.dirs[i].open(n.Path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := diskFile(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || s.dirs[i].fileID(&st) != n.Same {
		return nil, errors.Join(fmt.Errorf("it was replaced: %w", errdefs.ErrNotFound), f.Close())
	}
	return f, nil
}

// A folderCache remembers of what folders were made up lately. When its younger half is full, it
// forgets the older one.
type folderCache struct {
	mu         sync.Mutex
	young, old map[string]merged
	parts      int // in young
}

// cachedParts bounds a half of the cache, to about 1 MiB of parts.
const cachedParts = 1 << 14

func (c *folderCache) get(path string) merged {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.young[path]; m != nil {
		return m
	}
	return c.old[path]
}

func (c *folderCache) put(path string, m merged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parts += len(m); c.parts > cachedParts {
		c.old, c.young, c.parts = c.young, map[string]merged{}, len(m)
	}
	c.young[path] = m
}

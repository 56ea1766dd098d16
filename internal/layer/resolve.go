package layer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLinks is how many links are followed on the way to one name, and maxRest how long the rest of
// the way may become by that.
const (
	maxLinks = 255
	maxRest  = 64 << 10
)

// A way says what is done about folders that are missing on the way.
type way int

const (
	making  way = iota // they are made
	marking            // they are known, if they are below, and not made
)

// folder finds the folder at a clean path, for something to be put into it.
func (a *applier) folder(path string) (*folder, error) {
	if a.last != nil && a.lastPath == path {
		return a.last, nil
	}
	f, links, err := a.walk(path, making)
	if err != nil {
		return nil, err
	}
	a.last = nil
	if links == 0 { // or else a link might become another
		a.last, a.lastPath = f, path
	}
	return f, nil
}

// walk finds the folder at a clean path. Links on the way are followed here, name by name, and
// never by the kernel: the root is "/" to them. When marking, the folder is nil where there is
// none.
func (a *applier) walk(path string, way way) (at *folder, links int, err error) {
	at = a.root
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
		next, target, err := a.enter(at, name, way)
		switch {
		case err != nil:
			return nil, links, err
		case target != "":
			if links++; links > maxLinks || len(target)+len(rest) > maxRest {
				return nil, links, a.doubt(fmt.Errorf("follow %s: too many links: %w", quote(path), errdefs.ErrInvalidArgument))
			}
			if target[0] == '/' {
				at = a.root
			}
			rest = target + "/" + rest
		case next == nil:
			return nil, links, nil
		default:
			at = next
		}
	}
	if way == making {
		err = a.imply(at)
	}
	return at, links, err
}

// enter goes one step: to a folder, or to the target of a link.
func (a *applier) enter(at *folder, name string, way way) (next *folder, target string, err error) {
	if next := at.children[name]; next != nil {
		return next, "", nil
	}
	if len(name) > maxName { // in the target of a link
		return nil, "", fmt.Errorf("follow a link to a name of %d bytes: %w", len(name), errdefs.ErrInvalidArgument)
	}
	if at.made {
		next, target, err = a.enterMade(at, name)
		if next != nil || target != "" || err != nil {
			return next, target, err
		}
	}

	_, hidden := at.hides[name]
	covered := hidden || at.covered()
	var below *Node
	switch {
	case a.o.Form == Whole:
		covered = true
	case covered || a.o.Below == nil:
	default:
		path := join(at.path(), name)
		below, err = a.o.Below.Lookup(path)
		switch {
		case errdefs.IsNotFound(err):
			below = nil
		case err != nil:
			return nil, "", fault("look below for", path, err)
		case below.Mode&unix.S_IFMT == unix.S_IFLNK && below.Target != "":
			return nil, below.Target, nil
		case below.Mode&unix.S_IFMT != unix.S_IFDIR:
			below = nil
		}
	}
	unknown := !covered && a.o.Below == nil
	if way == marking && !unknown && below == nil {
		return nil, "", nil
	}
	next, err = a.know(at, name)
	if err != nil {
		return nil, "", err
	}
	next.needs = unknown
	a.guessed = a.guessed || unknown
	next.bare = !unknown && below == nil
	if below != nil {
		next.resemble(below)
	}
	if hidden {
		delete(at.hides, name)
		next.opaque = true
	}
	return next, "", nil
}

// errAnew says that an entry cannot be applied without knowing what is below.
var errAnew = errors.New("what is below has to be known")

// doubt is what a refusal comes to that follows from what is where. Folders that were guessed may be
// links below, and then it is elsewhere.
func (a *applier) doubt(refusal error) error {
	if a.guessed {
		return errAnew
	}
	return refusal
}

// enterMade is enter for what is on disk. It returns nothing where there is no folder or link.
func (a *applier) enterMade(at *folder, name string) (next *folder, target string, err error) {
	ours := a.written.has(a.written.key(at, name))
	if ours { // though perhaps not yet
		if err := a.crew.wait(); err != nil {
			return nil, "", err
		}
	}
	dir, err := a.open(at)
	if err != nil {
		return nil, "", err
	}
	fd, err := openFolder(dir, name)
	switch err {
	case nil:
		if next, err = a.know(at, name); err != nil {
			return nil, "", errors.Join(err, unix.Close(fd))
		}
		if err := a.fds.put(a, next, fd); err != nil {
			return nil, "", err
		}
		return next, "", a.find(next)
	case unix.ENOENT:
		return nil, "", nil
	case unix.ENOTDIR, unix.ELOOP:
	default:
		return nil, "", fault("open", join(at.path(), name), err)
	}

	switch target, err = readLink(dir, name); {
	case err == nil && target != "":
		return nil, target, nil
	case err != unix.EINVAL && err != nil:
		return nil, "", fault("read link", join(at.path(), name), err)
	case ours:
		return nil, "", a.doubt(invalid(join(at.path(), name), "something is put into it, but it is no folder"))
	}
	// What a layer below has gives way to a folder: one may have its entry behind those of what is
	// in it.
	return nil, "", nil
}

// open gives a folder's descriptor, which is good until the next folder is opened or while f has
// users.
func (a *applier) open(f *folder) (int, error) {
	f.recent = true
	if f.fd >= 0 {
		return f.fd, nil
	}
	var fd int
	var err error
	if f.parent.fd >= 0 {
		fd, err = openFolder(f.parent.fd, f.name)
	} else {
		fd, err = openBeneath(a.root.fd, f.path())
	}
	if err != nil {
		return -1, fault("open", f.path(), err)
	}
	return fd, a.fds.put(a, f, fd)
}

// openFolder opens a folder by its name in another, and never what a link leads to.
func openFolder(dir int, name string) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openBeneath opens a folder by its path beneath another, with no link on the way.
func openBeneath(root int, path string) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err = unix.Openat2(root, path, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN: // EAGAIN: something was renamed meanwhile
		case unix.ENOSYS, unix.EPERM: // before Linux 5.6, or a filter of that time
			return openStepwise(root, path)
		default:
			return fd, err
		}
	}
}

// openStepwise is openBeneath by one call for each name.
func openStepwise(root int, path string) (int, error) {
	at := root
	for name := range strings.SplitSeq(path, "/") {
		fd, err := openFolder(at, name)
		if at != root {
			err = errors.Join(err, unix.Close(at))
		}
		if err != nil {
			return -1, err
		}
		at = fd
	}
	return at, nil
}

func readLink(dir int, name string) (string, error) {
	b := make([]byte, maxTarget+1)
	n, err := unix.Readlinkat(dir, name, b)
	return string(b[:max(n, 0)]), err
}

// maxOpen is how many folders are kept open. Tars go from folder to folder and back again to those
// above: a handful would do for most.
const maxOpen = 128

// An fdCache keeps descriptors of folders, apart from the root's.
type fdCache struct {
	open []*folder
	hand int
}

// put keeps the descriptor of f, and closes one that was not used for a while if there are too
// many.
func (c *fdCache) put(a *applier, f *folder, fd int) error {
	f.fd, f.recent = fd, true
	if len(c.open) < maxOpen {
		c.open = append(c.open, f)
		return nil
	}
	for range 3 {
		for range c.open {
			c.hand = (c.hand + 1) % len(c.open)
			switch g := c.open[c.hand]; {
			case g.users.Load() > 0:
			case g.recent:
				g.recent = false
			default:
				err := unix.Close(g.fd)
				g.fd = -1
				c.open[c.hand] = f
				return err
			}
		}
		if err := a.crew.wait(); err != nil {
			c.open = append(c.open, f) // to be closed
			return err
		}
	}
	c.open = append(c.open, f)
	return nil
}

// drop closes the descriptor of a folder that is no longer used.
func (c *fdCache) drop(f *folder) {
	if f.fd < 0 || f.parent == nil {
		return
	}
	for i, g := range c.open {
		if g == f {
			c.open[i] = c.open[len(c.open)-1]
			c.open = c.open[:len(c.open)-1]
			break
		}
	}
	_ = unix.Close(f.fd) // only ever used to find what is in it
	f.fd = -1
}

func (c *fdCache) closeAll() error {
	var errs []error
	for _, f := range c.open {
		errs = append(errs, unix.Close(f.fd))
		f.fd = -1
	}
	c.open = nil
	return errors.Join(errs...)
}

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLower is the number of lower folders that the kernel stacks at most.
const maxLower = 500

// An overlay is what the options of one ask for.
type overlay struct {
	lower       []string // from the topmost down
	upper, work string   // both empty: read-only
	rest        []string // options without folders, as they were given
}

func parseOverlay(options []string) (overlay, error) {
	var o overlay
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		if key != "lowerdir" && key != "upperdir" && key != "workdir" {
			o.rest = append(o.rest, option)
			continue
		}
		dirs := splitDirs(value)
		for i, dir := range dirs {
			if dir == "" {
				return o, fmt.Errorf("option %s names an empty folder: %w", key, errdefs.ErrInvalidArgument)
			}
			var err error
			// One way of the old route leaves the working directory.
			if dirs[i], err = filepath.Abs(dir); err != nil {
				return o, err
			}
		}
		switch {
		case key == "lowerdir":
			o.lower = append(o.lower, dirs...)
		case len(dirs) > 1:
			return o, fmt.Errorf("option %s names %d folders: %w", key, len(dirs), errdefs.ErrInvalidArgument)
		case key == "upperdir":
			o.upper = dirs[0]
		default:
			o.work = dirs[0]
		}
	}
	if len(o.lower) > maxLower {
		return o, fmt.Errorf("overlay of %d lower folders, of which the kernel takes %d: %w",
			len(o.lower), maxLower, errdefs.ErrInvalidArgument)
	}
	if len(o.lower) == 1 && o.upper == "" {
		return o, fmt.Errorf("overlay of one lower folder and no upper one, which is a bind: %w", errdefs.ErrInvalidArgument)
	}
	return o, nil
}

func (r route) overlay(source string, f flags, options []string, place *os.File) error {
	if f&unix.MS_BIND != 0 {
		return fmt.Errorf("option bind of an overlay: %w", errdefs.ErrInvalidArgument)
	}
	o, err := parseOverlay(options)
	if err != nil {
		return err
	}
	if r.old {
		return o.mountOld(source, f, place)
	}
	mount, err := o.detached(source, f)
	switch {
	case err == nil:
		return attach(mount, place)
	case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS):
		return err
	}
	// Kernels that do not know lowerdir+ answer so, and some only when all is set; but so do
	// those that know it and dislike something else. Then both errors are told.
	if oldErr := o.mountOld(source, f, place); oldErr != nil {
		return fmt.Errorf("%w; by mount(2): %w", err, oldErr)
	}
	return nil
}

// detached mounts the overlay, attached nowhere, with one call for each lower folder (Linux 6.7).
func (o overlay) detached(source string, f flags) (*os.File, error) {
	c, err := openContext("overlay")
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.setString("source", source); err != nil {
		return nil, err
	}
	for _, option := range o.rest {
		if err := c.set(option); err != nil {
			return nil, err
		}
	}
	for _, dir := range o.lower {
		if err := c.setDir("lowerdir+", dir, dir); err != nil {
			return nil, err
		}
	}
	if o.upper != "" {
		if err := c.setDir("upperdir", o.upper, escapes.Replace(o.upper)); err != nil {
			return nil, err
		}
	}
	if o.work != "" {
		if err := c.setDir("workdir", o.work, escapes.Replace(o.work)); err != nil {
			return nil, err
		}
	}
	return c.mount(f)
}

// setDir sets an option that names a folder, which is written as value. What is too long for a
// string is handed in open, which is known since Linux 6.13. Of one with escapes the list of
// mounts would then have none, and nobody could tell; it is left to mount(2).
func (c *fsContext) setDir(key, dir, value string) error {
	switch {
	case len(value) <= maxString:
		return c.setString(key, value)
	case value != dir:
		return fmt.Errorf("option %s, of %d bytes with escapes: %w", key, len(value), unix.EINVAL)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer release(f)
	return c.explain(key+"="+dir, unix.FsconfigSetFd(c.fd, key, int(f.Fd())))
}

// mountOld mounts with mount(2), which takes all options in one page.
func (o overlay) mountOld(source string, f flags, place *os.File) error {
	mount := func() error {
		err := unix.Mount(source, byFD(place), "overlay", uintptr(f), o.data())
		return os.NewSyscallError("mount", err)
	}
	if o.fits() {
		return mount()
	}
	// The names are made short by a working directory from which they are reached: what all
	// lower folders have in common, or else the files that this process has open, where a name
	// is a number.
	lower := o.lower
	parent := commonParent(lower)
	o.lower = make([]string, len(lower))
	for i, dir := range lower {
		o.lower[i] = strings.TrimPrefix(strings.TrimPrefix(dir, parent), "/")
	}
	if o.fits() && !slices.Contains(o.lower, "") {
		return inFolder(parent, mount)
	}
	for i, dir := range lower {
		d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer release(d)
		o.lower[i] = fmt.Sprint(d.Fd())
	}
	if !o.fits() {
		return fmt.Errorf("options of %d bytes, of which the kernel takes %d: %w",
			len(o.data()), os.Getpagesize()-1, errdefs.ErrInvalidArgument)
	}
	return inFolder("/proc/self/fd", mount)
}

// data are the options as mount(2) wants them.
func (o overlay) data() string {
	options := slices.Clone(o.rest)
	if len(o.lower) > 0 {
		options = append(options, Dirs("lowerdir", o.lower...))
	}
	if o.upper != "" {
		options = append(options, Dirs("upperdir", o.upper))
	}
	if o.work != "" {
		options = append(options, Dirs("workdir", o.work))
	}
	return strings.Join(options, ",")
}

func (o overlay) fits() bool { return len(o.data()) < os.Getpagesize() }

// commonParent is the deepest folder that holds all of the dirs, which are absolute and clean.
func commonParent(dirs []string) string {
	parent := "/"
	for i, dir := range dirs {
		if i == 0 {
			parent = filepath.Dir(dir)
		}
		for parent != "/" && !strings.HasPrefix(dir, parent+"/") {
			parent = filepath.Dir(parent)
		}
	}
	return parent
}

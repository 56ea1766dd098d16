package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// Fit implements [snapshot.Driver].
//
// The kernel merges folders and takes the attributes of the topmost one. So those that the layer
// has without an entry must be as they are below; and where nothing is merged, it lists
// whiteouts as if they were files, so they must go.
func (d *Driver) Fit(ctx context.Context, folder string, chain []string, own bool) (changed bool, err error) {
	needs, err := readNeeds(folder)
	if err != nil {
		return false, err
	}
	if ok, err := fits(needs); ok || err != nil {
		return false, err
	}
	below, err := d.Tree(ctx, chain)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	changed, err = fit(ctx, filepath.Join(folder, treeDir), needs, below, own)
	if err != nil || !changed {
		return changed, err
	}
	return true, writeNeeds(folder, layer.Needs{})
}

// FitTree is [Driver.Fit] for a layer in the folder dir of another's stack, on what is below it.
func FitTree(ctx context.Context, dir string, needs layer.Needs, below layer.Tree) error {
	if ok, err := fits(needs); ok || err != nil {
		return err
	}
	_, err := fit(ctx, dir, needs, below, true)
	return err
}

// fits tells whether a layer fits wherever it stands. One that never does is an error.
func fits(needs layer.Needs) (bool, error) {
	if len(needs.Links) > 0 {
		return false, misfit("it links to %s, which is below", needs.Links[0])
	}
	return len(needs.Folders)+len(needs.Through)+len(needs.Whiteouts) == 0, nil
}

func fit(ctx context.Context, dir string, needs layer.Needs, below layer.Tree, own bool) (changed bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	t := fitting{ctx: ctx, below: below, root: root, own: own}
	err = t.fit(needs)
	return t.changed, err
}

func misfit(format string, args ...any) error {
	return fmt.Errorf("the layer does not fit: "+format+": %w", append(args, errdefs.ErrFailedPrecondition)...)
}

// A fitting is one layer being made to fit what is below it.
type fitting struct {
	ctx     context.Context
	below   layer.Tree
	root    *os.Root
	own     bool
	changed bool
}

// fit does what [layer.Needs] say. A layer that cannot fit is found out before it is changed.
func (t *fitting) fit(needs layer.Needs) error {
	for _, name := range slices.Concat(needs.Folders, needs.Through) {
		n, err := t.lookup(name)
		if err != nil {
			return err
		}
		if n != nil && n.Mode&unix.S_IFMT == unix.S_IFLNK {
			return misfit("%s is a link below", name)
		}
	}
	for _, name := range needs.Whiteouts {
		n, err := t.folderBelow(path.Dir(name))
		if err == nil && n == nil { // it hides nothing
			err = t.remove(name)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Backward(needs.Folders) { // those within others first
		n, err := t.folderBelow(name)
		if err == nil && n == nil {
			err = t.removeEmpty(name)
		} else if err == nil {
			err = t.resemble(name, n.Attr)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookup finds what is below at a path; nil if there is nothing.
func (t *fitting) lookup(name string) (*layer.Node, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	n, err := t.below.Lookup(name)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return n, err
}

// folderBelow is lookup for a folder; nil if there is none.
func (t *fitting) folderBelow(name string) (*layer.Node, error) {
	n, err := t.lookup(name)
	if err != nil || n == nil || n.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, err
	}
	return n, nil
}

// change says that the layer is about to be changed.
func (t *fitting) change(name string) error {
	if !t.own {
		return misfit("%s has to be changed, and others share it", name)
	}
	t.changed = true
	return nil
}

// resemble gives a folder the attributes of the one below.
func (t *fitting) resemble(name string, want layer.Attr) error {
	f, err := t.root.Open(name)
	if err != nil {
		return err
	}
	same, err := layer.HasAttr(f, want)
	if err == nil && !same {
		err = t.change(name)
		if err == nil {
			err = layer.SetAttr(f, want)
		}
	}
	return errors.Join(err, f.Close())
}

// removeEmpty removes a folder that was made for a marker that hides nothing.
func (t *fitting) removeEmpty(name string) error {
	f, err := t.root.Open(name)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(1)
	if closeErr := f.Close(); closeErr != nil {
		return errors.Join(err, closeErr)
	}
	if len(names) > 0 {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return t.remove(name)
}

// remove takes a name away and leaves its folder's time as it was.
func (t *fitting) remove(name string) error {
	if err := t.change(name); err != nil {
		return err
	}
	dir, err := t.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	info, err := dir.Stat()
	if err == nil {
		err = t.root.Remove(name)
	}
	if err == nil {
		err = layer.SetTime(dir, info.ModTime())
	}
	return errors.Join(err, dir.Close())
}

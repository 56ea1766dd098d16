// Package erofs is the snapshotter that keeps layers as they are, uncompressed tars, and mounts
// them through an index by the kernel's erofs filesystem.
//
// The folder of a committed snapshot holds data, the tar, and entries, a list of what is in it. A
// layer depends on nothing below it, so every stack shares it. The index of a whole stack is
// written into the folder of its topmost layer, once, and points into the tars of all; a mount of
// it takes no loop device and no overlay. Indexes can be made again from the rest at any time.
//
// A writable snapshot is an overlay of such a mount, kept at lower in its folder, and of fs and
// work as the overlay snapshotter has them. When it is committed it becomes a tar.
package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/erofs"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

// Parts of a folder.
const (
	treeDir  = "fs"
	workDir  = "work"
	lowerDir = "lower"
)

// A Driver keeps layers for erofs.
type Driver struct {
	nosync  bool
	overlay mount.Overlay
	noOver  error // why writable snapshots do not work; nil if they do
}

// Open returns the driver for the folder dir, which is there; nosync leaves it to the kernel when
// indexes reach the disk. Errors:
// [errdefs.ErrNotImplemented], with the reason, where the kernel does not mount erofs.
func Open(dir string, nosync bool) (*Driver, error) {
	f, err := snapshot.NewFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter erofs: %w", err)
	}
	d := &Driver{nosync: nosync}
	_, probeErr := mount.ProbeErofs(f.Path)
	if probeErr == nil {
		d.overlay, d.noOver = mount.ProbeOverlay(f.Path)
	}
	if err := f.Discard(); err != nil {
		return nil, fmt.Errorf("open snapshotter erofs: %w", err)
	}
	if probeErr != nil {
		return nil, fmt.Errorf("erofs does not work here: %w: %w", probeErr, errdefs.ErrNotImplemented)
	}
	return d, nil
}

// Alone implements [snapshot.Driver].
func (d *Driver) Alone() bool { return true }

// Unpack implements [snapshot.Driver].
func (d *Driver) Unpack(ctx context.Context, folder string, r io.Reader, o layer.Options) (layer.Result, error) {
	res, err := erofs.WriteLayer(ctx, r, folder, o)
	for _, device := range erofs.Devices([]string{folder}) {
		if err == nil {
			err = seal(device)
		}
	}
	return res, err
}

// UnpackOn implements [snapshot.Driver].
func (d *Driver) UnpackOn(ctx context.Context, folder string, _ []string, r io.Reader, o layer.Options) (layer.Result, error) {
	return d.Unpack(ctx, folder, r, o)
}

// Fit implements [snapshot.Driver].
func (d *Driver) Fit(context.Context, string, []string, bool) (changed bool, err error) {
	return false, nil
}

// Seal implements [snapshot.Driver].
func (d *Driver) Seal(ctx context.Context, chain []string) error {
	if len(chain) == 0 {
		return nil
	}
	name := indexName(chain)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return d.index(ctx, chain, func(tmp string) error {
		err := seal(tmp)
		if err == nil && !d.nosync {
			err = syncFile(tmp)
		}
		if err == nil {
			err = os.Rename(tmp, name)
		}
		return err
	})
}

// index writes the index of a stack beside the one that it has, or is to have, for as long as use
// runs; use may give it another name.
func (d *Driver) index(ctx context.Context, chain []string, use func(tmp string) error) error {
	tmp, err := os.CreateTemp(chain[len(chain)-1], ".index-")
	if err != nil {
		return err
	}
	// The writer wants a name that is free.
	err = errors.Join(tmp.Close(), os.Remove(tmp.Name()))
	if err == nil {
		err = erofs.WriteIndex(ctx, tmp.Name(), chain)
	}
	if err == nil {
		err = use(tmp.Name())
	}
	if removeErr := os.Remove(tmp.Name()); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// indexName is where the index of a stack is: in the folder of its topmost layer, by the names
// of the others.
func indexName(chain []string) string {
	sum := sha256.New()
	for _, folder := range chain {
		sum.Write([]byte(filepath.Base(folder) + "/"))
	}
	top := chain[len(chain)-1]
	return filepath.Join(top, "index-"+hex.EncodeToString(sum.Sum(nil)[:8]))
}

// syncFile makes a file durable before it gets its name: nothing else tells a whole index from
// one that a power cut left.
func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Prepare implements [snapshot.Driver].
func (d *Driver) Prepare(ctx context.Context, folder string, chain []string, kind snapshot.Kind) error {
	if err := d.Seal(ctx, chain); err != nil {
		return err
	}
	if kind == snapshot.View && len(chain) > 0 {
		return nil
	}
	if kind == snapshot.Active && d.noOver != nil {
		return fmt.Errorf("writable snapshots need overlay: %w", d.noOver)
	}
	for _, name := range []string{workDir, lowerDir} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			return err
		}
	}
	root := filepath.Join(folder, treeDir)
	below, err := openBelow(chain)
	if err != nil {
		return err
	}
	if below == nil {
		return layer.MakeRoot(root, nil)
	}
	like, err := below.Lookup(".")
	if err == nil {
		err = layer.MakeRoot(root, like)
	}
	return errors.Join(err, below.Close())
}

// Mounts implements [snapshot.Driver].
func (d *Driver) Mounts(ctx context.Context, folder string, chain []string, kind snapshot.Kind) ([]mount.Mount, error) {
	root := filepath.Join(folder, treeDir)
	switch {
	case len(chain) == 0:
		access := map[snapshot.Kind]string{snapshot.Active: "rw", snapshot.View: "ro"}[kind]
		return []mount.Mount{{Type: "bind", Source: root, Options: []string{"rbind", access}}}, nil
	case kind == snapshot.View:
		return d.image(ctx, chain)
	}
	lower := filepath.Join(folder, lowerDir)
	if err := d.mountLower(ctx, lower, chain); err != nil {
		return nil, err
	}
	options := slices.Clone(d.overlay.Options)
	if d.overlay.UserXattr {
		options = append(options, "userxattr")
	}
	options = append(options, mount.Dirs("upperdir", root), mount.Dirs("workdir", filepath.Join(folder, workDir)), mount.Dirs("lowerdir", lower))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// Bind implements [snapshot.Binder]. Other programs would give the kernel the names of all devices in
// one page, and not know what to do where it wants loop devices.
func (d *Driver) Bind(ctx context.Context, folder string, chain []string, kind snapshot.Kind) ([]mount.Mount, error) {
	if kind != snapshot.View || len(chain) == 0 {
		return d.Mounts(ctx, folder, chain, kind)
	}
	lower := filepath.Join(folder, lowerDir)
	if err := os.Mkdir(lower, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := d.mountLower(ctx, lower, chain); err != nil {
		return nil, err
	}
	return []mount.Mount{{Type: "bind", Source: lower, Options: []string{"rbind", "ro"}}}, nil
}

// image is the mount of a stack.
func (d *Driver) image(ctx context.Context, chain []string) ([]mount.Mount, error) {
	if err := d.Seal(ctx, chain); err != nil {
		return nil, err
	}
	options := []string{"ro"}
	for _, device := range erofs.Devices(chain) {
		options = append(options, "device="+device)
	}
	return []mount.Mount{{Type: "erofs", Source: indexName(chain), Options: options}}, nil
}

// mountLower mounts a stack at lower, unless it is.
func (d *Driver) mountLower(ctx context.Context, lower string, chain []string) error {
	if _, mounted, err := mount.At(lower); err != nil || mounted {
		return err
	}
	mounts, err := d.image(ctx, chain)
	if err != nil {
		return err
	}
	return mount.All(mounts, lower)
}

// Release implements [snapshot.Driver].
func (d *Driver) Release(_ context.Context, folder string) error {
	if err := snapshot.NotMounted(filepath.Join(folder, treeDir)); err != nil {
		return err
	}
	if err := mount.Unmount(filepath.Join(folder, lowerDir)); err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Commit implements [snapshot.Driver].
func (d *Driver) Commit(ctx context.Context, folder string, chain []string) (u snapshot.Usage, err error) {
	if err := removeBut(folder, treeDir, workDir, lowerDir); err != nil { // of a commit that came to nothing
		return u, err
	}
	below, err := openBelow(chain)
	if err != nil {
		return u, err
	}
	upper, err := d.over(folder, below)
	if err != nil {
		return u, err
	}
	r, w := io.Pipe()
	var diff sync.WaitGroup
	diff.Go(func() { w.CloseWithError(layer.Diff(ctx, w, below, upper)) })
	res, err := d.Unpack(ctx, folder, r, layer.Options{})
	err = errors.Join(err, r.CloseWithError(err))
	diff.Wait()
	return snapshot.Usage{Size: res.Size, Inodes: res.Inodes}, errors.Join(err, upper.Close())
}

// removeBut empties a folder of all but these names.
func removeBut(folder string, names ...string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			err = errors.Join(err, layer.RemoveAll(filepath.Join(folder, e.Name())))
		}
	}
	return err
}

// Tidy implements [snapshot.Driver].
func (d *Driver) Tidy(ctx context.Context, folder string) error {
	if err := d.Release(ctx, folder); err != nil {
		return err
	}
	var errs []error
	for _, name := range []string{treeDir, workDir, lowerDir} {
		errs = append(errs, layer.RemoveAll(filepath.Join(folder, name)))
	}
	return errors.Join(errs...)
}

// Tree implements [snapshot.Driver].
func (d *Driver) Tree(_ context.Context, chain []string) (layer.Tree, error) {
	return erofs.Open(chain)
}

// ActiveTree implements [snapshot.Driver].
func (d *Driver) ActiveTree(_ context.Context, folder string, chain []string) (layer.Tree, error) {
	below, err := openBelow(chain)
	if err != nil {
		return nil, err
	}
	return d.over(folder, below)
}

// openBelow reads what an active snapshot stands on; nil if that is nothing.
func openBelow(chain []string) (layer.Tree, error) {
	if len(chain) == 0 {
		return nil, nil
	}
	return erofs.Open(chain)
}

// over reads the folder of an active snapshot on a tree of openBelow, which is closed with it.
func (d *Driver) over(folder string, below layer.Tree) (layer.Tree, error) {
	root := filepath.Join(folder, treeDir)
	if below == nil { // it is mounted as it is, without an overlay
		return layer.OpenStack(layer.Whole, []string{root})
	}
	form := layer.Overlay
	if d.overlay.UserXattr {
		form = layer.UserOverlay
	}
	return layer.OpenOver(form, root, below)
}

// Usage implements [snapshot.Driver].
func (d *Driver) Usage(_ context.Context, folder string) (u snapshot.Usage, err error) {
	u.Size, u.Inodes, err = layer.Usage(folder)
	return u, err
}

// Look implements [snapshot.Driver]. The list of entries has a checksum, and says how long the tar
// is.
func (d *Driver) Look(_ context.Context, folder string, _ int64, since time.Time) (string, error) {
	if err := erofs.CheckLayer(folder); err != nil {
		return "", err
	}
	for _, name := range erofs.Files(folder) { // indexes are written later, too
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return "", err
		}
		if why := snapshot.Changed(time.Unix(st.Ctim.Unix()), filepath.Base(name), since); why != "" {
			return why, nil
		}
	}
	return "", nil
}

// Audit implements [snapshot.Driver]: an index is as one that is made anew.
func (d *Driver) Audit(ctx context.Context, chain []string) error {
	name := indexName(chain)
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil // it is made when it is needed
	}
	return d.index(ctx, chain, func(tmp string) error {
		want, err := os.ReadFile(tmp)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(name)
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("index %s is not what its layers make", filepath.Base(name))
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
		}
		return err
	})
}

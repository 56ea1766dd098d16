// Package overlay is the snapshotter that stacks folders with the kernel's overlay filesystem.
//
// The folder of a snapshot holds fs, the layer in overlay's own form; work, while it is active;
// layer.json, what the layer is beside its files ([facts]); and needs.json, what it depends on
// below ([layer.Needs]). A layer is unpacked without regard to what is below it, and shared by all
// stacks for which it needs no change.
//
// The kernel takes the attributes of a stack's root from its topmost folder, and does not heed
// an opaque root. So every view and active snapshot has a topmost folder of its own, with the
// attributes that the root should have, and a stack is cut where a layer hides everything below.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

// Parts of a folder.
const (
	treeDir = "fs"
	workDir = "work"
)

// formFile says in the driver's folder in which form layers are kept there, so that root can
// mount what was unpacked in a user namespace.
const formFile = "form"

// A Driver keeps layers for overlay.
type Driver struct {
	form    layer.Form
	options []string
}

// Open returns the driver for the folder dir, which is there. Errors:
// [errdefs.ErrNotImplemented], with the reason, where overlay does not work.
func Open(dir string) (*Driver, error) {
	f, err := snapshot.NewFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter overlay: %w", err)
	}
	found, probeErr := mount.ProbeOverlay(f.Path)
	if err := f.Discard(); err != nil {
		return nil, fmt.Errorf("open snapshotter overlay: %w", err)
	}
	if probeErr != nil {
		return nil, fmt.Errorf("overlay does not work on %s: %w: %w", dir, probeErr, errdefs.ErrNotImplemented)
	}
	d, err := forms(dir, found.UserXattr)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter overlay: %w", err)
	}
	d.options = found.Options
	if d.form == layer.UserOverlay {
		d.options = append(slices.Clone(d.options), "userxattr")
	}
	return d, nil
}

// OpenUnmounted is Open for one who may not mount, and unpacks and reads all the same.
func OpenUnmounted(dir string) (*Driver, error) {
	d, err := forms(dir, true)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter overlay: %w", err)
	}
	return d, nil
}

// forms finds the form of the layers in dir, or decides on it if there are none yet.
func forms(dir string, user bool) (*Driver, error) {
	name := filepath.Join(dir, formFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := decide(dir, name, user); err != nil {
			return nil, err
		}
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, err
	}
	switch s := strings.TrimSpace(string(b)); {
	case s == "user":
		return &Driver{form: layer.UserOverlay}, nil
	case s == "trusted" && user:
		return nil, fmt.Errorf("its layers were unpacked with trusted.overlay attributes, which only root reads: %w", errdefs.ErrPermissionDenied)
	case s == "trusted":
		return &Driver{form: layer.Overlay}, nil
	default:
		return nil, fmt.Errorf("%s says %.20q, and not trusted or user: %w", name, s, errdefs.ErrDataLoss)
	}
}

// decide writes the form of the layers, unless another process does so first. The file is whole
// and durable when it gets its name: without it no layer could be told.
func decide(dir, name string, user bool) (err error) {
	form := "trusted\n"
	if user {
		form = "user\n"
	}
	folder, err := snapshot.NewFolder(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Discard()) }()
	f, err := os.Create(filepath.Join(folder.Path, formFile))
	if err != nil {
		return err
	}
	_, err = f.WriteString(form)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Alone implements [snapshot.Driver].
func (d *Driver) Alone() bool { return true }

// Unpack implements [snapshot.Driver].
func (d *Driver) Unpack(ctx context.Context, folder string, r io.Reader, o layer.Options) (layer.Result, error) {
	o.Form, o.Below = d.form, nil
	res, err := d.apply(ctx, folder, r, o)
	if err != nil {
		return layer.Result{}, err
	}
	return res, writeNeeds(folder, res.Needs)
}

// UnpackOn implements [snapshot.Driver].
func (d *Driver) UnpackOn(ctx context.Context, folder string, chain []string, r io.Reader, o layer.Options) (res layer.Result, err error) {
	below, err := d.Tree(ctx, chain)
	if err != nil {
		return layer.Result{}, err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	o.Form, o.Below = d.form, below
	return d.apply(ctx, folder, r, o)
}

func (d *Driver) apply(ctx context.Context, folder string, r io.Reader, o layer.Options) (layer.Result, error) {
	root := filepath.Join(folder, treeDir)
	if err := layer.MakeRoot(root, nil); err != nil {
		return layer.Result{}, err
	}
	res, err := layer.Apply(ctx, r, root, o)
	if err != nil {
		return layer.Result{}, err
	}
	return res, writeFacts(folder, facts{Root: res.Root, Opaque: res.Opaque})
}

// Seal implements [snapshot.Driver].
func (d *Driver) Seal(_ context.Context, chain []string) error {
	s, err := readStack(chain)
	if n := len(s.lowers); err == nil && n >= maxLowers {
		err = fmt.Errorf("a stack of %d layers, where the kernel takes %d: %w", n, maxLowers-1, errdefs.ErrNotImplemented)
	}
	return err
}

// maxLowers is how many lower folders the kernel takes; one is the root of a view.
const maxLowers = 500

// Prepare implements [snapshot.Driver].
func (d *Driver) Prepare(_ context.Context, folder string, chain []string, kind snapshot.Kind) error {
	s, err := readStack(chain)
	if err != nil {
		return err
	}
	like, err := s.root()
	if err != nil {
		return err
	}
	if err := layer.MakeRoot(filepath.Join(folder, treeDir), like); err != nil || kind != snapshot.Active {
		return err
	}
	return os.Mkdir(filepath.Join(folder, workDir), 0o711)
}

// Mounts implements [snapshot.Driver].
func (d *Driver) Mounts(_ context.Context, folder string, chain []string, kind snapshot.Kind) ([]mount.Mount, error) {
	root := filepath.Join(folder, treeDir)
	s, err := readStack(chain)
	if err != nil {
		return nil, err
	}
	list := s.lowers
	if len(list) == 0 {
		access := map[snapshot.Kind]string{snapshot.Active: "rw", snapshot.View: "ro"}[kind]
		return []mount.Mount{{Type: "bind", Source: root, Options: []string{"rbind", access}}}, nil
	}
	options := slices.Clone(d.options)
	if kind == snapshot.View {
		options = append(options, "ro")
		list = append([]string{root}, list...)
	} else {
		options = append(options, mount.Dirs("upperdir", root), mount.Dirs("workdir", filepath.Join(folder, workDir)))
	}
	options = append(options, mount.Dirs("lowerdir", list...))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// Commit implements [snapshot.Driver].
func (d *Driver) Commit(_ context.Context, folder string, _ []string) (snapshot.Usage, error) {
	received, err := hasFacts(folder)
	if err == nil && !received {
		err = writeFacts(folder, facts{Root: true})
	}
	if err != nil {
		return snapshot.Usage{}, err
	}
	return usage(folder)
}

// Rebases implements [snapshot.Rebaser].
func (d *Driver) Rebases() bool { return d.form == layer.Overlay }

// Receive implements [snapshot.Rebaser].
func (d *Driver) Receive(ctx context.Context, folder string, r io.Reader, o layer.Options) (layer.Result, error) {
	if received, err := hasFacts(folder); err != nil || received {
		if err == nil {
			err = fmt.Errorf("it has a layer already: %w", errdefs.ErrFailedPrecondition)
		}
		return layer.Result{}, err
	}
	o.Form, o.Below = d.form, nil
	res, err := layer.Apply(ctx, r, filepath.Join(folder, treeDir), o)
	if err == nil {
		err = writeNeeds(folder, res.Needs)
	}
	if err == nil {
		err = writeFacts(folder, facts{Root: res.Root, Opaque: res.Opaque})
	}
	return res, err
}

// Rebase implements [snapshot.Rebaser]. What others filled is as they want it.
func (d *Driver) Rebase(ctx context.Context, folder string, chain []string) error {
	if _, err := os.Lstat(filepath.Join(folder, needsFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	_, err := d.Fit(ctx, folder, chain, true)
	return err
}

// Tidy implements [snapshot.Driver].
func (d *Driver) Tidy(_ context.Context, folder string) error {
	return layer.RemoveAll(filepath.Join(folder, workDir))
}

// Usage implements [snapshot.Driver].
func (d *Driver) Usage(_ context.Context, folder string) (snapshot.Usage, error) {
	return usage(folder)
}

func usage(folder string) (u snapshot.Usage, err error) {
	u.Size, u.Inodes, err = layer.Usage(filepath.Join(folder, treeDir))
	return u, err
}

// Release implements [snapshot.Driver].
func (d *Driver) Release(_ context.Context, folder string) error {
	return snapshot.NotMounted(filepath.Join(folder, treeDir))
}

// Tree implements [snapshot.Driver].
func (d *Driver) Tree(_ context.Context, chain []string) (layer.Tree, error) {
	if len(chain) == 0 {
		return layer.Empty(), nil
	}
	s, err := readStack(chain)
	if err != nil {
		return nil, err
	}
	t, err := layer.OpenStack(d.form, s.bottomFirst())
	if err != nil || s.like == s.lowers[0] {
		return t, err
	}
	root, err := s.root()
	if err == nil && root == nil {
		root, err = layer.Empty().Lookup(".")
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &rooted{t, root.Attr}, nil
}

// ActiveTree implements [snapshot.Driver].
func (d *Driver) ActiveTree(_ context.Context, folder string, chain []string) (layer.Tree, error) {
	s, err := readStack(chain)
	if err != nil {
		return nil, err
	}
	return layer.OpenStack(d.form, append(s.bottomFirst(), filepath.Join(folder, treeDir)))
}

// Look implements [snapshot.Driver].
func (d *Driver) Look(_ context.Context, folder string, size int64, since time.Time) (string, error) {
	if err := auditFiles(folder); err != nil {
		return "", err
	}
	for _, name := range []string{factsFile, needsFile} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(folder, name), &st); err == nil {
			if why := snapshot.Changed(time.Unix(st.Ctim.Unix()), name, since); why != "" {
				return why, nil
			}
		}
	}
	s, err := layer.Look(filepath.Join(folder, treeDir))
	switch {
	case errdefs.IsNotFound(err):
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	case err != nil:
		return "", err
	case s.Size != size:
		return fmt.Sprintf("its files have %d bytes, where %d were unpacked", s.Size, size), nil
	}
	return snapshot.Changed(s.Changed, s.Path, since), nil
}

// Audit implements [snapshot.Driver].
func (d *Driver) Audit(_ context.Context, chain []string) error {
	return auditFiles(chain[len(chain)-1])
}

// auditFiles reads what a folder has beside its tree.
func auditFiles(folder string) error {
	if _, err := readFacts(folder); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(folder, needsFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // it was unpacked on its chain
	}
	_, err := readNeeds(folder)
	return err
}

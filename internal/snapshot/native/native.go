// Package native is the snapshotter for filesystems on which no other works: every snapshot is a
// whole tree, a copy of its parent with its own layer applied. Where the filesystem shares the
// blocks of copies, as btrfs and xfs do, the copies cost little.
package native

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

// treeDir is the tree in a folder.
const treeDir = "fs"

// A Driver keeps whole trees.
type Driver struct{}

// New returns the driver. It works on every filesystem.
func New() *Driver { return &Driver{} }

// Alone implements [snapshot.Driver].
func (*Driver) Alone() bool { return false }

// Unpack implements [snapshot.Driver].
func (*Driver) Unpack(context.Context, string, io.Reader, layer.Options) (layer.Result, error) {
	return layer.Result{}, fmt.Errorf("a layer needs those below it: %w", errdefs.ErrFailedPrecondition)
}

// Fit implements [snapshot.Driver].
func (*Driver) Fit(context.Context, string, []string, bool) (bool, error) {
	return false, fmt.Errorf("a tree stands for one chain: %w", errdefs.ErrFailedPrecondition)
}

// UnpackOn implements [snapshot.Driver].
func (*Driver) UnpackOn(ctx context.Context, folder string, chain []string, r io.Reader, o layer.Options) (layer.Result, error) {
	copied, err := start(ctx, folder, chain, o)
	if err != nil {
		return layer.Result{}, err
	}
	o.Form, o.Below = layer.Whole, nil
	res, err := layer.Apply(ctx, r, filepath.Join(folder, treeDir), o)
	if err == nil {
		res.Losses = append(copied.Losses, res.Losses...)
	}
	return res, err
}

// start makes the tree of a folder like that of its parent.
func start(ctx context.Context, folder string, chain []string, o layer.Options) (layer.Result, error) {
	root := filepath.Join(folder, treeDir)
	if len(chain) > 0 {
		return layer.Clone(ctx, filepath.Join(chain[len(chain)-1], treeDir), root, o)
	}
	return layer.Result{}, layer.MakeRoot(root, nil)
}

// Seal implements [snapshot.Driver].
func (*Driver) Seal(context.Context, []string) error { return nil }

// Prepare implements [snapshot.Driver].
func (*Driver) Prepare(ctx context.Context, folder string, chain []string, kind snapshot.Kind) error {
	if kind == snapshot.View && len(chain) > 0 {
		return nil
	}
	_, err := start(ctx, folder, chain, layer.Options{ReportLosses: true})
	return err
}

// Mounts implements [snapshot.Driver].
func (*Driver) Mounts(_ context.Context, folder string, chain []string, kind snapshot.Kind) ([]mount.Mount, error) {
	access := "rw"
	if kind == snapshot.View {
		access = "ro"
		if len(chain) > 0 {
			folder = chain[len(chain)-1]
		}
	}
	return []mount.Mount{{Type: "bind", Source: filepath.Join(folder, treeDir), Options: []string{"rbind", access}}}, nil
}

// Commit implements [snapshot.Driver].
func (d *Driver) Commit(ctx context.Context, folder string, _ []string) (snapshot.Usage, error) {
	return d.Usage(ctx, folder)
}

// Tidy implements [snapshot.Driver].
func (*Driver) Tidy(context.Context, string) error { return nil }

// Tree implements [snapshot.Driver].
func (*Driver) Tree(_ context.Context, chain []string) (layer.Tree, error) {
	if len(chain) == 0 {
		return layer.Empty(), nil
	}
	return layer.OpenStack(layer.Whole, []string{filepath.Join(chain[len(chain)-1], treeDir)})
}

// ActiveTree implements [snapshot.Driver].
func (d *Driver) ActiveTree(ctx context.Context, folder string, _ []string) (layer.Tree, error) {
	return d.Tree(ctx, []string{folder})
}

// Usage implements [snapshot.Driver].
func (*Driver) Usage(_ context.Context, folder string) (u snapshot.Usage, err error) {
	u.Size, u.Inodes, err = layer.Usage(folder)
	return u, err
}

// Release implements [snapshot.Driver].
func (*Driver) Release(_ context.Context, folder string) error {
	return snapshot.NotMounted(filepath.Join(folder, treeDir))
}

// Look implements [snapshot.Driver]. The size of the layer says nothing of that of the tree.
func (*Driver) Look(_ context.Context, folder string, _ int64, since time.Time) (string, error) {
	s, err := layer.Look(filepath.Join(folder, treeDir))
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	return snapshot.Changed(s.Changed, s.Path, since), err
}

// Audit implements [snapshot.Driver].
func (*Driver) Audit(context.Context, []string) error { return nil }

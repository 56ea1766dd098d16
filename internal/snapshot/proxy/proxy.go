// Package proxy is the snapshotter whose trees another program keeps, behind containerd's snapshots
// API on a socket: stargz-snapshotter and others like it, or a containerd.
//
// The folder of a snapshot is empty. What it stands for is called like the folder there: NAME while it
// is active or a view, and NAME-committed once it does not change any more. States are ours, as for
// every driver; the other program has parents of its own, which are those of the chain.
package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

// What is behind the name of a folder.
const (
	committedEnd = "-committed"
	extractEnd   = "-extract" // being unpacked
	lookEnd      = "-look-"   // a view to read from, and something random
)

const (
	// refLabel asks for the layer that other labels describe, to be had under a name.
	refLabel = "containerd.io/snapshot.ref"
	// rootLabel says that nobody but us collects it.
	rootLabel = "containerd.io/gc.root"
)

var kept = map[string]string{rootLabel: "stowage"}

// A Driver keeps its trees in another program. Goroutines may share it.
type Driver struct {
	conn      *grpc.ClientConn
	client    api.SnapshotsClient
	name      string
	namespace string
	nosync    bool
}

// Options tune [New].
type Options struct {
	Name      string // of the snapshotter, in the other program
	Namespace string // of that program
	NoSync    bool   // leaves it to the kernel when files reach the disk
}

// New returns the driver for the program on a unix socket, which need not run yet. The caller closes it.
func New(address string, o Options) (*Driver, error) {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("snapshotter at %s: %w: %w", address, err, errdefs.ErrInvalidArgument)
	}
	return &Driver{conn: conn, client: api.NewSnapshotsClient(conn), name: o.Name, namespace: o.Namespace, nosync: o.NoSync}, nil
}

// Close ends the connection.
func (d *Driver) Close() error { return d.conn.Close() }

// in is the context of a request.
func (d *Driver) in(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", d.namespace)
}

// active is the name of what a folder stands for while it is not committed.
func active(folder string) string { return filepath.Base(folder) }

func committed(folder string) string { return active(folder) + committedEnd }

// top is the name of the topmost of a chain; empty: there is none.
func top(chain []string) string {
	if len(chain) == 0 {
		return ""
	}
	return committed(chain[len(chain)-1])
}

// Alone implements [snapshot.Driver].
func (*Driver) Alone() bool { return false }

// Unpack implements [snapshot.Driver].
func (*Driver) Unpack(context.Context, string, io.Reader, layer.Options) (layer.Result, error) {
	return layer.Result{}, fmt.Errorf("a layer needs those below it: %w", errdefs.ErrFailedPrecondition)
}

// Fit implements [snapshot.Driver].
func (*Driver) Fit(context.Context, string, []string, bool) (bool, error) {
	return false, fmt.Errorf("a snapshot elsewhere stands for one chain: %w", errdefs.ErrFailedPrecondition)
}

// UnpackOn implements [snapshot.Driver].
func (d *Driver) UnpackOn(ctx context.Context, folder string, chain []string, r io.Reader, o layer.Options) (res layer.Result, err error) {
	key := active(folder) + extractEnd
	mounts, err := d.make(ctx, key, top(chain), snapshot.Active, kept)
	if err != nil {
		return res, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove(context.WithoutCancel(ctx), key))
		}
	}()
	err = d.with(mounts, folder, func(root string) error {
		o.Form, o.Below = layer.Whole, nil
		if res, err = layer.Apply(ctx, r, root, o); err != nil {
			return err
		}
		return d.sync(root)
	})
	if err == nil {
		err = d.commit(ctx, committed(folder), key)
	}
	return res, err
}

// with runs use with the folder that mounts come to; the mount point is in the folder in.
func (d *Driver) with(mounts []mount.Mount, in string, use func(root string) error) error {
	root, err := mount.Open(mounts, in)
	if err != nil {
		return err
	}
	return errors.Join(use(mount.Path(root)), root.Close())
}

// sync makes durable what is in a folder of another program, wherever it keeps it.
func (d *Driver) sync(root string) error {
	if d.nosync {
		return nil
	}
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))), f.Close())
}

// make makes an active snapshot or a view.
func (d *Driver) make(ctx context.Context, key, parent string, kind snapshot.Kind, labels map[string]string) ([]mount.Mount, error) {
	var mounts []*types.Mount
	if kind == snapshot.View {
		r, err := d.client.View(d.in(ctx), &api.ViewSnapshotRequest{Snapshotter: d.name, Key: key, Parent: parent, Labels: labels})
		if err != nil {
			return nil, errgrpc.ToNative(err)
		}
		mounts = r.Mounts
	} else {
		r, err := d.client.Prepare(d.in(ctx), &api.PrepareSnapshotRequest{Snapshotter: d.name, Key: key, Parent: parent, Labels: labels})
		if err != nil {
			return nil, errgrpc.ToNative(err)
		}
		mounts = r.Mounts
	}
	return mountsFrom(mounts), nil
}

func mountsFrom(list []*types.Mount) (mounts []mount.Mount) {
	for _, m := range list {
		mounts = append(mounts, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return mounts
}

func (d *Driver) commit(ctx context.Context, name, key string) error {
	_, err := d.client.Commit(d.in(ctx), &api.CommitSnapshotRequest{Snapshotter: d.name, Name: name, Key: key, Labels: kept})
	return errgrpc.ToNative(err)
}

// remove removes a snapshot, if it is there.
func (d *Driver) remove(ctx context.Context, key string) error {
	_, err := d.client.Remove(d.in(ctx), &api.RemoveSnapshotRequest{Snapshotter: d.name, Key: key})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (d *Driver) stat(ctx context.Context, key string) (*api.Info, error) {
	r, err := d.client.Stat(d.in(ctx), &api.StatSnapshotRequest{Snapshotter: d.name, Key: key})
	return r.GetInfo(), errgrpc.ToNative(err)
}

// Seal implements [snapshot.Driver].
func (*Driver) Seal(context.Context, []string) error { return nil }

// Prepare implements [snapshot.Driver].
func (d *Driver) Prepare(ctx context.Context, folder string, chain []string, kind snapshot.Kind) error {
	_, err := d.make(ctx, active(folder), top(chain), kind, kept)
	return err
}

// Mounts implements [snapshot.Driver].
func (d *Driver) Mounts(ctx context.Context, folder string, _ []string, _ snapshot.Kind) ([]mount.Mount, error) {
	r, err := d.client.Mounts(d.in(ctx), &api.MountsRequest{Snapshotter: d.name, Key: active(folder)})
	return mountsFrom(r.GetMounts()), errgrpc.ToNative(err)
}

// Commit implements [snapshot.Driver]. When its row does not come to be written, it can be committed again
// and is otherwise no longer there.
func (d *Driver) Commit(ctx context.Context, folder string, chain []string) (u snapshot.Usage, err error) {
	if _, err := d.stat(ctx, committed(folder)); err == nil {
		return d.Usage(ctx, folder)
	}
	if !d.nosync {
		mounts, err := d.Mounts(ctx, folder, chain, snapshot.Active)
		if err == nil {
			err = d.with(mounts, folder, d.sync)
		}
		if err != nil {
			return u, err
		}
	}
	if err := d.commit(ctx, committed(folder), active(folder)); err != nil {
		return u, err
	}
	return d.Usage(ctx, folder)
}

// Tidy implements [snapshot.Driver].
func (*Driver) Tidy(context.Context, string) error { return nil }

// Tree implements [snapshot.Driver].
func (d *Driver) Tree(ctx context.Context, chain []string) (layer.Tree, error) {
	if len(chain) == 0 {
		return layer.Empty(), nil
	}
	folder := chain[len(chain)-1]
	key := active(folder) + lookEnd + strings.ToLower(rand.Text())
	mounts, err := d.make(ctx, key, committed(folder), snapshot.View, kept)
	if err != nil {
		return nil, err
	}
	gone := func() error { return d.remove(context.WithoutCancel(ctx), key) }
	t, err := d.read(mounts, folder)
	if err != nil {
		return nil, errors.Join(err, gone())
	}
	return &looked{t, gone}, nil
}

// A looked tree is read from a view.
type looked struct {
	layer.Tree
	gone func() error
}

// Close implements [layer.Tree].
func (t *looked) Close() error { return errors.Join(t.Tree.Close(), t.gone()) }

// read reads what mounts come to.
func (d *Driver) read(mounts []mount.Mount, in string) (t layer.Tree, err error) {
	err = d.with(mounts, in, func(root string) error {
		t, err = layer.OpenStack(layer.Whole, []string{root})
		return err
	})
	return t, err
}

// ActiveTree implements [snapshot.Driver].
func (d *Driver) ActiveTree(ctx context.Context, folder string, chain []string) (layer.Tree, error) {
	mounts, err := d.Mounts(ctx, folder, chain, snapshot.Active)
	if err != nil {
		return nil, err
	}
	return d.read(mounts, folder)
}

// Usage implements [snapshot.Driver].
func (d *Driver) Usage(ctx context.Context, folder string) (u snapshot.Usage, err error) {
	for _, key := range []string{active(folder), committed(folder)} {
		r, usageErr := d.client.Usage(d.in(ctx), &api.UsageRequest{Snapshotter: d.name, Key: key})
		if err = errgrpc.ToNative(usageErr); !errdefs.IsNotFound(err) {
			return snapshot.Usage{Size: r.GetSize(), Inodes: r.GetInodes()}, err
		}
	}
	return u, err
}

// Release implements [snapshot.Driver]. Nothing is mounted here but by who uses it.
func (d *Driver) Release(ctx context.Context, folder string) error {
	mounts, err := d.Mounts(ctx, folder, nil, snapshot.Active)
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil // it is gone, or was committed
	}
	for _, m := range mounts {
		for _, dir := range append(m.Dirs("upperdir"), m.Source) {
			if err == nil && filepath.IsAbs(dir) {
				err = snapshot.NotMounted(dir)
			}
		}
	}
	return err
}

// Remove implements [snapshot.Remover].
func (d *Driver) Remove(ctx context.Context, folder string) error {
	if err := d.removeAll(ctx, folder); err != nil {
		return err
	}
	// Some give nothing back before they are told to.
	_, err := d.client.Cleanup(d.in(ctx), &api.CleanupRequest{Snapshotter: d.name})
	if err = errgrpc.ToNative(err); errdefs.IsNotImplemented(err) {
		return nil
	}
	return err
}

// removeAll removes what stands for a folder.
func (d *Driver) removeAll(ctx context.Context, folder string) error {
	err := errors.Join(d.remove(ctx, active(folder)), d.remove(ctx, active(folder)+extractEnd))
	if err != nil {
		return err
	}
	err = d.remove(ctx, committed(folder))
	if !errdefs.IsFailedPrecondition(err) {
		return err
	}
	// Somebody may have been killed who read it.
	looks, listErr := d.looks(ctx, folder)
	if len(looks) == 0 || listErr != nil {
		return errors.Join(err, listErr)
	}
	for _, key := range looks {
		if err := d.remove(ctx, key); err != nil {
			return err
		}
	}
	return d.remove(ctx, committed(folder))
}

// looks lists the views that were made to read a folder.
func (d *Driver) looks(ctx context.Context, folder string) (keys []string, err error) {
	list, err := d.client.List(d.in(ctx), &api.ListSnapshotsRequest{Snapshotter: d.name, Filters: []string{"parent==" + committed(folder)}})
	for err == nil {
		var r *api.ListSnapshotsResponse
		if r, err = list.Recv(); err == nil {
			for _, info := range r.Info {
				if strings.HasPrefix(info.Name, active(folder)+lookEnd) { // filters are not heeded everywhere
					keys = append(keys, info.Name)
				}
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return keys, errgrpc.ToNative(err)
}

// Look implements [snapshot.Driver]. The other program alone can tell whether its files changed.
func (d *Driver) Look(ctx context.Context, folder string, _ int64, _ time.Time) (string, error) {
	_, err := d.stat(ctx, committed(folder))
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	return "", err
}

// Audit implements [snapshot.Driver].
func (*Driver) Audit(context.Context, []string) error { return nil }

// Claim implements [snapshot.Remote]: who has the layer commits it by the name that it was asked for, and
// answers that it is there.
func (d *Driver) Claim(ctx context.Context, folder string, chain []string, labels map[string]string) (bool, error) {
	asked := maps.Clone(kept)
	maps.Copy(asked, labels)
	asked[refLabel] = committed(folder)
	key := active(folder) + extractEnd
	_, err := d.make(ctx, key, top(chain), snapshot.Active, asked)
	if err == nil {
		return false, d.remove(ctx, key)
	}
	if !errdefs.IsAlreadyExists(err) {
		return false, err
	}
	if _, err := d.stat(ctx, committed(folder)); err != nil {
		return false, fmt.Errorf("a layer that is said to be there: %w", err)
	}
	return true, nil
}

package stowage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/containerd"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/unpack"
)

// Snapshots are those of one snapshotter: of the store, a [Snapshotter], or of the peer.
type Snapshots interface {
	Name() string
	Walk(ctx context.Context) ([]Snapshot, error)
	Stat(ctx context.Context, key string) (Snapshot, error)
	Usage(ctx context.Context, key string) (SnapshotUsage, error)
	Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]Mount, error)
	View(ctx context.Context, key, parent string, labels map[string]string) ([]Mount, error)
	Mounts(ctx context.Context, key string) ([]Mount, error)
	Commit(ctx context.Context, name, key string, labels map[string]string) error
	Remove(ctx context.Context, key string) error
	Label(ctx context.Context, key string, labels map[string]string) (Snapshot, error)
}

// Snapshots opens a snapshotter by name, of the peer if the store is connected; an empty name is the
// best that works.
func (s *Store) Snapshots(ctx context.Context, name string) (Snapshots, error) {
	if s.peer == nil {
		return s.Snapshotter(name)
	}
	sn, err := s.peerSnapshotter(ctx, name)
	if err != nil {
		return nil, err
	}
	return byHand{sn}, nil
}

// byHand makes snapshots that stay until somebody removes them, as those in a store of ours do: a
// containerd would collect them.
type byHand struct{ *containerd.Snapshotter }

func staying(labels map[string]string) map[string]string {
	all := map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
	for k, v := range labels {
		all[k] = v
	}
	return all
}

func (s byHand) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]Mount, error) {
	return s.Snapshotter.Prepare(ctx, key, parent, staying(labels))
}

func (s byHand) View(ctx context.Context, key, parent string, labels map[string]string) ([]Mount, error) {
	return s.Snapshotter.View(ctx, key, parent, staying(labels))
}

func (s byHand) Commit(ctx context.Context, name, key string, labels map[string]string) error {
	return s.Snapshotter.Commit(ctx, name, key, staying(labels))
}

// peerSnapshotter finds one of the peer's: by its name there, or by what it is called here. The one
// that is used when none is named is containerd's own choice, or else the first.
func (s *Store) peerSnapshotter(ctx context.Context, name string) (*containerd.Snapshotter, error) {
	there, err := s.peer.Snapshotters(ctx)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = s.snapshotter
	}
	tried := []string{name}
	switch name {
	case "", "overlay", "overlay2":
		tried = append(tried, "overlayfs")
	}
	if name == "" {
		tried = append(tried, there...)
	}
	for _, n := range tried {
		if slices.Contains(there, n) {
			return s.peer.Snapshotter(n), nil
		}
	}
	return nil, fmt.Errorf("snapshotter %q: %s has %q: %w", name, s.peer.address, there, errdefs.ErrNotFound)
}

// unpackAfter unpacks what has just come to a peer; a store of ours did so on the way. It tells whether
// images are unpacked.
func (s *Store) unpackAfter(ctx context.Context, done bool, o UnpackOptions, names ...string) (bool, error) {
	if s.peer == nil || o.NoUnpack {
		return done, nil
	}
	err := s.unpackPeer(ctx, o.Snapshotter, names...)
	return err == nil, err
}

// unpackPeer unpacks what images want, as far as it is here, into a snapshotter of the peer.
func (s *Store) unpackPeer(ctx context.Context, snapshotter string, names ...string) error {
	sn, err := s.peerSnapshotter(ctx, snapshotter)
	if err != nil {
		return err
	}
	for _, name := range names {
		img, err := s.meta.Image(ctx, s.ns, name)
		if err != nil {
			return err
		}
		for _, p := range img.Platforms {
			if !p.Wanted || p.State != Complete {
				continue
			}
			parts, err := s.parts(ctx, p.Manifest.Digest)
			if errdefs.IsInvalidArgument(err) {
				continue // it has no filesystem
			}
			if err == nil {
				err = s.unpackInto(ctx, sn, parts)
			}
			if err != nil {
				return fmt.Errorf("unpack %s: %w", name, err)
			}
		}
	}
	return nil
}

// unpackInto makes the snapshots of an image that are not there, and has its config keep them.
func (s *Store) unpackInto(ctx context.Context, sn *containerd.Snapshotter, parts unpack.Image) error {
	chain := image.ChainIDs(parts.DiffIDs)
	if err := s.unpackLoose(ctx, sn, parts, chain); err != nil {
		return err
	}
	parent := ""
	for i, name := range chain {
		_, err := sn.Stat(ctx, name.String())
		if errdefs.IsNotFound(err) {
			err = s.unpackLayer(ctx, sn, parts.Layers[i], parts.DiffIDs[i], parent, name.String())
		}
		if err != nil {
			return err
		}
		if err := s.labelLayer(ctx, parts.Layers[i], parts.DiffIDs[i]); err != nil {
			return err
		}
		parent = name.String()
	}
	doc, err := s.meta.Document(ctx, parts.Manifest)
	if err != nil || parent == "" {
		return err
	}
	_, err = s.meta.LabelBlob(ctx, s.ns, doc.Config.Digest, map[string]string{containerd.SnapshotLabel + sn.Name(): parent})
	return err
}

// uncompressedLabel says the diffID of a layer, which containerd looks for.
const uncompressedLabel = "containerd.io/uncompressed"

func (s *Store) labelLayer(ctx context.Context, blob Descriptor, diffID Digest) error {
	b, err := s.meta.Blob(ctx, s.ns, blob.Digest)
	if err != nil || b.Labels[uncompressedLabel] == diffID.String() {
		return err
	}
	_, err = s.meta.LabelBlob(ctx, s.ns, blob.Digest, map[string]string{uncompressedLabel: diffID.String()})
	return err
}

// refSnapshotLabel says what a snapshot that is being made will be: a snapshotter that has it already
// says so, and a remote one may then have it without our doing.
const refSnapshotLabel = "containerd.io/snapshot.ref"

// extraction is the key of a snapshot that a layer is unpacked in, as containerd gives them, by which it
// is known what was being made should this process die; and its labels.
func extraction(name string) (key string, labels map[string]string) {
	return "extract-" + rand.Text() + " " + name, map[string]string{refSnapshotLabel: name}
}

// unpackLayer makes one snapshot on those below it.
func (s *Store) unpackLayer(ctx context.Context, sn *containerd.Snapshotter, blob Descriptor, diffID Digest, parent, name string) (err error) {
	key, labels := extraction(name)
	mounts, err := sn.Prepare(ctx, key, parent, labels)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, sn.Remove(context.WithoutCancel(ctx), key))
		}
	}()
	if err := s.fillMounts(ctx, mounts, blob, diffID); err != nil {
		return err
	}
	err = sn.Commit(ctx, name, key, labels)
	if errdefs.IsAlreadyExists(err) {
		return nil // another was quicker
	}
	done = err == nil
	return err
}

// fillMounts unpacks a layer into what mounts show, and makes it durable.
func (s *Store) fillMounts(ctx context.Context, mounts []Mount, blob Descriptor, diffID Digest) error {
	return s.atMounts(mounts, func(dir string) error {
		losses, err := s.extractor().Layer(ctx, blob, diffID, dir)
		if err != nil {
			return err
		}
		s.warnOf(blob, losses)
		return syncDisk(dir)
	})
}

func (s *Store) warnOf(blob Descriptor, losses []layer.Loss) {
	for _, l := range losses {
		s.log.Warn("the snapshot lacks something of its layer", "layer", blob.Digest, "loss", l)
	}
}

// syncDisk makes durable what the filesystem has on which dir is.
func syncDisk(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// atMounts makes mounts for as long as f runs.
func (s *Store) atMounts(mounts []Mount, f func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(s.root, "mounted")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.Unmount(dir)) }()
	return f(dir)
}

// diffPeer is [Store.DiffSnapshot] for snapshots of a peer: both are mounted, and compared as wholes.
func (s *Store) diffPeer(ctx context.Context, w io.Writer, snapshotter, key, base string) error {
	defer s.writing()()
	sn, err := s.peerSnapshotter(ctx, snapshotter)
	if err != nil {
		return err
	}
	row, err := sn.Stat(ctx, key)
	if err != nil {
		return err
	}
	if base == "" {
		base = row.Parent
	}
	return s.atTree(ctx, sn, key, func(upper layer.Tree) error {
		if base == "" {
			return layer.Diff(ctx, w, nil, upper)
		}
		return s.atTree(ctx, sn, base, func(lower layer.Tree) error { return layer.Diff(ctx, w, lower, upper) })
	})
}

// atTree has f read a snapshot; a committed one by way of a view.
func (s *Store) atTree(ctx context.Context, sn *containerd.Snapshotter, key string, f func(layer.Tree) error) (err error) {
	row, err := sn.Stat(ctx, key)
	if err != nil {
		return err
	}
	var mounts []Mount
	if row.Kind == Committed {
		view := "stowage-diff-" + rand.Text()
		if mounts, err = sn.View(ctx, view, key, nil); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sn.Remove(context.WithoutCancel(ctx), view)) }()
	} else if mounts, err = sn.Mounts(ctx, key); err != nil {
		return err
	}
	return s.atMounts(mounts, func(dir string) error {
		tree, err := layer.OpenStack(layer.Whole, []string{dir})
		if err != nil {
			return err
		}
		return errors.Join(f(tree), tree.Close())
	})
}

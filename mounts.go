package stowage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/transfer"
)

// Labels of the snapshots that [Store.MountImage] makes, which are called like their folder.
const (
	// mountLabel says at which boot the mount was made: a later one has taken it away.
	mountLabel = "stowage.mounted"
	// mountingLabel is there until the mount is made. While it is, the key of the snapshot is
	// locked; a row that has it and is not locked was left by a process that was killed.
	mountingLabel = "stowage.mounting"
)

// MountOptions tune [Store.MountImage]. The zero value mounts the host's platform read-only.
type MountOptions struct {
	Platform    *Platform
	Writable    bool   // what is written goes into a snapshot that outlives the mount
	Snapshotter string // empty: the best one that works here
	Progress    ProgressSink
}

// MountImage mounts an image at dir, which is made if it is not there. What is not unpacked yet
// is unpacked first; layers that were evicted are fetched for that. A writable mount that was unmounted without being removed goes on where it
// was. Errors: [errdefs.ErrAlreadyExists] when something is mounted at dir.
func (s *Store) MountImage(ctx context.Context, name, dir string, o MountOptions) (err error) {
	defer s.writing()()
	defer func() {
		if err != nil {
			err = fmt.Errorf("mount %s: %w", name, err)
		}
	}()
	parts, hold, err := s.hold(ctx, name, o.Platform)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	if dir, err = mountPoint(dir); err != nil {
		return err
	}
	if s.peer != nil {
		sn, err := s.peerSnapshotter(ctx, o.Snapshotter)
		if err == nil {
			err = s.unpackInto(ctx, sn, parts.Image)
		}
		if err != nil {
			return err
		}
		return mountAt(ctx, byHand{sn}, dir, parts, o.Writable)
	}
	sn, err := s.Snapshotter(o.Snapshotter)
	if err != nil {
		return err
	}
	if err := s.cleanMounts(ctx); err != nil {
		return err
	}
	lock, err := sn.LockLayer(ctx, digest.FromString(dir), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := s.ensureUnpacked(ctx, sn.Name(), parts, o.Progress); err != nil {
		return err
	}
	return mountAt(ctx, sn, dir, parts, o.Writable)
}

// mountAt mounts an image that is unpacked at dir, by way of a snapshot that is called so.
func mountAt(ctx context.Context, sn Snapshots, dir string, parts *imageParts, writable bool) error {
	if info, mounted, err := mount.At(dir); err != nil {
		return err
	} else if mounted {
		return fmt.Errorf("%s is mounted at %s: %w", cmpOr(info.Source, "something"), dir, errdefs.ErrAlreadyExists)
	}
	mounts, err := prepareMount(ctx, sn, dir, parts, writable)
	if err != nil {
		return err
	}
	if err := mount.All(mounts, dir); err != nil {
		if !writable {
			err = errors.Join(err, sn.Remove(context.WithoutCancel(ctx), dir))
		}
		return err
	}
	_, err = sn.Label(ctx, dir, map[string]string{mountingLabel: ""})
	return err
}

// hold is choose for an image whose blobs and unpacked layers stay until the hold is released.
func (s *Store) hold(ctx context.Context, name string, platform *Platform) (*imageParts, *metadata.Hold, error) {
	for {
		img, err := s.find(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		hold, err := s.meta.Hold(ctx, s.ns, img.Target.Digest)
		if err != nil {
			return nil, nil, err
		}
		// The name may have been removed or moved by then, and what it stood for be gone.
		now, err := s.find(ctx, name)
		if err == nil && now.Target.Digest == img.Target.Digest {
			var parts *imageParts
			if parts, err = s.chosen(ctx, now, platform); err == nil {
				err = hold.Add(ctx, parts.Digests()...)
			}
			if err == nil {
				s.touch(ctx, now)
				return parts, hold, nil
			}
		}
		if err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))); err != nil {
			return nil, nil, err
		}
	}
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// mountPoint finds the real name of a folder, which is made if it is not there.
func mountPoint(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// Unpack unpacks a stored image into a snapshotter, unless that was done: the host's platform, if none is
// named. An empty snapshotter is the best one that works here.
func (s *Store) Unpack(ctx context.Context, name, snapshotter string, platform *Platform, sink ProgressSink) (err error) {
	defer s.writing()()
	parts, hold, err := s.hold(ctx, name, platform)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	return s.ensureUnpacked(ctx, snapshotter, parts, sink)
}

// ensureUnpacked unpacks an image unless that was done.
func (s *Store) ensureUnpacked(ctx context.Context, snapshotter string, parts *imageParts, sink ProgressSink) (err error) {
	u, err := s.unpacker(snapshotter)
	if err != nil {
		return err
	}
	u.Progress = sink
	u.Content = transfer.OnDemand(s.place(), s.reg, parts.Layers, sink)
	if done, err := u.Done(ctx, parts.Image); done || err != nil {
		return err
	}
	run := u.Begin()
	defer func() { err = errors.Join(err, run.Close(ctx)) }()
	if err := run.Add(ctx, parts.Image); err != nil {
		return err
	}
	rows, err := run.Rows()
	if err != nil {
		return err
	}
	_, err = s.meta.Apply(ctx, s.ns, metadata.Batch{Unpacked: []metadata.Unpacked{rows}})
	return err
}

// prepareMount makes the snapshot called dir, or finds a writable one that is there from before.
func prepareMount(ctx context.Context, sn Snapshots, dir string, parts *imageParts, writable bool) ([]Mount, error) {
	parent := ""
	if chain := image.ChainIDs(parts.DiffIDs); len(chain) > 0 {
		parent = chain[len(chain)-1].String()
	}
	old, err := sn.Stat(ctx, dir)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return nil, err
	case old.Kind == View && old.Labels[mountLabel] != "":
		// It was unmounted by hand.
		if err := sn.Remove(ctx, dir); err != nil {
			return nil, err
		}
	case old.Kind == Active && writable && old.Parent == parent:
		if _, err := sn.Label(ctx, dir, map[string]string{mountLabel: bootID(), mountingLabel: "yes"}); err != nil {
			return nil, err
		}
		return sn.Mounts(ctx, dir)
	default:
		return nil, fmt.Errorf("snapshot %s is there, %s on %s; unmount it with --rm or choose another folder: %w", dir, old.Kind, cmpOr(old.Parent, "nothing"), errdefs.ErrAlreadyExists)
	}
	labels := map[string]string{mountLabel: bootID(), mountingLabel: "yes"}
	if writable {
		return sn.Prepare(ctx, dir, parent, labels)
	}
	return sn.View(ctx, dir, parent, labels)
}

// bootID tells boots apart.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// UnmountImage takes away what [Store.MountImage] mounted at dir. A read-only mount leaves nothing
// behind. What was written to a writable one is kept in its snapshot, called like dir, unless
// remove is set; kept tells. Errors: [errdefs.ErrNotFound]; [errdefs.ErrFailedPrecondition] while
// it is in use.
func (s *Store) UnmountImage(ctx context.Context, dir string, remove bool) (kept bool, err error) {
	name, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		name, err = dir, nil // its folder is gone, the snapshot may not be
	}
	if err == nil {
		name, err = filepath.Abs(name)
	}
	var list []string
	if err == nil {
		list, err = s.meta.Snapshotters(ctx, s.ns)
	}
	for _, snapshotter := range list {
		var found bool
		if found, kept, err = s.unmountOf(ctx, snapshotter, name, remove); found || err != nil {
			return kept, err
		}
	}
	if err == nil {
		err = fmt.Errorf("no image of namespace %s is mounted there: %w", s.ns, errdefs.ErrNotFound)
	}
	return false, fmt.Errorf("unmount %s: %w", dir, err)
}

// unmountOf is UnmountImage for the mounts of one snapshotter.
func (s *Store) unmountOf(ctx context.Context, snapshotter, name string, remove bool) (found, kept bool, err error) {
	if s.peer != nil {
		return unmountFrom(ctx, byHand{s.peer.Snapshotter(snapshotter)}, name, remove, nil)
	}
	sn, err := s.Snapshotter(snapshotter)
	if err != nil {
		return false, false, err
	}
	if _, err := sn.Stat(ctx, name); errdefs.IsNotFound(err) {
		return false, false, nil
	}
	// Not while somebody is making it.
	lock, err := sn.LockLayer(ctx, digest.FromString(name), true)
	if err != nil {
		return false, false, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	return unmountFrom(ctx, sn, name, remove, sn.Release)
}

// unmountFrom takes away the mount at name, and its snapshot unless that is to be kept; release, if
// there is any, ends what the snapshotter does for a kept one while it is mounted.
func unmountFrom(ctx context.Context, sn Snapshots, name string, remove bool, release func(context.Context, string) error) (found, kept bool, err error) {
	row, err := sn.Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if err := mount.Unmount(name); err != nil && !errdefs.IsNotFound(err) {
		return false, false, err
	}
	if row.Kind != Active || remove {
		return true, false, sn.Remove(ctx, name)
	}
	if release != nil {
		if err := release(ctx, name); err != nil {
			return true, true, err
		}
	}
	_, err = sn.Label(ctx, name, map[string]string{mountLabel: "", mountingLabel: ""})
	return true, true, err
}

// cleanMounts removes what mounts have left: those of a process that was killed half-way, and
// views of before the last boot.
func (s *Store) cleanMounts(ctx context.Context) error {
	if s.peer != nil {
		return nil // they are the peer's to clean
	}
	list, err := s.meta.Snapshotters(ctx, s.ns)
	if err != nil {
		return err
	}
	for _, name := range list {
		if !slices.Contains(s.Snapshotters(), name) {
			continue
		}
		rows, err := s.meta.Snapshots(ctx, s.ns, name)
		if err != nil {
			return err
		}
		for _, row := range rows {
			half := row.Labels[mountingLabel] != ""
			old := row.Kind == View && row.Labels[mountLabel] != "" && row.Labels[mountLabel] != bootID()
			if !half && !old {
				continue
			}
			sn, err := s.Snapshotter(name)
			if err != nil {
				return err
			}
			if err := s.cleanMount(ctx, sn, row.Key); err != nil {
				return fmt.Errorf("clean %s: %w", row.Key, err)
			}
		}
	}
	return nil
}

// cleanMount takes away one mount that was left, unless somebody is just making it.
func (s *Store) cleanMount(ctx context.Context, sn *Snapshotter, key string) (err error) {
	lock, err := sn.LockLayer(ctx, digest.FromString(key), false)
	if errdefs.IsUnavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	row, err := sn.Stat(ctx, key)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if row.Labels[mountingLabel] == "" && row.Labels[mountLabel] == bootID() {
		return nil
	}
	s.log.Info("a mount was left half-made", "target", key, "snapshotter", sn.Name())
	info, mounted, err := mount.At(key)
	if err != nil {
		return err
	}
	if mounted && s.made(info) {
		if err := mount.Unmount(key); err != nil {
			return err
		}
	}
	if row.Kind == View {
		return sn.Remove(ctx, key)
	}
	if err := sn.Release(ctx, key); err != nil {
		return err
	}
	_, err = sn.Label(ctx, key, map[string]string{mountLabel: "", mountingLabel: ""})
	return err
}

// made tells whether a mount shows something of this store.
func (s *Store) made(info mount.Info) bool {
	dir := filepath.Join(s.root, "snapshots") + "/"
	in := func(text string) bool { return strings.Contains(text, dir) }
	return in(info.Source) || in(info.Root) || slices.ContainsFunc(info.Options, in) ||
		info.Root != "/" && strings.Contains(info.Root, "/snapshots/")
}

// UnpackImage makes the root filesystem of an image as plain files in dir, which is made if it is
// not there, and must be empty. Layers that are lazy are fetched first; sink is told. When it fails dir
// is left empty. It returns what could not be kept there.
func (s *Store) UnpackImage(ctx context.Context, name, dir string, platform *Platform, sink ProgressSink) (losses []Loss, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("unpack %s: %w", name, err)
		}
	}()
	parts, hold, err := s.hold(ctx, name, platform)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: %w", dir, errdefs.ErrAlreadyExists)
	}
	u := s.extractor()
	u.Content = transfer.OnDemand(s.place(), s.reg, parts.Layers, sink)
	losses, err = u.Folder(ctx, parts.Image, dir)
	if err != nil {
		entries, listErr := os.ReadDir(dir)
		err = errors.Join(err, listErr)
		for _, e := range entries {
			err = errors.Join(err, layer.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return losses, err
}

// LayerUsage is what one snapshot of an image's chain takes.
type LayerUsage struct {
	Key string `json:"key"`
	SnapshotUsage
}

// ImageUsage says what the snapshots of an image take on the disk, lowest first, and of which
// snapshotter they are. Errors: [errdefs.ErrNotFound] when it is not unpacked.
func (s *Store) ImageUsage(ctx context.Context, name string, platform *Platform, snapshotter string) ([]LayerUsage, error) {
	parts, err := s.choose(ctx, name, platform)
	if err != nil {
		return nil, err
	}
	sn, err := s.Snapshots(ctx, snapshotter)
	if err != nil {
		return nil, err
	}
	chain := image.ChainIDs(parts.DiffIDs)
	var rows []Snapshot
	if own, ok := sn.(*Snapshotter); ok {
		rows, err = own.Chain(ctx, chain)
	} else if len(chain) > 0 {
		rows, err = s.meta.SnapshotChain(ctx, s.ns, metadata.SnapshotterName(sn.Name()), chain[len(chain)-1].String())
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	if len(rows) < len(chain) {
		return nil, fmt.Errorf("image %s is not unpacked for %s: %w", parts.name, sn.Name(), errdefs.ErrNotFound)
	}
	list := make([]LayerUsage, len(rows))
	for i, row := range rows {
		list[i] = LayerUsage{row.Key, snapshot.Usage{Size: row.Size, Inodes: row.Inodes}}
	}
	return list, nil
}

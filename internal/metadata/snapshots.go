package metadata

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

// A SnapshotKind says what a snapshot is for.
type SnapshotKind string

// The kinds of snapshots, written as containerd writes them.
const (
	Committed SnapshotKind = "Committed" // does not change, and may be a parent
	Active    SnapshotKind = "Active"    // being written
	View      SnapshotKind = "View"      // a committed one to be looked at
)

// String is the kind as it stands in a sentence.
func (k SnapshotKind) String() string { return strings.ToLower(string(k)) }

// A Snapshot is a state of a filesystem, as one namespace and one snapshotter know it.
type Snapshot struct {
	Key       string            `json:"key"`
	Kind      SnapshotKind      `json:"kind"`
	Parent    string            `json:"parent,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`

	// Folder is where the snapshotter keeps what this one adds to its parent. Snapshots of one
	// layer share a folder. Empty: nowhere, because the layer is lazy.
	Folder string `json:"folder,omitempty"`
	// DiffID is the layer that was unpacked; empty for what was committed by hand.
	DiffID image.Digest `json:"diffID,omitempty"`
	// Manifests are those whose layers this is the whole stack of. A committed snapshot with a
	// DiffID goes when no image reaches them and nothing stands on it.
	Manifests []image.Digest `json:"manifests,omitempty"`
	// Lazy is set for a layer that a remote snapshotter had already: its blob, Blob, is fetched
	// when it is needed, and is not missing before.
	Lazy bool         `json:"lazy,omitempty"`
	Blob image.Digest `json:"blob,omitempty"`

	Size   int64        `json:"size"`   // bytes on the disk, without the parent; known once committed
	Inodes int64        `json:"inodes"` // likewise
	Losses []layer.Loss `json:"losses,omitempty"`

	// Damaged is set, in a listing, for a row that cannot be read; nothing but Key is known of it.
	Damaged bool `json:"damaged,omitempty"`

	// Mends is, in a batch, the folder that an earlier row of this snapshot names and that is
	// gone; that row gets this one's folder.
	Mends string `json:"-"`
}

// An UnpackedLayer is the folder of a layer that any stack may share.
type UnpackedLayer struct {
	DiffID image.Digest `json:"diffID"`
	Folder string       `json:"folder"`
	Size   int64        `json:"size"`
	Inodes int64        `json:"inodes"`
	Losses []layer.Loss `json:"losses,omitempty"`

	// Mends is, in a batch, the folder that an earlier row names and that is gone.
	Mends string `json:"-"`
}

// Unpacked is what a batch says of one snapshotter: folders on stable storage, and the snapshots
// that are made of them, parents first.
type Unpacked struct {
	Snapshotter string
	Layers      []UnpackedLayer // those that can be shared
	Snapshots   []Snapshot      // committed
}

func snapshotKey(ns, snapshotter, name string) []byte {
	return key(snapshotRows, ns, snapshotter, name)
}

func layerKey(snapshotter string, diffID image.Digest) []byte {
	return appendDigest(key(layerRows, snapshotter, ""), diffID)
}

func checkSnapshotKey(name string) error {
	if name == "" || len(name) > maxName || strings.Contains(name, "\x00") || !utf8.ValidString(name) {
		return invalid("snapshot %.100q: want 1 to %d bytes of UTF-8", name, maxName)
	}
	return nil
}

func (s *Snapshot) check() error {
	if err := checkSnapshotKey(s.Key); err != nil {
		return err
	}
	if s.Parent != "" {
		if err := checkSnapshotKey(s.Parent); err != nil {
			return err
		}
	}
	if s.DiffID != "" {
		if err := checkDigests(s.DiffID); err != nil {
			return err
		}
	}
	if s.Lazy || s.Blob != "" {
		if err := checkDigests(s.Blob); err != nil {
			return err
		}
	}
	if err := checkDigests(s.Manifests...); err != nil {
		return err
	}
	return checkLabels(s.Labels)
}

func (u Unpacked) check() error {
	if err := checkIdentifier("snapshotter", u.Snapshotter); err != nil {
		return err
	}
	for _, l := range u.Layers {
		if err := checkDigests(l.DiffID); err != nil {
			return err
		}
	}
	for i := range u.Snapshots {
		if err := u.Snapshots[i].check(); err != nil {
			return err
		}
	}
	return nil
}

// snapshot reads the row of a snapshot. Errors: [errdefs.ErrNotFound].
func (v view) snapshot(ns, snapshotter, name string) (row Snapshot, err error) {
	err = v.get(snapshotKey(ns, snapshotter, name), &row)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("snapshot %s: %w", name, errdefs.ErrNotFound)
	}
	return row, err
}

// snapshots lists those of a namespace and a snapshotter by key. A damaged row does not break the
// list.
func (v view) snapshots(ns, snapshotter string) (list []Snapshot, err error) {
	prefix := key(snapshotRows, ns, snapshotter, "")
	for e, err := range v.Scan(prefix) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		var row Snapshot
		if err != nil || decode(e.Key, e.Value, &row) != nil {
			row = Snapshot{Key: last(e.Key, prefix), Damaged: true}
		}
		list = append(list, row)
	}
	return list, nil
}

// Snapshots lists the snapshots of a namespace and a snapshotter by key. One whose row is damaged
// does not break the list: it is there with its key, and Damaged set.
func (s *Store) Snapshots(ctx context.Context, ns, snapshotter string) (list []Snapshot, err error) {
	err = s.view(ctx, func(v view) error {
		list, err = v.snapshots(ns, snapshotter)
		return err
	})
	return list, err
}

// Snapshotters names those that have snapshots in a namespace.
func (s *Store) Snapshotters(ctx context.Context, ns string) (list []string, err error) {
	err = s.view(ctx, func(v view) error {
		prefix := key(snapshotRows, ns, "")
		for e, err := range v.Scan(prefix) {
			if err != nil {
				return err
			}
			if name, _ := cut(e.Key, prefix); !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
		return nil
	})
	return list, err
}

// Snapshot gives one snapshot. Errors: [errdefs.ErrNotFound].
func (s *Store) Snapshot(ctx context.Context, ns, snapshotter, name string) (row Snapshot, err error) {
	err = s.view(ctx, func(v view) error {
		row, err = v.snapshot(ns, snapshotter, name)
		return err
	})
	return row, err
}

// SnapshotChain gives a snapshot and all that it stands on, lowest first. An empty name is the
// empty chain. Errors: [errdefs.ErrNotFound].
func (s *Store) SnapshotChain(ctx context.Context, ns, snapshotter, name string) (chain []Snapshot, err error) {
	err = s.view(ctx, func(v view) error {
		chain, err = v.chain(ns, snapshotter, name)
		return err
	})
	return chain, err
}

func (v view) chain(ns, snapshotter, name string) (chain []Snapshot, err error) {
	met := map[string]bool{}
	for name != "" {
		row, err := v.snapshot(ns, snapshotter, name)
		if err != nil {
			return nil, err
		}
		if met[name] {
			return nil, fmt.Errorf("snapshot %s stands on itself: %w", name, errdefs.ErrDataLoss)
		}
		met[name] = true
		chain = append(chain, row)
		name = row.Parent
	}
	slices.Reverse(chain)
	return chain, nil
}

// AddSnapshot writes a new snapshot. Errors: [errdefs.ErrAlreadyExists];
// [errdefs.ErrNotFound] when its parent is not there; [errdefs.ErrFailedPrecondition] when the
// parent is not committed.
func (s *Store) AddSnapshot(ctx context.Context, ns, snapshotter string, row Snapshot) error {
	if err := CheckNamespace(ns); err != nil {
		return err
	}
	if err := checkIdentifier("snapshotter", snapshotter); err != nil {
		return err
	}
	if err := row.check(); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		now := time.Now().UTC()
		if err := c.ensureNamespace(ns, now); err != nil {
			return err
		}
		return c.addSnapshot(ns, snapshotter, row, now)
	})
}

func (c change) addSnapshot(ns, snapshotter string, row Snapshot, now time.Time) error {
	k := snapshotKey(ns, snapshotter, row.Key)
	if exists, err := c.has(k); err != nil || exists {
		if err == nil {
			err = fmt.Errorf("snapshot %s: %w", row.Key, errdefs.ErrAlreadyExists)
		}
		return err
	}
	if row.Parent != "" {
		parent, err := c.snapshot(ns, snapshotter, row.Parent)
		if err != nil {
			return fmt.Errorf("parent %w", err)
		}
		if parent.Kind != Committed {
			return fmt.Errorf("snapshot %s is %s and cannot be a parent: %w", row.Parent, parent.Kind, errdefs.ErrFailedPrecondition)
		}
	}
	row.CreatedAt, row.UpdatedAt = now, now
	if row.Lazy {
		if err := c.w.Put(lazyKey(row.Blob, ns, snapshotter, row.Key), nil); err != nil {
			return err
		}
	}
	return c.put(k, row)
}

// lazyKey is the key of a lazy snapshot by its blob.
func lazyKey(blob image.Digest, ns, snapshotter, name string) []byte {
	return append(digestKey(lazyRows, blob), key("", ns, snapshotter, name)...)
}

// lazy tells whether a snapshot stands for a blob that is not here.
func (v view) lazy(blob image.Digest) (bool, error) {
	for _, err := range v.Scan(digestKey(lazyRows, blob)) {
		return err == nil, err
	}
	return false, nil
}

// deleteSnapshot removes a row. The blobs that it stood for are missing now from images that need
// them.
func (c change) deleteSnapshot(ns, snapshotter string, row Snapshot) error {
	if err := c.w.Delete(snapshotKey(ns, snapshotter, row.Key)); err != nil || !row.Lazy {
		return err
	}
	if err := c.w.Delete(lazyKey(row.Blob, ns, snapshotter, row.Key)); err != nil {
		return err
	}
	return c.recompute(nil, row.Blob)
}

// CommitSnapshot turns the active snapshot key into the committed one name, as f says it is.
// Errors: [errdefs.ErrNotFound]; [errdefs.ErrFailedPrecondition] for one that is not active;
// [errdefs.ErrAlreadyExists] for a name that is taken.
func (s *Store) CommitSnapshot(ctx context.Context, ns, snapshotter, name, key string, f func(*Snapshot)) error {
	return s.update(ctx, func(c change) error {
		row, err := c.snapshot(ns, snapshotter, key)
		if err != nil {
			return err
		}
		if row.Kind != Active {
			return fmt.Errorf("snapshot %s is %s, not active: %w", key, row.Kind, errdefs.ErrFailedPrecondition)
		}
		if err := c.w.Delete(snapshotKey(ns, snapshotter, key)); err != nil {
			return err
		}
		row.Key, row.Kind = name, Committed
		f(&row)
		if err := row.check(); err != nil {
			return err
		}
		return c.addSnapshot(ns, snapshotter, row, time.Now().UTC())
	})
}

// LabelSnapshot sets labels; an empty value removes one.
func (s *Store) LabelSnapshot(ctx context.Context, ns, snapshotter, key string, labels map[string]string) (row Snapshot, err error) {
	if err := checkLabels(labels); err != nil {
		return Snapshot{}, err
	}
	err = s.update(ctx, func(c change) error {
		if row, err = c.snapshot(ns, snapshotter, key); err != nil {
			return err
		}
		labels := merge(row.Labels, labels)
		if maps.Equal(labels, row.Labels) {
			return nil
		}
		row.Labels, row.UpdatedAt = labels, time.Now().UTC()
		return c.put(snapshotKey(ns, snapshotter, key), row)
	})
	return row, err
}

// RemoveSnapshot removes the row of a snapshot and returns it; its folder is the caller's to
// remove if no other row has it. A damaged row can be removed as well. Errors:
// [errdefs.ErrNotFound]; [errdefs.ErrFailedPrecondition] while another stands on it.
func (s *Store) RemoveSnapshot(ctx context.Context, ns, snapshotter, key string) (row Snapshot, err error) {
	err = s.update(ctx, func(c change) error {
		row, err = c.snapshot(ns, snapshotter, key)
		if errdefs.IsDataLoss(err) {
			row, err = Snapshot{Key: key, Damaged: true}, nil
		}
		if err != nil {
			return err
		}
		list, err := c.snapshots(ns, snapshotter)
		if err != nil {
			return err
		}
		for _, other := range list {
			if other.Parent == key {
				return fmt.Errorf("snapshot %s stands on it: %w", other.Key, errdefs.ErrFailedPrecondition)
			}
		}
		if err := c.deleteSnapshot(ns, snapshotter, row); err != nil {
			return err
		}
		live, err := s.dropDead(c)
		if err != nil {
			return err
		}
		return c.dropLayers(snapshotter, held(live))
	})
	return row, err
}

// UnpackedLayer finds the folder of a layer that can be shared. Errors: [errdefs.ErrNotFound].
func (s *Store) UnpackedLayer(ctx context.Context, snapshotter string, diffID image.Digest) (l UnpackedLayer, err error) {
	err = s.view(ctx, func(v view) error { return v.get(layerKey(snapshotter, diffID), &l) })
	return l, err
}

// SnapshotFolders lists the folders of a snapshotter that rows of any namespace name. Errors:
// [errdefs.ErrDataLoss] when a row is damaged: nobody knows then which folder it names.
func (s *Store) SnapshotFolders(ctx context.Context, snapshotter string) (folders map[string]bool, err error) {
	err = s.view(ctx, func(v view) error {
		folders, err = v.folders(snapshotter)
		if err != nil {
			return err
		}
		for e, err := range v.Scan(key(layerRows, snapshotter, "")) {
			if err != nil {
				return err
			}
			var l UnpackedLayer
			if err := decode(e.Key, e.Value, &l); err != nil {
				return err
			}
			folders[l.Folder] = true
		}
		return nil
	})
	return folders, err
}

// folders lists those that snapshots name.
func (v view) folders(snapshotter string) (map[string]bool, error) {
	folders := map[string]bool{}
	for e, err := range v.Scan([]byte(snapshotRows)) {
		if err != nil {
			return nil, err
		}
		_, rest := cut(e.Key, []byte(snapshotRows))
		if name, _ := cut([]byte(rest), nil); name != snapshotter {
			continue
		}
		var row Snapshot
		if err := decode(e.Key, e.Value, &row); err != nil {
			return nil, err
		}
		folders[row.Folder] = true
	}
	return folders, nil
}

// dropLayers removes the rows of layers whose folder no snapshot has, and that nobody holds.
func (c change) dropLayers(snapshotter string, held func(image.Digest) bool) error {
	folders, err := c.folders(snapshotter)
	if errdefs.IsDataLoss(err) {
		return nil // a damaged row may name any of them
	}
	if err != nil {
		return err
	}
	var gone [][]byte
	for e, err := range c.Scan(key(layerRows, snapshotter, "")) {
		if err != nil {
			return err
		}
		var l UnpackedLayer
		if err := decode(e.Key, e.Value, &l); err != nil {
			return err
		}
		if !folders[l.Folder] && !held(l.DiffID) {
			gone = append(gone, e.Key)
		}
	}
	for _, k := range gone {
		if err := c.w.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// addUnpacked writes what was unpacked. A snapshot that is there already, because another process
// was quicker, stays as it is and only learns of further manifests, unless this one mends it.
func (c change) addUnpacked(ns string, u Unpacked, now time.Time) error {
	for _, row := range u.Snapshots {
		old, err := c.snapshot(ns, u.Snapshotter, row.Key)
		switch {
		case errdefs.IsNotFound(err):
			if err := c.addSnapshot(ns, u.Snapshotter, row, now); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		changed := row.Mends != "" && old.Folder == row.Mends
		if changed {
			old.Folder, old.DiffID, old.Lazy = row.Folder, row.DiffID, row.Lazy
			old.Size, old.Inodes, old.Losses = row.Size, row.Inodes, row.Losses
			old.CreatedAt = now // its folder is no older
		}
		for _, m := range row.Manifests {
			if !slices.Contains(old.Manifests, m) {
				old.Manifests, changed = append(old.Manifests, m), true
			}
		}
		if changed {
			old.UpdatedAt = now
			if err := c.put(snapshotKey(ns, u.Snapshotter, row.Key), old); err != nil {
				return err
			}
		}
	}
	for _, l := range u.Layers {
		// Another process may have been quicker, and others use what it made.
		var old UnpackedLayer
		err := c.get(layerKey(u.Snapshotter, l.DiffID), &old)
		if err == nil && old.Folder != l.Mends {
			continue
		}
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
			return err
		}
		if err := c.put(layerKey(u.Snapshotter, l.DiffID), l); err != nil {
			return err
		}
	}
	return nil
}

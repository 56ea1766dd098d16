package metadata

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
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
	// Expires is set for one that a client of the daemon made, as containerd has them: from then on
	// only leases, labels, what stands on it and images keep it, whatever its kind. Zero: those that
	// are not the unpacked layers of an image stay until somebody removes them.
	Expires time.Time `json:"expires,omitzero"`

	// Folder is where the snapshotter keeps what this one adds to its parent. Snapshots of one
	// layer share a folder. Empty: nowhere, because the layer is lazy.
	Folder string `json:"folder,omitempty"`
	// DiffID is the layer that was unpacked; empty for what was committed by hand. Of an active one it
	// is the layer that was applied to it.
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

// SnapshotterName is the name by which rows know a snapshotter that containerd and others call otherwise.
func SnapshotterName(name string) string {
	switch name {
	case "overlayfs", "overlay2":
		return "overlay"
	}
	return name
}

func snapshotKey(ns, snapshotter, name string) []byte {
	return key(snapshotRows, ns, snapshotter, name)
}

func layerKey(snapshotter string, diffID image.Digest) []byte {
	return appendDigest(key(layerRows, snapshotter, ""), diffID)
}

func checkSnapshotKey(name string) error { return checkText("snapshot", name) }

// Check tells whether a snapshot can be written, as far as it is its own business. Errors:
// [errdefs.ErrInvalidArgument].
func (row *Snapshot) Check() error {
	if err := checkSnapshotKey(row.Key); err != nil {
		return err
	}
	if row.Parent != "" {
		if err := checkSnapshotKey(row.Parent); err != nil {
			return err
		}
	}
	if row.DiffID != "" {
		if err := checkDigests(row.DiffID); err != nil {
			return err
		}
	}
	if row.Lazy || row.Blob != "" {
		if err := checkDigests(row.Blob); err != nil {
			return err
		}
	}
	if err := checkDigests(row.Manifests...); err != nil {
		return err
	}
	return checkLabels(row.Labels)
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
		if err := u.Snapshots[i].Check(); err != nil {
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
	if err := row.Check(); err != nil {
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
	return c.set(k, nil, row)
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
	if err := c.set(snapshotKey(ns, snapshotter, row.Key), row, nil); err != nil || !row.Lazy {
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
		if err := c.set(snapshotKey(ns, snapshotter, key), row, nil); err != nil {
			return err
		}
		row.Key, row.Kind = name, Committed
		f(&row)
		if err := row.Check(); err != nil {
			return err
		}
		return c.addSnapshot(ns, snapshotter, row, time.Now().UTC())
	})
}

// LabelSnapshot sets labels; an empty value removes one.
func (s *Store) LabelSnapshot(ctx context.Context, ns, snapshotter, key string, labels map[string]string) (row Snapshot, err error) {
	return s.RelabelSnapshot(ctx, ns, snapshotter, key, func(old map[string]string) map[string]string { return merge(old, labels) })
}

// RelabelSnapshot gives a snapshot the labels that f makes of those that it has, and must not change.
func (s *Store) RelabelSnapshot(ctx context.Context, ns, snapshotter, key string, f func(map[string]string) map[string]string) (row Snapshot, err error) {
	err = s.update(ctx, func(c change) error {
		if row, err = c.snapshot(ns, snapshotter, key); err != nil {
			return err
		}
		labels := f(row.Labels)
		if err := checkLabels(labels); err != nil {
			return err
		}
		if maps.Equal(labels, row.Labels) {
			return nil
		}
		old := row
		row.Labels, row.UpdatedAt = labels, time.Now().UTC()
		return c.set(snapshotKey(ns, snapshotter, key), old, row)
	})
	return row, err
}

// AppliedToSnapshot notes that a layer was applied to an active snapshot, and what that came to. After a
// second one it is nobody's unpacked layer.
func (s *Store) AppliedToSnapshot(ctx context.Context, ns, snapshotter, key string, diffID image.Digest, res layer.Result) error {
	return s.update(ctx, func(c change) error {
		row, err := c.snapshot(ns, snapshotter, key)
		if err != nil {
			return err
		}
		old := row
		if row.DiffID != "" {
			diffID, res = "", layer.Result{}
		}
		row.DiffID, row.Size, row.Inodes, row.Losses = diffID, res.Size, res.Inodes, res.Losses
		return c.set(snapshotKey(ns, snapshotter, key), old, row)
	})
}

// Stacked tells whether a snapshot is called as that of its layer on top of its parent.
func (row *Snapshot) Stacked() bool {
	if row.DiffID == "" || row.Parent == "" {
		return row.DiffID != "" && row.Key == row.DiffID.String()
	}
	return row.Key == image.ChainIDs([]image.Digest{image.Digest(row.Parent), row.DiffID})[1].String()
}

// SnapshotsIn lists the snapshots of a namespace that have a folder.
func (s *Store) SnapshotsIn(ctx context.Context, ns, snapshotter, folder string) (list []Snapshot, err error) {
	err = s.view(ctx, func(v view) error {
		rows, err := v.folderRows(snapshotter, folder)
		prefix := string(snapshotKey(ns, snapshotter, ""))
		for _, k := range rows {
			if name, ok := strings.CutPrefix(k, prefix); ok && err == nil {
				var row Snapshot
				row, err = v.snapshot(ns, snapshotter, name)
				list = append(list, row)
			}
		}
		return err
	})
	return list, err
}

// RemoveSnapshot removes the row of a snapshot and returns it; its folder is the caller's to
// remove if no other row has it. A damaged row can be removed as well. Errors:
// [errdefs.ErrNotFound]; [errdefs.ErrFailedPrecondition] while another stands on it.
func (s *Store) RemoveSnapshot(ctx context.Context, ns, snapshotter, key string) (row Snapshot, err error) {
	err = s.update(ctx, func(c change) error {
		k := snapshotKey(ns, snapshotter, key)
		row, err = c.snapshot(ns, snapshotter, key)
		damaged := errdefs.IsDataLoss(err)
		if err != nil && !damaged {
			return err
		}
		above, err := c.standing(string(k))
		if err != nil {
			return err
		}
		if len(above) > 0 {
			return fmt.Errorf("snapshot %s stands on it: %w", last([]byte(above[0]), snapshotKey(ns, snapshotter, "")), errdefs.ErrFailedPrecondition)
		}
		if damaged {
			row = Snapshot{Key: key, Damaged: true}
			return c.dropDamaged(k)
		}
		if err := c.deleteSnapshot(ns, snapshotter, row); err != nil {
			return err
		}
		live, err := s.dropDead(c)
		if err != nil {
			return err
		}
		_, err = c.freeFolder(snapshotter, row.Folder, held(live))
		return err
	})
	return row, err
}

// standing lists the keys of the rows of the snapshots whose parent has the row under key.
func (v view) standing(key string) (list []string, err error) {
	prefix := edgePrefix(key)
	for e, err := range v.Scan(prefix) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		// One that is damaged may be that of a child.
		if err != nil || len(e.Value) != 1 || edgeRow(e.Value[0])&standsOn != 0 {
			list = append(list, last(e.Key, prefix))
		}
	}
	return list, nil
}

// UnpackedLayer finds the folder of a layer that can be shared. Errors: [errdefs.ErrNotFound].
func (s *Store) UnpackedLayer(ctx context.Context, snapshotter string, diffID image.Digest) (l UnpackedLayer, err error) {
	err = s.view(ctx, func(v view) error { return v.get(layerKey(snapshotter, diffID), &l) })
	return l, err
}

// SnapshotFolders tells which folders of a snapshotter rows of any namespace name: of these, or,
// if none are given, of all. Each is looked at at some moment, and not all at the same.
func (s *Store) SnapshotFolders(ctx context.Context, snapshotter string, folders ...string) (named map[string]bool, err error) {
	named = map[string]bool{}
	iv, prefix := s.inventory(), key(folderRows, snapshotter, "")
	if len(folders) == 0 {
		err := iv.scan(ctx, string(prefix), func(_ *look, e kv.Entry) error {
			folder, _ := cut(e.Key, prefix)
			named[folder] = true
			return nil
		})
		return named, err
	}
	err = iv.looks(ctx, func(l *look) (bool, error) {
		for ; len(folders) > 0; folders = folders[1:] {
			if l.over() {
				return false, nil
			}
			rows, err := l.folderRows(snapshotter, folders[0])
			if err != nil {
				return false, err
			}
			if len(rows) > 0 {
				named[folders[0]] = true
			}
		}
		return true, nil
	})
	return named, err
}

// folderRows lists the keys of the rows that name a folder.
func (v view) folderRows(snapshotter, folder string) (rows []string, err error) {
	prefix := folderKey(snapshotter, folder, nil)
	for e, err := range v.Scan(prefix) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		rows = append(rows, last(e.Key, prefix))
	}
	return rows, nil
}

// freeFolder removes the row of the layer that can be shared from a folder that no snapshot has
// any more, unless somebody holds that layer. It tells whether no row names the folder now.
func (c change) freeFolder(snapshotter, folder string, held func(image.Digest) bool) (free bool, err error) {
	if folder == "" {
		return false, nil
	}
	rows, err := c.folderRows(snapshotter, folder)
	if err != nil || len(rows) == 0 {
		return err == nil, err
	}
	for _, k := range rows {
		if !strings.HasPrefix(k, layerRows) {
			return false, nil
		}
		var l UnpackedLayer
		err := c.get([]byte(k), &l)
		switch {
		case err == nil && held(l.DiffID):
			return false, nil
		case err == nil:
			err = c.set([]byte(k), l, nil)
		case errdefs.IsDataLoss(err):
			err = c.dropDamaged([]byte(k))
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
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
		is := old
		changed := row.Mends != "" && old.Folder == row.Mends
		if changed {
			is.Folder, is.DiffID, is.Lazy = row.Folder, row.DiffID, row.Lazy
			is.Size, is.Inodes, is.Losses = row.Size, row.Inodes, row.Losses
			is.CreatedAt = now // its folder is no older
		}
		for _, m := range row.Manifests {
			if !slices.Contains(is.Manifests, m) {
				is.Manifests, changed = append(slices.Clip(is.Manifests), m), true
			}
		}
		if changed {
			is.UpdatedAt = now
			if err := c.set(snapshotKey(ns, u.Snapshotter, row.Key), old, is); err != nil {
				return err
			}
		}
	}
	for _, l := range u.Layers {
		// Another process may have been quicker, and others use what it made.
		var was indexed
		var old UnpackedLayer
		k := layerKey(u.Snapshotter, l.DiffID)
		err := c.get(k, &old)
		switch {
		case err == nil && old.Folder != l.Mends:
			continue
		case err == nil:
			was = old
		case errdefs.IsDataLoss(err):
			err = c.dropDamaged(k)
		case errdefs.IsNotFound(err):
			err = nil
		}
		if err != nil {
			return err
		}
		if err := c.set(k, was, l); err != nil {
			return err
		}
	}
	return nil
}

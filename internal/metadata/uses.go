package metadata

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// CRI clients pin an image with this label and value.
const (
	criPinLabel = "io.cri-containerd.pinned"
	criPinned   = "pinned"
)

// A Use is what an image is needed for, besides having a name.
type Use struct {
	// Kind is pinned, mounted (or otherwise stood on by a snapshot that is active or a view), leased, or
	// running for an operation that holds it.
	Kind string `json:"kind"`
	// By is the label, the key of the snapshot, or the ID of the lease.
	By          string `json:"by"`
	Snapshotter string `json:"snapshotter,omitempty"` // of a snapshot
}

// The kinds of [Use].
const (
	UsePinned  = "pinned"
	UseMounted = "mounted"
	UseLeased  = "leased"
	UseRunning = "running"
)

// String says it in words.
func (u Use) String() string {
	switch u.Kind {
	case UsePinned:
		return "pinned by label " + u.By
	case UseMounted:
		return "mounted: " + u.Snapshotter + " snapshot " + u.By
	case UseLeased:
		return "kept by lease " + u.By
	default:
		return "in use by a running operation"
	}
}

// Uses tells what an image is needed for. Errors: [errdefs.ErrNotFound].
func (s *Store) Uses(ctx context.Context, ns, name string) (list []Use, err error) {
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		if err != nil {
			return err
		}
		row, err := v.image(ns, name)
		if err != nil {
			return err
		}
		list, err = v.uses(ns, row.Image, live)
		return err
	})
	return list, err
}

// pinnedBy is the label that says that an image stays, whatever becomes of others; empty: none.
func pinnedBy(labels map[string]string) string {
	switch {
	case labels[PinLabel] != "":
		return PinLabel
	case labels[criPinLabel] == criPinned:
		return criPinLabel + "=" + criPinned
	default:
		return ""
	}
}

// uses tells what an image is needed for, of leases that count.
func (v view) uses(ns string, img Image, live []liveLease) (list []Use, err error) {
	if label := pinnedBy(img.Labels); label != "" {
		list = append(list, Use{Kind: UsePinned, By: label})
	}
	documents, err := v.documentsOf(img.Target.Digest)
	if err != nil {
		return nil, err
	}
	stacks := map[node]bool{}
	for d := range documents {
		tops, err := v.stacks(ns, d)
		if err != nil {
			return nil, err
		}
		for _, top := range tops {
			stacks[top] = true
		}
	}
	for _, l := range live {
		switch {
		case l.Holder != "" && l.holds(documents):
			list = append(list, Use{Kind: UseRunning, By: l.ID})
		case l.Holder == "" && l.namespace == ns && (l.holds(documents) || slices.ContainsFunc(l.Snapshots, func(ref SnapshotRef) bool {
			return stacks[string(snapshotKey(ns, ref.Snapshotter, ref.Key))]
		})):
			list = append(list, Use{Kind: UseLeased, By: l.ID})
		}
	}
	for top := range stacks {
		mounts, err := v.mountsOn(top)
		if err != nil {
			return nil, err
		}
		list = append(list, mounts...)
	}
	slices.SortStableFunc(list, func(a, b Use) int { return strings.Compare(a.By, b.By) })
	return list, nil
}

// documentsOf finds the documents of an image: its target, and the manifests and indexes below.
func (v view) documentsOf(target image.Digest) (map[image.Digest]bool, error) {
	found, rest := map[image.Digest]bool{}, []image.Digest{target}
	for len(rest) > 0 {
		d := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if found[d] {
			continue
		}
		found[d] = true
		doc, err := v.readDocument(d)
		if err != nil && !unread(err) {
			return nil, err
		}
		if doc != nil && doc.Index {
			for _, m := range doc.Manifests {
				rest = append(rest, m.Digest)
			}
		}
	}
	return found, nil
}

// stacks finds the snapshots that are the whole stack of a manifest.
func (v view) stacks(ns string, manifest image.Digest) (tops []node, err error) {
	prefix := edgePrefix(blobNode(ns, manifest))
	for e, err := range v.Scan(prefix) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		if top := last(e.Key, prefix); strings.HasPrefix(top, snapshotRows) && err == nil && len(e.Value) == 1 && edgeRow(e.Value[0])&keptByNamed != 0 {
			tops = append(tops, top)
		}
	}
	return tops, nil
}

// mountsOn finds the active snapshots and views that stand on a stack, also on what was committed by
// hand upon it. Other images that stand on it are no use of it.
func (v view) mountsOn(top node) (list []Use, err error) {
	met, rest := map[node]bool{}, []node{top}
	for len(rest) > 0 {
		n := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if met[n] {
			continue
		}
		met[n] = true
		above, err := v.standing(n)
		if err != nil {
			return nil, err
		}
		for _, up := range above {
			row, err := v.knownSnapshot(up)
			switch {
			case err != nil && !unread(err):
				return nil, err
			case err != nil, row.Kind != Committed:
				_, key, _ := strings.Cut(up[len(snapshotRows):], "\x00")
				_, key, _ = strings.Cut(key, "\x00")
				list = append(list, Use{Kind: UseMounted, By: key, Snapshotter: row.Snapshotter})
			case row.DiffID == "":
				rest = append(rest, up)
			}
		}
	}
	return list, nil
}

// An ImageUse is an image with what it is needed for.
type ImageUse struct {
	Namespace string
	Image     Image
	UsedAt    time.Time // last; of one of which nobody noted it, when its name was given
	Uses      []Use
}

// ImageUses lists the images of all namespaces, but for those whose record is damaged.
func (s *Store) ImageUses(ctx context.Context) (list []ImageUse, err error) {
	err = s.inventory().scan(ctx, imageRows, func(l *look, e kv.Entry) error {
		ns, name := cut(e.Key, []byte(imageRows))
		u, err := l.imageUse(ns, name, l.live)
		if err == nil {
			list = append(list, u)
		}
		return err
	})
	return list, err
}

func (v view) imageUse(ns, name string, live []liveLease) (u ImageUse, err error) {
	row, err := v.image(ns, name)
	if err != nil {
		return u, err
	}
	u.Namespace, u.Image = ns, row.Image
	if u.UsedAt, err = v.usedAt(ns, row.Image); err != nil {
		return u, err
	}
	u.Uses, err = v.uses(ns, row.Image, live)
	return u, err
}

// usedAt tells when an image was used last, or else when its name was given.
func (v view) usedAt(ns string, img Image) (time.Time, error) {
	at, err := v.used(ns, img.Target.Digest)
	if at.IsZero() {
		at = img.UpdatedAt
	}
	return at, err
}

// RemoveUnused takes away those of names that nothing uses and that were not used since a time,
// zero for whenever, and tells what became of them: those without uses were removed. What is not
// there any more, or was used since, is left out. A use that begins meanwhile counts.
func (s *Store) RemoveUnused(ctx context.Context, ns string, since time.Time, names ...string) (list []ImageUse, err error) {
	for len(names) > 0 {
		var rest []string
		var some []ImageUse
		err := s.update(ctx, func(c change) error {
			live, err := s.dropDead(c)
			if err != nil {
				return err
			}
			now := time.Now().UTC()
			rest, some = names, nil
			for len(rest) == len(names) || len(rest) > 0 && time.Since(now) < roundTime {
				u, err := c.imageUse(ns, rest[0], live)
				rest = rest[1:]
				if err != nil && !unread(err) {
					return err
				}
				if err != nil || !since.IsZero() && !u.UsedAt.Before(since) {
					continue
				}
				some = append(some, u)
				if len(u.Uses) > 0 {
					continue
				}
				if err := c.removeImage(ns, u.Image.Name, now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return list, fmt.Errorf("remove unused images: %w", err)
		}
		names, list = rest, append(list, some...)
	}
	return list, nil
}

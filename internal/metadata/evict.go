package metadata

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// Unpacked takes stock of the layers that may be evicted: of the images called so in a namespace,
// or if none are named of all, in every namespace. The rounds of the sweep then give up those of which
// all of this holds, and say of every image with one that it is lazy:
//
//   - a label says where the blob, or what holds it, came from;
//   - every image that needs it, in whatever namespace, needs it as a layer of a manifest that is
//     unpacked there, and is not pinned; nor is the blob, or its manifest;
//   - no lease and no running operation keeps it, or what holds it.
//
// What holds a blob is looked at once more when it is its turn. That an image came to need it packed,
// or was pinned, while stock was taken may go unnoticed: then it is lazy, and can be fetched.
func (w *Sweep) Unpacked(ctx context.Context, ns string, names ...string) error {
	w.uses = map[image.Digest]use{}
	add := func(l *look, row imageRow) error {
		e := w.eviction(l.view, nil)
		for _, p := range row.Platforms {
			doc, err := l.document(p.Manifest.Digest)
			if err != nil {
				return err
			}
			if doc == nil || p.State == Absent {
				continue
			}
			if u, err := e.use(p.Manifest.Digest); u != spare || err != nil {
				if err != nil && !unread(err) {
					return err
				}
				continue
			}
			for _, d := range doc.Layers {
				if _, here, err := l.size(d.Digest); err != nil {
					return err
				} else if here {
					w.list.add(string(goneKey(d.Digest)))
				}
			}
		}
		return nil
	}
	if len(names) == 0 {
		return w.list.scan(ctx, imageRows, func(l *look, e kv.Entry) error {
			var row imageRow
			if err := decode(e.Key, e.Value, &row); err != nil {
				return err
			}
			return add(l, row)
		})
	}
	return w.list.looks(ctx, func(l *look) (bool, error) {
		for ; len(names) > 0; names = names[1:] {
			if l.over() {
				return false, nil
			}
			row, err := l.image(ns, names[0])
			if err == nil {
				err = add(l, row)
			}
			if err != nil && !unread(err) {
				return false, err
			}
		}
		return true, nil
	})
}

// Evictable lists what rounds after [Sweep.Unpacked] would give up.
func (w *Sweep) Evictable(ctx context.Context) (list []Garbage, err error) {
	rest := w.list.list
	err = w.list.looks(ctx, func(l *look) (bool, error) {
		live, _, err := w.store.leases(l.view)
		if err != nil {
			return false, err
		}
		e := w.eviction(l.view, live)
		for ; len(rest) > 0; rest = rest[1:] {
			if l.over() {
				return false, nil
			}
			d, err := lastDigest([]byte(rest[0]), []byte(goneRows))
			if err != nil {
				return false, err
			}
			size, ok, err := e.may(d)
			if err != nil && !unread(err) {
				return false, err
			}
			if ok && err == nil {
				list = append(list, Garbage{d, size})
			}
		}
		return true, nil
	})
	slices.SortFunc(list, func(a, b Garbage) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return list, err
}

// An eviction decides what may be evicted. Of manifests it remembers what earlier transactions found.
type eviction struct {
	view
	live   []liveLease
	judged map[image.Digest]use
}

// A use is what images have of the blobs that are the layers of a manifest.
type use byte

const (
	needed use = iota // they have nothing else
	unused            // none
	spare             // none any more: all of them have it unpacked
)

func (w *Sweep) eviction(v view, live []liveLease) *eviction { return &eviction{v, live, w.uses} }

// may tells whether a blob may be evicted.
func (e *eviction) may(d image.Digest) (size int64, ok bool, err error) {
	size, here, err := e.size(d)
	if !here || err != nil {
		return 0, false, err
	}
	if lazy, err := e.lazy(d); lazy || err != nil {
		return 0, false, err // a snapshot that stands for it may want it
	}
	above, err := e.view.above(d)
	if err != nil {
		return 0, false, err
	}
	if slices.ContainsFunc(e.live, func(l liveLease) bool { return l.holds(above) }) {
		return 0, false, nil
	}
	if pinned, err := e.pinned(d); pinned || err != nil {
		return 0, false, err
	}
	target := false
	if err := e.imagesOf(d, func(string, string) { target = true }); target || err != nil {
		return 0, false, err
	}
	var manifests []image.Digest
	layer := true
	err = e.parents(d, func(parent image.Digest, places []place) error {
		manifests = append(manifests, parent)
		layer = layer && !slices.ContainsFunc(places, func(p place) bool { return p < placeLayers || p%2 != placeLayers%2 })
		return nil
	})
	if !layer || err != nil {
		return 0, false, err
	}
	for _, m := range manifests {
		u, err := e.use(m)
		if u == needed || err != nil {
			return 0, false, err
		}
		ok = ok || u == spare
	}
	if !ok {
		return 0, false, nil
	}
	ok, err = e.sourced(d)
	return size, ok, err
}

// sourced tells whether it is known where a blob came from.
func (e *eviction) sourced(d image.Digest) (bool, error) {
	namespaces, err := e.namespaces()
	if err != nil {
		return false, err
	}
	var found Sources
	err = e.labelsOf(d, namespaces, func(_ string, labels map[string]string) { found.addLabels(labels) })
	if len(found.From) > 0 || err != nil {
		return len(found.From) > 0, err
	}
	err = e.sources(d, &found)
	return len(found.From) > 0, err
}

// use finds out what images have of the layers of a manifest.
func (e *eviction) use(m image.Digest) (u use, err error) {
	if u, done := e.judged[m]; done {
		return u, nil
	}
	defer func() { e.judged[m] = u }()
	if pinned, err := e.pinned(m); pinned || err != nil {
		return needed, err
	}
	above, err := e.view.above(m)
	if err != nil {
		return needed, err
	}
	var images []namedImage
	for up := range above {
		err := e.imagesOf(up, func(ns, name string) { images = append(images, namedImage{ns, name}) })
		if err != nil {
			return needed, err
		}
	}
	u = unused
	for _, n := range images {
		row, err := e.image(n.namespace, n.name)
		if err != nil || pinnedBy(row.Labels) != "" {
			return needed, err
		}
		if !row.uses(m) {
			continue
		}
		if ok, err := e.unpacked(n.namespace, m); !ok || err != nil {
			return needed, err
		}
		u = spare
	}
	return u, nil
}

// uses tells whether an image was asked for with what is below one of its manifests.
func (row imageRow) uses(m image.Digest) bool {
	i := slices.IndexFunc(row.Platforms, func(p PlatformState) bool { return p.Manifest.Digest == m })
	return i < 0 || row.Platforms[i].Wanted
}

// unpacked tells whether a namespace has a manifest's whole stack of layers, in whatever
// snapshotter.
func (e *eviction) unpacked(ns string, m image.Digest) (bool, error) {
	prefix := edgePrefix(string(knownKey(ns, m)))
	for entry, err := range e.Scan(prefix) {
		if err != nil {
			return false, err
		}
		key := entry.Key[len(prefix):]
		if !strings.HasPrefix(string(key), snapshotRows) {
			continue
		}
		var row Snapshot
		if err := e.get(key, &row); err != nil {
			return false, err
		}
		if row.Kind == Committed && row.Folder != "" && !row.Lazy && slices.Contains(row.Manifests, m) {
			return true, nil
		}
	}
	return false, nil
}

// pinned tells whether a namespace has pinned a blob.
func (e *eviction) pinned(d image.Digest) (bool, error) {
	spaces, err := e.spaces()
	for _, ns := range spaces {
		var m marks
		err := e.get(markKey(blobNode(ns, d)), &m)
		if _, ok := m[PinLabel]; ok || err != nil && !errdefs.IsNotFound(err) {
			return ok, err
		}
	}
	return false, err
}

// evict gives up a layer whose bytes the round deletes.
func (j *judge) evict(key []byte) error {
	d, err := lastDigest(key, []byte(goneRows))
	if err != nil {
		return err
	}
	size, ok, err := j.evicts.may(d)
	if !ok || err != nil {
		return ignoreDamage(err)
	}
	if err := j.lose(d, true); err != nil {
		return err
	}
	j.evicted = append(j.evicted, d)
	return j.condemn(Garbage{d, size})
}

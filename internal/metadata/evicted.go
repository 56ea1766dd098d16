package metadata

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// A goneRow is what is remembered of a blob whose bytes are gone while something may need it: so it
// is known where they can be had, and the blob is as it was when it comes back.
type goneRow struct {
	Size    int64                `json:"size"`
	Evicted bool                 `json:"evicted,omitempty"` // it was given up on purpose, and is fetched on demand
	Known   map[string]goneKnown `json:"known,omitempty"`   // by namespace
}

// A goneKnown is the blob as a namespace knew it.
type goneKnown struct {
	CreatedAt time.Time         `json:"createdAt"`
	Labels    map[string]string `json:"labels,omitempty"`
}

func goneKey(d image.Digest) []byte { return digestKey(goneRows, d) }

// gone reads what is remembered of a blob; ok is false if that is nothing.
func (v view) gone(d image.Digest) (row goneRow, ok bool, err error) {
	err = v.get(goneKey(d), &row)
	if errdefs.IsNotFound(err) {
		return row, false, nil
	}
	return row, err == nil, err
}

// lose removes the rows that say that the bytes of a blob are here, and remembers what was known of
// it.
func (c change) lose(d image.Digest, evicted bool) error {
	known, err := c.knowing(d)
	if err != nil {
		return err
	}
	gone := goneRow{Evicted: evicted, Known: map[string]goneKnown{}}
	for _, ns := range known {
		row, err := c.known(ns, d)
		if err != nil {
			return err
		}
		gone.Size = row.Size
		gone.Known[ns] = goneKnown{row.CreatedAt, row.Labels}
		if err := c.set(knownKey(ns, d), row, nil); err != nil {
			return err
		}
	}
	c.sizes[d] = -1
	if err := c.w.Delete(blobKey(d)); err != nil || len(known) == 0 {
		return err
	}
	if needed, err := c.pointedTo(d); !needed || err != nil {
		return err
	}
	return c.put(goneKey(d), gone)
}

// forgetBlob notes that the bytes of a blob were found to be gone.
func (c change) forgetBlob(d image.Digest) error { return c.lose(d, false) }

// pointedTo tells whether a document or an image points to a digest.
func (v view) pointedTo(d image.Digest) (bool, error) {
	for _, kind := range []string{parentRows, targetRows} {
		for _, err := range v.Scan(digestKey(kind, d)) {
			return err == nil, err
		}
	}
	return false, nil
}

// onDemand tells whether a blob that is not here is fetched when it is needed: it was evicted, or a
// snapshot stands for it.
func (v view) onDemand(d image.Digest) (bool, error) {
	row, _, err := v.gone(d)
	if row.Evicted || err != nil {
		return row.Evicted, err
	}
	return v.lazy(d)
}

// OnDemand describes a blob that is not here, and is fetched when it is needed; nil if d is none.
func (s *Store) OnDemand(ctx context.Context, d image.Digest) (lazy *image.Descriptor, err error) {
	err = s.view(ctx, func(v view) error {
		lazy, err = v.demanded(d)
		return err
	})
	return lazy, err
}

func (v view) demanded(d image.Digest) (lazy *image.Descriptor, err error) {
	if _, here, err := v.size(d); here || err != nil {
		return nil, err
	}
	if ok, err := v.onDemand(d); !ok || err != nil {
		return nil, err
	}
	err = v.parents(d, func(parent image.Digest, _ []place) error {
		doc, err := v.document(parent)
		if doc == nil || err != nil {
			return err
		}
		for c := range doc.Children() {
			if c.Digest == d {
				lazy = &c.Descriptor
			}
		}
		return nil
	})
	return lazy, err
}

// AvailableBlob is [Store.Blob] that also describes what is not here and is fetched when it is needed, to
// a namespace that knew it or has an image of it.
func (s *Store) AvailableBlob(ctx context.Context, ns string, d image.Digest) (b Blob, err error) {
	if err := checkDigests(d); err != nil {
		return b, err
	}
	err = s.view(ctx, func(v view) error {
		row, err := v.known(ns, d)
		if !errdefs.IsNotFound(err) {
			b = row.blob(d)
			return err
		}
		absent := err
		lazy, err := v.demanded(d)
		if err != nil {
			return err
		}
		if lazy == nil {
			return absent
		}
		b = Blob{Digest: d, Size: lazy.Size}
		gone, _, err := v.gone(d)
		if err != nil {
			return err
		}
		if k, ok := gone.Known[ns]; ok {
			b.Labels, b.CreatedAt, b.UpdatedAt = k.Labels, k.CreatedAt, k.CreatedAt
			return nil
		}
		var found Sources
		if err := v.sources(d, &found); err != nil {
			return err
		}
		if !slices.Contains(found.Namespaces, ns) {
			return absent
		}
		return nil
	})
	return b, err
}

// EvictedByPrefix lists the evicted blobs that a namespace knew, whose digest begins with prefix: in
// full, as algorithm:hex, or with its hex alone.
func (s *Store) EvictedByPrefix(ctx context.Context, ns, prefix string) (list []image.Digest, err error) {
	err = s.view(ctx, func(v view) error {
		list = nil
		for _, p := range digestPrefixes(prefix) {
			for e, err := range v.Scan(slices.Concat([]byte(goneRows), p.short)) {
				if err != nil {
					return err
				}
				var row goneRow
				d, err := lastDigest(e.Key, []byte(goneRows))
				if err = errors.Join(err, decode(e.Key, e.Value, &row)); err != nil {
					return err
				}
				if _, knew := row.Known[ns]; knew && row.Evicted && p.of(d) {
					list = append(list, d)
				}
			}
		}
		return nil
	})
	return list, err
}

// regain lets every namespace know a blob again that is back, as it knew it before.
func (c change) regain(d image.Digest, now time.Time) error {
	gone, ok, err := c.gone(d)
	if !ok || err != nil {
		return err
	}
	for ns, k := range gone.Known {
		exists, err := c.has(key(namespaceRows, ns))
		if err != nil {
			return err
		}
		if !exists {
			continue // it was removed meanwhile
		}
		row := knownRow{Size: gone.Size, CreatedAt: k.CreatedAt, UpdatedAt: now, Labels: k.Labels}
		if err := c.set(knownKey(ns, d), nil, row); err != nil {
			return err
		}
	}
	return c.w.Delete(goneKey(d))
}

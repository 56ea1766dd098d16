package metadata

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

func (row knownRow) blob(d image.Digest) Blob {
	return Blob{Digest: d, Size: row.Size, Labels: row.Labels, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt}
}

// known reads a blob as ns knows it. Errors: [errdefs.ErrNotFound].
func (v view) known(ns string, d image.Digest) (row knownRow, err error) {
	err = v.get(knownKey(ns, d), &row)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	return row, err
}

// Blob describes a blob of a namespace. Errors: [errdefs.ErrNotFound].
func (s *Store) Blob(ctx context.Context, ns string, d image.Digest) (b Blob, err error) {
	err = s.view(ctx, func(v view) error {
		row, err := v.known(ns, d)
		b = row.blob(d)
		return err
	})
	return b, err
}

// Blobs lists the blobs of a namespace, by digest.
func (s *Store) Blobs(ctx context.Context, ns string) ([]Blob, error) {
	return s.BlobsByPrefix(ctx, ns, "")
}

// BlobsByPrefix lists the blobs of a namespace whose digest begins with prefix: in full, as
// algorithm:hex, or with its hex alone.
func (s *Store) BlobsByPrefix(ctx context.Context, ns, prefix string) (list []Blob, err error) {
	rows := key(knownRows, ns, "")
	err = s.view(ctx, func(v view) error {
		for _, p := range digestPrefixes(prefix) {
			for e, err := range v.Scan(slices.Concat(rows, p.short)) {
				if err != nil {
					return err
				}
				d, err := lastDigest(e.Key, rows)
				if err != nil {
					return err
				}
				if !p.of(d) {
					continue
				}
				var row knownRow
				if err := decode(e.Key, e.Value, &row); err != nil {
					return err
				}
				list = append(list, row.blob(d))
			}
		}
		return nil
	})
	return list, err
}

// HasBlobs tells of each digest whether its bytes are here, whatever namespaces know it. That
// can be counted on only for what is held.
func (s *Store) HasBlobs(ctx context.Context, digests ...image.Digest) (map[image.Digest]bool, error) {
	found := make(map[image.Digest]bool, len(digests))
	err := s.view(ctx, func(v view) error {
		for _, d := range digests {
			_, here, err := v.size(d)
			if err != nil {
				return err
			}
			found[d] = here
		}
		return nil
	})
	return found, err
}

// Document returns what a stored manifest or index says. Errors: [errdefs.ErrNotFound].
func (s *Store) Document(ctx context.Context, d image.Digest) (Document, error) {
	list, err := s.Documents(ctx, d)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("document %s: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return Document{}, err
	}
	return list[0], nil
}

// Documents returns those of the manifests and indexes that there are.
func (s *Store) Documents(ctx context.Context, digests ...image.Digest) (list []Document, err error) {
	err = s.view(ctx, func(v view) error {
		for _, d := range digests {
			doc, err := v.document(d)
			if err != nil {
				return err
			}
			if doc != nil {
				list = append(list, *doc)
			}
		}
		return nil
	})
	return list, err
}

// LabelBlob sets labels of a blob; an empty value removes one. Errors: [errdefs.ErrNotFound].
func (s *Store) LabelBlob(ctx context.Context, ns string, d image.Digest, labels map[string]string) (Blob, error) {
	return s.labelBlob(ctx, ns, d, labels, func(old map[string]string) map[string]string { return merge(old, labels) })
}

// RelabelBlob gives a blob these labels and no others. Errors: [errdefs.ErrNotFound].
func (s *Store) RelabelBlob(ctx context.Context, ns string, d image.Digest, labels map[string]string) (Blob, error) {
	return s.labelBlob(ctx, ns, d, labels, func(map[string]string) map[string]string { return merge(nil, labels) })
}

func (s *Store) labelBlob(ctx context.Context, ns string, d image.Digest, labels map[string]string, relabel func(old map[string]string) map[string]string) (b Blob, err error) {
	if err := checkLabels(labels); err != nil {
		return Blob{}, err
	}
	err = s.update(ctx, func(c change) error {
		row, err := c.known(ns, d)
		if err != nil {
			return err
		}
		old := row
		row.Labels, row.UpdatedAt = relabel(row.Labels), time.Now().UTC()
		b = row.blob(d)
		return c.set(knownKey(ns, d), old, row)
	})
	return b, err
}

// RemoveBlob makes a namespace forget a blob. When no other namespace knows it, its bytes are
// doomed: gc.Sweep deletes them, and until then nothing believes that they are here.
//
// It is refused with [errdefs.ErrFailedPrecondition] while an image or a lease needs the blob
// (of this namespace; of any, if it is the last to know the blob), unless force is set; images
// are then partial. A referrer is not needed by its subject. What a running operation holds is
// [errdefs.ErrUnavailable], by force too. Errors: [errdefs.ErrNotFound].
func (s *Store) RemoveBlob(ctx context.Context, ns string, d image.Digest, force bool) error {
	if err := checkDigests(d); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		row, err := c.known(ns, d)
		if err != nil {
			return err
		}
		others, err := c.knowing(d)
		if err != nil {
			return err
		}
		where := ns
		if len(others) == 1 {
			where = ""
		}
		if err := s.checkUnneeded(c, where, d, force); err != nil {
			return err
		}
		if where != "" {
			return c.set(knownKey(ns, d), row, nil)
		}
		if err := c.lose(d, false); err != nil {
			return err
		}
		if err := c.doom(Garbage{d, row.Size}, ""); err != nil {
			return err
		}
		return c.recompute(nil, d)
	})
}

// checkUnneeded tells whether a blob may go from a namespace, or from all if ns is empty.
func (s *Store) checkUnneeded(c change, ns string, d image.Digest, force bool) error {
	above, err := c.above(d)
	if err != nil {
		return err
	}
	leases, err := s.dropDead(c)
	if err != nil {
		return err
	}
	var needs []string
	for _, l := range leases {
		switch {
		case l.Holder != "" && l.holds(map[image.Digest]bool{d: true}):
			return fmt.Errorf("blob %s is held by a running operation: %w", d, errdefs.ErrUnavailable)
		case (ns == "" || ns == l.namespace) && l.holds(above):
			needs = append(needs, "lease "+l.ID)
		}
	}
	for up := range above {
		err := c.imagesOf(up, func(inNS, name string) {
			if ns == "" || ns == inNS {
				needs = append(needs, "image "+name)
			}
		})
		if err != nil {
			return err
		}
	}
	if len(needs) == 0 || force {
		return nil
	}
	more := ""
	if len(needs) > 1 {
		more = fmt.Sprintf(" and %d more", len(needs)-1)
	}
	return fmt.Errorf("blob %s is needed by %s%s: %w", d, needs[0], more, errdefs.ErrFailedPrecondition)
}

// knowing lists the namespaces that know a blob.
func (v view) knowing(d image.Digest) (known []string, err error) {
	all, err := v.namespaces()
	for _, n := range all {
		has, err := v.has(knownKey(n.Name, d))
		if err != nil {
			return nil, err
		}
		if has {
			known = append(known, n.Name)
		}
	}
	return known, err
}

// Recheck notes that the bytes of the missing blobs were found to be gone, and returns the image
// as it is then. Every image that reaches one of them is partial, and documents are kept, so
// that what is to be fetched again can be told.
func (s *Store) Recheck(ctx context.Context, ns, name string, missing []image.Digest) (img Image, err error) {
	if err := checkDigests(missing...); err != nil {
		return Image{}, err
	}
	err = s.update(ctx, func(c change) error {
		row, err := c.image(ns, name)
		if err != nil {
			return err
		}
		for _, d := range missing {
			if err := c.forgetBlob(d); err != nil {
				return err
			}
		}
		if err := c.recompute(nil, append(missing, row.Target.Digest)...); err != nil {
			return err
		}
		row, err = c.image(ns, name)
		img = row.Image
		return err
	})
	return img, err
}

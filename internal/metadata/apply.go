package metadata

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// Apply adds a batch to a namespace, which is made if it is new, and returns the batch's images
// as they are now: all of it or nothing. Images of earlier batches, of every namespace, become
// complete when the blobs that they lacked arrive.
//
// Errors: [errdefs.ErrAlreadyExists] for an exclusive name; [errdefs.ErrFailedPrecondition] for
// an image whose target, or a document that, is not here; [errdefs.ErrUnavailable] for a blob
// that is being deleted, because nobody held it.
func (s *Store) Apply(ctx context.Context, ns string, b Batch) (images []Image, err error) {
	if err := CheckNamespace(ns); err != nil {
		return nil, err
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	err = s.update(ctx, func(c change) error {
		if images, err = c.apply(ns, b); err != nil || b.Lease == "" {
			return err
		}
		var under LeaseResources
		for _, blob := range b.Blobs {
			under.Digests = append(under.Digests, blob.Digest)
		}
		return s.putLease(c, ns, b.Lease, func(l *Lease) bool { return l.add(under) })
	})
	if err != nil {
		return nil, err
	}
	if b.Release != nil {
		return images, b.Release.unlock()
	}
	return images, nil
}

func (c change) apply(ns string, b Batch) ([]Image, error) {
	now := time.Now().UTC()
	if err := c.ensureNamespace(ns, now); err != nil {
		return nil, err
	}
	var fresh []image.Digest // what images may have lacked
	for _, blob := range b.Blobs {
		isNew, err := c.addBlob(ns, blob, now)
		if err != nil {
			return nil, err
		}
		if isNew {
			fresh = append(fresh, blob.Digest)
		}
	}
	for i := range b.Documents {
		isNew, err := c.addDocument(&b.Documents[i])
		if err != nil {
			return nil, err
		}
		if isNew {
			fresh = append(fresh, b.Documents[i].Digest)
		}
	}
	for _, u := range b.Unpacked {
		if err := c.addUnpacked(ns, u, now); err != nil {
			return nil, err
		}
		for _, row := range u.Snapshots {
			if row.Lazy {
				fresh = append(fresh, row.Blob)
			}
		}
	}
	var images []Image
	done := map[namedImage]bool{}
	for _, put := range b.Images {
		img, err := c.addImage(ns, put, now)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
		done[namedImage{ns, put.Name}] = true
	}
	if err := c.recompute(done, fresh...); err != nil {
		return nil, err
	}
	if h := b.Release; h != nil {
		return images, c.w.Delete(h.key())
	}
	return images, nil
}

// addBlob notes that the bytes of a blob are here and that ns knows it; isNew if they were not
// here before.
func (c change) addBlob(ns string, b Blob, now time.Time) (isNew bool, err error) {
	if doomed, err := c.has(doomedKey(b.Digest)); err != nil || doomed {
		if err == nil {
			err = fmt.Errorf("blob %s is being deleted: %w", b.Digest, errdefs.ErrUnavailable)
		}
		return false, err
	}
	size, here, err := c.size(b.Digest)
	if err != nil {
		return false, err
	}
	if here && size != b.Size {
		return false, invalid("blob %s has %d bytes, not %d", b.Digest, size, b.Size)
	}
	if !here {
		c.sizes[b.Digest] = b.Size
		if err := c.put(blobKey(b.Digest), blobRow{b.Size}); err != nil {
			return false, err
		}
		if err := c.regain(b.Digest, now); err != nil {
			return false, err
		}
	}
	var old knownRow
	switch err := c.get(knownKey(ns, b.Digest), &old); {
	case errdefs.IsNotFound(err):
		row := knownRow{Size: b.Size, CreatedAt: now, UpdatedAt: now, Labels: merge(nil, b.Labels)}
		return !here, c.set(knownKey(ns, b.Digest), nil, row)
	case err != nil:
		return false, err
	case len(b.Labels) == 0:
		return !here, nil
	}
	row := old
	row.Labels, row.UpdatedAt = gain(row.Labels, b.Labels), now
	return !here, c.set(knownKey(ns, b.Digest), old, row)
}

// addDocument writes a document and its edges, unless that was done; isNew if it was not.
func (c change) addDocument(doc *Document) (isNew bool, err error) {
	if _, here, err := c.size(doc.Digest); err != nil || !here {
		if err == nil {
			err = fmt.Errorf("document %s is not among the blobs: %w", doc.Digest, errdefs.ErrFailedPrecondition)
		}
		return false, err
	}
	old, err := c.document(doc.Digest)
	if err != nil {
		return false, err
	}
	// Its bytes never change, but its config may have been read only now.
	if old != nil && (old.Platform != nil || doc.Platform == nil) {
		return false, nil
	}
	c.documents[doc.Digest] = doc
	return true, c.set(documentKey(doc.Digest), nil, documentRow{Size: doc.Size, Document: doc.Document})
}

// addImage gives a name.
func (c change) addImage(ns string, put PutImage, now time.Time) (Image, error) {
	if doc, err := c.document(put.Target.Digest); err != nil || doc == nil && !put.Unseen {
		if err == nil {
			err = fmt.Errorf("target %s of image %s is not a manifest or an index that is here: %w", put.Target.Digest, put.Name, errdefs.ErrFailedPrecondition)
		}
		return Image{}, err
	}
	row, err := c.image(ns, put.Name)
	switch {
	case errdefs.IsNotFound(err) && put.Known:
		return Image{}, err
	case errdefs.IsNotFound(err), errdefs.IsDataLoss(err): // what is damaged is replaced
		row = imageRow{Image: Image{Name: put.Name, CreatedAt: now, UpdatedAt: now}}
	case err != nil:
		return Image{}, err
	case put.New:
		return Image{}, fmt.Errorf("image %s: %w", put.Name, errdefs.ErrAlreadyExists)
	}
	if row.Target.Digest != put.Target.Digest {
		if row.Target.Digest != "" && put.Exclusive {
			return Image{}, fmt.Errorf("the name %s stands for %s: %w", put.Name, row.Target.Digest, errdefs.ErrAlreadyExists)
		}
		row.Want = nil
		if err := c.dropImage(ns, put.Name); err != nil && !errdefs.IsNotFound(err) {
			return Image{}, err
		}
	}
	if put.Relabel {
		row.Labels = nil
	}
	row.Target, row.Labels = put.Target, merge(row.Labels, put.Labels)
	row.want(put.Want)
	if err := c.complete(&row); err != nil {
		return Image{}, err
	}
	if len(put.Want) == 0 {
		row.want(wantedFromNowOn(row.Platforms))
		if err := c.complete(&row); err != nil {
			return Image{}, err
		}
	}
	if err := c.touch(ns, row.Target.Digest, now); err != nil {
		return Image{}, err
	}
	err = c.putImage(ns, &row, now)
	return row.Image, err
}

// want adds to what is wanted of an image.
func (row *imageRow) want(digests []image.Digest) {
	for _, d := range digests {
		if !slices.Contains(row.Want, d) {
			row.Want = append(row.Want, d)
		}
	}
}

// putImage writes an image, and marks it as changed now if it did change.
func (c change) putImage(ns string, row *imageRow, now time.Time) error {
	k := key(imageRows, ns, row.Name)
	var old indexed // what is damaged was dropped
	if b, err := c.Get(k); err == nil {
		if same, err := json.Marshal(row); err != nil || bytes.Equal(b, same) {
			return err
		}
		var was imageRow
		if decode(k, b, &was) == nil {
			old = was
		}
	}
	if err := c.names.given(c.view, ns, row, now); err != nil {
		return err
	}
	row.UpdatedAt = now
	return c.set(k, old, *row)
}

// recompute finds anew what is here of every image that reaches one of digests, but for those
// of which that is done.
func (c change) recompute(done map[namedImage]bool, digests ...image.Digest) error {
	above, err := c.above(digests...)
	if err != nil {
		return err
	}
	var stale []namedImage
	for d := range above {
		err := c.imagesOf(d, func(ns, name string) {
			if n := (namedImage{ns, name}); !done[n] {
				stale = append(stale, n)
			}
		})
		if err != nil {
			return err
		}
	}
	for _, n := range stale {
		row, err := c.image(n.namespace, n.name)
		if errdefs.IsDataLoss(err) {
			continue // its own damage, which listing it reports
		}
		if err != nil {
			return err
		}
		if err := c.complete(&row); err != nil {
			return err
		}
		if err := c.put(key(imageRows, n.namespace, n.name), row); err != nil {
			return err
		}
	}
	return nil
}

type namedImage struct{ namespace, name string }

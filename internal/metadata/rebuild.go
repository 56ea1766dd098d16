package metadata

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// errProbe ends a transaction that is to change nothing.
var errProbe = errors.New("this was only a probe")

// Probe tells whether the database can be read to its end and be written. Rows whose values are
// damaged do not matter. Errors: [errdefs.ErrDataLoss].
func (s *Store) Probe(ctx context.Context) error {
	err := s.view(ctx, func(v view) error {
		for e, err := range v.Scan(nil) {
			if err != nil && e.Key == nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What is free to be written to is looked at only by who writes.
	if err := s.db.Update(ctx, func(kv.Writer) error { return errProbe }); errdefs.IsDataLoss(err) {
		return err
	}
	return ctx.Err()
}

// Rebuild fills db, which is empty, with what the journal of names and the blobs of the store tell: names with
// their labels and the platforms wanted, what is below them, and what refers to that. An image of
// which something is missing, even its root, is partial. It returns how many names it gave.
//
// Blobs that are not documents are not read. Leases, snapshots and labels of blobs are lost.
func (s *Store) Rebuild(ctx context.Context, db kv.DB, blobs content.Store) (int, error) {
	names, err := s.journal.names()
	if err != nil {
		return 0, err
	}
	r := rebuild{
		to: &Store{db: db, holders: s.holders, migrations: s.migrations}, blobs: blobs,
		sizes: map[image.Digest]int64{}, documents: map[image.Digest]*Document{}, in: map[string]map[image.Digest]bool{},
	}
	for info, err := range blobs.Blobs(ctx) {
		if err != nil {
			return 0, err
		}
		r.sizes[info.Digest] = info.Size
	}
	// Also without names there is a database then, with the version of its rows.
	if err := r.to.update(ctx, func(change) error { return nil }); err != nil {
		return 0, err
	}
	for _, n := range slices.SortedFunc(maps.Keys(names), func(a, b namedImage) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	}) {
		if err := r.name(ctx, names[n]); err != nil {
			return 0, err
		}
	}
	return len(names), r.referrers(ctx)
}

// rebuild is one running [Store.Rebuild].
type rebuild struct {
	to        *Store
	blobs     content.Store
	sizes     map[image.Digest]int64           // of what is here
	documents map[image.Digest]*Document       // what was read; nil: it is none, or it is damaged
	in        map[string]map[image.Digest]bool // what was put into each namespace
}

// name gives one name, and what is below it.
func (r *rebuild) name(ctx context.Context, l line) error {
	var b Batch
	if err := r.collect(ctx, l.Namespace, *l.Target, true, &b); err != nil {
		return err
	}
	return r.to.update(ctx, func(c change) error {
		if _, err := c.apply(l.Namespace, b); err != nil {
			return err
		}
		return c.nameAgain(l)
	})
}

// collect adds to b what is here of d and below it, and is not in ns yet.
func (r *rebuild) collect(ctx context.Context, ns string, d image.Descriptor, document bool, b *Batch) error {
	if r.in[ns] == nil {
		r.in[ns] = map[image.Digest]bool{}
	}
	if size, here := r.sizes[d.Digest]; !here || size != d.Size || r.in[ns][d.Digest] {
		return nil
	}
	if !document {
		r.in[ns][d.Digest] = true
		b.Blobs = append(b.Blobs, Blob{Digest: d.Digest, Size: d.Size})
		return nil
	}
	doc, err := r.document(ctx, d.Digest)
	if doc == nil || err != nil {
		return err // its bytes are not to be believed
	}
	r.in[ns][d.Digest] = true
	b.Blobs, b.Documents = append(b.Blobs, Blob{Digest: d.Digest, Size: d.Size}), append(b.Documents, *doc)
	for c := range doc.Children() {
		if err := r.collect(ctx, ns, c.Descriptor, c.Place == image.PlaceManifest, b); err != nil {
			return err
		}
	}
	return nil
}

// document reads a blob as a document; nil if it is none.
func (r *rebuild) document(ctx context.Context, d image.Digest) (*Document, error) {
	if doc, known := r.documents[d]; known {
		return doc, nil
	}
	b, err := content.ReadBlob(ctx, r.blobs, d, image.MaxDocument)
	switch {
	case errdefs.IsNotFound(err), errdefs.IsDataLoss(err), errdefs.IsResourceExhausted(err):
		r.documents[d] = nil
		return nil, nil
	case err != nil:
		return nil, err
	}
	doc, err := ReadDocument(ctx, r.blobs, d, b)
	r.documents[d] = doc
	return doc, err
}

// referrers adds the documents that refer to what was put into a namespace, and to one another.
func (r *rebuild) referrers(ctx context.Context) error {
	for d, size := range r.sizes {
		if size <= image.MaxDocument {
			if _, err := r.document(ctx, d); err != nil {
				return err
			}
		}
	}
	for more := true; more; {
		more = false
		for d, doc := range r.documents {
			if doc == nil || doc.Subject == nil {
				continue
			}
			for ns, in := range r.in {
				if !in[doc.Subject.Digest] || in[d] {
					continue
				}
				var b Batch
				if err := r.collect(ctx, ns, image.Descriptor{Digest: d, Size: doc.Size}, true, &b); err != nil {
					return err
				}
				if _, err := r.to.Apply(ctx, ns, b); err != nil {
					return err
				}
				more = true
			}
		}
	}
	return nil
}

// Package metadata keeps what the store knows beside bytes: names, labels, what points to what,
// and who needs it. It owns every act in which rows change together; each is one transaction.
// Bytes are the business of the content store, and their order is always the same: bytes are
// durable before the row that names them, and a row goes before its bytes do.
//
// The schema. ␀ is a zero byte; digests in keys are binary, and of a known length. Values are
// JSON, but for those of i, c, r, b, d, u and x, of which there are many: they have short forms.
//
//	version                    3
//
//	n/<namespace>              a namespace                 {createdAt, labels}
//	i/<namespace>␀<name>       an image                    Image, and what is wanted of it
//	t/<digest><ns>␀<name>      an image by its target      -
//	c/<namespace>␀<digest>     a blob as a namespace       size, createdAt, updatedAt, labels
//	                           knows it
//	l/<namespace>␀<id>         a lease, or the hold of a   Lease
//	                           running operation
//	s/<namespace>␀<snapshotter>␀<key>                     Snapshot
//	                           a snapshot
//	     each namespace sees its own │ all namespaces share
//	b/<digest>                 the bytes are here          size
//	d/<digest>                 a document: edges down      size and image.Document
//	u/<child><parent>          the same edges, upwards     places: config, layer 0, subject, …
//	x/<digest>                 doomed: bytes to be         size, and the round that deletes them
//	                           deleted, not to be believed
//	p/<snapshotter>␀<diffID>   an unpacked layer that any  UnpackedLayer
//	                           stack may share
//	z/<digest><ns>␀<sn>␀<key>  a lazy snapshot by its blob -
//	v/<digest>                 a blob whose bytes are gone size, whether it was evicted,
//	                                                      labels by namespace
//	r/<namespace>␀<name>       a name that was removed     Image, and when
//	a/<namespace>␀<digest>     when the image of a target  time
//	                           was used last
//
//	e/<named>␀<row>            a row by what it names,     who keeps whom
//	                           both by their keys: its
//	                           parent, manifests, labels
//	f/<sn>␀<folder>␀<row>      a row by its folder         -
//	g/<row>                    the labels of an image or   those labels
//	                           a blob that collection
//	                           looks at
//
//	n ──┬── i ── t ──► target         a name leads to a root document,
//	    ├── l ───────► digests        a lease to anything,
//	    └── c          │              and through the documents
//	                   ▼              to all that is below:
//	        d index ──► d manifest ──► config, layers
//	          └──────────┴─────────────┴──► b  is it here?
//	                     ▲
//	        s ───────────┘ ──► s parent    a stack of layers knows its manifests
//
// Invariants:
//   - A blob has a c row only while it has a b row, and never a b row and an x row, or a v row, at once.
//   - An image's completeness is what its documents and b rows say; the transaction that changes
//     one of them changes the images that it reaches.
//   - No digest that a running operation holds is doomed, once [Store.Hold] has returned.
//   - A snapshot's parent has a row, and is committed. A p row stays while an s row has its folder.
//   - Documents stay, though their bytes were lost, while something reaches them, so that what
//     is below them is kept and what is missing can be told.
//
// Rows t, u, z, e, f and g are index rows: they follow from those that they stand beside, and are
// written and removed with them in one place, [change.set].
//
// What is kept is found upwards, from a blob, a snapshot or an image to whatever keeps it, until a
// root is met (see [search]): that takes a few rows, where a walk down from all roots takes all of
// them. So a collection decides within the transaction that condemns, and each is short.
package metadata

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// A Store is the metadata of one content store. Goroutines and processes may share it.
//
// Errors of every method: those of [kv.DB]; [errdefs.ErrInvalidArgument] for a name or a digest
// that cannot be one; [errdefs.ErrFailedPrecondition] when the database was written by a newer
// version of this program.
type Store struct {
	db         kv.DB
	holders    string
	own        sync.Map // the holders that this Store has the locks of, by their names
	migrations []migration
	journal    *journal // nil: none is kept

	observer func(context.Context, []Change) error // nil: none
	told     chan struct{}                         // closed when it was told of the last act; who has the database for itself changes it
}

// New returns the store whose rows are in db. Holders is a directory, made when it is needed,
// for the lock files of running operations; all who share db name the same one.
func New(db kv.DB, holders string) *Store {
	return &Store{db: db, holders: holders, migrations: migrations()}
}

// A view is the rows as one transaction sees them, with what it has read of them already.
type view struct {
	kv.Reader
	documents map[image.Digest]*Document // nil: none
	sizes     map[image.Digest]int64     // of blobs that are here; negative: not here
}

// A change is a view that writes.
type change struct {
	view
	w     kv.Writer
	names acts // for the journal
}

func newView(r kv.Reader) view {
	return view{r, map[image.Digest]*Document{}, map[image.Digest]int64{}}
}

// view runs f in a transaction that reads. A database of an older version is brought up to date
// first, which writes.
func (s *Store) view(ctx context.Context, f func(view) error) error {
	read := func(r kv.Reader) error {
		if err := s.checkVersion(r); err != nil {
			return err
		}
		return f(newView(r))
	}
	err := s.db.View(ctx, read)
	if errors.Is(err, errOld) {
		if err := s.db.Update(ctx, s.migrate); err != nil {
			return err
		}
		return s.db.View(ctx, read)
	}
	return err
}

// update runs f in a transaction that writes.
func (s *Store) update(ctx context.Context, f func(change) error) error {
	return s.recorded(ctx, func(names acts, before func() error) error {
		return s.observed(ctx, func(w kv.Writer) error {
			if err := s.migrate(w); err != nil {
				return err
			}
			if err := f(change{newView(w), w, names}); err != nil {
				return err
			}
			return before()
		})
	})
}

// get decodes the row under key into v. Errors: [errdefs.ErrNotFound].
func (v view) get(key []byte, row any) error {
	b, err := v.Get(key)
	if err != nil {
		return err
	}
	return decode(key, b, row)
}

// has tells whether there is a row under key.
func (v view) has(key []byte) (bool, error) {
	_, err := v.Get(key)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// deleteAll removes the rows whose keys begin with prefix.
func (c change) deleteAll(prefix []byte) error {
	var keys [][]byte
	for e, err := range c.Scan(prefix) {
		if err != nil && e.Key == nil {
			return err
		}
		keys = append(keys, bytes.Clone(e.Key))
	}
	for _, k := range keys {
		if err := c.w.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// put encodes row under key.
func (c change) put(key []byte, row any) error {
	b, err := encode(row)
	if err != nil {
		return err
	}
	return c.w.Put(key, b)
}

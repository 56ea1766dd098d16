package metadata

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
)

// A Change is what an act did to one thing of a namespace. Old is nil for what is new, and New for
// what is gone; both are of one type: a *[Namespace], *[Image], *[Blob], *[Lease] or *[Snapshot].
type Change struct {
	Namespace   string
	Snapshotter string // of a snapshot
	Old, New    any
}

// Observe has f told of every act of this Store, when it is durable and before the act returns: in
// the order of the acts, one at a time. What f fails with, the act fails with, which has happened
// all the same. Acts of other processes are not seen, and the holds of running operations are
// nobody's business. F must not write to the store. It is set before the store is shared.
func (s *Store) Observe(f func(ctx context.Context, list []Change) error) { s.observer = f }

// observed runs a transaction that writes, and tells the observer what it did.
func (s *Store) observed(ctx context.Context, act func(kv.Writer) error) error {
	if s.observer == nil {
		return s.db.Update(ctx, act)
	}
	var seen *witness
	var before, told chan struct{} // of the act before, and of this one; nil: it did nothing
	err := s.db.Update(ctx, func(w kv.Writer) error {
		seen = &witness{Writer: w, old: map[string][]byte{}}
		if err := act(seen); err != nil {
			return err
		}
		if err := seen.end(); err != nil || len(seen.list) == 0 {
			return err
		}
		told = make(chan struct{})
		before, s.told = s.told, told
		return nil
	})
	if told == nil {
		return err
	}
	defer close(told)
	if before != nil {
		<-before
	}
	if err != nil {
		return err
	}
	return s.observer(ctx, seen.list)
}

// A witness is a writer that remembers how the rows were that observers are told of.
type witness struct {
	kv.Writer
	keys []string // in the order of their first writes
	old  map[string][]byte
	list []Change
}

// Put implements [kv.Writer].
func (w *witness) Put(key, value []byte) error {
	return errors.Join(w.note(key), w.Writer.Put(key, value))
}

// Delete implements [kv.Writer].
func (w *witness) Delete(key []byte) error { return errors.Join(w.note(key), w.Writer.Delete(key)) }

func (w *witness) note(key []byte) error {
	if len(key) < 2 || !slices.Contains([]string{namespaceRows, imageRows, knownRows, leaseRows, snapshotRows}, string(key[:2])) {
		return nil
	}
	if _, ok := w.old[string(key)]; ok {
		return nil
	}
	b, err := w.Get(key)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return err
	}
	w.keys = append(w.keys, string(key))
	w.old[string(key)] = bytes.Clone(b)
	return nil
}

// end finds out what became of the rows.
func (w *witness) end() error {
	for _, k := range w.keys {
		b, err := w.Get([]byte(k))
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if old := w.old[k]; !bytes.Equal(old, b) {
			if c := changed([]byte(k), old, b); c.Old != nil || c.New != nil {
				w.list = append(w.list, c)
			}
		}
	}
	return nil
}

// changed reads a row as it was and as it is. One that cannot be read counts as none.
func changed(key, old, is []byte) Change {
	ns, rest := cut(key, key[:2])
	c := Change{Namespace: ns}
	read := func(value []byte) any {
		if len(value) == 0 {
			return nil
		}
		switch string(key[:2]) {
		case namespaceRows:
			var n Namespace
			if decode(key, value, &n) == nil {
				return &n
			}
		case imageRows:
			var row imageRow
			if decode(key, value, &row) == nil {
				return &row.Image
			}
		case leaseRows:
			var l Lease
			if decode(key, value, &l) == nil && l.Holder == "" {
				return &l
			}
		case knownRows:
			var row knownRow
			if d, _, ok := cutDigest([]byte(rest)); ok && decode(key, value, &row) == nil {
				b := row.blob(d)
				return &b
			}
		case snapshotRows:
			var row Snapshot
			if decode(key, value, &row) == nil {
				c.Snapshotter, _, _ = strings.Cut(rest, "\x00")
				return &row
			}
		}
		return nil
	}
	c.Old, c.New = read(old), read(is)
	return c
}

// Package mem is a [kv.DB] in memory, for tests and for stores that need not last.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
)

// A DB is a [kv.DB] in the memory of this process. Views see the entries as they were when they
// began and never wait.
type DB struct {
	writing chan struct{} // holds a token while an Update runs
	entries atomic.Pointer[entries]
}

// Entries are sorted by key. Once in a DB they never change.
type entries []kv.Entry

// New returns an empty DB.
func New() *DB {
	db := &DB{writing: make(chan struct{}, 1)}
	db.entries.Store(new(entries))
	return db
}

// View is described in [kv.DB].
func (db *DB) View(ctx context.Context, f func(kv.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f(*db.entries.Load())
}

// Update is described in [kv.DB].
func (db *DB) Update(ctx context.Context, f func(kv.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case db.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-db.writing }()
	w := writer{entries: *db.entries.Load()}
	if err := f(&w); err != nil {
		return err
	}
	db.entries.Store(&w.entries)
	return nil
}

// Compact is described in [kv.DB].
func (db *DB) Compact(ctx context.Context) error { return ctx.Err() }

// Close is described in [kv.DB].
func (db *DB) Close() error { return nil }

func (es entries) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(es, key, func(e kv.Entry, key []byte) int {
		return bytes.Compare(e.Key, key)
	})
}

// Get is described in [kv.Reader].
func (es entries) Get(key []byte) ([]byte, error) {
	i, ok := es.find(key)
	if !ok {
		return nil, fmt.Errorf("key %q: %w", key, errdefs.ErrNotFound)
	}
	return es[i].Value, nil
}

// Scan is described in [kv.Reader].
func (es entries) Scan(prefix []byte) iter.Seq2[kv.Entry, error] { return es.ScanFrom(prefix, prefix) }

// ScanFrom is described in [kv.Reader].
func (es entries) ScanFrom(prefix, from []byte) iter.Seq2[kv.Entry, error] {
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	return func(yield func(kv.Entry, error) bool) {
		i, _ := es.find(from)
		for _, e := range es[i:] {
			if !bytes.HasPrefix(e.Key, prefix) || !yield(e, nil) {
				return
			}
		}
	}
}

// A writer works on a copy of its own, made by its first write.
type writer struct {
	entries
	own bool
}

func (w *writer) copy() {
	if !w.own {
		w.entries, w.own = slices.Clone(w.entries), true
	}
}

// Put is described in [kv.Writer].
func (w *writer) Put(key, value []byte) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	w.copy()
	e := kv.Entry{Key: bytes.Clone(key), Value: bytes.Clone(value)}
	i, ok := w.find(key)
	if ok {
		w.entries[i] = e
	} else {
		w.entries = slices.Insert(w.entries, i, e)
	}
	return nil
}

// Delete is described in [kv.Writer].
func (w *writer) Delete(key []byte) error {
	w.copy()
	if i, ok := w.find(key); ok {
		w.entries = slices.Delete(w.entries, i, i+1)
	}
	return nil
}

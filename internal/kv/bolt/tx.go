package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
)

// empty reads a database that was never written.
type empty struct{}

func (empty) Get([]byte) ([]byte, error) { return nil, errNotFound }

func (empty) Scan([]byte) iter.Seq2[kv.Entry, error] {
	return func(func(kv.Entry, error) bool) {}
}

func (empty) ScanFrom([]byte, []byte) iter.Seq2[kv.Entry, error] {
	return func(func(kv.Entry, error) bool) {}
}

// errNotFound does not say the key: to format it took a tenth of a large transaction.
var errNotFound = fmt.Errorf("key: %w", errdefs.ErrNotFound)

// A reader reads in the transaction of its handle.
type reader struct{ h *handle }

// Get is described in [kv.Reader].
func (r reader) Get(key []byte) (value []byte, err error) {
	err = r.h.db.guard(func() error {
		packed := r.h.kept.Get(key)
		if packed == nil {
			return errNotFound
		}
		value, err = r.h.db.unpack(key, packed)
		return err
	})
	return value, err
}

// Scan is described in [kv.Reader].
func (r reader) Scan(prefix []byte) iter.Seq2[kv.Entry, error] { return r.ScanFrom(prefix, prefix) }

// ScanFrom is described in [kv.Reader].
func (r reader) ScanFrom(prefix, from []byte) iter.Seq2[kv.Entry, error] {
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	return func(yield func(kv.Entry, error) bool) {
		c := r.h.kept.Cursor()
		step := func() ([]byte, []byte) { return c.Seek(from) }
		for {
			var e kv.Entry
			err := r.h.db.guard(func() error {
				key, packed := step()
				if key == nil || !bytes.HasPrefix(key, prefix) {
					return nil
				}
				e.Key = key
				var err error
				e.Value, err = r.h.db.unpack(key, packed)
				return err
			})
			if e.Key == nil && err == nil || !yield(e, err) || e.Key == nil {
				return
			}
			step = c.Next
		}
	}
}

// A writer keeps what is written aside until something scans, or the transaction ends: bbolt
// is slow at long runs of writes that are not sorted.
type writer struct {
	reader
	pending map[string][]byte // packed; nil: to be deleted
	wrote   bool              // bbolt was handed something

	undoable bool // what is handed to bbolt is noted in old
	old      []replaced
}

// replaced is what there was under a key; packed, nil: nothing.
type replaced struct{ key, packed []byte }

// Get is described in [kv.Reader].
func (w *writer) Get(key []byte) ([]byte, error) {
	packed, ok := w.pending[string(key)]
	switch {
	case !ok:
		return w.reader.Get(key)
	case packed == nil:
		return nil, errNotFound
	default:
		return packed[sumSize:], nil
	}
}

// Scan is described in [kv.Reader].
func (w *writer) Scan(prefix []byte) iter.Seq2[kv.Entry, error] { return w.ScanFrom(prefix, prefix) }

// ScanFrom is described in [kv.Reader].
func (w *writer) ScanFrom(prefix, from []byte) iter.Seq2[kv.Entry, error] {
	return func(yield func(kv.Entry, error) bool) {
		if err := w.flush(); err != nil {
			yield(kv.Entry{}, err)
			return
		}
		w.reader.ScanFrom(prefix, from)(yield)
	}
}

// Put is described in [kv.Writer].
func (w *writer) Put(key, value []byte) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	w.pending[string(key)] = pack(key, value)
	return nil
}

// Delete is described in [kv.Writer].
func (w *writer) Delete(key []byte) error {
	w.pending[string(key)] = nil
	return nil
}

// flush hands what is pending to bbolt.
func (w *writer) flush() error {
	if len(w.pending) == 0 {
		return nil
	}
	defer clear(w.pending)
	w.wrote = true
	return w.h.db.guard(func() error {
		for _, key := range slices.Sorted(maps.Keys(w.pending)) {
			if w.undoable {
				w.old = append(w.old, replaced{[]byte(key), bytes.Clone(w.h.kept.Get([]byte(key)))})
			}
			if err := w.set([]byte(key), w.pending[key]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *writer) set(key, packed []byte) error {
	if packed == nil {
		return w.h.kept.Delete(key)
	}
	return w.h.kept.Put(key, packed)
}

// undo takes back what bbolt was handed.
func (w *writer) undo() error {
	return w.h.db.guard(func() error {
		for _, r := range slices.Backward(w.old) {
			if err := w.set(r.key, r.packed); err != nil {
				return err
			}
		}
		return nil
	})
}

// sumSize is the length of the checksum in front of a value.
const sumSize = 4

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func pack(key, value []byte) []byte {
	packed := binary.BigEndian.AppendUint32(make([]byte, 0, sumSize+len(value)), sum(key, value))
	return append(packed, value...)
}

func (db *DB) unpack(key, packed []byte) ([]byte, error) {
	if len(packed) >= sumSize && sum(key, packed[sumSize:]) == binary.BigEndian.Uint32(packed) {
		return packed[sumSize:], nil
	}
	return nil, db.damaged(fmt.Errorf("value of %.200q does not match its checksum: %w", key, errdefs.ErrDataLoss))
}

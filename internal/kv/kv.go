// Package kv is the contract of the small database under the metadata: ordered keys, and
// transactions that are serialisable across goroutines and processes.
//
// Implementations are in the folders beneath; kvtest is the suite that each of them passes.
package kv

import (
	"context"
	"fmt"
	"iter"

	"github.com/containerd/errdefs"
)

// A DB is an ordered map from keys to values that several processes may use at once. None of
// them keeps it to itself for longer than a transaction.
//
// The f of View and Update must not use the DB itself: it would wait for its own end.
//
// Errors of every method: [errdefs.ErrUnavailable] when somebody else holds the database for
// longer than the implementation's patience, with a message that says so; [errdefs.ErrDataLoss]
// when it is damaged.
type DB interface {
	// View runs f with a consistent snapshot. Views run side by side.
	View(ctx context.Context, f func(Reader) error) error
	// Update runs f alone, and makes what it did durable, all or nothing, when f returns nil.
	Update(ctx context.Context, f func(Writer) error) error
	// Compact gives the space of deleted entries back to the disk.
	Compact(ctx context.Context) error
	// Close ends the use of the DB by this process.
	Close() error
}

// A Reader reads within a transaction; it and the slices it gives are valid until f returns and
// must not be changed.
type Reader interface {
	// Get returns the value of key. Errors: [errdefs.ErrNotFound].
	Get(key []byte) ([]byte, error)
	// Scan yields the entries whose key begins with prefix, in the order of their bytes.
	// An entry whose value is damaged is yielded with its key and an error, and the scan goes
	// on; after an error without a key it ends. Within an Update, the loop must not write.
	Scan(prefix []byte) iter.Seq2[Entry, error]
	// ScanFrom is Scan without the entries before the key from, which need not be there.
	ScanFrom(prefix, from []byte) iter.Seq2[Entry, error]
}

// A Writer also writes. Keys are 1 to [MaxKey] bytes long; others are [errdefs.ErrInvalidArgument]. Both slices
// are copied.
type Writer interface {
	Reader
	// Put sets the value of key.
	Put(key, value []byte) error
	// Delete removes key; removing what is not there is not an error.
	Delete(key []byte) error
}

// An Entry is a key with its value.
type Entry struct{ Key, Value []byte }

// MaxKey is the length of the longest key.
const MaxKey = 32768

// CheckKey tells whether key may be given to [Writer.Put]. Errors: [errdefs.ErrInvalidArgument].
func CheckKey(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes: %w", len(key), errdefs.ErrInvalidArgument)
	}
	return nil
}

package bolt

import (
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/stowage/stowage/internal/flock"
)

// A handle is the file opened for one transaction.
type handle struct {
	*opened
	db   *DB
	tx   *bbolt.Tx
	kept *bbolt.Bucket
}

// opened is the file, open and locked. Views share one.
type opened struct {
	bolt   *bbolt.DB
	file   *os.File
	locked time.Time   // since when the file is
	expiry *time.Timer // ends the sharing; nil of an Update's

	users  int  // handles; guarded by the DB's mutex, as is
	broken bool // a transaction that bbolt panicked over stays in it
}

// handle checks and opens f, which is locked. It closes f when it fails.
func (db *DB) handle(f *os.File, write bool) (*handle, error) {
	h := &handle{db: db, opened: &opened{file: f, locked: time.Now(), users: 1}}
	err := db.guard(func() error {
		if err := db.check(f, write); err != nil {
			return db.damaged(err)
		}
		return nil
	})
	if err != nil {
		return nil, join(err, f.Close())
	}
	opts := db.options()
	opts.ReadOnly = !write
	opts.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
	err = db.guard(func() (err error) {
		h.bolt, err = bbolt.Open(db.path, 0o600, opts)
		return err
	})
	if err != nil {
		h.abandon()
		return nil, err
	}
	return h, nil
}

// begin starts the transaction, which writes if the file was opened for it.
func (h *handle) begin() error {
	return h.db.guard(func() (err error) {
		h.tx, err = h.bolt.Begin(!h.bolt.IsReadOnly())
		if err != nil {
			return err
		}
		if h.kept = h.tx.Bucket(bucket); h.kept == nil {
			return h.db.damaged(fmt.Errorf("no bucket: %w", errdefs.ErrDataLoss))
		}
		return nil
	})
}

// end ends the transaction, which is undone unless it was committed.
func (h *handle) end() error {
	err := h.db.guard(func() error {
		if h.tx != nil && h.tx.DB() != nil {
			return h.tx.Rollback()
		}
		return nil
	})
	if h.db.leave(h.opened, err != nil) {
		err = join(err, h.db.close(h.opened))
	}
	return err
}

// close closes a file that nobody uses, and tells who wants to know for how long it was locked.
func (db *DB) close(o *opened) (err error) {
	if o.expiry != nil {
		o.expiry.Stop()
	}
	if o.broken {
		o.abandon() // bbolt's Close would wait for the transaction for ever
	} else {
		err = db.guard(o.bolt.Close)
	}
	if db.opts.Held != nil {
		db.opts.Held(time.Since(o.locked))
	}
	return err
}

// abandon gives up a file that bbolt panicked over; its mapping stays until the process ends.
func (o *opened) abandon() {
	_ = flock.Unlock(o.file) // this, and what follows, fails if bbolt has closed it
	_ = o.file.Close()
}

// guard runs a piece of bbolt. Damage that makes bbolt panic, or read outside the file, becomes
// an error.
func (db *DB) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = db.damaged(fmt.Errorf("%v: %w", p, errdefs.ErrDataLoss))
		}
	}()
	return f()
}

// damaged says whose damage err is.
func (db *DB) damaged(err error) error {
	return fmt.Errorf("database %s: %w", db.path, err)
}

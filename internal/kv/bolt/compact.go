package bolt

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// compactBytes is how much Compact holds in memory at once.
const compactBytes = 4 << 20

// Compact is described in [kv.DB]. The new file takes the old one's place in one step, so that
// a crash leaves the one or the other.
func (db *DB) Compact(ctx context.Context) (err error) {
	if err := db.running.Acquire(ctx, whole); err != nil {
		return err
	}
	defer db.running.Release(whole)
	db.retire(nil)
	gate, err := db.gate(ctx)
	if err != nil {
		return err
	}
	defer func() { err = join(err, gate.Close()) }()
	h, err := db.open(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = join(err, h.end()) }()
	return db.replace(h)
}

// replace puts a new file with the entries of from, or with none, into the place of the
// database's file, whose lock is held. The name of the new file is always the same, so that
// what a crash leaves of it goes with the next.
func (db *DB) replace(from *handle) error {
	name := db.path + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := db.fill(name, from); err != nil {
		return join(err, os.Remove(name))
	}
	if err := os.Rename(name, db.path); err != nil {
		return join(err, os.Remove(name))
	}
	if db.opts.NoSync {
		return nil
	}
	dir := filepath.Dir(db.path)
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

// fill makes the file called name, and syncs it.
func (db *DB) fill(name string, from *handle) error {
	opts := db.options()
	opts.NoSync = true
	var file *os.File
	opts.OpenFile = func(name string, flags int, perm os.FileMode) (f *os.File, err error) {
		file, err = os.OpenFile(name, flags, perm)
		return file, err
	}
	to := &handle{db: db, opened: &opened{}}
	if err := db.guard(func() (err error) {
		to.bolt, err = bbolt.Open(name, 0o600, opts)
		return err
	}); err != nil {
		return err
	}
	err := db.guard(func() error {
		if from != nil {
			return bbolt.Compact(to.bolt, from.bolt, compactBytes)
		}
		return to.bolt.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket(bucket)
			return err
		})
	})
	if err == nil && !db.opts.NoSync {
		err = to.bolt.Sync()
	}
	if err != nil {
		// A transaction that bbolt left behind would make its Close wait for ever.
		return errors.Join(err, file.Close())
	}
	return to.bolt.Close()
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return join(d.Sync(), d.Close())
}

// Package bolt is a [kv.DB] in one bbolt file.
//
// bbolt locks its file for as long as it is open, so a DB opens it anew for each Update, or group of
// them that wait for each other, and for Views once in a few milliseconds. Three locks stand in line
// before one: semaphores among the goroutines of this DB, the lock of <path>.lock, and bbolt's own of
// the file. The second is there for fairness alone. A writer keeps it while it waits for the third, and
// readers pass through it, so that an unending stream of readers in other processes cannot keep a
// writer out.
//
// Every value is kept behind a checksum of its key and itself, and the pages between the root
// and the leaves are checked before bbolt follows them, so that damage is an error of the kind
// [errdefs.ErrDataLoss] and neither a crash nor a wrong answer.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/kv"
)

// bucket is the one bbolt bucket, which holds every entry.
var bucket = []byte("stowage")

// Options tunes a DB. The zero value keeps what was acknowledged over a power loss.
type Options struct {
	NoSync   bool          // leave it to the system when to write: a power loss may ruin the file
	Patience time.Duration // wait for other programs that hold the file; 0: 30s
	// Held is told, when the file is closed behind Updates, a compaction or Views, for how long it
	// was locked. It may be called by several goroutines at once. Nil: nobody is told.
	Held func(time.Duration)
}

// A DB is a [kv.DB] in a file. A file that is missing is an empty DB, and the first Update makes
// it. Views work where nothing can be written, too.
type DB struct {
	path    string
	opts    Options
	running *semaphore.Weighted // 1 for a View, whole for a group of Updates
	opening *semaphore.Weighted // 1 for the View that opens the file for others, too
	turn    *semaphore.Weighted // 1 for the Update that runs
	waiting atomic.Int64        // Updates that want the turn
	group   *group              // of whoever has the turn; nil: none is open

	mu      sync.Mutex
	checked state   // the newest state of the file whose structure is known to be good
	views   *opened // what Views to come may share; nil: nothing
}

// whole is the weight of a group of Updates: more than there will be Views at once.
const whole = 1 << 30

// Open returns the DB in the file at path. It does not touch the disk yet.
func Open(path string, opts Options) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if opts.Patience == 0 {
		opts.Patience = 30 * time.Second
	}
	return &DB{
		path: path, opts: opts,
		running: semaphore.NewWeighted(whole), opening: semaphore.NewWeighted(1), turn: semaphore.NewWeighted(1),
	}, nil
}

// Close is described in [kv.DB]. Views that still run close the file themselves.
func (db *DB) Close() error {
	db.retire(nil)
	return nil
}

// View is described in [kv.DB].
func (db *DB) View(ctx context.Context, f func(kv.Reader) error) (err error) {
	if err := db.running.Acquire(ctx, 1); err != nil {
		return err
	}
	defer db.running.Release(1)
	h, err := db.share(ctx)
	if err != nil {
		return err
	}
	if h == nil {
		return f(empty{})
	}
	defer func() { err = join(err, h.end()) }()
	if err := h.begin(); err != nil {
		return err
	}
	return f(reader{h})
}

// shareFor is for how long Views come to those that have the file open, and for how long it stays open
// for them when none runs. Opening takes longer than what most of them do, and a writer in another
// process waits until it is closed.
const shareFor = 2 * time.Millisecond

// share gives the file that is open for Views, or opens it for others, too; nil if there is nothing
// to read.
func (db *DB) share(ctx context.Context) (*handle, error) {
	if h := db.joined(); h != nil {
		return h, nil
	}
	if err := db.opening.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer db.opening.Release(1)
	if h := db.joined(); h != nil {
		return h, nil
	}
	h, err := db.open(ctx, false)
	if h != nil {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.views = h.opened
		h.expiry = time.AfterFunc(shareFor, func() { db.retire(h.opened) })
	}
	return h, err
}

// joined uses the file that is open for Views; nil if there is none.
func (db *DB) joined() *handle {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.views == nil {
		return nil
	}
	db.views.users++
	return &handle{db: db, opened: db.views}
}

// retire lets no more Views use o, or whatever is open for them if o is nil. It closes what none uses.
func (db *DB) retire(o *opened) {
	db.mu.Lock()
	current := db.views
	if current == nil || o != nil && o != current {
		db.mu.Unlock()
		return
	}
	db.views = nil
	idle := current.users == 0
	db.mu.Unlock()
	if idle {
		_ = db.close(current) // nobody waits for it, and it was only read
	}
}

// leave tells whether its user was the last of a file, and is to close it.
func (db *DB) leave(o *opened, broken bool) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	o.users--
	o.broken = o.broken || broken
	if db.views == o && o.broken {
		db.views = nil
	}
	return o.users == 0 && db.views != o
}

// gate takes the writers' lock.
func (db *DB) gate(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(db.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // so is the folder
		if err := os.Mkdir(filepath.Dir(db.path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err = os.OpenFile(db.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := db.lock(ctx, f, flock.Exclusive); err != nil {
		return nil, join(err, f.Close())
	}
	return f, nil
}

// pass waits while a writer has the gate or stands in it. Where the lock file is missing or
// cannot be opened, nobody else's fairness depends on it.
func (db *DB) pass(ctx context.Context) error {
	f, err := os.Open(db.path + ".lock")
	if err != nil {
		return nil
	}
	return join(db.lock(ctx, f, flock.Shared), f.Close())
}

// lock takes the lock of f within the patience of db.
func (db *DB) lock(ctx context.Context, f *os.File, m flock.Mode) error {
	if ok, err := flock.TryLock(f, m); ok || err != nil {
		return err
	}
	ctx, cancel := db.patient(ctx)
	defer cancel()
	return flock.Lock(ctx, f, m)
}

// patient bounds a wait.
func (db *DB) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, db.opts.Patience, fmt.Errorf(
		"database %s is held by another program for more than %v: %w", db.path, db.opts.Patience, errdefs.ErrUnavailable))
}

// open locks and opens the file; nil if there is nothing to read. A writer makes it.
func (db *DB) open(ctx context.Context, write bool) (*handle, error) {
	if !write {
		if err := db.pass(ctx); err != nil {
			return nil, err
		}
	}
	for {
		f, err := db.file(ctx, write)
		if f == nil || err != nil {
			return nil, err
		}
		info, err := f.Stat()
		switch {
		case err != nil:
			return nil, join(err, f.Close())
		case info.Size() > 0:
			return db.handle(f, write)
		case !write:
			return nil, f.Close()
		}
		// The lock of the empty file lets nobody else make the real one.
		if err := join(db.replace(nil), f.Close()); err != nil {
			return nil, err
		}
	}
}

// file opens and locks the database's file; nil if it is missing and not to be written.
func (db *DB) file(ctx context.Context, write bool) (*os.File, error) {
	flags, mode := os.O_RDONLY, flock.Shared
	if write {
		flags, mode = os.O_RDWR|os.O_CREATE, flock.Exclusive
	}
	ctx, cancel := db.patient(ctx)
	defer cancel()
	f, err := flock.Open(ctx, mode, func() (*os.File, error) { return os.OpenFile(db.path, flags, 0o600) })
	if errors.Is(err, fs.ErrNotExist) && !write {
		return nil, nil
	}
	return f, err
}

// join adds the failure of a clean-up to what went before.
func join(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return errors.Join(err, cleanup)
}

// options are what every open of the file has in common.
func (db *DB) options() *bbolt.Options {
	return &bbolt.Options{
		Timeout:      time.Nanosecond, // the lock is ours already
		FreelistType: bbolt.FreelistMapType,
		NoSync:       db.opts.NoSync,
		NoGrowSync:   db.opts.NoSync,
		NoStatistics: true,
	}
}

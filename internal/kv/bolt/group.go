package bolt

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/stowage/stowage/internal/kv"
)

// Bounds of a group: it takes no more Updates behind one of them. Whoever waits for the file waits for
// all of the group.
const (
	groupFor  = 5 * time.Millisecond // since the file was locked
	groupSize = 64
)

// A group is Updates that wait for each other anyway: they run one behind the other in one transaction of
// bbolt, and become durable together, for what it costs to make one of them so. Who has the turn has the
// group.
type group struct {
	h       *handle
	gate    *os.File
	members int  // how many have succeeded
	dirty   bool // there is something to commit
	failed  error

	done chan struct{} // closed at its end; err is set then
	err  error
}

// Update is described in [kv.DB].
func (db *DB) Update(ctx context.Context, f func(kv.Writer) error) error {
	g, err := db.run(ctx, f)
	if err != nil {
		return err
	}
	<-g.done
	return g.err
}

// run runs f when its turn has come, in the group that is open or in a new one.
func (db *DB) run(ctx context.Context, f func(kv.Writer) error) (_ *group, err error) {
	if err := db.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer db.passTurn()
	if db.group == nil {
		if db.group, err = db.newGroup(ctx); err != nil {
			return nil, err
		}
	}
	return db.group, db.group.run(f)
}

// takeTurn waits for the turn.
func (db *DB) takeTurn(ctx context.Context) error {
	db.waiting.Add(1)
	if err := db.turn.Acquire(ctx, 1); err != nil {
		// Somebody may have left the group to whoever was waiting.
		go func() {
			_ = db.turn.Acquire(context.Background(), 1)
			db.waiting.Add(-1)
			db.passTurn()
		}()
		return err
	}
	db.waiting.Add(-1)
	return nil
}

// passTurn passes the turn on, and the group with it if somebody waits and there is room in it.
func (db *DB) passTurn() {
	if g := db.group; g != nil {
		if g.failed != nil || db.waiting.Load() == 0 || g.members >= groupSize || time.Since(g.h.locked) >= groupFor {
			db.group = nil
			db.end(g)
		}
	}
	db.turn.Release(1)
}

func (db *DB) newGroup(ctx context.Context) (*group, error) {
	if err := db.running.Acquire(ctx, whole); err != nil {
		return nil, err
	}
	db.retire(nil) // its lock is in the way
	gate, err := db.gate(ctx)
	if err != nil {
		db.running.Release(whole)
		return nil, err
	}
	g := &group{gate: gate, done: make(chan struct{})}
	if g.h, err = db.open(ctx, true); err == nil {
		if err = g.h.begin(); err == nil {
			return g, nil
		}
		err = join(err, g.h.end())
	}
	err = join(err, gate.Close())
	db.running.Release(whole)
	return nil, err
}

// run runs f behind those that have succeeded. What it wrote is undone if it fails.
func (g *group) run(f func(kv.Writer) error) (err error) {
	w := &writer{reader: reader{g.h}, pending: map[string][]byte{}, undoable: g.members > 0}
	succeeded := false
	defer func() {
		switch {
		case succeeded:
			g.members++
			g.dirty = g.dirty || w.wrote
		case g.members == 0:
			g.failed = errUndone // nobody else's work is lost with the transaction
		default:
			g.failed = w.undo()
		}
	}()
	if err := f(w); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	succeeded = true
	return nil
}

// errUndone ends a group that nothing is left of.
var errUndone = fmt.Errorf("undone")

// end makes durable what there is, and tells the members.
func (db *DB) end(g *group) {
	err := g.failed
	if err == nil && g.dirty {
		err = g.commit()
	}
	err = join(join(err, g.h.end()), g.gate.Close())
	db.running.Release(whole)
	g.err = err
	close(g.done)
}

func (g *group) commit() error {
	db := g.h.db
	txid := uint64(g.h.tx.ID())
	if err := db.guard(g.h.tx.Commit); err != nil {
		return fmt.Errorf("write database %s: %w", db.path, err)
	}
	db.wrote(txid)
	return nil
}

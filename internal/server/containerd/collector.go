package containerd

import (
	"context"
	"sync"

	"github.com/stowage/stowage"
)

// A collector collects for clients who wait for it. While one collection runs, all who ask wait
// for its end and share the next.
type collector struct {
	store *stowage.Store
	turn  chan struct{} // holds one while none runs

	mu    sync.Mutex
	asked int // requests so far
	done  int // those that a collection began after, and ended well
}

func newCollector(store *stowage.Store) *collector {
	c := &collector{store: store, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c
}

// collect deletes what nothing needs, as it is when collect is called.
func (c *collector) collect(ctx context.Context) error {
	c.mu.Lock()
	c.asked++
	mine := c.asked
	c.mu.Unlock()
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	begun, done := c.asked, c.done >= mine
	c.mu.Unlock()
	if done {
		return nil
	}
	if _, err := c.store.Prune(ctx, stowage.PruneOptions{}); err != nil {
		return err
	}
	c.mu.Lock()
	c.done = begun
	c.mu.Unlock()
	return nil
}

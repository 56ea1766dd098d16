package layer

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// pieceSize is what a maker is handed at a time: one piece of a large file, or small files
	// that together fit. Sixteen of them are in use at most, 4 MiB for each call of Apply.
	pieceSize = 256 << 10
	pieces    = 16
	// batchFiles is how many small files there are in a batch at most. Handing over one by one
	// costs a wake-up for each, which is as much as making a file.
	batchFiles = 32
)

// errCrew stops the reading when a maker has failed; what is reported is the maker's error.
var errCrew = errors.New("a maker failed")

// A crew makes regular files, several side by side.
type crew struct {
	a      *applier
	work   chan *batch
	idle   chan *batch
	made   int            // batches so far
	batch  *batch         // being filled with small files
	undone sync.WaitGroup // batches that are not made yet
	makers sync.WaitGroup
	stored atomic.Int64 // bytes written
	failed atomic.Bool

	mu    sync.Mutex
	err   error
	entry int64 // that err comes from
}

// A batch is the content of small files, one after another, or one piece of a large file.
type batch struct {
	buf   []byte
	used  int
	small []*file
	large *file
	off   int64 // of the piece in the large file
}

func (c *crew) start(a *applier) {
	c.a = a
	c.work = make(chan *batch, pieces)
	c.idle = make(chan *batch, pieces)
	for range min(4, runtime.GOMAXPROCS(0)) {
		c.makers.Go(func() {
			for b := range c.work {
				c.make(b)
			}
		})
	}
}

// stop waits until nothing of the crew is left. Large files that were not finished are closed.
func (c *crew) stop() {
	close(c.work)
	c.makers.Wait()
}

func (c *crew) make(b *batch) {
	for _, f := range b.small {
		if !c.void(f.entry) {
			c.report(f.entry, c.a.makeSmall(f, b.buf[f.at:f.at+int(f.size)]))
		}
		f.dir.users.Add(-1)
	}
	if f := b.large; f != nil {
		if !c.void(f.entry) {
			c.report(f.entry, c.a.writePiece(f, b.buf[:b.used], b.off))
		}
		c.report(f.entry, c.a.release(f))
	}
	clear(b.small)
	*b = batch{buf: b.buf, small: b.small[:0]}
	c.idle <- b
	c.undone.Done()
}

// void says that an earlier entry failed, so that nobody will see what this one makes.
func (c *crew) void(entry int64) bool {
	if !c.failed.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entry < entry
}

// report keeps the error of the earliest entry.
func (c *crew) report(entry int64, err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || entry < c.entry {
		c.err, c.entry = err, entry
	}
	c.failed.Store(true)
}

func (c *crew) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// take gives an empty batch, when there is one.
func (c *crew) take() (*batch, error) {
	select {
	case b := <-c.idle:
		return b, nil
	default:
	}
	if c.made < pieces {
		c.made++
		return &batch{buf: make([]byte, pieceSize)}, nil
	}
	select {
	case b := <-c.idle:
		return b, nil
	case <-c.a.ctx.Done():
		return nil, c.a.ctx.Err()
	}
}

func (c *crew) send(b *batch) {
	c.undone.Add(1)
	c.work <- b // never blocks: there are no more batches than it has room for
}

// flush hands over the small files so far.
func (c *crew) flush() {
	if b := c.batch; b != nil {
		c.batch = nil
		c.send(b)
	}
}

// wait returns when everything handed over is made.
func (c *crew) wait() error {
	c.flush()
	c.undone.Wait()
	if c.failed.Load() {
		return errCrew
	}
	return nil
}

package registry

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// manyFrom is how many bytes have to be left of a blob for it to be read in parts.
	manyFrom = 32 << 20
	// partSize is what a connection is asked for at a time. At 20 MB a second and 50 ms to the
	// server, an eighth of its time goes into asking.
	partSize = 8 << 20
	// maxParts bounds the parts of all blobs of a client that are in memory at once: 64 MiB.
	maxParts = 8
	// maxWidth is how many connections one blob gets.
	maxWidth = 6
	// fast is what one connection brings, in bytes a second, where it is not the network that is
	// waited for.
	fast = 200_000_000
	// worth is how many times as much more connections must bring for still more to be tried.
	worth = 1.3
)

// A parts reads a large blob in order, while connections of their own bring the parts ahead into
// memory. How many there are is found out: one at first, then twice as many again and again, as
// long as they are waited for and that brings more.
//
// Its trunk is an ordinary blob, whose offset is that of the reader. It reads the first part, those
// for which there was no room in memory, and what is left of one that went wrong: so there is one
// place that tries again. From a host that gives no parts, or is fast without, it reads all.
type parts struct {
	*origin
	trunk  *blob
	room   chan struct{} // takes a token for each part in memory, of all blobs
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	now   *part   // that is read; nil: the trunk reads alone
	rest  []byte  // what is still to be read of it
	ahead []*part // those behind it, in order
	next  int64   // where the first begins that is not among them
	alone bool    // the trunk is enough

	// What the trunk brought since the last part, and how long it was waited for.
	got    int64
	waited time.Duration

	width int     // how many connections there are to be
	best  float64 // bytes a second that fewer brought
	seen  int     // how many parts told what this width brings
	full  bool    // more connections bring no more
}

// A part is a piece of a blob in memory. Until done is closed it is written to.
type part struct {
	from  int64
	buf   []byte
	width int // of the reader when it was begun
	done  chan struct{}

	n    int // bytes that came
	took time.Duration
	err  error
}

// readParts reads what trunk has left. Parts in memory have a token in room.
func readParts(trunk *blob, room chan struct{}) (*parts, error) {
	p := &parts{origin: trunk.origin, trunk: trunk, room: room, next: trunk.offset + partSize, width: 1}
	tell, mu := trunk.onFault, new(sync.Mutex)
	trunk.onFault = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		tell(err)
	}
	trunk.end = p.next
	if err := trunk.open(); err != nil {
		return nil, err
	}
	p.ctx, p.cancel = context.WithCancel(trunk.ctx)
	return p, nil
}

func (p *parts) Read(b []byte) (int, error) {
	for {
		if len(p.rest) > 0 {
			n := copy(b, p.rest)
			p.rest = p.rest[n:]
			p.trunk.offset += int64(n)
			return n, nil
		}
		begun := time.Now()
		n, err := p.trunk.Read(b)
		p.waited += time.Since(begun)
		p.got += int64(n)
		if p.trunk.end == p.trunk.d.Size && len(p.ahead) > 0 {
			p.drop() // the host knows only the whole blob, and goes on to its end
		}
		if err != io.EOF || p.trunk.offset == p.trunk.d.Size {
			return n, err
		}
		p.advance()
	}
}

// Close ends all connections.
func (p *parts) Close() error {
	p.drop()
	if p.now != nil {
		p.now = nil
		<-p.room
	}
	p.rest = nil
	return p.trunk.Close()
}

// advance turns to the next part, and sees to those ahead.
func (p *parts) advance() {
	if p.width == 1 && p.got > 0 {
		rate := float64(p.got) / max(p.waited, 1).Seconds()
		p.alone = p.alone || rate >= fast
		p.judge(rate, 1)
	}
	p.got, p.waited = 0, 0
	var spare []byte
	if p.now != nil {
		spare = p.now.buf[:partSize]
		p.now = nil
	}
	if spare = p.begin(spare); len(p.ahead) > 0 {
		p.await()
		spare = p.begin(spare)
	} else {
		p.next = min(p.next+partSize, p.trunk.d.Size)
		if p.alone {
			p.next = p.trunk.d.Size
		}
		p.trunk.aim(p.next)
	}
	if spare != nil {
		<-p.room
	}
}

// await takes the first of the parts ahead. What it lacks is left to the trunk.
func (p *parts) await() {
	a := p.ahead[0]
	p.ahead = p.ahead[1:]
	late := false
	select {
	case <-a.done:
	default:
		late = true
		<-a.done
	}
	p.now, p.rest = a, a.buf[:a.n]
	p.trunk.aim(a.from + int64(len(a.buf)))
	switch {
	case errors.Is(a.err, errRange):
		p.drop()
		p.trunk.aim(p.trunk.d.Size)
	case a.err != nil:
		p.width, p.best, p.seen, p.full = 1, 0, 0, false
	case late:
		p.judge(float64(a.n)/max(a.took, 1).Seconds()*float64(a.width), a.width)
	}
}

// judge draws conclusions from what so many connections bring, in bytes a second.
func (p *parts) judge(rate float64, width int) {
	if width != p.width || p.full {
		return
	}
	p.seen++
	switch {
	case rate > worth*p.best && p.width == maxWidth:
		p.full = true
	case rate > worth*p.best:
		p.best, p.seen = rate, 0
		p.width = min(2*p.width, maxWidth)
	case p.seen >= 2*p.width:
		p.full = true
		p.width = max(p.width/2, 2) // with two, none waits for the other to ask
	}
}

// begin fetches more parts ahead, as far as there is room. spare is memory that can be used for one,
// or nil; what was not used is returned.
func (p *parts) begin(spare []byte) []byte {
	for p.width > 1 && len(p.ahead) < p.width && p.next < p.trunk.d.Size && !p.alone {
		if spare == nil {
			select {
			case p.room <- struct{}{}:
				spare = make([]byte, partSize)
			default:
				return nil
			}
		}
		a := &part{from: p.next, buf: spare[:min(partSize, p.trunk.d.Size-p.next)], width: p.width, done: make(chan struct{})}
		spare = nil
		p.ahead = append(p.ahead, a)
		p.next += int64(len(a.buf))
		b := p.trunk.branch(p.ctx, a.from, p.next)
		p.work.Go(func() { a.fetch(b) })
	}
	return spare
}

// drop gives up the parts ahead.
func (p *parts) drop() {
	p.cancel()
	p.work.Wait()
	for range p.ahead {
		<-p.room
	}
	p.ahead, p.next = nil, p.trunk.d.Size
}

// fetch reads b, which is the part's span.
func (a *part) fetch(b *blob) {
	defer close(a.done)
	begun := time.Now()
	if a.n, a.err = io.ReadFull(b, a.buf); a.err == nil {
		// Once its end was read the connection can be used for the next part.
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			a.err = err
		}
	}
	a.took = time.Since(begun)
	_ = b.Close() // all of it was read, or it failed before
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// Blob reads the bytes of d from offset on. When a connection breaks or stalls, the reader goes on
// at the byte where it was, at the same host or the next; onFault, if not nil, is told why, by
// one goroutine at a time. It gives up when five tries in a row at every host brought no byte.
// Much is read over several connections, where that is faster: see [parts].
//
// The bytes are not checked against the digest. Whoever finds them wrong calls the reader's
// Blame(error) (error, bool): it tells which host is blamed, and whether another call of Blob would ask
// others, because the blamed are not asked for that digest again.
//
// ctx holds for all reading; the caller closes the reader, which is for one goroutine.
//
// Errors, also from reading: those of [Client.Resolve]; [errdefs.ErrDataLoss] when a host has more
// bytes than d says; [errdefs.ErrOutOfRange] when offset is not within d, or hosts have fewer bytes.
func (c *Client) Blob(ctx context.Context, r ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	if err := image.CheckDescriptor(d); err != nil {
		return nil, err
	}
	if offset < 0 || offset > d.Size {
		return nil, fmt.Errorf("read %s at %d of %d bytes: %w", d.Digest, offset, d.Size, errdefs.ErrOutOfRange)
	}
	list, err := c.endpoints(r, hosts.Pull)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, noHost(r)
	}
	if onFault == nil {
		onFault = func(error) {}
	}
	origin := &origin{c: c, d: d, all: list}
	b := &blob{
		ctx: ctx, repo: r.Repository(), offset: offset, end: d.Size, onFault: onFault, origin: origin,
		turns: newRotation(origin.unblamed(), c.o.Backoff), enough: int64(minRate * 2 * c.o.Stall.Seconds()),
	}
	switch {
	case offset == d.Size:
		b.body = http.NoBody
		return b, nil
	case d.Size-offset >= manyFrom && c.line == nil:
		return readParts(b, c.room)
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// A blob is read, or a span of it, over as many connections as it takes, one after the other.
type blob struct {
	*origin
	ctx     context.Context
	repo    string
	offset  int64         // of the next byte
	end     int64         // of the span; grows when a host knows only the whole blob
	body    io.ReadCloser // from offset on; nil between connections
	opened  int64         // where body began
	enough  int64         // bytes that make up for a stall
	turns   *rotation
	onFault func(error)
	err     error // what all further reads return

	// ahead is set where another reader stands behind this one: what goes wrong is not tried again
	// unless bytes came, and what comes before offset is not skipped.
	ahead bool
}

// Read fills p from the connection without a buffer in between.
func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil && len(p) > 0 {
		left := b.end - b.offset
		if left == 0 {
			b.err = b.over()
			break
		}
		if b.body == nil {
			b.err = b.open()
			continue // the span may have grown
		}
		n, err := b.body.Read(p[:min(left, int64(len(p)))])
		if n > 0 && b.offset == b.opened {
			b.brought(b.turns.host())
		}
		b.offset += int64(n)
		if err != nil && b.offset < b.end {
			b.err = b.fault(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// Close ends the connection.
func (b *blob) Close() error {
	if b.err == nil {
		b.err = errors.New("read of a closed blob")
	}
	if b.body == nil {
		return nil
	}
	defer func() { b.body = nil }()
	return b.body.Close()
}

// aim sets another end, for what is read from now on.
func (b *blob) aim(end int64) {
	if b.body != nil {
		_ = b.body.Close() // what came of it was good
		b.body = nil
	}
	b.turns.progressed()
	b.end, b.err = end, nil
}

// branch reads another span, ahead of b and from the same host.
func (b *blob) branch(ctx context.Context, from, end int64) *blob {
	return &blob{
		origin: b.origin, ctx: ctx, repo: b.repo, offset: from, end: end, enough: b.enough, onFault: b.onFault,
		turns: newRotation([]*endpoint{b.turns.host()}, 0), ahead: true,
	}
}

// open makes a connection that goes on at offset.
func (b *blob) open() error {
	for {
		body, end, err := b.turns.next().blob(b)
		if err == nil {
			b.body, b.end, b.opened = body, end, b.offset
			return nil
		}
		if errors.Is(err, errRange) && b.end < b.d.Size && !b.ahead {
			b.end = b.d.Size // one that gives no part may give the rest
			continue
		}
		if err := b.wait(err); err != nil {
			return err
		}
	}
}

// fault gives up a connection. One that broke after it brought bytes is made again at once.
func (b *blob) fault(err error) error {
	_ = b.body.Close() // it is broken already
	b.body = nil
	came, stalled := b.offset-b.opened, isTimeout(err)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	host := b.turns.host()
	err = host.broken(err, what(b.d, b.repo))
	if came > 0 && !stalled || came >= b.enough {
		b.turns.progressed()
	}
	if came > 0 && !stalled && b.ctx.Err() == nil {
		b.onFault(err)
		return nil
	}
	if b.ctx.Err() == nil {
		host.health.broke()
	}
	return b.wait(err)
}

// wait makes ready for another try, or tells that there is none.
func (b *blob) wait(err error) error {
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	if b.ahead {
		return err
	}
	pause, over := b.turns.failed(err)
	if over != nil {
		return over
	}
	b.onFault(err)
	return rate.Wait(b.ctx, pause)
}

// over looks whether the host has more than it should. That all bytes are there decides: how the
// connection ends is no matter, but one that was read to its end can be used again.
func (b *blob) over() error {
	if b.body == nil {
		return io.EOF
	}
	var more [1]byte
	if n, _ := b.body.Read(more[:]); n > 0 {
		return tooLong(b.turns.host(), b.d)
	}
	return io.EOF
}

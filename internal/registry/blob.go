package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// Blob reads the bytes of d from offset on. When a connection breaks or stalls, the reader goes on
// at the byte where it was, at the same host or the next; onFault, if not nil, is told why. It gives
// up when five tries in a row at every host brought no byte. The bytes are not checked against
// the digest. ctx holds for all reading; the caller closes the reader, which is for one goroutine.
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
	b := &blob{
		ctx: ctx, repo: r.Repository(), d: d, offset: offset, onFault: onFault,
		turns: newRotation(list, c.o.Backoff), enough: int64(minRate * 2 * c.o.Stall.Seconds()),
	}
	if offset == d.Size {
		b.body = http.NoBody
		return b, nil
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// A blob is read over as many connections as it takes.
type blob struct {
	ctx     context.Context
	repo    string
	d       image.Descriptor
	offset  int64         // of the next byte
	body    io.ReadCloser // from offset on; nil between connections
	opened  int64         // where body began
	enough  int64         // bytes that make up for a stall
	turns   *rotation
	onFault func(error)
	err     error // what all further reads return
}

// Read fills p from the connection without a buffer in between.
func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil && len(p) > 0 {
		if b.body == nil {
			if b.err = b.open(); b.err != nil {
				break
			}
		}
		left := b.d.Size - b.offset
		if left == 0 {
			b.err = b.end()
			break
		}
		n, err := b.body.Read(p[:min(left, int64(len(p)))])
		b.offset += int64(n)
		if err != nil && b.offset < b.d.Size {
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

// open makes a connection that goes on at offset.
func (b *blob) open() error {
	for {
		body, err := b.turns.host().blob(b.ctx, b.repo, b.d, b.offset)
		if err == nil {
			b.body, b.opened = body, b.offset
			return nil
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
	err = b.turns.host().broken(err, what(b.d, b.repo))
	if came > 0 && !stalled || came >= b.enough {
		b.turns.progressed()
	}
	if came > 0 && !stalled && b.ctx.Err() == nil {
		b.onFault(err)
		return nil
	}
	return b.wait(err)
}

// wait makes ready for another try, or tells that there is none.
func (b *blob) wait(err error) error {
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	pause, over := b.turns.failed(err)
	if over != nil {
		return over
	}
	b.onFault(err)
	return sleep(b.ctx, pause)
}

// end looks whether the host has more than it should. That all bytes are there decides: how the
// connection ends is no matter.
func (b *blob) end() error {
	var more [1]byte
	if n, _ := b.body.Read(more[:]); n > 0 {
		return tooLong(b.turns.host(), b.d)
	}
	return io.EOF
}

func what(d image.Descriptor, repo string) string { return "blob " + d.Digest.String() + " of " + repo }

func tooLong(e *endpoint, d image.Descriptor) error {
	return fmt.Errorf("%s has more than the %d bytes of %s: %w", e.URL.Host, d.Size, d.Digest, errdefs.ErrDataLoss)
}

// blob asks one host for d from offset on.
func (e *endpoint) blob(ctx context.Context, repo string, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	req := request{method: http.MethodGet, repo: repo, path: "blobs/" + d.Digest.String(), what: what(d, repo)}
	if offset > 0 {
		req.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", offset)}}
	}
	resp, err := e.send(ctx, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return nil, answered(resp, req.what)
	}
	if err := e.position(resp, d, offset, req.what); err != nil {
		_ = resp.Body.Close() // what it brings is not wanted
		return nil, err
	}
	return resp.Body, nil
}

// position sees to it that the next byte of the answer is the one at offset.
func (e *endpoint) position(resp *http.Response, d image.Descriptor, offset int64, what string) error {
	if mediaType(resp) == "text/html" && d.MediaType != "text/html" {
		return errHTML(resp, what)
	}
	at := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		var ok bool
		if at, ok = rangeStart(resp.Header.Get("Content-Range")); !ok || at != offset {
			return fmt.Errorf("%s was asked for %s from byte %d and answered with range %q: %w",
				e.URL.Host, what, offset, oneLine(resp.Header.Get("Content-Range")), errdefs.ErrDataLoss)
		}
	}
	if resp.ContentLength > d.Size-at {
		return tooLong(e, d)
	}
	// A server that does not know ranges sends all of it again.
	if _, err := io.CopyN(io.Discard, resp.Body, offset-at); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return e.broken(err, what)
	}
	return nil
}

// rangeStart reads the first position of a Content-Range.
func rangeStart(v string) (int64, bool) {
	v, ok := strings.CutPrefix(v, "bytes ")
	if !ok {
		return 0, false
	}
	first, _, ok := strings.Cut(v, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, ok && err == nil && n >= 0
}

package registry

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// A feed is the body of one request: length bytes of a source from offset on, from the start
// whenever the request has to be sent again.
type feed struct {
	ctx            context.Context
	cancel         context.CancelFunc // ends the request when the source fails, which is not the host's fault
	source         BlobSource
	offset, length int64
	sent           *atomic.Int64 // bytes given out

	mu   sync.Mutex
	last *portion // that was opened
	err  error    // why the source failed
}

// open begins from the start. The transport may hold on to the body before for a moment, so that one
// is ended here.
func (f *feed) open() (io.ReadCloser, error) {
	f.close()
	f.mu.Lock()
	defer f.mu.Unlock()
	body, err := f.source.Open(f.ctx, f.offset)
	if err != nil {
		f.err = err
		f.cancel()
		return nil, err
	}
	f.last = &portion{feed: f, body: body, left: f.length}
	return f.last, nil
}

// failed is why the source failed, if it did.
func (f *feed) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *feed) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.cancel()
}

// close ends what was opened last, when a read that is under way has come back.
func (f *feed) close() {
	f.mu.Lock()
	last := f.last
	f.mu.Unlock()
	if last != nil {
		_ = last.Close() // it was only read
	}
}

// A portion is a body that ends after so many bytes, and not before.
type portion struct {
	feed *feed

	mu   sync.Mutex
	body io.ReadCloser // nil: closed
	left int64
}

func (p *portion) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.body == nil {
		return 0, io.ErrClosedPipe
	}
	if p.left == 0 {
		return 0, io.EOF
	}
	n, err := p.body.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	p.feed.sent.Add(int64(n))
	if err == io.EOF && p.left > 0 {
		err = fmt.Errorf("it ended %d bytes too early: %w", p.left, errdefs.ErrDataLoss)
	}
	if err != nil && err != io.EOF {
		p.feed.fail(err)
	}
	return n, err
}

func (p *portion) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.body == nil {
		return nil
	}
	defer func() { p.body = nil }()
	return p.body.Close()
}

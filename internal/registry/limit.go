package registry

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// A limiter shares out a number of bytes a second among all bodies that a client receives and
// sends. It stands in the transport, so nothing above it has to think of it.
type limiter struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	free time.Time // when the bytes taken so far will have had their time
}

// take waits until n more bytes are due.
func (l *limiter) take(ctx context.Context, n int) error {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now // what was not used is lost: there are no bursts
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	wait := l.free.Sub(now)
	l.mu.Unlock()
	return sleep(ctx, wait)
}

// A throttle is a transport whose bodies go through a limiter. It stands above the watchdog, whose
// time runs only while bytes are waited for: what is held back here does not count as silence.
type throttle struct {
	next http.RoundTripper
	line *limiter
}

func (t *throttle) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.Body != nil && req.Body != http.NoBody {
		req = req.WithContext(ctx) // a copy: a transport changes no request
		req.Body = &throttled{req.Body, ctx, t.line}
		if again := req.GetBody; again != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				if err != nil {
					return nil, err
				}
				return &throttled{body, ctx, t.line}, nil
			}
		}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &throttled{resp.Body, ctx, t.line}
	return resp, nil
}

// A throttled body gives out its bytes when they are due.
type throttled struct {
	io.ReadCloser
	ctx  context.Context
	line *limiter
}

func (t *throttled) Read(p []byte) (int, error) {
	// Small portions keep the flow even, and a cancelled wait short.
	most := max(t.line.rate/10, 512)
	n, err := t.ReadCloser.Read(p[:min(int64(len(p)), most)])
	if late := t.line.take(t.ctx, n); late != nil && err == nil {
		err = late
	}
	return n, err
}

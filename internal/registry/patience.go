package registry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// A lateError is a time that ran out.
type lateError string

func (e lateError) Error() string { return string(e) }
func (e lateError) Timeout() bool { return true }

// Temporary makes a lateError a net.Error.
func (e lateError) Temporary() bool { return true }

const (
	errUntaken    lateError = "no byte was taken for too long"
	errUnanswered lateError = "no answer came in time"
)

// A patience gives up on a server that does not take the body of a request, or does not answer.
// The transport has a limit of its own for the latter, but only one, and a server that has just
// been sent gigabytes may think longer than any other.
type patience struct {
	next  http.RoundTripper
	stall time.Duration
}

type thinkKey struct{}

// thinking gives the servers that are asked with the context so much longer to answer.
func thinking(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, thinkKey{}, d)
}

func (p *patience) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	think, _ := ctx.Value(thinkKey{}).(time.Duration)
	c := &clock{cancel: cancel}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { c.start(p.stall+think, errUnanswered) },
	})
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &taken{req.Body, c, p.stall}
		if again := req.GetBody; again != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				if err != nil {
					return nil, err
				}
				return &taken{body, c, p.stall}, nil
			}
		}
	}
	resp, err := p.next.RoundTrip(req)
	c.end()
	if err != nil {
		if late, ok := context.Cause(ctx).(lateError); ok {
			err = late
		}
		cancel(nil)
	}
	return resp, err
}

// A clock ends a request when a time runs out.
type clock struct {
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	ended bool // nothing starts it again: the end of a body may come after the answer
}

// start lets d run, instead of what ran before.
func (c *clock) start(d time.Duration, why lateError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	if !c.ended {
		c.timer = time.AfterFunc(d, func() { c.cancel(why) })
	}
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *clock) end() {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

// A taken is the body of a request. Time runs while the server takes what was read, not while it
// is being read.
type taken struct {
	io.ReadCloser
	clock *clock
	stall time.Duration
}

func (t *taken) Read(p []byte) (int, error) {
	t.clock.stop()
	n, err := t.ReadCloser.Read(p)
	t.clock.start(t.stall, errUntaken)
	return n, err
}

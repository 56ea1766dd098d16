package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/rate"
)

const (
	// budget is how often in a row a server may fail before it is passed over.
	budget = 3
	// leave is for how long a server that used up its budget is passed over, as long as there are
	// others to ask.
	leave = 2 * time.Minute
)

// A health is what a client knows of how a server fares. Whoever talks to the server shares it, so
// that what one transfer found out the hard way costs the others nothing.
type health struct {
	mu       sync.Mutex
	answered bool          // it did so once
	failures int           // in a row
	rests    time.Time     // it asked to be left alone until then
	shunned  time.Time     // it is broken, and passed over until then
	probe    chan struct{} // closed when the first request has an outcome; nil: there is none
}

// health is that of the server at u.
func (c *Client) health(u url.URL) *health {
	key := u.Scheme + "://" + hostPort(&u)
	h, ok := c.healths[key]
	if !ok {
		h = new(health)
		c.healths[key] = h
	}
	return h
}

// away tells whether others should be asked, where there are others.
func (h *health) away() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	return now.Before(h.shunned) || now.Before(h.rests)
}

// known tells whether the server has answered before.
func (h *health) known() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answered
}

// rest waits for as long as the server asked to be left alone. If that is more than maxPause, it
// tells at once how long.
func (h *health) rest(ctx context.Context) (tooLong time.Duration, err error) {
	h.mu.Lock()
	pause := time.Until(h.rests)
	h.mu.Unlock()
	if pause > maxPause {
		return pause, nil
	}
	return 0, rate.Wait(ctx, pause)
}

// admit lets a first request through alone, and makes the others wait for what comes of it. probing
// tells whether this is that request; [health.learn] has to follow then.
func (h *health) admit(ctx context.Context) (probing bool, err error) {
	for {
		h.mu.Lock()
		running := h.probe
		switch {
		case h.answered, time.Now().Before(h.shunned):
			h.mu.Unlock()
			return false, nil
		case running == nil:
			h.probe = make(chan struct{})
			if h.failures > 0 {
				// It was found dead before: this time the others go elsewhere meanwhile.
				h.shunned = time.Now().Add(leave)
			}
			h.mu.Unlock()
			return true, nil
		}
		h.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if h.away() {
			return false, errDead
		}
	}
}

// learn draws conclusions from the outcome of a request: an answer, of which only status and
// headers matter here, or an error. probing is what admit told.
func (h *health) learn(ctx context.Context, resp *http.Response, err error, probing bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if probing {
		close(h.probe)
		h.probe = nil
	}
	var network *NetworkError
	if errors.As(err, &network) {
		if ctx.Err() == nil { // otherwise it is we who gave up
			h.fail(network.stalled)
		}
		return
	}
	if errdefs.IsInvalidArgument(err) {
		return // it was not asked
	}
	h.answered = true
	var answer Error // stays so if credentials were refused, which is an answer too
	if err == nil {
		answer = Error{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	}
	if answer.RetryAfter > 0 && answer.passing() {
		h.rests = time.Now().Add(answer.RetryAfter)
	}
	switch {
	case answer.Status == http.StatusTooManyRequests: // it is busy, not broken
	case answer.passing():
		h.fail(false)
	default:
		h.failures, h.shunned = 0, time.Time{}
	}
}

// broke tells that an answer broke off before its first byte, or fell silent.
func (h *health) broke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail(true)
}

// fail counts a failure, and one that took long as all that are allowed.
func (h *health) fail(silent bool) {
	h.failures++
	if silent || !h.answered {
		h.failures = max(h.failures, budget)
	}
	if h.failures >= budget {
		h.shunned = time.Now().Add(leave)
	}
}

// errDead is why a server is not asked: the first request to it has just failed.
var errDead = errors.New("it did not answer the request before this one")

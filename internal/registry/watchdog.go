package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// minRate is what a connection must bring in bytes a second, over two stalls, to be kept.
const minRate = 1 << 10

// maxDrain is how many bytes are read from an answer that nobody wants, to keep its connection.
const maxDrain = 8 << 10

var (
	errStalled = errors.New("no byte came for too long")
	errTrickle = errors.New("less than 1 KiB a second came for too long")
)

// A watchdog gives up on answers whose bytes stop coming. How long their headers may take is
// up to the transport below.
type watchdog struct {
	next  http.RoundTripper
	stall time.Duration
}

func (w *watchdog) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := w.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = watch(ctx, cancel, resp.Body, w.stall, resp.ContentLength >= 0 && resp.ContentLength <= maxDrain)
	return resp, nil
}

// A watched is the body of an answer. Its time runs while somebody waits for bytes, not while
// they are being put to use.
type watched struct {
	body   io.ReadCloser
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
	short  bool // worth reading to its end
	ended  bool

	// The window over which the rate is taken.
	waited time.Duration
	got    int64
}

func watch(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, stall time.Duration, short bool) *watched {
	w := &watched{body: body, ctx: ctx, cancel: cancel, stall: stall, short: short}
	w.timer = time.AfterFunc(stall, func() { cancel(errStalled) })
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	begun := time.Now()
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.timer.Stop()
	if err != nil {
		w.ended = true
		if err != io.EOF && context.Cause(w.ctx) == errStalled {
			err = errStalled
		}
		return n, err
	}
	w.got += int64(n)
	if w.waited += time.Since(begun); w.waited >= 2*w.stall {
		if float64(w.got) < minRate*w.waited.Seconds() {
			return n, errTrickle
		}
		w.waited, w.got = 0, 0
	}
	return n, nil
}

// Close ends the request. A connection can be used again only if its answer was read to the end,
// so a short one is.
func (w *watched) Close() error {
	if w.short && !w.ended {
		// What goes wrong with bytes that nobody wants is no matter.
		_, _ = io.CopyN(io.Discard, w, maxDrain)
	}
	err := w.body.Close()
	w.timer.Stop()
	w.cancel(nil)
	return err
}

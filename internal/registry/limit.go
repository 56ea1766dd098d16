package registry

import (
	"context"
	"io"
	"net/http"

	"github.com/stowage/stowage/internal/rate"
)

// A throttle is a transport whose bodies, those received and those sent, share one limiter. It stands
// in the transport, so nothing above it has to think of it, and above the watchdog, whose time
// runs only while bytes are waited for: what is held back here does not count as silence.
type throttle struct {
	next http.RoundTripper
	line *rate.Limiter
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
	line *rate.Limiter
}

func (t *throttled) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p[:min(int64(len(p)), t.line.Portion())])
	if late := t.line.Take(t.ctx, n); late != nil && err == nil {
		err = late
	}
	return n, err
}

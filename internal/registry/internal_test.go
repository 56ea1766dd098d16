package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// A paced is a body that brings n bytes every so often, and after so many portions none.
type paced struct {
	ctx      context.Context
	n        int
	every    time.Duration
	portions int
}

func (p *paced) Read(b []byte) (int, error) {
	wait := time.After(p.every)
	if p.portions == 0 {
		wait = nil
	}
	p.portions--
	select {
	case <-wait:
		return min(p.n, len(b)), nil
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
}

func (p *paced) Close() error { return nil }

func TestWatchdog(t *testing.T) {
	for _, tc := range []struct {
		name string
		body paced
		want error
		at   time.Duration
	}{
		{"silence", paced{n: 1 << 20, every: time.Second, portions: 10}, errStalled, 40 * time.Second},
		{"silence from the start", paced{}, errStalled, 30 * time.Second},
		{"a byte every 29 s", paced{n: 1, every: 29 * time.Second, portions: -1}, errTrickle, 87 * time.Second},
		{"too little", paced{n: 1000, every: time.Second, portions: -1}, errTrickle, 60 * time.Second},
		{"enough", paced{n: 1100, every: time.Second, portions: 1000}, errStalled, 1030 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				tc.body.ctx = ctx
				w := watch(ctx, cancel, &tc.body, 30*time.Second, false)
				begun := time.Now()
				_, err := io.Copy(io.Discard, w)
				if err != tc.want || time.Since(begun) != tc.at {
					t.Errorf("got %v after %s, want %v after %s", err, time.Since(begun), tc.want, tc.at)
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The time in which bytes are put to use does not count.
func TestWatchdogSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		w := watch(ctx, cancel, io.NopCloser(bytes.NewReader(make([]byte, 10))), 30*time.Second, false)
		for range 10 {
			if _, err := w.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestRotation(t *testing.T) {
	a := &endpoint{health: new(health)}
	b := &endpoint{health: new(health)}
	busy := &Error{Status: 503}
	wait := func(d time.Duration) error { return &Error{Status: 429, RetryAfter: d} }
	silent := &NetworkError{stalled: true, Err: errStalled}
	gone := &Error{Status: 404}
	type step struct {
		err      error
		from, to time.Duration // the pause
		next     *endpoint     // nil: it is over
	}
	const s = time.Second
	for _, tc := range []struct {
		name  string
		hosts []*endpoint
		steps []step
	}{
		{"one host", []*endpoint{a}, []step{{busy, s / 2, s, a}, {busy, s, 2 * s, a}, {busy, 2 * s, 4 * s, a}, {busy, 4 * s, 8 * s, a}, {busy, 0, 0, nil}}},
		{"a silent one costs double", []*endpoint{a}, []step{{silent, s / 2, s, a}, {silent, 2 * s, 4 * s, a}, {silent, 0, 0, nil}}},
		{"a pause between rounds alone", []*endpoint{a, b}, []step{{busy, 0, 0, b}, {busy, s / 2, s, a}, {busy, 0, 0, b}}},
		{"one that asks for it", []*endpoint{a, b}, []step{{wait(20 * s), 0, 0, b}, {busy, 20 * s, 20 * s, a}, {busy, 0, 0, b}, {busy, s, 2 * s, a}}},
		{"one that asks for too much", []*endpoint{a, b}, []step{{wait(time.Hour), 0, 0, b}, {busy, s / 2, s, b}}},
		{"gone from a mirror", []*endpoint{a, b}, []step{{gone, 0, 0, b}, {busy, s / 2, s, b}}},
		{"gone from the registry", []*endpoint{a, b}, []step{{busy, 0, 0, b}, {gone, 0, 0, nil}}},
		{"the last in a round is left", []*endpoint{a, b}, []step{{busy, 0, 0, b}, {errdefs.ErrDataLoss, 0, 0, nil}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRotation(tc.hosts, s)
			for i, step := range tc.steps {
				pause, over := r.failed(step.err)
				if (over != nil) != (step.next == nil) {
					t.Fatalf("step %d: got %v", i, over)
				}
				if pause < step.from || pause > step.to {
					t.Errorf("step %d: a pause of %s, want %s to %s", i, pause, step.from, step.to)
				}
				if over == nil && r.host() != step.next {
					t.Errorf("step %d: another host than expected", i)
				}
			}
		})
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		if err := rate.Wait(ctx, 20*time.Second); err != nil || time.Since(begun) != 20*time.Second {
			t.Errorf("got %v after %s", err, time.Since(begun))
		}
		if err := rate.Wait(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("got %v after %s", err, time.Since(begun))
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "99999999999": 24 * time.Hour, "99999999999999999999": 0, "9999999": 24 * time.Hour, "soon": 0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: got %s, want %s", v, got, want)
		}
	}
}

// Whatever a server writes, an error is one line of printable text.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"errors":[{"code":"DENIED","message":"no\nway"}]}`), "bytes 5-9/10", "Fri, 02 Jan 2026 03:04:35 GMT")
	f.Add([]byte(`<html>`), "bytes */10", "120")
	f.Fuzz(func(t *testing.T, body []byte, contentRange, after string) {
		resp := &http.Response{
			StatusCode: 403, Header: http.Header{"Retry-After": {after}},
			Body: io.NopCloser(bytes.NewReader(body)), Request: &http.Request{URL: (&hosts.Host{}).URL.JoinPath("x")},
		}
		err := answered(resp, "x")
		if s := err.Error(); len(s) > maxMessage+100 || strings.ContainsAny(s, "\n\r\x1b\x00") {
			t.Errorf("got %q", s)
		}
		var answer *Error
		if !errors.As(err, &answer) || answer.RetryAfter < 0 {
			t.Errorf("got %#v", err)
		}
		if n, _, ok := readRange(contentRange); n < 0 || ok && !strings.HasPrefix(contentRange, "bytes ") {
			t.Errorf("range %q begins at %d", contentRange, n)
		}
	})
}

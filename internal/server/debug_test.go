package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Metrics are answered everywhere, profiles on a unix socket alone.
func TestDebug(t *testing.T) {
	for _, c := range []struct {
		name, address string
		profile       int // the status
	}{
		{"a unix socket", "unix:" + socket(t), http.StatusOK},
		{"TCP", "127.0.0.1:0", http.StatusNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := socket(t)
			l, err := Listen(t.Context(), Addresses{Socket: name, Metrics: c.address})
			if err != nil {
				t.Fatal(err)
			}
			d := newDaemon(Options{Version: "1.2.3"})
			does(d, "test.Works", func(context.Context) error { return nil })
			start(t, func(ctx context.Context) error { return d.run(ctx, l) })
			if err := invoke(dial(t, name), "/test.Works/Do", 0); err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, l.Debug.Addr().Network(), l.Debug.Addr().String())
			}}}
			get := func(path string) (string, int) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://stowage"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				if err := res.Body.Close(); err != nil {
					t.Error(err)
				}
				return string(b), res.StatusCode
			}
			if body, status := get("/metrics"); status != http.StatusOK || !strings.Contains(body, `stowage_requests_total{code="OK",method="/test.Works/Do"} 1`) {
				t.Errorf("metrics: status %d: %s", status, body)
			}
			if body, status := get("/debug/pprof/goroutine?debug=1"); status != c.profile || status == http.StatusOK && !strings.Contains(body, "goroutine profile") {
				t.Errorf("a profile: status %d, want %d: %s", status, c.profile, body)
			}
		})
	}
}

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

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// All that a client receives and sends together keeps to the limit, and time spent waiting for it is
// not taken for silence.
func TestLimitRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 10_000, 1_000_000 // so that it takes longer than any stall
		blob := make([]byte, size)
		s := &server{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
					t.Errorf("got %d bytes of the body, %v", n, err)
				}
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
		})}
		c, r := connect(t, Options{LimitRate: rate, Stall: 20 * time.Second}, s)
		d := image.Descriptor{MediaType: image.OCILayer, Digest: digest.FromBytes(blob), Size: size}
		begun := time.Now()
		done := make(chan error)
		get := func() error {
			body, err := c.Blob(t.Context(), r, d, 0, func(err error) { t.Errorf("fault: %v", err) })
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, body)
			if n != size {
				t.Errorf("got %d bytes", n)
			}
			return errors.Join(err, body.Close())
		}
		put := func() error {
			list, err := c.endpoints(r, hosts.Pull)
			if err != nil {
				return err
			}
			resp, err := list[0].send(t.Context(), request{
				method: http.MethodPut, repo: "repo", path: "x", what: "x", length: size,
				body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil },
			})
			if err != nil {
				return err
			}
			return resp.Body.Close()
		}
		for _, f := range []func() error{get, get, put} {
			go func() { done <- f() }()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took, want := time.Since(begun), 3*size/rate*time.Second; took < want || took > want+want/10 {
			t.Errorf("took %s, want %s", took, want)
		}
	})
}

// A wait for the limit ends with its context.
func TestLimitCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		body := &throttled{io.NopCloser(strings.NewReader(strings.Repeat("x", 10_000))), ctx, rate.New(1000)}
		begun := time.Now()
		_, err := io.Copy(io.Discard, body)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %s, want the end of the context after 1s", err, time.Since(begun))
		}
	})
}

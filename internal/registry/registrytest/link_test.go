package registrytest_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// A link takes its time for connections, answers and bytes, and changes none of them.
func TestLink(t *testing.T) {
	const rtt, rate, size = 40 * time.Millisecond, 20_000_000, 4_000_000
	s, err := registrytest.New(registrytest.Options{Link: registrytest.Link{RTT: rtt, Rate: rate}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	}()
	http.DefaultClient.CloseIdleConnections()
	timed := func(what string, least time.Duration, f func()) {
		begun := time.Now()
		f()
		if took := time.Since(begun); took < least {
			t.Errorf("%s took %s, want %s or more", what, took, least)
		}
	}
	base := "http://" + s.Host + "/v2/"
	timed("a first request", 2*rtt, func() { get(t, base, "") })
	timed("a second one", rtt, func() { get(t, base, "") })
	body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	transfer := time.Duration(float64(size) / rate * float64(time.Second))
	var blob string
	timed("a push", 3*rtt+transfer, func() {
		d, err := s.PushBlob(t.Context(), "repo", body)
		if err != nil {
			t.Fatal(err)
		}
		blob = base + "repo/blobs/" + d.String()
	})
	// What it makes up for after a rest counts in the link's favour.
	timed("a pull", rtt+transfer-10*time.Millisecond, func() {
		if got := get(t, blob, ""); !bytes.Equal(got, body) {
			t.Errorf("got %d bytes, or others", len(got))
		}
	})
}

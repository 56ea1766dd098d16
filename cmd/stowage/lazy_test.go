package main

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// TestUserOfPush pushes what has to be fetched first: the user name that was given is for the registry
// that is pushed to, and the other one does not get to see it, even if it asks.
func TestUserOfPush(t *testing.T) {
	from, to := newFaultyRig(t), newFaultyRig(t)
	from.push("app", "1", 30_000)
	name := from.host + "/app:1"
	from.must("pull", "-q", name)
	from.must("content", "prune", "--evict")
	var asked, seen atomic.Int32
	from.spoil(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				seen.Add(1)
			}
			if !strings.Contains(r.URL.Path, "/blobs/") {
				next.ServeHTTP(w, r)
				return
			}
			asked.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
	push := func(target string) (string, int) {
		_, stderr, status := from.patient("push", "-q", "-u", "me:secret", name, target)
		return stderr, status
	}
	stderr, status := push(to.host + "/app:1")
	if status != exitUnreachable || asked.Load() == 0 || seen.Load() != 0 {
		t.Errorf("status %d, %d requests, %d with the user's name: %s", status, asked.Load(), seen.Load(), stderr)
	}
	from.spoil(registrytest.Fault(func(next http.Handler) http.Handler { return next }))
	if stderr, status = push(to.host + "/app:1"); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
}

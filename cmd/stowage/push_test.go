package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// hangAfter lets n requests through and leaves all others without an answer; reached is closed
// when the first of these has come.
func hangAfter(n int, reached chan<- struct{}) registrytest.Fault {
	var mu sync.Mutex
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			n--
			left := n
			mu.Unlock()
			if left >= 0 {
				next.ServeHTTP(w, r)
				return
			}
			if left == -1 {
				close(reached)
			}
			// Only who has read all of a request notices that its client is gone.
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
	}
}

// TestKilledPush kills a push when two of its blobs have arrived, and another with all of them
// there but the tag: each leaves no tag, and the next push sends only what is missing.
func TestKilledPush(t *testing.T) {
	from, to := newFaultyRig(t), newFaultyRig(t)
	from.push("app", "1", 30_000, 40_000, 50_000)
	from.must("pull", "-q", from.host+"/app:1")
	target := to.host + "/app:1"
	for _, at := range []struct {
		method, part string
		passed       int
	}{
		{"PUT", "/blobs/uploads/", 2},
		{"PUT", "/manifests/1", 0},
	} {
		reached := make(chan struct{})
		to.spoil(registrytest.On(at.method, at.part, hangAfter(at.passed, reached)))
		cmd := from.command("push", "-q", from.host+"/app:1", target)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-reached
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("it ended by itself")
		}
		to.spoil()
		from.fails(exitNotFound, "404", "pull", "-q", target)
	}
	to.spoil()
	from.must("push", "-q", from.host+"/app:1", target)
	for _, r := range to.requests() {
		if strings.Contains(r.Path, "/uploads/") {
			t.Errorf("%s %s: a blob was sent again", r.Method, r.Path)
		}
	}
	from.must("rmi", from.host+"/app:1")
	from.must("pull", "-q", target)
	from.must("image", "check", "--verify")
}

// TestPushStatus has an exit status for each way in which a push or a copy can fail.
func TestPushStatus(t *testing.T) {
	f := newFaultyRig(t)
	f.push("app", "1", 30_000)
	app := f.host + "/app:1"
	f.must("pull", "-q", app)
	f.fails(exitUsage, "lowercase", "push", "-q", app, "UPPER")
	f.fails(exitUsage, "no transport", "copy", "app", "oci:x")
	f.fails(exitUsage, "lowercase", "copy", "docker://UPPER", "oci:x")
	f.fails(exitUsage, "pipe", "copy", "docker://"+app, "oci:-")
	f.fails(exitUsage, "lower-case", "copy", "docker://"+app, "docker-archive:x.tar:a:b:c") // before anybody is asked
	f.fails(exitUsage, "lowercase", "copy", "docker://"+app, "store:UPPER")
	f.fails(exitUsage, "one platform", "copy", "--platform", "linux/amd64", "--platform", "linux/arm64", "docker://"+app, "docker-archive:x.tar")
	f.fails(exitNotFound, "not found", "push", "none:1")
	f.fails(exitNotFound, "404", "copy", "-q", "docker://"+f.host+"/none:1", "docker://"+f.host+"/x:1")
	f.fails(exitNotFound, "no such file", "copy", "oci-archive:/none.tar", "docker://"+f.host+"/x:1")
	f.fails(exitUnreachable, "refused", "push", "-q", app, "127.0.0.1:1/app:1")
	f.spoil(registrytest.On("POST", "", registrytest.Status(http.StatusForbidden)))
	f.fails(exitUnreachable, "403", "push", "-q", app, f.host+"/other:1")
	f.spoil(registrytest.WebPage())
	f.fails(exitUnreachable, "web page", "push", "-q", app, f.host+"/other:1")
}

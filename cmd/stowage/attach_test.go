package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// held lets n bytes of a blob go, and the rest when it is told to.
func held(digest string, n int, more <-chan struct{}) registrytest.Fault {
	return registrytest.On(http.MethodGet, digest, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			whole := httptest.NewRecorder()
			next.ServeHTTP(whole, r)
			for name, values := range whole.Header() {
				w.Header()[name] = values
			}
			w.WriteHeader(whole.Code)
			body := whole.Body.Bytes()
			// Who goes away gets no more.
			_, _ = w.Write(body[:n])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-more:
				_, _ = w.Write(body[n:])
			case <-r.Context().Done():
			}
		})
	})
}

// A pull that is under way is seen by whoever pulls the same image: how far it is, and its end. Nothing
// is fetched twice. It makes no difference whether kubelet has begun it in the daemon and a command works
// on the root, or both are clients of the daemon.
func TestPullAttaches(t *testing.T) {
	t.Parallel()
	kubelet := func(s *served, name string) error {
		_, err := runtime.NewImageServiceClient(s.conn).PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: name}})
		return err
	}
	t.Run("to kubelet's", func(t *testing.T) {
		attach(t, nil, kubelet)
	})
	address := func(s *served) []string { return []string{"--address", s.address} }
	t.Run("a client to kubelet's", func(t *testing.T) {
		attach(t, address, kubelet)
	})
	t.Run("to another client's", func(t *testing.T) {
		attach(t, address, func(s *served, name string) error {
			return s.rig.command(append(address(s), "pull", name)...).Run()
		})
	})
}

// attach has one pull hang in the middle of a layer, and another one see it.
func attach(t *testing.T, flags func(*served) []string, first func(s *served, name string) error) {
	f := newFaultyRig(t)
	img := f.push("app", "1", 4<<20)
	layer := img.Manifest().Layers[0]
	release := make(chan struct{})
	const sent = 1 << 20
	f.spoil(held(layer.Digest.String(), sent, release))
	s := f.serve()
	name := f.host + "/app:1"
	pulled := make(chan error, 1)
	go func() { pulled <- first(s, name) }()

	// It has to have begun with the layer.
	for begun := false; !begun; {
		select {
		case err := <-pulled:
			t.Fatalf("the pull ended before its time: %v", err)
		default:
		}
		var list []ingestRow
		if err := json.Unmarshal([]byte(f.must("content", "ingests", "--format", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, in := range list {
			begun = begun || in.Busy && in.Offset == sent
		}
	}
	args := []string{"pull", "--progress", "json", name}
	if flags != nil {
		args = append(flags(s), args...)
	}
	cmd := f.command(args...)
	events, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var kinds []string // of the layer
	for lines := bufio.NewScanner(events); lines.Scan(); {
		var e stowage.ProgressEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if e.Digest != layer.Digest.String() || e.What == "" {
			continue
		}
		if n := len(kinds); n == 0 || kinds[n-1] != string(e.Kind) {
			kinds = append(kinds, string(e.Kind))
		}
		if e.Kind == stowage.Advanced && e.Offset == sent {
			close(release)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := <-pulled; err != nil {
		t.Error(err)
	}
	if got := strings.Join(kinds, " "); !strings.HasPrefix(got, "waiting advanced ") {
		t.Errorf("the layer was %s, want waiting and advanced", got)
	}
	n := 0
	for _, r := range f.requests() {
		if r.Method == http.MethodGet && strings.Contains(r.Path, layer.Digest.String()) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the layer was asked for %d times, want once", n)
	}
	f.must("image", "check", "--verify")
	if status := s.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("the daemon ends with status %d: %s", status, s.log)
	}
}

package registrytest_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// roundTrip fills a registry and reads it back.
func roundTrip(t *testing.T, r registrytest.Registry) {
	t.Helper()
	body := []byte("a layer")
	d, err := r.PushBlob(t.Context(), "some/repo", body)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.FromBytes(body); d != want {
		t.Errorf("digest is %s, want %s", d, want)
	}
	if _, err := r.PushBlob(t.Context(), "some/repo", body); err != nil {
		t.Errorf("push again: %v", err)
	}
	if _, err := r.PushBlob(t.Context(), "some/repo", nil); err != nil {
		t.Errorf("push nothing: %v", err)
	}
	if got := get(t, "http://"+r.Host+"/v2/some/repo/blobs/"+d.String(), ""); !bytes.Equal(got, body) {
		t.Errorf("blob is %q, want %q", got, body)
	}

	manifest := []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{"mediaType":"` +
		v1.MediaTypeImageConfig + `","digest":"` + d.String() + `","size":7},"layers":[]}`)
	if err := r.PushManifest(t.Context(), "some/repo", "v1", v1.MediaTypeImageManifest, manifest); err != nil {
		t.Fatal(err)
	}
	got := get(t, "http://"+r.Host+"/v2/some/repo/manifests/v1", v1.MediaTypeImageManifest)
	if !bytes.Equal(got, manifest) {
		t.Errorf("manifest is %s, want %s", got, manifest)
	}
}

// refusals come back as errors that name what was pushed.
func refusals(t *testing.T, r registrytest.Registry) {
	t.Helper()
	wrong := digest.FromString("something else")
	err := r.PushBlobFrom(t.Context(), "some/repo", wrong, 4, strings.NewReader("body"))
	if err == nil || !strings.Contains(err.Error(), wrong.String()) {
		t.Errorf("wrong digest: %v", err)
	}
	err = r.PushManifest(t.Context(), "some/repo", "bad", v1.MediaTypeImageManifest, []byte("{}"))
	if err == nil || !strings.Contains(err.Error(), "some/repo:bad") {
		t.Errorf("bad manifest: %v", err)
	}
}

func get(t *testing.T, url, accept string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", url, resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestServer(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "dir": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			server, err := registrytest.New(registrytest.Options{Dir: dir, Wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					requests.Add(1)
					next.ServeHTTP(w, r)
				})
			}})
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, server.Registry)
			refusals(t, server.Registry)
			if requests.Load() == 0 {
				t.Error("no request went through Wrap")
			}
			if err := server.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if _, err := server.PushBlob(t.Context(), "some/repo", []byte("late")); err == nil {
				t.Error("pushed to a closed server")
			}
		})
	}
}

func TestDebian(t *testing.T) {
	p, err := registrytest.StartDebian(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, p.Registry)
	refusals(t, p.Registry)
	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := p.Stop(); err == nil {
		t.Error("stopped twice")
	}
}

func TestDebianAbsent(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := registrytest.StartDebian(context.Background(), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "docker-registry") {
		t.Errorf("without the binary: %v", err)
	}
}

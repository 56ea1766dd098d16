package registry_test

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

func TestMain(m *testing.M) {
	// The registry's event broadcaster has no end.
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"),
		// A server lingers for half a second over a connection that it closed early.
		goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"),
	)
}

const repo = "library/fixture"

// A fixture is a real registry behind faults, with one image of one blob.
type fixture struct {
	host     string
	proxy    *registrytest.Proxy
	registry http.Handler // without faults
	tag      ref.Reference
	manifest []byte
	root     image.Descriptor // of manifest
	blob     []byte
	layer    image.Descriptor // of blob
}

// serve runs a registry. Faults happen once it is filled.
func serve(t *testing.T, faults ...registrytest.Fault) *fixture {
	t.Helper()
	f := &fixture{blob: make([]byte, 300_000)}
	random := rand.NewChaCha8([32]byte{1})
	if _, err := random.Read(f.blob); err != nil {
		t.Fatal(err)
	}
	s, err := registrytest.New(registrytest.Options{Wrap: func(h http.Handler) http.Handler {
		f.registry = h
		f.proxy = registrytest.Wrap(h, faults...)
		// To be filled it stands open.
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.UserAgent(), "Go-http-client") {
				h.ServeHTTP(w, r)
				return
			}
			f.proxy.ServeHTTP(w, r)
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	f.host = s.Host
	f.layer = image.Descriptor{MediaType: image.OCILayer, Digest: digest.FromBytes(f.blob), Size: int64(len(f.blob))}
	if _, err := s.PushBlob(t.Context(), repo, f.blob); err != nil {
		t.Fatal(err)
	}
	config := []byte("{}")
	if _, err := s.PushBlob(t.Context(), repo, config); err != nil {
		t.Fatal(err)
	}
	f.manifest, f.root, err = image.BuildManifest(image.Describe(image.OCIConfig, config), []image.Descriptor{f.layer})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PushManifest(t.Context(), repo, "v1", f.root.MediaType, f.manifest); err != nil {
		t.Fatal(err)
	}
	f.tag = parse(t, f.host+"/"+repo+":v1")
	return f
}

func parse(t testing.TB, s string) ref.Reference {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dial makes a client that waits for nothing long.
func dial(t *testing.T, o registry.Options) *registry.Client {
	t.Helper()
	if o.Backoff == 0 {
		o.Backoff = time.Millisecond
	}
	if o.Stall == 0 {
		o.Stall = 5 * time.Second
	}
	c := registry.New(o)
	t.Cleanup(c.Close)
	return c
}

// hostsDir makes a folder with a hosts.toml for one registry.
func hostsDir(t *testing.T, name, toml string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// logged makes a logger that keeps everything.
func logged() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), &b
}

// asked lists method, kind and range of the requests that a registry saw.
func asked(p *registrytest.Proxy) []string {
	var list []string
	for _, r := range p.Requests() {
		what := "other"
		for _, kind := range []string{"manifests", "blobs", "token"} {
			if strings.Contains(r.Path, "/"+kind) {
				what = kind
			}
		}
		s := r.Method + " " + what
		if r.Range != "" {
			s += " " + r.Range
		}
		list = append(list, s)
	}
	return list
}

package interop

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// big is the size of the file in each layer that nobody reads while it is lazy.
const big = 1 << 20

// estargzImage pushes an image whose layers are eStargz, each with a file "N" that says so and a large one,
// and gives its layers.
func estargzImage(t *testing.T, host, repo, tag string, layers int) []v1.Descriptor {
	t.Helper()
	ctx := t.Context()
	reg := registrytest.Registry{Host: host}
	var config v1.Image
	config.OS, config.Architecture, config.RootFS.Type = "linux", "amd64", "layers"
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		noise := make([]byte, big)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(noise) // which cannot fail
		for name, content := range map[string]string{fmt.Sprint(i): fmt.Sprintf("layer %d", i), fmt.Sprintf("big%d", i): string(noise)} {
			check(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
			_, err := io.WriteString(w, content)
			check(err)
		}
		check(w.Close())
		blob, err := estargz.Build(io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len())))
		check(err)
		packed, err := io.ReadAll(blob)
		check(err)
		check(blob.Close())
		d, err := reg.PushBlob(ctx, repo, packed)
		check(err)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, blob.DiffID())
		m.Layers = append(m.Layers, v1.Descriptor{
			MediaType: v1.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(packed)),
			Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: blob.TOCDigest().String()},
		})
	}
	body, err := json.Marshal(config)
	check(err)
	d, err := reg.PushBlob(ctx, repo, body)
	check(err)
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: d, Size: int64(len(body))}
	body, err = json.Marshal(m)
	check(err)
	check(reg.PushManifest(ctx, repo, tag, m.MediaType, body))
	return m.Layers
}

// Through a real stargz-snapshotter layers are not downloaded at a pull; a mount reads files of them, and an
// export fetches them and is whole. STOWAGE_STARGZ names the program.
func TestStargz(t *testing.T) {
	program := peer(t, "STOWAGE_STARGZ")
	if program == "" {
		return
	}
	var mu sync.Mutex
	sent := map[string]int64{} // bytes of blobs, by digest
	reg, err := registrytest.New(registrytest.Options{Wrap: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, d, ok := strings.Cut(r.URL.Path, "/blobs/")
			if !ok || r.Method != http.MethodGet {
				h.ServeHTTP(w, r)
				return
			}
			c := &countedResponse{ResponseWriter: w}
			h.ServeHTTP(c, r)
			mu.Lock()
			sent[d] += c.n
			mu.Unlock()
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	layers := estargzImage(t, reg.Host, "app", "1", 3)
	fetched := func() (n, of int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range layers {
			n += sent[l.Digest.String()]
			of += l.Size
		}
		return n, of
	}

	dir, err := os.MkdirTemp("", "stargz") // a short one, for the socket
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, bin: filepath.Join(dir, "stowage"), host: reg.Host}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.bin, "github.com/stowage/stowage/cmd/stowage").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	socket := filepath.Join(dir, "s")
	startStargz(t, program, socket, filepath.Join(dir, "stargz"))
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte("[snapshotters.stargz]\naddress = '"+socket+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stowage := func(args ...string) string {
		t.Helper()
		return b.stowage(append([]string{"--config", config}, args...)...)
	}

	ref := reg.Host + "/app:1"
	stowage("pull", "--snapshotter", "stargz", ref)
	if out := stowage("images"); !strings.Contains(out, "lazy") {
		t.Errorf("the image is not lazy:\n%s", out)
	}
	if n, of := fetched(); n > of/4 {
		t.Errorf("the pull brought %d bytes of layers that have %d", n, of)
	}
	stowage("image", "check")
	mnt := filepath.Join(dir, "mnt")
	stowage("image", "mount", "--snapshotter", "stargz", ref, mnt)
	for i := range layers {
		if got, err := os.ReadFile(filepath.Join(mnt, fmt.Sprint(i))); string(got) != fmt.Sprintf("layer %d", i) || err != nil {
			t.Errorf("file of layer %d: %q, error %v", i, got, err)
		}
	}
	stowage("image", "unmount", mnt)
	if out := stowage("images"); !strings.Contains(out, "lazy") {
		t.Errorf("the image is not lazy any more:\n%s", out)
	}
	tarball := filepath.Join(dir, "app.tar")
	stowage("save", "-o", tarball, ref)
	other := &bench{t: t, dir: t.TempDir(), bin: b.bin, host: b.host}
	other.loads("-i", tarball)
	if out := stowage("images"); !strings.Contains(out, "complete") {
		t.Errorf("after the export the image is not complete:\n%s", out)
	}

	// All that was there for the image goes with it.
	stowage("rmi", "--gc", ref)
	left, err := filepath.Glob(filepath.Join(dir, "store/snapshots/stargz/????????"))
	if len(left) > 0 || err != nil {
		t.Errorf("folders are left: %q, error %v", left, err)
	}
}

// countedResponse counts the bytes of an answer.
type countedResponse struct {
	http.ResponseWriter
	n int64
}

func (c *countedResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// startStargz runs a stargz-snapshotter until the test ends.
func startStargz(t *testing.T, program, socket, root string) {
	t.Helper()
	log, err := os.Create(root + ".log")
	if err != nil {
		t.Fatal(err)
	}
	// Else it fetches all in the end.
	if err := os.WriteFile(root+".toml", []byte("noprefetch = true\nno_background_fetch = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "--address", socket, "--root", root, "--config", root+".toml")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended by itself, which the test has seen
		_ = cmd.Wait()                       // ended by our signal
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("stargz-snapshotter says:\n%s", text)
		}
		_ = log.Close()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("stargz-snapshotter did not make its socket")
		}
	}
}

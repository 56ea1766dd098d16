// Package network runs stowage over a network that is slow as real ones are: packets that take
// their time, through devices of two network namespaces. It needs root, as CI has.
package network

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// A bench is a registry at the far end of a wire, and the built command at the near end.
type bench struct {
	*registrytest.Wire
	t      *testing.T
	bin    string
	host   string // of the registry, over the wire
	root   string // of the store
	proxy  *registrytest.Proxy
	direct *registrytest.Server // the registry, with no wire
}

func newBench(t *testing.T, delay time.Duration, rate int) *bench {
	t.Helper()
	dir := t.TempDir()
	wire, err := registrytest.NewWire(delay, rate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := wire.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{Wire: wire, t: t, bin: filepath.Join(dir, "stowage"), root: filepath.Join(dir, "root")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.bin, "github.com/stowage/stowage/cmd/stowage").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	reg, err := registrytest.New(registrytest.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b.direct, b.proxy = reg, registrytest.Wrap(reg.Handler)
	l, err := wire.Far.Listen()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: b.proxy, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), reg.Close()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	b.host = l.Addr().String()
	return b
}

// fill pushes an image with layers of so many bytes straight to the registry, and returns what
// its blobs take together.
func (b *bench) fill(name string, layers int, size int64) int64 {
	b.t.Helper()
	var tars []imagetest.Tar
	for i := range layers {
		tars = append(tars, imagetest.Seeded(uint64(i), size))
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Plain, tars...)}.Build(b.t.TempDir())
	if err == nil {
		err = imagetest.Push(b.t.Context(), b.direct.Host, name, "1", img)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return img.Size()
}

// stowage runs the command at the near end.
func (b *bench) stowage(args ...string) string {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), b.bin, args...)
	cmd.Env = append(os.Environ(), "STOWAGE_ROOT="+b.root, "STOWAGE_CONFIG=/dev/null")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := b.Near.Do(cmd.Start); err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.t.Fatalf("stowage %s: %v\n%s", strings.Join(args, " "), err, said.String())
	}
	return out.String()
}

// A large layer comes over several connections, in order and no byte twice.
func TestPullLarge(t *testing.T) {
	const rate = 20_000_000 // bytes a second of one connection
	b := newBench(t, 25*time.Millisecond, rate)
	size := b.fill("large", 1, 128<<20)
	begun := time.Now()
	b.stowage("pull", "--plain-http", b.host+"/large:1")
	took := time.Since(begun)
	b.stowage("image", "check", "--verify", b.host+"/large:1")

	var carried int64
	var used int
	for _, n := range b.Received() {
		carried += n
		if n > 1<<20 {
			used++
		}
	}
	t.Logf("%d bytes in %s, %.1f times what one connection carries; over %d connections, and %.3f times their size",
		size, took, float64(size)/rate/took.Seconds(), used, float64(carried)/float64(size))
	if used < 3 {
		t.Errorf("the layer came over %d connections", used)
	}
	if float64(carried) > 1.1*float64(size) {
		t.Errorf("%d bytes came for an image of %d", carried, size)
	}
}

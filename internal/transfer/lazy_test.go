package transfer_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/native"
	"github.com/stowage/stowage/internal/transfer"
	"github.com/stowage/stowage/internal/unpack"
)

// A remote is a snapshotter that has some layers already.
type remote struct {
	*native.Driver
	has   map[string]bool // digests of blobs
	asked []map[string]string
}

func (r *remote) Claim(_ context.Context, folder string, _ []string, labels map[string]string) (bool, error) {
	r.asked = append(r.asked, labels)
	if !r.has[labels["containerd.io/snapshot/cri.layer-digest"]] {
		return false, nil
	}
	dir := filepath.Join(folder, "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return false, err
	}
	return true, os.WriteFile(filepath.Join(dir, "from-afar"), nil, 0o644)
}

// diffIDs reads those of an image from its config.
func diffIDs(t *testing.T, img *imagetest.Image) []image.Digest {
	t.Helper()
	blob, _ := img.Blob(img.Manifest().Config.Digest)
	b, err := blob.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	c, err := image.ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	return c.DiffIDs
}

// TestLazy pulls into a remote snapshotter that has the lower layers: they are not fetched, the
// image is lazy, and an export fetches them first.
func TestLazy(t *testing.T) {
	img := build(t, 10_000, 20_000, 30_000)
	layers := img.Manifest().Layers
	s := fresh(t)
	driver := &remote{Driver: native.New(), has: map[string]bool{layers[0].Digest.String(): true, layers[1].Digest.String(): true}}
	sn, err := snapshot.Open("remote", t.TempDir(), driver, s.Meta, snapshot.Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	s.Unpacker = func(string) (*unpack.Unpacker, error) {
		return &unpack.Unpacker{Snapshots: sn, Content: s.Content, Meta: s.Meta, Namespace: "default"}, nil
	}
	var mu sync.Mutex
	fetched := map[image.Digest]bool{}
	reg := &fakeRegistry{img: img, hook: func(d image.Descriptor, _ int64, body io.Reader) (io.Reader, error) {
		mu.Lock()
		defer mu.Unlock()
		fetched[d.Digest] = true
		return body, nil
	}}
	const name = "example.com/app:1"
	pull := func() *transfer.PullResult {
		t.Helper()
		res, err := transfer.Pull(t.Context(), s, reg, parse(t, name), transfer.PullOptions{Streams: 1})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	pull()
	state := func(want metadata.State) {
		t.Helper()
		got, err := s.Meta.Image(t.Context(), "default", name)
		if err != nil || got.State != want || got.Platforms[0].State != want {
			t.Errorf("state %s of platforms %v, %v, want %s", got.State, got.Platforms, err, want)
		}
	}
	state(metadata.Lazy)
	if fetched[layers[0].Digest] || fetched[layers[1].Digest] || !fetched[layers[2].Digest] {
		t.Errorf("fetched %v, want the topmost layer and neither of the others", fetched)
	}
	if len(driver.asked) != 3 || driver.asked[0]["containerd.io/snapshot/cri.image-ref"] != name {
		t.Errorf("asked %v, want each layer once", driver.asked)
	}
	chain, err := s.Meta.SnapshotChain(t.Context(), "default", "remote", image.ChainIDs(diffIDs(t, img))[2].String())
	if err != nil || len(chain) != 3 || !chain[0].Lazy || !chain[1].Lazy || chain[2].Lazy {
		t.Errorf("chain %v, %v, want two lazy snapshots and one that is not", chain, err)
	}

	pull() // asks for nothing
	if len(driver.asked) != 3 || fetched[layers[0].Digest] {
		t.Errorf("a second pull asked %d times and fetched %v", len(driver.asked), fetched)
	}

	var out bytes.Buffer
	if err := transfer.Export(t.Context(), s, &out, []string{name}, transfer.ExportOptions{Registry: reg}); err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if !bytes.Contains(out.Bytes(), []byte(l.Digest.Encoded())) {
			t.Errorf("the export lacks layer %s", l.Digest)
		}
	}
	state(metadata.Complete)
}

// TestLazyLost removes a lazy snapshot: what it stood for is missing then.
func TestLazyLost(t *testing.T) {
	img := build(t, 10_000)
	s := fresh(t)
	driver := &remote{Driver: native.New(), has: map[string]bool{img.Manifest().Layers[0].Digest.String(): true}}
	sn, err := snapshot.Open("remote", t.TempDir(), driver, s.Meta, snapshot.Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	s.Unpacker = func(string) (*unpack.Unpacker, error) {
		return &unpack.Unpacker{Snapshots: sn, Content: s.Content, Meta: s.Meta, Namespace: "default"}, nil
	}
	const name = "example.com/app:1"
	if _, err := transfer.Pull(t.Context(), s, &fakeRegistry{img: img}, parse(t, name), transfer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := sn.Remove(t.Context(), diffIDs(t, img)[0].String()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Meta.Image(t.Context(), "default", name)
	if err != nil || got.State != metadata.Partial {
		t.Errorf("state %s, %v, want partial", got.State, err)
	}
}

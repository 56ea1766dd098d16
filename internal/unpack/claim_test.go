package unpack_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/unpack"
)

// remote is a driver that has some layers already.
type remote struct {
	snapshot.Driver
	has   map[string]bool // by the digests of their blobs
	err   error
	asked []map[string]string
	below [][]string
}

func (r *remote) Claim(_ context.Context, _ string, chain []string, labels map[string]string) (bool, error) {
	r.asked, r.below = append(r.asked, labels), append(r.below, chain)
	return r.has[labels["containerd.io/snapshot/cri.layer-digest"]], r.err
}

// remoteWorld is a store whose snapshotter has some layers of an image already.
func remoteWorld(t testing.TB, driver *remote) *world {
	t.Helper()
	w := newWorld(t, "overlay")
	driver.Driver = w.Snapshots.Driver()
	s, err := snapshot.Open("overlay", filepath.Join(w.dir, "snapshots"), driver, w.Meta, snapshot.Options{Namespace: ns, NoSync: true})
	must(t, err)
	w.Snapshots = s
	return w
}

// A remote snapshotter is asked from the lowest layer up to the first that it does not have, and
// told what the image says of each.
func TestClaim(t *testing.T) {
	driver := &remote{has: map[string]bool{}}
	w := remoteWorld(t, driver)
	img := w.imageOf(plain()...)
	img.Layers[1].Annotations = map[string]string{
		"containerd.io/snapshot/toc": "sha256:0", "containerd.io/snapshot/uidmapping": "0:1000:1", "containerd.io/snapshot/cri.image-ref": "else",
		"containerd.io/snapshot/long": strings.Repeat("x", 5000), "org.example": "not for them",
	}
	chain := image.ChainIDs(img.DiffIDs)
	driver.has[img.Layers[0].Digest.String()] = true
	driver.has[img.Layers[2].Digest.String()] = true // which does not count without the one below
	r := w.Begin()
	lazy, err := r.Claim(t.Context(), img, "registry/name:tag")
	must(t, err)
	if diff := cmp.Diff(map[image.Digest]bool{img.Layers[0].Digest: true}, lazy); diff != "" {
		t.Errorf("not to be fetched (-want +got):\n%s", diff)
	}
	if len(driver.asked) != 2 || len(driver.below[0]) != 0 || len(driver.below[1]) != 1 {
		t.Fatalf("asked for %v on %q", driver.asked, driver.below)
	}
	const prefix = "containerd.io/snapshot/cri."
	want := map[string]string{
		"containerd.io/snapshot.ref": chain[1].String(),
		"containerd.io/snapshot/toc": "sha256:0",
		prefix + "image-ref":         "registry/name:tag",
		prefix + "manifest-digest":   img.Manifest.String(),
		prefix + "layer-digest":      img.Layers[1].Digest.String(),
		prefix + "image-layers":      img.Layers[1].Digest.String() + "," + img.Layers[2].Digest.String(),
	}
	if diff := cmp.Diff(want, driver.asked[1]); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	w.keep(r)
	rows, err := w.Snapshots.Chain(t.Context(), chain)
	must(t, err)
	if len(rows) != 1 || !rows[0].Lazy || rows[0].Blob != img.Layers[0].Digest {
		t.Errorf("rows %+v, want that of the first layer", rows)
	}
	w.nothing()

	// What was claimed before is not asked for again.
	driver.asked = nil
	lazy, err = w.Begin().Claim(t.Context(), img, "registry/name:tag")
	if !lazy[img.Layers[0].Digest] || len(lazy) != 1 || len(driver.asked) != 1 || err != nil {
		t.Errorf("again: not to be fetched %v, asked for %v, error %v", lazy, driver.asked, err)
	}
	w.nothing()
}

// Labels have no more room than containerd gives them, however many layers an image has.
func TestClaimManyLayers(t *testing.T) {
	driver := &remote{}
	w := remoteWorld(t, driver)
	var img unpack.Image
	for i := range 100 {
		img.Layers = append(img.Layers, image.Descriptor{Digest: digest.FromString(strings.Repeat("layer", i))})
		img.DiffIDs = append(img.DiffIDs, digest.FromString(strings.Repeat("diffID", i)))
	}
	_, err := w.Begin().Claim(t.Context(), img, "registry/name:tag")
	must(t, err)
	got := driver.asked[0]["containerd.io/snapshot/cri.image-layers"]
	if !strings.HasPrefix(got, img.Layers[0].Digest.String()+","+img.Layers[1].Digest.String()+",") || len(got) > 3<<10 {
		t.Errorf("image-layers has %d bytes: %s", len(got), got)
	}
}

// A snapshotter that fails leaves nothing, and one that is not remote is asked nothing.
func TestClaimFails(t *testing.T) {
	driver := &remote{err: errors.New("no connection")}
	w := remoteWorld(t, driver)
	img := w.imageOf(plain()...)
	r := w.Begin()
	if _, err := r.Claim(t.Context(), img, ""); !errors.Is(err, driver.err) {
		t.Errorf("got %v, want %v", err, driver.err)
	}
	must(t, r.Close(t.Context()))
	w.empty()

	r = newWorld(t, "overlay").Begin()
	if lazy, err := r.Claim(t.Context(), img, ""); len(lazy) > 0 || err != nil {
		t.Errorf("not remote: %v, error %v", lazy, err)
	}
}

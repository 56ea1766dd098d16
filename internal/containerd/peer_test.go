package containerd_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/containerd"
	"github.com/stowage/stowage/internal/containerd/containerdtest"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

func TestDial(t *testing.T) {
	for address, want := range map[string]error{
		filepath.Join(t.TempDir(), "none"): errdefs.ErrUnavailable,
		"unix:///none/at/all":              errdefs.ErrUnavailable,
		"tcp://127.0.0.1:1":                errdefs.ErrInvalidArgument,
	} {
		c, err := containerd.Dial(t.Context(), address, containerd.Options{Namespace: "default"})
		if c != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), address) {
			t.Errorf("dial %s: got %v, want %v", address, err, want)
		}
	}
}

func TestPeer(t *testing.T) {
	p := start(t, containerdtest.Options{})
	for _, c := range []struct {
		name  string
		check func(*testing.T, *containerdtest.Process)
	}{
		{"other algorithms", otherAlgorithms},
		{"lost bytes", lostBytes},
		{"lease", lease},
		{"blob of another namespace", sharedBlob},
		{"mirror", mirror},
		{"missing target", missingTarget},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, p) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// otherAlgorithms are refused before a byte is sent, and leave nothing behind.
func otherAlgorithms(t *testing.T, p *containerdtest.Process) {
	c := dial(t, p.Address, "algorithms")
	b := []byte("sha512")
	err := content.Put(t.Context(), c, digest.SHA512.FromBytes(b), b)
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("put under sha512: got %v", err)
	}
	if list, err := c.Ingests(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("it leaves %v, %v", list, err)
	}
}

// lostBytes: containerd has a record of a blob whose file is gone.
func lostBytes(t *testing.T, p *containerdtest.Process) {
	c := dial(t, p.Address, "lost")
	b := contenttest.Bytes(1, 1<<20)
	d := digest.FromBytes(b)
	must(t, content.Put(t.Context(), c, d, b))
	must(t, os.Remove(filepath.Join(p.Root, "io.containerd.content.v1.content", "blobs", "sha256", d.Encoded())))
	if _, err := c.Info(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("info: got %v", err)
	}
	for info, err := range c.Blobs(t.Context()) {
		t.Errorf("it is listed: %v, %v", info, err)
	}
	must(t, content.Put(t.Context(), c, d, b))
	got, err := content.ReadBlob(t.Context(), c, d, 1<<20)
	if err != nil || !slices.Equal(got, b) {
		t.Errorf("after it was written again: %d bytes, %v", len(got), err)
	}
}

// lease: what an act wrote stays until its end, whatever is collected.
func lease(t *testing.T, p *containerdtest.Process) {
	c := dial(t, p.Address, "lease")
	first, second := c.Act(), c.Act()
	b := []byte("brought")
	d := digest.FromBytes(b)
	must(t, content.Put(t.Context(), c, d, b))
	must(t, first(t.Context()))
	must(t, c.Collect(t.Context()))
	if _, err := c.Info(t.Context(), d); err != nil {
		t.Errorf("while an act is under way: %v", err)
	}
	must(t, second(t.Context()))
	must(t, c.Collect(t.Context()))
	if _, err := c.Info(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("after the acts: %v", err)
	}
	if m := filled(t, c); len(leases(t, m, "lease")) != 0 {
		t.Errorf("leases are left: %v", leases(t, m, "lease"))
	}
}

func leases(t *testing.T, m *metadata.Store, ns string) []metadata.Lease {
	t.Helper()
	list, err := m.Leases(t.Context(), ns)
	must(t, err)
	return list
}

// sharedBlob: a blob that another namespace has is there without being sent.
func sharedBlob(t *testing.T, p *containerdtest.Process) {
	b := contenttest.Bytes(2, 1<<20)
	d := digest.FromBytes(b)
	must(t, content.Put(t.Context(), dial(t, p.Address, "one"), d, b))
	c := dial(t, p.Address, "two")
	in, err := c.Begin(t.Context(), d.String(), content.Want{Digest: d, Size: int64(len(b))})
	must(t, err)
	if in.Offset() != int64(len(b)) {
		t.Errorf("it begins at %d of %d", in.Offset(), len(b))
	}
	must(t, c.Commit(t.Context(), in))
	if _, err := c.Info(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// filled reads what a peer knows into a new store.
func filled(t *testing.T, c *containerd.Client) *metadata.Store {
	t.Helper()
	m := metadata.New(mem.New(), t.TempDir())
	must(t, c.Fill(t.Context(), m))
	return m
}

// put stores all of an image, and names it.
func put(t *testing.T, c *containerd.Client, m *metadata.Store, ns, name string, img *imagetest.Image) {
	t.Helper()
	batch := metadata.Batch{Images: []metadata.PutImage{{Name: name, Target: img.Root, Labels: map[string]string{"a": "b"}}}}
	for _, b := range img.Blobs {
		raw, err := b.Bytes()
		must(t, err)
		must(t, content.Put(t.Context(), c, b.Digest, raw))
		batch.Blobs = append(batch.Blobs, metadata.Blob{Digest: b.Digest, Size: b.Size, Labels: map[string]string{"x": "y"}})
		if doc, err := metadata.ReadDocument(t.Context(), c, b.Digest, raw); doc != nil {
			must(t, err)
			batch.Documents = append(batch.Documents, *doc)
		}
	}
	_, err := m.Apply(t.Context(), ns, batch)
	must(t, err)
}

func small(t *testing.T) *imagetest.Image {
	t.Helper()
	tars, err := imagetest.Machine(1<<16, 1<<15)
	must(t, err)
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...)}.Build("")
	must(t, err)
	return img
}

// mirror: what acts write into a filled store is what another finds at the peer.
func mirror(t *testing.T, p *containerdtest.Process) {
	const ns = "mirror"
	ctx := t.Context()
	c := dial(t, p.Address, ns)
	m := filled(t, c)
	c.WriteThrough(m)
	end := c.Act()
	img := small(t)
	put(t, c, m, ns, "example.com/a:1", img)
	must(t, end(ctx))
	must(t, c.Collect(ctx)) // which knows of all that the image needs

	_, err := m.Tag(ctx, ns, "example.com/a:1", "example.com/b:1", false)
	must(t, err)
	_, err = m.LabelImage(ctx, ns, "example.com/a:1", map[string]string{"a": "", "c": "d"})
	must(t, err)
	layer := img.Manifest().Layers[0].Digest
	_, err = m.LabelBlob(ctx, ns, layer, map[string]string{"x": "", "z": "1"})
	must(t, err)
	_, err = m.CreateLease(ctx, ns, metadata.Lease{ID: "mine", ExpiresAt: time.Now().Add(time.Hour), Digests: []image.Digest{layer}})
	must(t, err)
	must(t, m.CreateNamespace(ctx, "another", map[string]string{"k": "v"}))
	must(t, m.LabelNamespace(ctx, "another", map[string]string{"k": "w"}))

	got := filled(t, c)
	images, err := got.Images(ctx, ns)
	must(t, err)
	for i, want := range []struct {
		name   string
		labels map[string]string
	}{{"example.com/a:1", map[string]string{"c": "d"}}, {"example.com/b:1", map[string]string{"a": "b"}}} {
		if len(images) != 2 {
			t.Fatalf("images: %v", images)
		}
		is := images[i]
		if is.Name != want.name || is.State != metadata.Complete || is.Target.Digest != img.Root.Digest || !maps.Equal(is.Labels, want.labels) {
			t.Errorf("got %+v, want %+v", is, want)
		}
	}
	b, err := got.Blob(ctx, ns, layer)
	if err != nil || !maps.Equal(b.Labels, map[string]string{"z": "1"}) {
		t.Errorf("the layer: %v, %v", b, err)
	}
	if list := leases(t, got, ns); len(list) != 1 || list[0].ID != "mine" || !slices.Equal(list[0].Digests, []image.Digest{layer}) || list[0].Labels["containerd.io/gc.expire"] == "" {
		t.Errorf("leases: %+v", list)
	}
	namespaces, err := got.Namespaces(ctx)
	must(t, err)
	if !slices.ContainsFunc(namespaces, func(n metadata.Namespace) bool { return n.Name == "another" && n.Labels["k"] == "w" }) {
		t.Errorf("namespaces: %v", namespaces)
	}
	if list, err := c.Unlinked(ctx, got, img.Root.Digest); len(list) != 0 || err != nil {
		t.Errorf("unlinked: %v, %v", list, err)
	}

	// Without its labels, collection would take what the manifest needs.
	root, err := got.Blob(ctx, ns, img.Root.Digest)
	must(t, err)
	bare := map[string]string{}
	for k := range root.Labels {
		if strings.HasPrefix(k, "containerd.io/gc.ref") {
			bare[k] = ""
		}
	}
	strip := filled(t, c)
	c.WriteThrough(strip)
	_, err = strip.LabelBlob(ctx, ns, img.Root.Digest, bare)
	must(t, err)
	list, err := c.Unlinked(ctx, strip, img.Root.Digest)
	must(t, err)
	if len(list) != len(img.Blobs)-1 {
		t.Errorf("%d of %d blobs are unlinked: %v", len(list), len(img.Blobs)-1, list)
	}
	for _, u := range list {
		must(t, c.Link(ctx, u))
	}
	must(t, c.Collect(ctx))
	if list, err := c.Unlinked(ctx, filled(t, c), img.Root.Digest); len(list) != 0 || err != nil {
		t.Errorf("after they were linked: %v, %v", list, err)
	}

	_, err = m.RemoveImages(ctx, ns, "example.com/a:1", "example.com/b:1")
	must(t, err)
	must(t, m.DeleteLease(ctx, ns, "mine"))
	must(t, m.DeleteNamespace(ctx, "another"))
	must(t, c.Collect(ctx))
	if h, err := c.Holdings(ctx); len(h.Blobs) != 0 || err != nil {
		t.Errorf("blobs are left: %v, %v", h, err)
	}
}

// missingTarget: containerd has a name whose target it has lost.
func missingTarget(t *testing.T, p *containerdtest.Process) {
	const ns = "target"
	ctx := t.Context()
	c := dial(t, p.Address, ns)
	m := filled(t, c)
	c.WriteThrough(m)
	img := small(t)
	put(t, c, m, ns, "example.com/a:1", img)
	must(t, c.Delete(ctx, img.Root.Digest))
	ledger, err := filled(t, c).Ledger(ctx)
	must(t, err)
	if len(ledger.Lacking) != 1 || ledger.Lacking[0].Digest != img.Root.Digest || ledger.Lacking[0].Size != img.Root.Size {
		t.Errorf("it lacks %v, want its root", ledger.Lacking)
	}
}

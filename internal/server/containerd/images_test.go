package containerd_test

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"testing"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
)

// inNamespace is what clients on a namespace ask with.
func inNamespace(t testing.TB, ns string) context.Context {
	return namespaces.WithNamespace(t.Context(), ns)
}

// twoLayers is a small image for the machine that the test runs on.
func twoLayers(t testing.TB, how imagetest.Compression) *imagetest.Image {
	t.Helper()
	layers := imagetest.Layers(how, imagetest.Seeded(1, 40_000), imagetest.Seeded(2, 30_000))
	img, err := imagetest.Spec{Layers: layers, Platform: image.Host()}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// ingest stores blobs of an image, as a client does.
func ingest(t testing.TB, store *stowage.Store, blobs ...imagetest.Blob) {
	t.Helper()
	for _, b := range blobs {
		body, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Ingest(t.Context(), b.Digest.String(), bytes.NewReader(body), b.Digest, b.Size); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImages gives, changes, finds and takes names with containerd's own client.
func TestImages(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	names := client.NewImageStoreFromClient(imagesapi.NewImagesClient(conn))
	img := twoLayers(t, imagetest.Gzip)
	ingest(t, store, img.Blobs...)
	target := v1.Descriptor{MediaType: img.Root.MediaType, Digest: img.Root.Digest, Size: img.Root.Size}

	made, err := names.Create(ctx, images.Image{Name: "not normal", Target: target, Labels: map[string]string{"a": "1", "b": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	if made.Name != "not normal" || made.Target.Digest != target.Digest || made.CreatedAt.IsZero() || made.Labels["a"] != "1" {
		t.Errorf("made %+v", made)
	}
	if found, err := store.Image(t.Context(), "not normal"); err != nil || found.State != stowage.Complete {
		t.Errorf("the store has %+v, %v, want a complete image", found, err)
	}
	if _, err := names.Create(ctx, made); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name that exists: %v", err)
	}
	if _, err := names.Get(inNamespace(t, "other"), made.Name); !errdefs.IsNotFound(err) {
		t.Errorf("a name of another namespace: %v", err)
	}
	if _, err := names.Get(t.Context(), made.Name); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("no namespace: %v", err)
	}

	for _, c := range []struct {
		name   string
		labels map[string]string
		mask   []string
		want   map[string]string
	}{
		{"one label", map[string]string{"a": "3", "b": "ignored"}, []string{"labels.a"}, map[string]string{"a": "3", "b": "2"}},
		{"one label goes", map[string]string{"a": ""}, []string{"labels.a"}, map[string]string{"b": "2"}},
		{"all labels", map[string]string{"c": "4"}, []string{"labels"}, map[string]string{"c": "4"}},
		{"with the target", map[string]string{"d.e": "5"}, []string{"target", "labels.d.e"}, map[string]string{"c": "4", "d.e": "5"}},
		{"no mask", map[string]string{"f": "6"}, nil, map[string]string{"f": "6"}},
	} {
		got, err := names.Update(ctx, images.Image{Name: made.Name, Target: target, Labels: c.labels}, c.mask...)
		if err != nil || !maps.Equal(got.Labels, c.want) || got.Target.Digest != target.Digest {
			t.Errorf("%s: %v of %s, %v, want %v", c.name, got.Labels, got.Target.Digest, err, c.want)
		}
	}
	noted, err := names.Update(ctx, images.Image{Name: made.Name, Target: v1.Descriptor{Annotations: map[string]string{"k": "v"}}}, "annotations.k")
	if err != nil || noted.Target.Annotations["k"] != "v" || noted.Target.Digest != target.Digest || !noted.CreatedAt.Equal(made.CreatedAt) {
		t.Errorf("annotated: %+v, %v", noted, err)
	}
	if _, err := names.Update(ctx, made, "createdat"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a field that cannot be changed: %v", err)
	}
	if _, err := names.Update(ctx, images.Image{Name: "unknown", Target: target}); !errdefs.IsNotFound(err) {
		t.Errorf("an update of an unknown name: %v", err)
	}
	if _, err := names.Update(ctx, images.Image{Name: "unknown"}, "labels"); !errdefs.IsNotFound(err) {
		t.Errorf("labels of an unknown name: %v", err)
	}

	for filter, want := range map[string]int{
		`name=="not normal"`: 1, "name==other": 0, "labels.f==6": 1, "labels.\"f\"": 1, "labels.c": 0,
		"annotations.k==v": 1, "target.digest~=^sha256:": 1, "target.mediatype==" + target.MediaType: 1,
	} {
		if list, err := names.List(ctx, filter); err != nil || len(list) != want {
			t.Errorf("filter %s: %v, %v, want %d", filter, list, err, want)
		}
	}
	if _, err := names.List(ctx, "name=="); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a filter that is none: %v", err)
	}

	other := v1.Descriptor{Digest: digest.FromString("other")}
	if err := names.Delete(ctx, made.Name, images.DeleteTarget(&other)); !errdefs.IsNotFound(err) {
		t.Errorf("a deletion of another target: %v", err)
	}
	if err := names.Delete(ctx, made.Name, images.SynchronousDelete(), images.DeleteTarget(&target)); err != nil {
		t.Error(err)
	}
	if list, err := names.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("after the deletion: %v, %v", list, err)
	}
	if blobs, err := store.Blobs(t.Context()); err != nil || len(blobs) != 0 {
		t.Errorf("after a deletion that waits, %d blobs are here, %v", len(blobs), err)
	}
	if err := names.Delete(ctx, made.Name); !errdefs.IsNotFound(err) {
		t.Errorf("a deletion again: %v", err)
	}
}

// TestRefusedImages asks for names that cannot be.
func TestRefusedImages(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	names := client.NewImageStoreFromClient(imagesapi.NewImagesClient(conn))
	good := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("a"), Size: 1}
	for name, img := range map[string]images.Image{
		"no name":       {Target: good},
		"zero byte":     {Name: "a\x00b", Target: good},
		"long name":     {Name: string(bytes.Repeat([]byte("a"), 4096)), Target: good},
		"no target":     {Name: "a"},
		"no digest":     {Name: "a", Target: v1.Descriptor{MediaType: good.MediaType, Size: 1, Digest: "sha256:short"}},
		"no size":       {Name: "a", Target: v1.Descriptor{MediaType: good.MediaType, Digest: good.Digest}},
		"no media type": {Name: "a", Target: v1.Descriptor{Digest: good.Digest, Size: 1}},
		"long label":    {Name: "a", Target: good, Labels: map[string]string{"k": string(bytes.Repeat([]byte("v"), 4096))}},
	} {
		if _, err := names.Create(ctx, img); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnseenTarget names what comes later, or never.
func TestUnseenTarget(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	names := client.NewImageStoreFromClient(imagesapi.NewImagesClient(conn))
	img := twoLayers(t, imagetest.Gzip)
	if _, err := names.Create(ctx, images.Image{Name: "a:1", Target: img.Root}); err != nil {
		t.Fatal(err)
	}
	state := func() stowage.State {
		t.Helper()
		found, err := store.Image(t.Context(), "a:1")
		if err != nil {
			t.Fatal(err)
		}
		return found.State
	}
	if got := state(); got != stowage.Partial {
		t.Errorf("without its target the image is %s", got)
	}
	ingest(t, store, slices.DeleteFunc(slices.Clone(img.Blobs), func(b imagetest.Blob) bool { return b.Digest == img.Root.Digest })...)
	ingest(t, store, img.Blobs[len(img.Blobs)-1])
	if _, err := names.Update(ctx, images.Image{Name: "a:1", Target: img.Root}, "target"); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != stowage.Complete {
		t.Errorf("with all of it the image is %s", got)
	}
}

// TestNamedFirst names an image whose blobs come later. When its client ends what it was about, the daemon
// looks again.
func TestNamedFirst(t *testing.T) {
	store, address := daemon(t, t.TempDir())
	c := goClient(t, address)
	ctx, done, err := c.WithLease(inNamespace(t, "default"))
	if err != nil {
		t.Fatal(err)
	}
	img := imagetest.Index(twoLayers(t, imagetest.Gzip), elsewhere(t))
	if _, err := c.ImageService().Create(ctx, images.Image{Name: "a:1", Target: img.Root}); err != nil {
		t.Fatal(err)
	}
	for _, b := range img.Blobs {
		body, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if err := content.WriteBlob(ctx, c.ContentStore(), b.Digest.String(), bytes.NewReader(body), b.Descriptor); err != nil {
			t.Fatal(err)
		}
	}
	if err := done(ctx); err != nil {
		t.Fatal(err)
	}
	until(t, store, "a:1", stowage.Complete)
}

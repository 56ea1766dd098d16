package doctor

import (
	"context"
	"slices"
	"testing"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/mem"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	kvmem "github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

// spoilt gives other bytes for one digest than those that were stored.
type spoilt struct {
	content.Store
	digest image.Digest
}

func (s spoilt) Open(ctx context.Context, d image.Digest) (content.Reader, error) {
	r, err := s.Store.Open(ctx, d)
	if err == nil && d == s.digest {
		return flipped{r}, nil
	}
	return r, err
}

type flipped struct{ content.Reader }

func (f flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.Reader.ReadAt(p, off)
	if n > 0 {
		p[0] ^= 1
	}
	return n, err
}

// stored puts an image of two platforms into a store, the first of them whole.
func stored(t *testing.T) (content.Store, *metadata.Store, metadata.Image, *imagetest.Image) {
	t.Helper()
	build := func(arch string, seed uint64) *imagetest.Image {
		img, err := imagetest.Spec{
			Layers:   imagetest.Layers(imagetest.Gzip, imagetest.Seeded(seed, 2_000), imagetest.Seeded(seed+1, 1_000)),
			Platform: image.Platform{OS: "linux", Architecture: arch},
		}.Build("")
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	here, away := build("amd64", 1), build("arm64", 10)
	index := imagetest.Index(here, away)
	store, meta := mem.New(), metadata.New(kvmem.New(), t.TempDir())
	var batch metadata.Batch
	for _, b := range index.Blobs {
		if _, ok := away.Blob(b.Digest); ok {
			continue
		}
		body, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if err := content.Put(t.Context(), store, b.Digest, body); err != nil {
			t.Fatal(err)
		}
		batch.Blobs = append(batch.Blobs, metadata.Blob{Digest: b.Digest, Size: b.Size})
		if doc, err := image.ParseDocument(body); err == nil {
			batch.Documents = append(batch.Documents, metadata.Document{Digest: b.Digest, Size: b.Size, Document: *doc})
		}
	}
	batch.Images = []metadata.PutImage{{Name: "example.com/app:1", Target: index.Root, Want: []image.Digest{here.Root.Digest}}}
	images, err := meta.Apply(t.Context(), "default", batch)
	if err != nil {
		t.Fatal(err)
	}
	return store, meta, images[0], here
}

func check(t *testing.T, store content.Store, meta *metadata.Store, img metadata.Image, verify *VerifyOptions) ImageFinding {
	t.Helper()
	list, err := CheckImages(t.Context(), store, meta, "default", []metadata.Image{img}, verify)
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

func TestWholeImage(t *testing.T) {
	store, meta, img, _ := stored(t)
	f := check(t, store, meta, img, &VerifyOptions{})
	if !f.Whole() || f.Blobs != 5 {
		t.Errorf("got %+v, want 5 whole blobs", f)
	}
	if want := []string{"linux/arm64"}; !slices.Equal(f.Absent, want) {
		t.Errorf("absent: got %v, want %v", f.Absent, want)
	}
}

func TestMissingBlobIsRecorded(t *testing.T) {
	store, meta, img, here := stored(t)
	for _, gone := range []image.Digest{here.Manifest().Layers[0].Digest, here.Root.Digest} {
		if err := store.Delete(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		f := check(t, store, meta, img, nil)
		if f.Whole() || !slices.Contains(f.Missing, gone) || f.State != metadata.Partial {
			t.Errorf("got %+v, want partial without %s", f, gone)
		}
		now, err := meta.Image(t.Context(), "default", img.Name)
		if err != nil || now.State != metadata.Partial {
			t.Errorf("the record says %s, %v, want partial", now.State, err)
		}
	}
}

func TestCorruptBlobIsFoundByReading(t *testing.T) {
	store, meta, img, here := stored(t)
	bad := here.Manifest().Layers[1].Digest
	for _, c := range []struct {
		verify *VerifyOptions
		want   []image.Digest
	}{{nil, nil}, {&VerifyOptions{}, []image.Digest{bad}}} {
		f := check(t, spoilt{store, bad}, meta, img, c.verify)
		if !slices.Equal(f.Corrupt, c.want) || f.Whole() == (c.verify != nil) {
			t.Errorf("verify %v: corrupt: got %v, want %v", c.verify, f.Corrupt, c.want)
		}
	}
}

package metadata_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/metadata"
)

const (
	manyImages = 2000
	manyBlobs  = 25 // of each: a manifest, a config and layers
)

// many is 2,000 images of 25 blobs in batches of 500, over bolt.
func many(tb testing.TB) (*metadata.Store, []metadata.Batch) {
	tb.Helper()
	dir := tb.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), bolt.Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	batches := make([]metadata.Batch, 4)
	for i := range manyImages {
		name := fmt.Sprintf("registry.example.com/team/image-%04d:v1", i)
		var layers []string
		for l := range manyBlobs - 2 {
			layers = append(layers, fmt.Sprint(name, " layer ", l))
		}
		doc := manifest(name, name+" config", layers...)
		doc.Platform = &image.Platform{OS: "linux", Architecture: "amd64"}
		b := &batches[i%len(batches)]
		b.Blobs = append(b.Blobs, blobs(append(layers, name, name+" config")...)...)
		b.Documents = append(b.Documents, doc)
		b.Images = append(b.Images, put(name, name))
	}
	return metadata.New(db, filepath.Join(dir, "holders")), batches
}

func applyAll(tb testing.TB, s *metadata.Store, batches []metadata.Batch) {
	tb.Helper()
	for _, b := range batches {
		if _, err := s.Apply(tb.Context(), ns, b); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkApply is 2,000 images of 25 blobs in four batches; under 2 s is asked.
func BenchmarkApply(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s, batches := many(b)
		b.StartTimer()
		applyAll(b, s, batches)
	}
}

// BenchmarkLists is asked to take under 30 ms for the images, and under 200 ms for the blobs.
func BenchmarkLists(b *testing.B) {
	s, batches := many(b)
	applyAll(b, s, batches)
	b.Run("2000 images", func(b *testing.B) {
		for b.Loop() {
			if list, err := s.Images(b.Context(), ns); err != nil || len(list) != manyImages {
				b.Fatalf("got %d images, %v", len(list), err)
			}
		}
	})
	b.Run("50000 blobs", func(b *testing.B) {
		for b.Loop() {
			if list, err := s.Blobs(b.Context(), ns); err != nil || len(list) != manyImages*manyBlobs {
				b.Fatalf("got %d blobs, %v", len(list), err)
			}
		}
	})
	b.Run("garbage", func(b *testing.B) {
		for b.Loop() {
			if f, err := s.Garbage(b.Context(), nil); err != nil || len(f.Blobs) != 0 {
				b.Fatalf("got %v, %v, want none", f, err)
			}
		}
	})
}

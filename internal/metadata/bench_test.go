package metadata_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

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
	return several(tb, manyImages, bolt.Options{NoSync: true})
}

func several(tb testing.TB, images int, o bolt.Options) (*metadata.Store, []metadata.Batch) {
	tb.Helper()
	dir := tb.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), o)
	if err != nil {
		tb.Fatal(err)
	}
	batches := make([]metadata.Batch, images/500)
	for i := range images {
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
}

// BenchmarkSweep collects, of 50,000 blobs and of 500,000, what one image or a tenth of all have
// left, and nothing, with all that is made durable. The longest time that the database was locked
// is reported; it is asked to be under 20 ms.
func BenchmarkSweep(b *testing.B) {
	for _, images := range []int{manyImages, 10 * manyImages} {
		var most atomic.Int64
		s, batches := several(b, images, bolt.Options{Held: func(d time.Duration) { most.Store(max(most.Load(), int64(d))) }})
		applyAll(b, s, batches)
		next := 0
		remove := func(b *testing.B, n int) (targets []image.Digest) {
			b.StopTimer()
			var names []string
			for range n {
				img := batches[next%len(batches)].Images[next/len(batches)]
				names, targets = append(names, img.Name), append(targets, img.Target.Digest)
				next++
			}
			if _, err := s.RemoveImages(b.Context(), ns, names...); err != nil {
				b.Fatal(err)
			}
			most.Store(0)
			b.StartTimer()
			return targets
		}
		sweep := func(b *testing.B, want int, take func(*metadata.Sweep) error) {
			w := s.NewSweep()
			err := take(w)
			got, rounds := 0, 0
			for err == nil {
				var r *metadata.Round
				if r, err = w.Round(b.Context()); r == nil {
					break
				}
				for _, g := range r.Blobs {
					r.Deleted(g.Digest)
				}
				got, rounds, err = got+len(r.Blobs), rounds+1, r.End()
			}
			if err := errors.Join(err, w.End(b.Context())); err != nil || got != want {
				b.Fatalf("took %d blobs, %v, want %d", got, err, want)
			}
			b.ReportMetric(float64(most.Load())/1e6, "ms-locked")
			b.ReportMetric(float64(rounds), "rounds")
		}
		b.Run(fmt.Sprintf("one of %d images", images), func(b *testing.B) {
			for b.Loop() {
				targets := remove(b, 1)
				sweep(b, manyBlobs, func(w *metadata.Sweep) error { return w.Below(b.Context(), targets...) })
			}
		})
		everything := func(w *metadata.Sweep) error { return w.Everything(b.Context()) }
		for _, n := range []int{0, 1, images / 10} {
			b.Run(fmt.Sprintf("everything, %d of %d images gone", n, images), func(b *testing.B) {
				for b.Loop() {
					remove(b, n)
					sweep(b, n*manyBlobs, everything)
				}
			})
		}
	}
}

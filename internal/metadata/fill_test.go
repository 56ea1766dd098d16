package metadata_test

import (
	"context"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

func TestFill(t *testing.T) {
	s := metadata.New(mem.New(), t.TempDir())
	s.Observe(func(context.Context, []metadata.Change) error { t.Error("an observer was told"); return nil })
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	blob := func(text string) metadata.Blob {
		return metadata.Blob{Digest: image.Describe("", []byte(text)).Digest, Size: int64(len(text)), CreatedAt: at, UpdatedAt: at}
	}
	manifest, config, layer := blob("manifest"), blob("config"), image.Describe("", []byte("layer"))
	target := image.Descriptor{Digest: manifest.Digest, Size: manifest.Size}
	lost := image.Describe("", []byte("lost"))
	err := s.Fill(t.Context(), "ns", metadata.Mirror{
		Namespaces: []metadata.Namespace{{Name: "ns"}, {Name: "other"}},
		Blobs:      []metadata.Blob{manifest, config},
		Documents: []metadata.Document{{Digest: manifest.Digest, Size: manifest.Size, Document: image.Document{
			Config: &image.Descriptor{Digest: config.Digest, Size: config.Size}, Layers: []image.Descriptor{layer},
		}}},
		Images: []metadata.MirroredImage{
			{Name: "any name", Target: target, CreatedAt: at, UpdatedAt: at},
			{Name: "lost", Target: lost, Want: []image.Digest{lost.Digest}},
		},
		Leases:    []metadata.Lease{{ID: "l", Digests: []image.Digest{manifest.Digest}}},
		Snapshots: map[string][]metadata.Snapshot{"other's": {{Key: "above", Kind: metadata.Active, Parent: "below"}, {Key: "below", Kind: metadata.Committed}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	images, err := s.Images(t.Context(), "ns")
	if err != nil || len(images) != 2 {
		t.Fatalf("images: %v, %v", images, err)
	}
	img := images[0]
	if img.Name != "any name" || img.State != metadata.Partial || !img.CreatedAt.Equal(at) || len(img.Platforms) != 1 || !img.Platforms[0].Wanted {
		t.Errorf("got %+v", img)
	}
	ledger, err := s.Ledger(t.Context())
	if err != nil || len(ledger.Blobs) != 2 || len(ledger.Lacking) != 2 {
		t.Errorf("the ledger: %+v, %v; want a layer and a root lacking", ledger, err)
	}
	if b, err := s.Blob(t.Context(), "ns", config.Digest); err != nil || !b.CreatedAt.Equal(at) {
		t.Errorf("the config: %+v, %v", b, err)
	}
	if chain, err := s.SnapshotChain(t.Context(), "ns", "other's", "above"); err != nil || len(chain) != 2 {
		t.Errorf("snapshots: %v, %v", chain, err)
	}
	if list, err := s.Leases(t.Context(), "ns"); err != nil || len(list) != 1 {
		t.Errorf("leases: %v, %v", list, err)
	}
}

package doctor

import (
	"context"
	"encoding/hex"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/mem"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/kv"
	kvmem "github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
)

// journaled is a store with an image of two layers, a signature of it, and names in two
// namespaces, which its journal knows.
func journaled(t *testing.T) (store content.Store, meta *metadata.Store, img, signature *imagetest.Image) {
	t.Helper()
	return journaledOn(t, kvmem.New())
}

// journaledDB is journaled, with its rows.
func journaledDB(t *testing.T) (content.Store, *metadata.Store, kv.DB) {
	t.Helper()
	db := kvmem.New()
	store, meta, _, _ := journaledOn(t, db)
	return store, meta, db
}

func journaledOn(t *testing.T, db kv.DB) (store content.Store, meta *metadata.Store, img, signature *imagetest.Image) {
	t.Helper()
	img, err := imagetest.Spec{
		Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(1, 2_000), imagetest.Seeded(2, 1_000)),
	}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	signature = imagetest.Artifact("application/vnd.example.signature", []byte("{}\n"), img)
	store = mem.New()
	dir := t.TempDir()
	meta = metadata.New(db, filepath.Join(dir, "holders")).KeepNames(filepath.Join(dir, "names.log"), true)
	var batch metadata.Batch
	for _, b := range slices.Concat(img.Blobs, signature.Blobs) {
		body, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if err := content.Put(t.Context(), store, b.Digest, body); err != nil {
			t.Fatal(err)
		}
		batch.Blobs = append(batch.Blobs, metadata.Blob{Digest: b.Digest, Size: b.Size})
		doc, err := metadata.ReadDocument(t.Context(), store, b.Digest, body)
		if err != nil {
			t.Fatal(err)
		}
		if doc != nil {
			batch.Documents = append(batch.Documents, *doc)
		}
	}
	for _, ns := range []string{"default", "other"} {
		batch.Images = []metadata.PutImage{{
			Name: "example.com/" + ns + ":1", Target: img.Root, Want: []image.Digest{img.Root.Digest}, Labels: map[string]string{"of": ns},
		}}
		if _, err := meta.Apply(t.Context(), ns, batch); err != nil {
			t.Fatal(err)
		}
	}
	return store, meta, img, signature
}

// rebuilt makes a new database of a store.
func rebuilt(t *testing.T, store content.Store, meta *metadata.Store) *metadata.Store {
	t.Helper()
	db := kvmem.New()
	if n, err := meta.Rebuild(t.Context(), db, store); err != nil || n != 2 {
		t.Fatalf("got %d names, %v, want 2", n, err)
	}
	return metadata.New(db, t.TempDir())
}

func TestRebuild(t *testing.T) {
	store, meta, img, signature := journaled(t)
	fresh := rebuilt(t, store, meta)
	for _, ns := range []string{"default", "other"} {
		want, err := meta.Images(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fresh.Images(t.Context(), ns)
		if err != nil || len(got) != 1 {
			t.Fatalf("got %v, %v", got, err)
		}
		g, w := got[0], want[0]
		if g.Name != w.Name || g.Target.Digest != w.Target.Digest || g.Labels["of"] != ns || g.State != metadata.Complete ||
			g.Size != w.Size || !g.Platforms[0].Wanted || !g.CreatedAt.Equal(w.CreatedAt) {
			t.Errorf("got %+v, want %+v", g, w)
		}
		blobs, err := fresh.Blobs(t.Context(), ns)
		if err != nil || len(blobs) != len(img.Blobs)+len(signature.Blobs) {
			t.Errorf("%s knows %d blobs, %v, want %d and %d", ns, len(blobs), err, len(img.Blobs), len(signature.Blobs))
		}
	}
}

func TestRebuildWithoutBlobs(t *testing.T) {
	for name, lose := range map[string]func(content.Store, *imagetest.Image) (content.Store, error){
		"a layer": func(s content.Store, img *imagetest.Image) (content.Store, error) {
			return s, s.Delete(t.Context(), img.Manifest().Layers[0].Digest)
		},
		"the manifest": func(s content.Store, img *imagetest.Image) (content.Store, error) {
			return s, s.Delete(t.Context(), img.Root.Digest)
		},
		"the bytes of the manifest": func(s content.Store, img *imagetest.Image) (content.Store, error) {
			return spoilt{s, img.Root.Digest}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, meta, img, _ := journaled(t)
			store, err := lose(store, img)
			if err != nil {
				t.Fatal(err)
			}
			fresh := rebuilt(t, store, meta)
			got, err := fresh.Image(t.Context(), "default", "example.com/default:1")
			if err != nil || got.State != metadata.Partial || got.Target.Digest != img.Root.Digest {
				t.Errorf("got %+v, %v, want it to be partial", got, err)
			}
			rows, err := fresh.Ledger(t.Context())
			if err != nil || len(rows.Lacking) != 1 {
				t.Errorf("what is to be fetched: got %v, %v, want one blob", rows.Lacking, err)
			}
		})
	}
}

func noSnapshotters(context.Context) ([]*snapshot.Store, error) { return nil, nil }

func hexOf(b []byte) string { return hex.EncodeToString(b) }

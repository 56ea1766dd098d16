package metadata_test

import (
	"slices"
	"testing"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// A blob that was lost is known again, with its labels, by all who knew it, when it comes back by
// whomever; and until then it is known where it came from.
func TestLostAndFound(t *testing.T) {
	s := newStore(t)
	const other = "other"
	source := map[string]string{metadata.SourceLabel + "example.com": "old,new"}
	for _, ns := range []string{ns, other} {
		list := blobs("m0", "c0", "l0", "l1")
		for i := range list {
			list[i].Labels = map[string]string{"of": ns}
		}
		list[2].Labels[metadata.SourceLabel+"example.com"] = source[metadata.SourceLabel+"example.com"]
		list[0].Labels[metadata.SourceLabel+"mirror.example.com"] = "app"
		_, err := s.Apply(t.Context(), ns, metadata.Batch{
			Blobs: list, Documents: []metadata.Document{manifest("m0", "c0", "l0", "l1")}, Images: []metadata.PutImage{put("example.com/x:1", "m0")},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	lost := desc("l0").Digest
	if _, err := s.Recheck(t.Context(), ns, "example.com/x:1", []image.Digest{lost}); err != nil {
		t.Fatal(err)
	}
	where, err := s.Sources(t.Context(), lost)
	if err != nil {
		t.Fatal(err)
	}
	want := []metadata.Repository{{"example.com", "new"}, {"example.com", "old"}, {"mirror.example.com", "app"}}
	if !slices.Equal(where.From, want) || !slices.Equal(where.Images, []string{"example.com/x:1"}) || where.Document {
		t.Errorf("sources of a layer: %+v, want %v", where, want)
	}
	if !slices.Contains(where.Namespaces, ns) || !slices.Contains(where.Namespaces, other) || len(where.Namespaces) != 2 {
		t.Errorf("known in %v", where.Namespaces)
	}
	if where, err = s.Sources(t.Context(), desc("m0").Digest); err != nil || !where.Document {
		t.Errorf("sources of a manifest: %+v, %v", where, err)
	}
	if d, err := s.OnDemand(t.Context(), lost); d != nil || err != nil {
		t.Errorf("a lost blob is fetched on demand: %v, %v", d, err)
	}

	if _, err := s.Apply(t.Context(), other, metadata.Batch{Blobs: blobs("l0")}); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{ns, other} {
		b, err := s.Blob(t.Context(), ns, lost)
		if err != nil || b.Labels["of"] != ns || b.Labels[metadata.SourceLabel+"example.com"] != "old,new" {
			t.Errorf("in %s it came back as %+v, %v", ns, b, err)
		}
		img, err := s.Image(t.Context(), ns, "example.com/x:1")
		if err != nil || img.State != metadata.Complete {
			t.Errorf("in %s the image is %s, %v", ns, img.State, err)
		}
	}

	// What nothing points to is not remembered.
	if _, err := s.Apply(t.Context(), ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: desc("stray").Digest, Size: desc("stray").Size, Labels: source}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveBlob(t.Context(), ns, desc("stray").Digest, false); err != nil {
		t.Fatal(err)
	}
	if where, err := s.Sources(t.Context(), desc("stray").Digest); err != nil || len(where.From) > 0 {
		t.Errorf("sources of what was removed: %+v, %v", where, err)
	}
}

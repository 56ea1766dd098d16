package metadata_test

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// one is a batch with one image of one layer under the given names.
func one(doc string, names ...string) metadata.Batch {
	b := metadata.Batch{Blobs: blobs(doc, doc+" config", doc+" layer"), Documents: []metadata.Document{manifest(doc, doc+" config", doc+" layer")}}
	for _, n := range names {
		p := put(n, doc)
		p.Labels = map[string]string{"team": n}
		b.Images = append(b.Images, p)
	}
	return b
}

func removed(t *testing.T, s *metadata.Store, since time.Time) map[string]metadata.RemovedImage {
	t.Helper()
	list, err := s.Removed(t.Context(), ns, since)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]metadata.RemovedImage{}
	for _, r := range list {
		m[r.Name] = r
	}
	return m
}

func remove(t *testing.T, s *metadata.Store, names ...string) {
	t.Helper()
	missing, err := s.RemoveImages(t.Context(), ns, names...)
	if err != nil || len(missing) > 0 {
		t.Fatalf("remove: %v, missing %v", err, missing)
	}
}

func TestRestore(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	before := apply(t, s, ns, one("m", "a", "b"))
	start := time.Now().Add(-time.Second)
	remove(t, s, "a", "b")
	got := removed(t, s, start)
	if len(got) != 2 || got["a"].State != metadata.Complete || got["a"].Size != 30 || got["a"].RemovedAt.Before(start) {
		t.Fatalf("removed %+v", got)
	}
	if faults, err := s.Dangling(ctx); err != nil || len(faults) > 0 {
		t.Errorf("removed names are taken for damage: %v, %v", faults, err)
	}
	if got := removed(t, s, time.Now().Add(time.Hour)); len(got) != 0 {
		t.Errorf("names were removed in the future: %v", got)
	}
	img, err := s.RestoreImage(ctx, ns, "a", false)
	if err != nil || img.Target.Digest != desc("m").Digest || img.State != metadata.Complete || img.Labels["team"] != "a" || !img.CreatedAt.Equal(before[0].CreatedAt) {
		t.Errorf("restored %+v, %v", img, err)
	}
	if found, err := s.Image(ctx, ns, "a"); err != nil || found.State != metadata.Complete {
		t.Errorf("a is %+v, %v", found, err)
	}
	if got := removed(t, s, start); len(got) != 1 {
		t.Errorf("still remembered: %v", got)
	}
	if _, err := s.RestoreImage(ctx, ns, "a", true); !errdefs.IsNotFound(err) {
		t.Errorf("restored again: %v", err)
	}
	if _, err := s.RestoreImage(ctx, "other", "b", false); !errdefs.IsNotFound(err) {
		t.Errorf("restored in another namespace: %v", err)
	}
}

// A name that was given away meanwhile is moved with force alone, and that can be undone.
func TestRestoreTaken(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	apply(t, s, ns, one("m", "a"))
	remove(t, s, "a")
	apply(t, s, ns, one("n", "a"))
	if _, err := s.RestoreImage(ctx, ns, "a", false); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name that is taken: %v", err)
	}
	for _, want := range []string{"m", "n", "m"} {
		img, err := s.RestoreImage(ctx, ns, "a", true)
		if err != nil || img.Target.Digest != desc(want).Digest {
			t.Errorf("restored %s, %v, want %s", img.Target.Digest, err, want)
		}
	}
	// The same image again is no removal to speak of, and no obstacle.
	apply(t, s, ns, one("n", "b"))
	remove(t, s, "b")
	apply(t, s, ns, one("n", "b"))
	if got := removed(t, s, time.Time{}); len(got) != 1 {
		t.Errorf("removed %v, want a alone", got)
	}
	if _, err := s.RestoreImage(ctx, ns, "b", false); err != nil {
		t.Error(err)
	}
}

// What was collected in between is told: a blob is missing, without its target it cannot come back.
func TestRestoreCollected(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	apply(t, s, ns, one("m", "a"))
	remove(t, s, "a")
	lose := func(name string) {
		if err := s.RemoveBlob(ctx, ns, desc(name).Digest, true); err != nil {
			t.Fatal(err)
		}
	}
	lose("m layer")
	img, err := s.RestoreImage(ctx, ns, "a", false)
	if err != nil || img.State != metadata.Partial || len(img.Platforms) != 1 || img.Platforms[0].Missing[0].Digest != desc("m layer").Digest {
		t.Errorf("restored %+v, %v", img, err)
	}
	remove(t, s, "a")
	lose("m")
	if got := removed(t, s, time.Time{})["a"]; got.State != metadata.Absent || got.Size != 0 {
		t.Errorf("removed %+v", got)
	}
	if _, err := s.RestoreImage(ctx, ns, "a", false); !errdefs.IsNotFound(err) {
		t.Errorf("restored without its target: %v", err)
	}
}

func TestForget(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	apply(t, s, ns, one("m", "a"))
	apply(t, s, ns, one("n", "b"))
	remove(t, s, "a")
	if err := s.Forget(ctx, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := removed(t, s, time.Time{}); len(got) != 1 {
		t.Errorf("a was forgotten too early: %v", got)
	}
	if err := s.Forget(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := removed(t, s, time.Time{}); len(got) != 0 {
		t.Errorf("removed %v", got)
	}
}

// A namespace that is deleted takes with it what was remembered of it.
func TestDeleteNamespaceForgets(t *testing.T) {
	s, ctx := newStore(t), context.WithoutCancel(t.Context())
	if _, err := s.Apply(ctx, "team", one("m", "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemoveImages(ctx, "team", "a"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []image.Digest{desc("m").Digest, desc("m config").Digest, desc("m layer").Digest} {
		if err := s.RemoveBlob(ctx, "team", d, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteNamespace(ctx, "team"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RestoreImage(ctx, "team", "a", false); !errdefs.IsNotFound(err) {
		t.Errorf("restored into a namespace that is gone: %v", err)
	}
}

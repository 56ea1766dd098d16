package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/metadata"
)

// TestObserve sees what an observer is told of acts, and that an act fails with what it fails with.
func TestObserve(t *testing.T) {
	s := newStore(t)
	var told []string
	var refusal error
	s.Observe(func(_ context.Context, list []metadata.Change) error {
		for _, c := range list {
			verb := "changed"
			what := c.New
			switch {
			case c.Old == nil:
				verb = "new"
			case c.New == nil:
				verb, what = "gone", c.Old
			}
			switch v := what.(type) {
			case *metadata.Namespace:
				told = append(told, fmt.Sprint(verb, " namespace ", v.Name))
			case *metadata.Image:
				told = append(told, fmt.Sprint(verb, " image ", c.Namespace, " ", v.Name, " ", v.State))
			case *metadata.Blob:
				told = append(told, fmt.Sprint(verb, " blob ", c.Namespace, " ", v.Digest == desc("config").Digest, " ", v.Labels["k"]))
			case *metadata.Lease:
				told = append(told, fmt.Sprint(verb, " lease ", v.ID))
			case *metadata.Snapshot:
				told = append(told, fmt.Sprint(verb, " snapshot ", c.Snapshotter, " ", v.Key, " ", v.Kind))
			}
		}
		return refusal
	})
	expect := func(want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("the observer was told %q, want %q", told, want)
		}
		told = nil
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	hold, err := s.Hold(ctx, ns, desc("config").Digest)
	must(err)
	expect() // a hold is nobody's business
	apply(t, s, ns, metadata.Batch{
		Blobs: blobs("m", "config"), Documents: []metadata.Document{manifest("m", "config")}, Images: []metadata.PutImage{put("a", "m")},
	})
	expect("new namespace default", "new blob default false ", "new blob default true ", "new image default a complete")
	must(hold.Release(ctx))
	expect()
	_, err = s.LabelBlob(ctx, ns, desc("config").Digest, map[string]string{"k": "v"})
	must(err)
	expect("changed blob default true v")
	_, err = s.CreateLease(ctx, ns, metadata.Lease{ID: "mine", Digests: []image.Digest{desc("m").Digest}})
	must(err)
	must(s.AddSnapshot(ctx, ns, "overlay", metadata.Snapshot{Key: "k", Kind: metadata.Active}))
	must(s.CommitSnapshot(ctx, ns, "overlay", "c", "k", func(*metadata.Snapshot) {}))
	expect("new lease mine", "new snapshot overlay k active", "gone snapshot overlay k active", "new snapshot overlay c committed")
	refusal = errors.New("the observer fails")
	if _, err := s.RemoveImages(ctx, ns, "a"); !errors.Is(err, refusal) {
		t.Errorf("an act whose observer fails ends with %v", err)
	}
	expect("gone image default a complete")
	if list, err := s.Images(ctx, ns); err != nil || len(list) != 0 {
		t.Errorf("after it there are %v, %v", list, err)
	}
}

// Of acts at once, the observer is told one at a time, in their order: each finds what the one before left.
func TestObserveInOrder(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	s := metadata.New(db, t.TempDir())
	labels := map[string]string{}
	s.Observe(func(_ context.Context, list []metadata.Change) error {
		for _, c := range list {
			if n, ok := c.New.(*metadata.Namespace); ok && c.Old != nil {
				if old := c.Old.(*metadata.Namespace); !maps.Equal(old.Labels, labels) {
					t.Errorf("told of a change of %v, where %v was last", old.Labels, labels)
				}
				labels = n.Labels
			}
		}
		return nil
	})
	if err := s.CreateNamespace(t.Context(), ns, nil); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for round := range 10 {
				err := s.LabelNamespace(t.Context(), ns, map[string]string{fmt.Sprint(i): fmt.Sprint(round)})
				if fail := s.CreateNamespace(t.Context(), ns, nil); err != nil || !errdefs.IsAlreadyExists(fail) {
					t.Error(err, fail)
				}
			}
		})
	}
	work.Wait()
	if len(labels) != 8 {
		t.Errorf("told of %v at the end", labels)
	}
}

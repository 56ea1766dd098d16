package metadata_test

import (
	"context"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// sourced are blobs that came from a registry.
func sourced(names ...string) []metadata.Blob {
	list := blobs(names...)
	for i := range list {
		list[i].Labels = map[string]string{metadata.SourceLabel + "example.com": "app"}
	}
	return list
}

// stack is a manifest's layers, unpacked.
func stack(manifest string, layers ...string) metadata.Unpacked {
	u := metadata.Unpacked{Snapshotter: "overlay"}
	for i, l := range layers {
		row := metadata.Snapshot{Key: manifest + " " + l, Kind: metadata.Committed, Folder: manifest + l, DiffID: desc("diff of " + l).Digest}
		if i > 0 {
			row.Parent = u.Snapshots[i-1].Key
		}
		u.Snapshots = append(u.Snapshots, row)
	}
	u.Snapshots[len(layers)-1].Manifests = []image.Digest{desc(manifest).Digest}
	return u
}

// evict gives up what it can of some images, or of all, and returns that.
func evict(t *testing.T, s *metadata.Store, names ...string) []image.Digest {
	t.Helper()
	stock := func() *metadata.Sweep {
		w := s.NewSweep()
		if err := w.Unpacked(t.Context(), ns, names...); err != nil {
			t.Fatal(err)
		}
		return w
	}
	planned, err := stock().Evictable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone := rounds(t, stock())
	var plan []image.Digest
	for _, g := range planned {
		plan = append(plan, g.Digest)
	}
	if !slices.Equal(plan, gone) {
		t.Errorf("planned %v, and evicted %v", plan, gone)
	}
	return gone
}

// What may be evicted, and what keeps it.
func TestEvict(t *testing.T) {
	whole := func() metadata.Batch {
		return metadata.Batch{
			Blobs: sourced("m0", "c0", "l0", "l1"), Documents: []metadata.Document{manifest("m0", "c0", "l0", "l1")},
			Images: []metadata.PutImage{put("example.com/x:1", "m0")}, Unpacked: []metadata.Unpacked{stack("m0", "l0", "l1")},
		}
	}
	for _, tc := range []struct {
		name string
		more func(t *testing.T, s *metadata.Store)
		want []string
	}{
		{name: "unpacked", want: []string{"l0", "l1"}},
		{name: "a blob is pinned", want: []string{"l1"}, more: func(t *testing.T, s *metadata.Store) {
			if _, err := s.LabelBlob(t.Context(), ns, desc("l0").Digest, map[string]string{metadata.PinLabel: "yes"}); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a manifest is pinned", more: func(t *testing.T, s *metadata.Store) {
			if _, err := s.LabelBlob(t.Context(), ns, desc("m0").Digest, map[string]string{metadata.PinLabel: "yes"}); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the image is pinned", more: func(t *testing.T, s *metadata.Store) {
			if _, err := s.LabelImage(t.Context(), ns, "example.com/x:1", map[string]string{metadata.PinLabel: "yes"}); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the kubelet pinned another image", want: []string{"l1"}, more: func(t *testing.T, s *metadata.Store) {
			img := put("example.com/y:1", "m1")
			img.Labels = map[string]string{"io.cri-containerd.pinned": "pinned"}
			apply(t, s, "k8s.io", metadata.Batch{
				Blobs: sourced("m1", "c1", "l0"), Documents: []metadata.Document{manifest("m1", "c1", "l0")},
				Images: []metadata.PutImage{img}, Unpacked: []metadata.Unpacked{stack("m1", "l0")},
			})
		}},
		{name: "another image has it packed only", want: []string{"l1"}, more: func(t *testing.T, s *metadata.Store) {
			apply(t, s, ns, metadata.Batch{
				Blobs: sourced("m1", "c1", "l0"), Documents: []metadata.Document{manifest("m1", "c1", "l0")},
				Images: []metadata.PutImage{put("example.com/y:1", "m1")},
			})
		}},
		{name: "another namespace has it packed only", more: func(t *testing.T, s *metadata.Store) {
			b := whole()
			b.Unpacked = nil
			apply(t, s, "other", b)
		}},
		{name: "a platform that nobody asked for has it", want: []string{"l0", "l1"}, more: func(t *testing.T, s *metadata.Store) {
			apply(t, s, ns, metadata.Batch{
				Blobs: sourced("i0", "m1"), Documents: []metadata.Document{manifest("m1", "c1", "l0"), index("i0", on("m0", "amd64"), on("m1", "arm64"))},
				Images: []metadata.PutImage{put("example.com/y:1", "i0", "m0")},
			})
		}},
		{name: "an artifact has it", want: []string{"l1"}, more: func(t *testing.T, s *metadata.Store) {
			doc := manifest("m1", "c1", "l0")
			doc.ArtifactType = "application/x"
			apply(t, s, ns, metadata.Batch{
				Blobs: sourced("m1", "c1"), Documents: []metadata.Document{doc}, Images: []metadata.PutImage{put("example.com/y:1", "m1")},
			})
		}},
		{name: "it is a config, too", want: []string{"l1"}, more: func(t *testing.T, s *metadata.Store) {
			apply(t, s, ns, metadata.Batch{
				Blobs: sourced("m1"), Documents: []metadata.Document{manifest("m1", "l0")}, Images: []metadata.PutImage{put("example.com/y:1", "m1")},
			})
		}},
		{name: "a lease keeps it", want: []string{"l1"}, more: func(t *testing.T, s *metadata.Store) {
			if _, err := s.CreateLease(t.Context(), ns, metadata.Lease{Digests: []image.Digest{desc("l0").Digest}}); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a running operation holds the image", more: func(t *testing.T, s *metadata.Store) { hold(t, s, "m0") }},
		{name: "a running operation holds everything", more: func(t *testing.T, s *metadata.Store) { hold(t, s) }},
		{name: "a running operation holds one", want: []string{"l0"}, more: func(t *testing.T, s *metadata.Store) { hold(t, s, "l1") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			apply(t, s, ns, whole())
			if tc.more != nil {
				tc.more(t, s)
			}
			var want []image.Digest
			for _, l := range tc.want {
				want = append(want, desc(l).Digest)
			}
			slices.Sort(want)
			if got := evict(t, s); !slices.Equal(got, want) {
				t.Errorf("evicted %v, want %v", got, tc.want)
			}
			img, err := s.Image(t.Context(), ns, "example.com/x:1")
			state := metadata.Complete
			if len(want) > 0 {
				state = metadata.Lazy
			}
			if err != nil || img.State != state {
				t.Errorf("the image is %s, %v, want %s", img.State, err, state)
			}
			for _, l := range want {
				if d, err := s.OnDemand(t.Context(), l); err != nil || d == nil || d.Digest != l || d.Size != 10 {
					t.Errorf("%s on demand: %v, %v", l, d, err)
				}
				if b, err := s.AvailableBlob(t.Context(), ns, l); err != nil || b.Digest != l || b.Size != 10 || b.CreatedAt.IsZero() {
					t.Errorf("%s on demand: %+v, %v", l, b, err)
				}
				if b, err := s.AvailableBlob(t.Context(), "stranger", l); !errdefs.IsNotFound(err) {
					t.Errorf("%s on demand of a namespace that has no use for it: %+v, %v", l, b, err)
				}
			}
		})
	}
}

func hold(t *testing.T, s *metadata.Store, names ...string) {
	t.Helper()
	var digests []image.Digest
	for _, n := range names {
		digests = append(digests, desc(n).Digest)
	}
	h, err := s.Hold(t.Context(), ns, digests...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// What did not come from a registry cannot be fetched again, and stays; so does what is not unpacked,
// and what of several images was not meant.
func TestEvictLeaves(t *testing.T) {
	s := newStore(t)
	apply(t, s, ns, metadata.Batch{
		Blobs: blobs("m0", "c0", "l0"), Documents: []metadata.Document{manifest("m0", "c0", "l0")},
		Images: []metadata.PutImage{put("example.com/imported:1", "m0")}, Unpacked: []metadata.Unpacked{stack("m0", "l0")},
	})
	apply(t, s, ns, metadata.Batch{
		Blobs: sourced("m1", "c1", "l1"), Documents: []metadata.Document{manifest("m1", "c1", "l1")},
		Images: []metadata.PutImage{put("example.com/packed:1", "m1")},
	})
	for _, n := range []string{"2", "3"} {
		apply(t, s, ns, metadata.Batch{
			Blobs: sourced("m"+n, "c"+n, "l"+n), Documents: []metadata.Document{manifest("m"+n, "c"+n, "l"+n)},
			Images: []metadata.PutImage{put("example.com/x:"+n, "m"+n)}, Unpacked: []metadata.Unpacked{stack("m"+n, "l"+n)},
		})
	}
	if got := evict(t, s, "example.com/imported:1", "example.com/packed:1", "example.com/x:2", "none"); !slices.Equal(got, []image.Digest{desc("l2").Digest}) {
		t.Errorf("evicted %v", got)
	}
	if got := evict(t, s); !slices.Equal(got, []image.Digest{desc("l3").Digest}) {
		t.Errorf("evicted %v", got)
	}

	// The sources stay with what is left, and go with it.
	where, err := s.Sources(t.Context(), desc("l2").Digest)
	if err != nil || len(where.From) != 1 {
		t.Errorf("sources of an evicted blob: %+v, %v", where, err)
	}
	found, err := s.EvictedByPrefix(t.Context(), ns, desc("l2").Digest.Encoded()[:7])
	if err != nil || !slices.Equal(found, []image.Digest{desc("l2").Digest}) {
		t.Errorf("by its prefix: %v, %v", found, err)
	}
	if _, err := s.Blob(t.Context(), ns, desc("l2").Digest); !errdefs.IsNotFound(err) {
		t.Errorf("an evicted blob is known: %v", err)
	}
	if _, err := s.RemoveImages(t.Context(), ns, "example.com/x:2"); err != nil {
		t.Fatal(err)
	}
	w := s.NewSweep()
	if err := w.Everything(t.Context()); err != nil {
		t.Fatal(err)
	}
	rounds(t, w)
	if where, err = s.Sources(t.Context(), desc("l2").Digest); err != nil || len(where.From) != 0 {
		t.Errorf("sources of a blob that nothing needs: %+v, %v", where, err)
	}
}

// rounds runs them all.
func rounds(t *testing.T, w *metadata.Sweep) (gone []image.Digest) {
	t.Helper()
	for {
		round, err := w.Round(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if round == nil {
			break
		}
		for _, g := range round.Blobs {
			gone = append(gone, g.Digest)
			round.Deleted(g.Digest)
		}
		if err := round.End(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(gone)
	return gone
}

// A hold of an image waits for the round that is deleting a layer of it: then it is gone, or stays.
func TestHoldWaitsForEviction(t *testing.T) {
	s := newStore(t)
	apply(t, s, ns, metadata.Batch{
		Blobs: sourced("m0", "c0", "l0"), Documents: []metadata.Document{manifest("m0", "c0", "l0")},
		Images: []metadata.PutImage{put("example.com/x:1", "m0")}, Unpacked: []metadata.Unpacked{stack("m0", "l0")},
	})
	w := s.NewSweep()
	if err := w.Unpacked(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	round, err := w.Round(t.Context())
	if err != nil || len(round.Blobs) != 1 {
		t.Fatalf("got %+v, %v", round, err)
	}
	held := make(chan error, 1)
	go func() {
		h, err := s.Hold(context.Background(), ns, desc("m0").Digest)
		if err == nil {
			err = h.Release(context.Background())
		}
		held <- err
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Hold(ctx, ns, desc("m0").Digest); err == nil {
		t.Error("a hold did not wait")
	}
	select {
	case err := <-held:
		t.Errorf("a hold did not wait: %v", err)
	default:
	}
	round.Deleted(round.Blobs[0].Digest)
	if err := round.End(); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Error(err)
	}
	if err := w.End(t.Context()); err != nil {
		t.Fatal(err)
	}
}

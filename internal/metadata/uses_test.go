package metadata_test

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

func wantUses(t *testing.T, s *metadata.Store, name string, want ...metadata.Use) {
	t.Helper()
	got, err := s.Uses(t.Context(), ns, name)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// The image of two layers stands on that of one; what is done with the one is no use of the other.
func TestUses(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "base", "a")
	pulled(t, s, ns, "app", "a", "b")
	wantUses(t, s, "base")
	wantUses(t, s, "app")

	mount := func(key, parent string, kind metadata.SnapshotKind) metadata.Use {
		must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: key, Parent: parent, Kind: kind, Folder: key}))
		return metadata.Use{Kind: metadata.UseMounted, By: key, Snapshotter: overlay}
	}
	view := mount("/mnt", chain("a", "b"), metadata.View)
	wantUses(t, s, "app", view)
	wantUses(t, s, "base")

	// What was committed by hand on an image is not the image, but what is mounted on it is.
	mount("work", chain("a"), metadata.Active)
	must(t, s.CommitSnapshot(ctx, ns, overlay, "own", "work", func(*metadata.Snapshot) {}))
	wantUses(t, s, "base")
	wantUses(t, s, "base")
	container := mount("container", "own", metadata.Active)
	wantUses(t, s, "base", container)
	wantUses(t, s, "app", view)
	_, err := s.RemoveSnapshot(ctx, ns, overlay, "container")
	must(t, err)
	_, err = s.RemoveSnapshot(ctx, ns, overlay, "/mnt")
	must(t, err)

	lease := func(id string, l metadata.Lease) metadata.Use {
		l.ID = id
		_, err := s.CreateLease(ctx, ns, l)
		must(t, err)
		return metadata.Use{Kind: metadata.UseLeased, By: id}
	}
	lease("layer", metadata.Lease{Digests: []image.Digest{desc("b").Digest}})
	wantUses(t, s, "app")
	leased := lease("manifest", metadata.Lease{Digests: []image.Digest{desc("app").Digest}})
	wantUses(t, s, "app", leased)
	again := lease("snapshot", metadata.Lease{Snapshots: []metadata.SnapshotRef{{Snapshotter: overlay, Key: chain("a", "b")}}})
	wantUses(t, s, "app", leased, again)
	must(t, s.DeleteLease(ctx, ns, "manifest"))
	must(t, s.DeleteLease(ctx, ns, "snapshot"))
	_, err = s.CreateLease(ctx, "other", metadata.Lease{ID: "theirs", Digests: []image.Digest{desc("app").Digest}})
	must(t, err)
	lease("over", metadata.Lease{ExpiresAt: time.Now().Add(-time.Second), Digests: []image.Digest{desc("app").Digest}})
	wantUses(t, s, "app")

	hold, err := s.Hold(ctx, "other", desc("app").Digest)
	must(t, err)
	if got, err := s.Uses(ctx, ns, "app"); err != nil || len(got) != 1 || got[0].Kind != metadata.UseRunning {
		t.Errorf("held by another namespace: %v, %v", got, err)
	}
	must(t, hold.Release(ctx))

	_, err = s.LabelImage(ctx, ns, "app", map[string]string{metadata.PinLabel: "no"})
	must(t, err)
	wantUses(t, s, "app", metadata.Use{Kind: metadata.UsePinned, By: metadata.PinLabel})
	_, err = s.LabelImage(ctx, ns, "app", map[string]string{metadata.PinLabel: "", "io.cri-containerd.pinned": "pinned"})
	must(t, err)
	wantUses(t, s, "app", metadata.Use{Kind: metadata.UsePinned, By: "io.cri-containerd.pinned=pinned"})
	_, err = s.LabelImage(ctx, ns, "app", map[string]string{"io.cri-containerd.pinned": "no"})
	must(t, err)
	wantUses(t, s, "app")
	if _, err := s.Uses(ctx, ns, "nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("uses of nothing: %v", err)
	}
}

// A manifest that an index lists is of the image that the index is.
func TestUsesOfIndex(t *testing.T) {
	s := newStore(t)
	apply(t, s, ns, metadata.Batch{
		Blobs:     blobs("list", "m", "c", "l"),
		Documents: []metadata.Document{manifest("m", "c", "l"), index("list", on("m", "amd64"))},
		Images:    []metadata.PutImage{put("x", "list")},
		Unpacked:  []metadata.Unpacked{stackOf("m", "l")},
	})
	must(t, s.AddSnapshot(t.Context(), ns, overlay, metadata.Snapshot{Key: "/mnt", Parent: chain("l"), Kind: metadata.View, Folder: "f"}))
	wantUses(t, s, "x", metadata.Use{Kind: metadata.UseMounted, By: "/mnt", Snapshotter: overlay})
}

func TestRemoveUnused(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for _, name := range []string{"idle", "pinned", "mounted"} {
		pulled(t, s, ns, name, "layer of "+name)
	}
	_, err := s.LabelImage(ctx, ns, "pinned", map[string]string{metadata.PinLabel: "yes"})
	must(t, err)
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "/mnt", Parent: chain("layer of mounted"), Kind: metadata.View, Folder: "f"}))
	names := []string{"mounted", "pinned", "nothing", "idle"}
	went := func(since time.Time) (removed, kept []string) {
		list, err := s.RemoveUnused(ctx, ns, since, names...)
		must(t, err)
		for _, u := range list {
			if len(u.Uses) == 0 {
				removed = append(removed, u.Image.Name)
			} else {
				kept = append(kept, u.Image.Name)
			}
		}
		return removed, kept
	}
	if removed, kept := went(time.Now().Add(-time.Hour)); removed != nil || kept != nil {
		t.Errorf("used since, and yet removed %v, kept %v", removed, kept)
	}
	removed, kept := went(time.Time{})
	if !slices.Equal(removed, []string{"idle"}) || !slices.Equal(kept, []string{"mounted", "pinned"}) {
		t.Errorf("removed %v, kept %v", removed, kept)
	}
	if _, err := s.RestoreImage(ctx, ns, "idle", false); err != nil {
		t.Error(err)
	}
}

// What was touched is used, for whatever name the image has.
func TestTouch(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "x", "a")
	usedAt := func() time.Time {
		list, err := s.ImageUses(ctx)
		must(t, err)
		if len(list) != 1 || list[0].Namespace != ns || list[0].Image.Name != "x" {
			t.Fatalf("images %+v", list)
		}
		return list[0].UsedAt
	}
	before := usedAt()
	if ago := time.Since(before); ago < 0 || ago > time.Minute {
		t.Errorf("used %s ago, when it was applied", ago)
	}
	must(t, s.Touch(ctx, ns, desc("x").Digest)) // within a minute
	if got := usedAt(); !got.Equal(before) {
		t.Errorf("noted again after %s", got.Sub(before))
	}
}

func TestEachImage(t *testing.T) {
	s := newStore(t)
	pulled(t, s, ns, "app", "a", "b")
	pulled(t, s, "other", "base", "a")
	signature := manifest("signature", "sc", "sl")
	subject := desc("app")
	signature.Subject = &subject
	apply(t, s, ns, metadata.Batch{Blobs: blobs("signature", "sc", "sl"), Documents: []metadata.Document{signature}})
	got := map[string]metadata.Needs{}
	must(t, s.EachImage(t.Context(), func(n metadata.Needs) { got[n.Image.Name] = n }))
	digests := func(names ...string) (list []image.Digest) {
		for _, n := range names {
			list = append(list, desc(n).Digest)
		}
		slices.Sort(list)
		return list
	}
	for name, want := range map[string]metadata.Needs{
		"app":  {Blobs: digests("app", "config of app", "a", "b", "signature", "sc", "sl"), Folders: []metadata.SnapshotFolder{{overlay, "b"}, {overlay, "a"}}},
		"base": {Blobs: digests("base", "config of base", "a"), Folders: []metadata.SnapshotFolder{{overlay, "a"}}},
	} {
		n := got[name]
		slices.Sort(n.Blobs)
		if diff := cmp.Diff(want.Blobs, n.Blobs); diff != "" {
			t.Errorf("blobs of %s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(want.Folders, n.Folders); diff != "" {
			t.Errorf("folders of %s (-want +got):\n%s", name, diff)
		}
	}
}

package metadata_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

const (
	gcLabel = "containerd.io/gc."
	past    = "2001-01-01T00:00:00Z"
	future  = "2999-01-01T00:00:00Z"
)

// wantBlobs checks which blobs a namespace knows.
func wantBlobs(t *testing.T, s *metadata.Store, ns string, want ...string) {
	t.Helper()
	list, err := s.Blobs(t.Context(), ns)
	must(t, err)
	got, digests := []image.Digest{}, []image.Digest{}
	for _, b := range list {
		got = append(got, b.Digest)
	}
	for _, name := range want {
		digests = append(digests, desc(name).Digest)
	}
	slices.Sort(digests)
	if !slices.Equal(got, digests) {
		t.Errorf("blobs of %s: got %q, want %q", ns, got, want)
	}
}

// Each label keeps what it should, on whatever has it, and what it cannot mean is as if it were
// absent.
func TestCollectionLabels(t *testing.T) {
	d := func(name string) string { return desc(name).Digest.String() }
	for _, tt := range []struct {
		name     string
		blob     map[string]string // labels of a, which nothing keeps
		snapshot map[string]string // of the snapshot of a layer, which nothing keeps
		image    map[string]string // of the image alpine
		want     string            // of a, b and the snapshot, what is kept
	}{
		{name: "none"},
		{name: "root", blob: map[string]string{gcLabel + "root": "now"}, want: "a"},
		{name: "pin", blob: map[string]string{metadata.PinLabel: "x"}, want: "a"},
		{name: "expires", blob: map[string]string{gcLabel + "expire": future}, want: "a"},
		{name: "expired", blob: map[string]string{gcLabel + "expire": past}},
		{name: "no time", blob: map[string]string{gcLabel + "expire": "tomorrow"}},
		{name: "root of a snapshot", snapshot: map[string]string{gcLabel + "root": "now"}, want: "snapshot"},
		{name: "pinned snapshot", snapshot: map[string]string{metadata.PinLabel: "x"}, want: "snapshot"},
		{name: "snapshot that expires", snapshot: map[string]string{gcLabel + "expire": future}, want: "snapshot"},
		{name: "snapshot that expired", snapshot: map[string]string{gcLabel + "expire": past}},
		{name: "content of an image", image: map[string]string{gcLabel + "ref.content": d("a")}, want: "a"},
		{name: "two of an image", image: map[string]string{gcLabel + "ref.content.x": d("a"), gcLabel + "ref.content/y": d("b")}, want: "a b"},
		{name: "snapshot of an image", image: map[string]string{gcLabel + "ref.snapshot.overlay": chain("x")}, want: "snapshot"},
		{name: "one of several snapshots", image: map[string]string{gcLabel + "ref.snapshot.overlay/1": chain("x")}, want: "snapshot"},
		{name: "by containerd's name", image: map[string]string{gcLabel + "ref.snapshot.overlayfs/1": chain("x")}, want: "snapshot"},
		{name: "of another snapshotter", image: map[string]string{gcLabel + "ref.snapshot.overlay.1": chain("x")}},
		{name: "no digest", image: map[string]string{gcLabel + "ref.content": "sha256:a"}},
		{name: "another kind", image: map[string]string{gcLabel + "ref.contents": d("a")}},
		{name: "from what goes", blob: map[string]string{gcLabel + "ref.content": d("b")}},
		{name: "from what stays", blob: map[string]string{gcLabel + "root": "", metadata.PinLabel: "x", gcLabel + "ref.content": d("b"), gcLabel + "ref.snapshot.overlay": chain("x")}, want: "a b snapshot"},
		{name: "back to an image", blob: map[string]string{gcLabel + "bref.image": "alpine"}, want: "a"},
		{name: "back to an image that is none", blob: map[string]string{gcLabel + "bref.image": "debian"}},
		{name: "back to content", blob: map[string]string{gcLabel + "bref.content.1": d("l0")}, want: "a"},
		{name: "back to a snapshot", blob: map[string]string{gcLabel + "bref.snapshot.overlay": "work"}, want: "a"},
		{name: "snapshot back to content", snapshot: map[string]string{gcLabel + "bref.content": d("m")}, want: "snapshot"},
		{name: "along both", image: map[string]string{gcLabel + "ref.content": d("b")}, snapshot: map[string]string{gcLabel + "bref.content": d("b")}, want: "b snapshot"},
		{name: "in a circle", blob: map[string]string{gcLabel + "ref.snapshot.overlay": chain("x")}, snapshot: map[string]string{gcLabel + "ref.content": d("a")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			alpine(t, s)
			apply(t, s, ns, metadata.Batch{Blobs: blobs("a", "b"), Unpacked: []metadata.Unpacked{stackOf("none", "x")}})
			must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "work", Kind: metadata.Active, Folder: "work"}))
			label := func() {
				_, err := s.LabelBlob(ctx, ns, desc("a").Digest, tt.blob)
				must(t, err)
				_, err = s.LabelSnapshot(ctx, ns, overlay, chain("x"), tt.snapshot)
				must(t, err)
				_, err = s.LabelImage(ctx, ns, "alpine", tt.image)
				must(t, err)
			}
			label()
			swept(t, s)
			keptBlobs, keptSnapshots := []string{"m", "c", "l0", "l1"}, []string{"work"}
			for _, name := range strings.Fields(tt.want) {
				if name == "snapshot" {
					keptSnapshots = append(keptSnapshots, chain("x"))
				} else {
					keptBlobs = append(keptBlobs, name)
				}
			}
			wantBlobs(t, s, ns, keptBlobs...)
			wantSnapshots(t, s, ns, overlay, keptSnapshots...)
			// Labels of another namespace keep nothing of this one.
			if tt.image == nil || tt.want == "" {
				return
			}
			removed := map[string]string{}
			for k := range tt.image {
				removed[k] = ""
			}
			_, err := s.LabelImage(ctx, ns, "alpine", removed)
			must(t, err)
			swept(t, s)
			wantBlobs(t, s, ns, "m", "c", "l0", "l1")
		})
	}
}

// An image whose time is over goes with all that it alone keeps, unless something names it.
func TestExpiredImages(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	apply(t, s, ns, metadata.Batch{Blobs: blobs("m2", "c", "l0"), Documents: []metadata.Document{manifest("m2", "c", "l0")}, Images: []metadata.PutImage{put("other", "m2")}})
	_, err := s.LabelImage(ctx, ns, "alpine", map[string]string{gcLabel + "expire": past})
	must(t, err)
	_, err = s.LabelImage(ctx, ns, "other", map[string]string{gcLabel + "ref.image.base": "alpine", gcLabel + "expire": future})
	must(t, err)
	swept(t, s)
	wantBlobs(t, s, ns, "m", "c", "l0", "l1", "m2")
	_, err = s.LabelImage(ctx, ns, "other", map[string]string{gcLabel + "ref.image.base": ""})
	must(t, err)
	f, err := s.Garbage(ctx, nil)
	if err != nil || len(f.Images) != 1 || f.Images[0] != (metadata.ImageRef{Namespace: ns, Name: "alpine"}) || len(f.Blobs) != 2 {
		t.Errorf("garbage: got %+v, %v, want alpine with 2 blobs", f, err)
	}
	swept(t, s)
	wantBlobs(t, s, ns, "c", "l0", "m2")
	if _, err := s.Image(ctx, ns, "alpine"); !errdefs.IsNotFound(err) {
		t.Errorf("image: got %v, want not found", err)
	}
}

// A collection below one image takes the name of another away whose time is over before it takes
// what that says is here.
func TestExpiredImageBeside(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	_, err := s.Tag(ctx, ns, "alpine", "same", false)
	must(t, err)
	_, err = s.LabelImage(ctx, ns, "same", map[string]string{gcLabel + "expire": past})
	must(t, err)
	_, err = s.RemoveImages(ctx, ns, "alpine")
	must(t, err)
	collect(t, s, func(w *metadata.Sweep) error { return w.Below(ctx, desc("m").Digest) })
	wantBlobs(t, s, ns)
	if list, err := s.Images(ctx, ns); err != nil || len(list) > 0 {
		t.Errorf("images: got %v, %v, want none", list, err)
	}
}

// A flat lease keeps what it lists, a lease all below it, in its namespace; labels end leases, too.
func TestLeasesKeep(t *testing.T) {
	for name, tt := range map[string]struct {
		lease metadata.Lease
		want  string
	}{
		"lease":             {metadata.Lease{Digests: []image.Digest{desc("m").Digest}}, "m c l0 l1"},
		"flat":              {metadata.Lease{Digests: []image.Digest{desc("m").Digest}, Labels: map[string]string{gcLabel + "flat": "yes"}}, "m"},
		"snapshot":          {metadata.Lease{Snapshots: []metadata.SnapshotRef{{Snapshotter: overlay, Key: chain("x", "y")}}}, "snapshots"},
		"flat snapshot":     {metadata.Lease{Snapshots: []metadata.SnapshotRef{{Snapshotter: overlay, Key: chain("x")}}, Labels: map[string]string{gcLabel + "flat": "yes"}}, "snapshot"},
		"expires":           {metadata.Lease{Digests: []image.Digest{desc("m").Digest}, Labels: map[string]string{gcLabel + "expire": future}}, "m c l0 l1"},
		"expired":           {metadata.Lease{Digests: []image.Digest{desc("m").Digest}, Labels: map[string]string{gcLabel + "expire": past}}, ""},
		"expired otherwise": {metadata.Lease{Digests: []image.Digest{desc("m").Digest}, ExpiresAt: time.Now().Add(-time.Second)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			apply(t, s, ns, metadata.Batch{
				Blobs: blobs("m", "c", "l0", "l1"), Documents: []metadata.Document{manifest("m", "c", "l0", "l1")},
				Unpacked: []metadata.Unpacked{stackOf("none", "x", "y")},
			})
			apply(t, s, "other", metadata.Batch{Blobs: blobs("m", "l0")})
			_, err := s.CreateLease(ctx, ns, tt.lease)
			must(t, err)
			swept(t, s)
			var wantHere, wantRows []string
			for _, w := range strings.Fields(tt.want) {
				switch w {
				case "snapshots":
					wantRows = []string{chain("x"), chain("x", "y")}
				case "snapshot":
					wantRows = []string{chain("x")}
				default:
					wantHere = append(wantHere, w)
				}
			}
			wantBlobs(t, s, ns, wantHere...)
			wantBlobs(t, s, "other")
			wantSnapshots(t, s, ns, overlay, wantRows...)
		})
	}
}

// collect takes what a sweep finds.
func collect(t *testing.T, s *metadata.Store, find func(*metadata.Sweep) error) (found metadata.Found, folders []metadata.Folder) {
	t.Helper()
	w := s.NewSweep()
	must(t, find(w))
	for {
		r, err := w.Round(t.Context())
		must(t, err)
		if r == nil {
			break
		}
		for _, g := range r.Blobs {
			r.Deleted(g.Digest)
		}
		found.Blobs, found.Snapshots = append(found.Blobs, r.Blobs...), append(found.Snapshots, r.Snapshots...)
		folders = append(folders, r.Folders...)
		must(t, r.End())
	}
	must(t, w.End(t.Context()))
	return found, folders
}

// A collection below what was removed takes that and nothing else, with folders that no other
// snapshot has.
func TestBelow(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "one", "base", "x")
	pulled(t, s, ns, "two", "base", "y")
	signature := manifest("signature", "sc")
	subject := desc("one")
	signature.Subject = &subject
	apply(t, s, ns, metadata.Batch{Blobs: blobs("signature", "sc", "loose"), Documents: []metadata.Document{signature}})
	_, err := s.RemoveImages(ctx, ns, "one")
	must(t, err)
	found, folders := collect(t, s, func(w *metadata.Sweep) error { return w.Below(ctx, desc("one").Digest) })
	if len(found.Blobs) != 5 || len(found.Snapshots) != 1 {
		t.Errorf("took %+v, want 5 blobs and a snapshot", found)
	}
	if want := []metadata.Folder{{Snapshotter: overlay, Name: "x"}}; !slices.Equal(folders, want) {
		t.Errorf("folders: got %v, want %v", folders, want)
	}
	wantBlobs(t, s, ns, "two", "config of two", "base", "y", "loose")
	wantSnapshots(t, s, ns, overlay, chain("base"), chain("base", "y"))
	// What is still needed is left, and so is all below it.
	if found, _ := collect(t, s, func(w *metadata.Sweep) error { return w.Below(ctx, desc("two").Digest) }); len(found.Blobs)+len(found.Snapshots) > 0 {
		t.Errorf("of what is needed it took %+v", found)
	}
}

// Only tells what goes with names, which may keep it together.
func TestOnly(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "one", "base", "x")
	pulled(t, s, ns, "two", "base", "y")
	_, err := s.Tag(ctx, ns, "one", "same", false)
	must(t, err)
	for names, want := range map[string][2]int{"one": {0, 0}, "one same": {3, 1}, "two": {3, 1}, "one same two": {7, 3}, "none": {0, 0}} {
		blobs, snapshots, err := s.Only(ctx, ns, strings.Fields(names)...)
		if err != nil || len(blobs) != want[0] || len(snapshots) != want[1] {
			t.Errorf("%s: got %d blobs and %d snapshots, %v, want %v", names, len(blobs), len(snapshots), err, want)
		}
	}
	wantBlobs(t, s, ns, "one", "config of one", "two", "config of two", "base", "x", "y")
}

// A counted database counts what its transactions write.
type counted struct {
	kv.DB
	most int
}

type countedWriter struct {
	kv.Writer
	n int
}

func (w *countedWriter) Put(key, value []byte) error {
	w.n++
	return w.Writer.Put(key, value)
}

func (w *countedWriter) Delete(key []byte) error {
	w.n++
	return w.Writer.Delete(key)
}

func (db *counted) Update(ctx context.Context, f func(kv.Writer) error) error {
	return db.DB.Update(ctx, func(w kv.Writer) error {
		c := &countedWriter{Writer: w}
		err := f(c)
		db.most = max(db.most, c.n)
		return err
	})
}

// However much there is to take, no transaction of a collection writes much more than the bound of
// a round, and what is one candidate's.
func TestRoundsAreBounded(t *testing.T) {
	db := &counted{DB: mem.New()}
	s := metadata.New(db, filepath.Join(t.TempDir(), "holders"))
	for i := range 100 {
		var layers []string
		for l := range 20 {
			layers = append(layers, fmt.Sprint("layer ", i, " ", l))
		}
		pulled(t, s, ns, fmt.Sprint("image ", i), layers...)
	}
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("image ", i))
	}
	_, err := s.RemoveImages(t.Context(), ns, names...)
	must(t, err)
	db.most = 0
	found, _ := collect(t, s, func(w *metadata.Sweep) error { return w.Everything(t.Context()) })
	if len(found.Blobs) != 2200 || len(found.Snapshots) != 2000 {
		t.Errorf("took %d blobs and %d snapshots", len(found.Blobs), len(found.Snapshots))
	}
	if db.most > 700 {
		t.Errorf("a transaction wrote %d rows", db.most)
	}
	wantSnapshots(t, s, ns, overlay)
	wantFolders(t, s, overlay)
}

// A collection may end after any of its rounds: whatever snapshots are left then have what they stand on.
func TestSnapshotsGoFromTheTop(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var layers []string
	for l := range 300 {
		layers = append(layers, fmt.Sprint("layer ", l))
	}
	pulled(t, s, ns, "image", layers...)
	_, err := s.RemoveImages(ctx, ns, "image")
	must(t, err)
	w := s.NewSweep()
	must(t, w.Everything(ctx))
	rounds := 0
	for ; ; rounds++ {
		r, err := w.Round(ctx)
		must(t, err)
		if r == nil {
			break
		}
		must(t, r.End())
		left, err := s.Snapshots(ctx, ns, overlay)
		must(t, err)
		there := map[string]bool{"": true}
		for _, row := range left {
			there[row.Key] = true
		}
		for _, row := range left {
			if !there[row.Parent] {
				t.Fatalf("after round %d there is %s, and not what it stands on", rounds, row.Key)
			}
		}
	}
	if rounds < 3 {
		t.Errorf("%d rounds show nothing", rounds)
	}
}

// Who wants a blob that is being deleted waits for the round that deletes it, and not for those that
// follow.
func TestHoldWaitsForARound(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("blob ", i))
	}
	apply(t, s, ns, metadata.Batch{Blobs: blobs(names...)})
	w := s.NewSweep()
	must(t, w.Everything(ctx))
	first, err := w.Round(ctx)
	must(t, err)
	wanted := first.Blobs[0].Digest
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	if _, err := s.Hold(short, ns, wanted); err == nil {
		t.Error("a hold did not wait for the round")
	}
	first.Deleted(wanted)
	must(t, first.End())
	second, err := w.Round(ctx)
	must(t, err)
	if second == nil {
		t.Fatal("there is no second round")
	}
	hold, err := s.Hold(ctx, ns, wanted)
	must(t, err)
	apply(t, s, ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: wanted, Size: 10}}, Release: hold})
	must(t, second.End())
	must(t, w.End(ctx))
	// The marks of the second round are left, as a process leaves them that dies: nobody waits.
	hold, err = s.Hold(ctx, ns, second.Blobs[0].Digest)
	must(t, err)
	must(t, hold.Release(ctx))
}

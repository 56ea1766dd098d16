package metadata_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
)

const overlay = "overlay"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stackOf is what a batch says of an image of layers called names, in folders of their names. The
// snapshots are named after the whole path, as "a/b".
func stackOf(manifest string, names ...string) metadata.Unpacked {
	u := metadata.Unpacked{Snapshotter: overlay}
	parent := ""
	for i, name := range names {
		row := metadata.Snapshot{
			Key: chain(names[:i+1]...), Kind: metadata.Committed, Parent: parent, Folder: name, DiffID: desc(name).Digest, Size: 10, Inodes: 1,
		}
		if i == len(names)-1 {
			row.Manifests = []image.Digest{desc(manifest).Digest}
		}
		u.Snapshots = append(u.Snapshots, row)
		u.Layers = append(u.Layers, metadata.UnpackedLayer{DiffID: row.DiffID, Folder: name, Size: 10, Inodes: 1})
		parent = row.Key
	}
	return u
}

// chain is the name of a stack: the digest of its path.
func chain(names ...string) string { return desc(strings.Join(names, "/")).Digest.String() }

// pulled applies an image with its snapshots.
func pulled(t *testing.T, s *metadata.Store, ns, name string, layers ...string) {
	t.Helper()
	apply(t, s, ns, metadata.Batch{
		Blobs:     blobs(append([]string{name, "config of " + name}, layers...)...),
		Documents: []metadata.Document{manifest(name, "config of "+name, layers...)},
		Images:    []metadata.PutImage{put(name, name)},
		Unpacked:  []metadata.Unpacked{stackOf(name, layers...)},
	})
}

// swept collects what nothing needs.
func swept(t *testing.T, s *metadata.Store) {
	t.Helper()
	w := s.NewSweep()
	must(t, w.Everything(t.Context()))
	for {
		r, err := w.Round(t.Context())
		must(t, err)
		if r == nil {
			break
		}
		must(t, r.End())
	}
	must(t, w.End(t.Context()))
}

// wantSnapshots checks which snapshots are there, by key.
func wantSnapshots(t *testing.T, s *metadata.Store, ns, snapshotter string, want ...string) {
	t.Helper()
	rows, err := s.Snapshots(t.Context(), ns, snapshotter)
	must(t, err)
	var got []string
	for _, row := range rows {
		got = append(got, row.Key)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("snapshots of %s in %s: got %q, want %q", snapshotter, ns, got, want)
	}
}

func wantFolders(t *testing.T, s *metadata.Store, snapshotter string, want ...string) {
	t.Helper()
	folders, err := s.SnapshotFolders(t.Context(), snapshotter)
	must(t, err)
	got := []string{}
	for name := range folders {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("folders of %s: got %q, want %q", snapshotter, got, want)
	}
}

// A row is read as it was written, alone, in its chain and in the list.
func TestSnapshotRows(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	want := []metadata.Snapshot{
		{
			Key: "base", Kind: metadata.Committed, Labels: map[string]string{"a": "b"}, Folder: "f0", DiffID: desc("l0").Digest,
			Manifests: []image.Digest{desc("m").Digest, desc("n").Digest}, Size: 1 << 40, Inodes: 7,
			Losses: []layer.Loss{{Kind: layer.LostXattr, Path: "a/b", Detail: "user.x", Count: 3}},
		},
		{Key: "odd ☃/\n", Kind: metadata.Active, Parent: "base", Folder: "f1"},
		{Key: strings.Repeat("x", 1024), Kind: metadata.View, Parent: "base", Folder: "f2"},
	}
	begun := time.Now()
	for _, row := range want {
		must(t, s.AddSnapshot(ctx, ns, overlay, row))
	}
	times := cmpopts.IgnoreFields(metadata.Snapshot{}, "CreatedAt", "UpdatedAt")
	got, err := s.Snapshots(ctx, ns, overlay)
	must(t, err)
	if diff := cmp.Diff(want, got, times); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	for i, row := range want {
		chain, err := s.SnapshotChain(ctx, ns, overlay, row.Key)
		must(t, err)
		expected := want[:1]
		if i > 0 {
			expected = []metadata.Snapshot{want[0], row}
		}
		if diff := cmp.Diff(expected, chain, times); diff != "" {
			t.Errorf("chain of %.10s (-want +got):\n%s", row.Key, diff)
		}
		last := chain[len(chain)-1]
		if last.CreatedAt.Before(begun) || !last.CreatedAt.Equal(last.UpdatedAt) || last.CreatedAt.Location() != time.UTC {
			t.Errorf("%.10s was created at %s and updated at %s", row.Key, last.CreatedAt, last.UpdatedAt)
		}
	}
	if list, err := s.SnapshotChain(ctx, ns, overlay, ""); len(list) != 0 || err != nil {
		t.Errorf("the chain of nothing: %v, %v", list, err)
	}
	list, err := s.Snapshotters(ctx, ns)
	if !slices.Equal(list, []string{overlay}) || err != nil {
		t.Errorf("snapshotters: %v, %v", list, err)
	}
	spaces, err := s.Namespaces(ctx)
	if err != nil || len(spaces) != 1 || spaces[0].Name != ns {
		t.Errorf("namespaces: %v, %v", spaces, err)
	}
}

// What is wrong is refused by its kind, and changes nothing.
func TestSnapshotErrors(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	add := func(key, parent string, kind metadata.SnapshotKind) error {
		return s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: key, Parent: parent, Kind: kind, Folder: "f " + key})
	}
	commit := func(name, key string) error {
		return s.CommitSnapshot(ctx, ns, overlay, name, key, func(*metadata.Snapshot) {})
	}
	remove := func(key string) error { _, err := s.RemoveSnapshot(ctx, ns, overlay, key); return err }
	label := func(key string, labels map[string]string) error {
		_, err := s.LabelSnapshot(ctx, ns, overlay, key, labels)
		return err
	}
	must(t, add("base", "", metadata.Committed))
	must(t, add("work", "base", metadata.Active))
	must(t, add("look", "base", metadata.View))
	before, err := s.Snapshots(ctx, ns, overlay)
	must(t, err)
	long := strings.Repeat("x", 1025)
	for _, tt := range []struct {
		what string
		err  error
		kind func(error) bool
	}{
		{"add what is there", add("work", "", metadata.Active), errdefs.IsAlreadyExists},
		{"add on nothing", add("new", "none", metadata.Active), errdefs.IsNotFound},
		{"add on an active one", add("new", "work", metadata.Active), errdefs.IsFailedPrecondition},
		{"add on a view", add("new", "look", metadata.View), errdefs.IsFailedPrecondition},
		{"add on itself", add("new", "new", metadata.Committed), errdefs.IsNotFound},
		{"add without a key", add("", "", metadata.Active), errdefs.IsInvalidArgument},
		{"add with a zero byte", add("a\x00b", "", metadata.Active), errdefs.IsInvalidArgument},
		{"add with no text", add("\xff", "", metadata.Active), errdefs.IsInvalidArgument},
		{"add with a long key", add(long, "", metadata.Active), errdefs.IsInvalidArgument},
		{"add with a long parent", add("new", long, metadata.Active), errdefs.IsInvalidArgument},
		{"add to a bad namespace", s.AddSnapshot(ctx, "a/b", overlay, metadata.Snapshot{Key: "x"}), errdefs.IsInvalidArgument},
		{"add to a bad snapshotter", s.AddSnapshot(ctx, ns, "a\x00b", metadata.Snapshot{Key: "x"}), errdefs.IsInvalidArgument},
		{"add with a bad diffID", s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "x", DiffID: "sha256:x"}), errdefs.IsInvalidArgument},
		{"add with a bad manifest", s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "x", Manifests: []image.Digest{"x"}}), errdefs.IsInvalidArgument},
		{"add with bad labels", s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "x", Labels: map[string]string{"": "x"}}), errdefs.IsInvalidArgument},
		{"add lazy without its blob", s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "x", Lazy: true}), errdefs.IsInvalidArgument},
		{"commit as what is there", commit("base", "work"), errdefs.IsAlreadyExists},
		{"commit a view", commit("new", "look"), errdefs.IsFailedPrecondition},
		{"commit a committed one", commit("new", "base"), errdefs.IsFailedPrecondition},
		{"commit nothing", commit("new", "none"), errdefs.IsNotFound},
		{"commit without a name", commit("", "work"), errdefs.IsInvalidArgument},
		{"commit with a zero byte", commit("a\x00", "work"), errdefs.IsInvalidArgument},
		{"remove nothing", remove("none"), errdefs.IsNotFound},
		{"remove a parent", remove("base"), errdefs.IsFailedPrecondition},
		{"label nothing", label("none", nil), errdefs.IsNotFound},
		{"label without a key", label("work", map[string]string{"": "x"}), errdefs.IsInvalidArgument},
		{"label at length", label("work", map[string]string{"x": strings.Repeat("x", 4096)}), errdefs.IsInvalidArgument},
	} {
		if !tt.kind(tt.err) {
			t.Errorf("%s: %v", tt.what, tt.err)
		}
	}
	_, err = s.SnapshotChain(ctx, ns, overlay, "none")
	if !errdefs.IsNotFound(err) {
		t.Errorf("chain of nothing: %v", err)
	}
	if _, err := s.UnpackedLayer(ctx, overlay, desc("l").Digest); !errdefs.IsNotFound(err) {
		t.Errorf("layer that is not there: %v", err)
	}
	after, err := s.Snapshots(ctx, ns, overlay)
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("what was refused changed something:\n%s", diff)
	}
}

// An active snapshot becomes a committed one under its name, and is removed when nothing stands on
// it.
func TestCommitSnapshot(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "work", Kind: metadata.Active, Folder: "f"}))
	_, err := s.LabelSnapshot(ctx, ns, overlay, "work", map[string]string{"a": "1", "b": "2"})
	must(t, err)
	row, err := s.LabelSnapshot(ctx, ns, overlay, "work", map[string]string{"a": ""})
	if want := map[string]string{"b": "2"}; err != nil || !cmp.Equal(row.Labels, want) {
		t.Errorf("labels: got %v and error %v, want %v", row.Labels, err, want)
	}
	must(t, s.CommitSnapshot(ctx, ns, overlay, "done", "work", func(row *metadata.Snapshot) { row.Size, row.Inodes = 5, 6 }))
	wantSnapshots(t, s, ns, overlay, "done")
	chain, err := s.SnapshotChain(ctx, ns, overlay, "done")
	must(t, err)
	if row := chain[0]; row.Kind != metadata.Committed || row.Size != 5 || row.Inodes != 6 || row.Folder != "f" {
		t.Errorf("got %+v", row)
	}
	wantFolders(t, s, overlay, "f")
	row, err = s.RemoveSnapshot(ctx, ns, overlay, "done")
	if err != nil || row.Folder != "f" {
		t.Errorf("removed: got %+v, error %v", row, err)
	}
	wantFolders(t, s, overlay)
}

// The same keys in other namespaces and snapshotters are other snapshots. Folders are those of a
// snapshotter, whatever the namespace.
func TestSnapshotSpaces(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for _, at := range [][2]string{{"a", "one"}, {"a", "two"}, {"b", "one"}, {"a", "on"}, {"a-b", "one"}} {
		must(t, s.AddSnapshot(ctx, at[0], at[1], metadata.Snapshot{Key: "same", Kind: metadata.Committed, Folder: at[0] + at[1]}))
		wantSnapshots(t, s, at[0], at[1], "same")
	}
	wantFolders(t, s, "one", "a-bone", "aone", "bone")
	list, err := s.Snapshotters(ctx, "a")
	if want := []string{"on", "one", "two"}; err != nil || !slices.Equal(list, want) {
		t.Errorf("snapshotters: got %v and error %v, want %v", list, err, want)
	}
	if err := s.AddSnapshot(ctx, "b", "two", metadata.Snapshot{Key: "child", Parent: "same"}); !errdefs.IsNotFound(err) {
		t.Errorf("a parent of another namespace: %v", err)
	}
	if _, err := s.RemoveSnapshot(ctx, "a", "one", "same"); err != nil {
		t.Error(err)
	}
	wantSnapshots(t, s, "a", "one")
	wantSnapshots(t, s, "a", "two", "same")
	wantSnapshots(t, s, "b", "one", "same")

	if err := s.DeleteNamespace(ctx, "b"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "snapshots") {
		t.Errorf("delete a namespace with snapshots: %v", err)
	}
	if _, err := s.RemoveSnapshot(ctx, "b", "one", "same"); err != nil {
		t.Error(err)
	}
	must(t, s.DeleteNamespace(ctx, "b"))
}

// Of two who unpack the same, the second adds what it alone knows, and only mends what is gone.
func TestUnpacked(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	give := func(u metadata.Unpacked) {
		t.Helper()
		apply(t, s, ns, metadata.Batch{Unpacked: []metadata.Unpacked{u}})
	}
	get := func(names ...string) metadata.Snapshot {
		t.Helper()
		rows, err := s.SnapshotChain(ctx, ns, overlay, chain(names...))
		must(t, err)
		return rows[len(rows)-1]
	}
	give(stackOf("m", "a", "b"))
	first := get("a", "b")
	give(stackOf("m", "a", "b"))
	if diff := cmp.Diff(first, get("a", "b")); diff != "" {
		t.Errorf("the same again changes it:\n%s", diff)
	}

	// Another process was as quick, in folders of its own.
	late := stackOf("n", "a", "b")
	late.Layers = nil
	for i := range late.Snapshots {
		late.Snapshots[i].Folder, late.Snapshots[i].Size = "late", 99
	}
	give(late)
	row := get("a", "b")
	if want := []image.Digest{desc("m").Digest, desc("n").Digest}; !slices.Equal(row.Manifests, want) || row.Folder != "b" || row.Size != 10 {
		t.Errorf("got %+v", row)
	}
	if row.UpdatedAt.Before(first.UpdatedAt) || !row.CreatedAt.Equal(first.CreatedAt) {
		t.Errorf("times: %+v", row)
	}
	wantFolders(t, s, overlay, "a", "b")

	// A folder that is gone is replaced, but not one that somebody else replaced before.
	for _, tt := range []struct{ mends, folder, want string }{{"b", "mended", "mended"}, {"b", "too late", "mended"}, {"", "not asked", "mended"}} {
		mend := stackOf("m", "a", "b")
		mend.Layers = nil
		mend.Snapshots[1].Mends, mend.Snapshots[1].Folder, mend.Snapshots[1].Inodes = tt.mends, tt.folder, 77
		give(mend)
		if row := get("a", "b"); row.Folder != tt.want || row.Inodes != 77 || len(row.Manifests) != 2 {
			t.Errorf("mending %q with %q: got %+v", tt.mends, tt.folder, row)
		}
	}

	l, err := s.UnpackedLayer(ctx, overlay, desc("b").Digest)
	if err != nil || l.Folder != "b" {
		t.Errorf("layer: got %+v, error %v", l, err)
	}
	// The same for a layer: what is there stays, unless its folder is gone.
	for _, tt := range []struct{ mends, folder, want string }{{"", "not asked", "b"}, {"b", "mended", "mended"}, {"b", "too late", "mended"}} {
		give(metadata.Unpacked{Snapshotter: overlay, Layers: []metadata.UnpackedLayer{{DiffID: desc("b").Digest, Folder: tt.folder, Mends: tt.mends}}})
		if l, err := s.UnpackedLayer(ctx, overlay, desc("b").Digest); err != nil || l.Folder != tt.want {
			t.Errorf("mending %q with %q: got %+v, %v", tt.mends, tt.folder, l, err)
		}
	}
}

// A batch whose snapshots cannot be written writes nothing else.
func TestUnpackedRefused(t *testing.T) {
	for what, change := range map[string]func(*metadata.Unpacked){
		"no snapshotter": func(u *metadata.Unpacked) { u.Snapshotter = "" },
		"no parent":      func(u *metadata.Unpacked) { u.Snapshots = u.Snapshots[1:] },
		"bad diffID":     func(u *metadata.Unpacked) { u.Layers[0].DiffID = "sha256:.." },
		"bad key":        func(u *metadata.Unpacked) { u.Snapshots[0].Key = "" },
	} {
		s := newStore(t)
		u := stackOf("m", "a", "b")
		change(&u)
		if _, err := s.Apply(t.Context(), ns, metadata.Batch{Blobs: blobs("x"), Unpacked: []metadata.Unpacked{u}}); err == nil {
			t.Errorf("%s: no error", what)
		}
		wantSnapshots(t, s, ns, overlay)
		wantFolders(t, s, overlay)
		if list, err := s.Blobs(t.Context(), ns); len(list) > 0 || err != nil {
			t.Errorf("%s: blobs %v, error %v", what, list, err)
		}
	}
}

// A collection takes the snapshots of images that are gone, and those below that nothing else
// stands on.
func TestSweepSnapshots(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "one", "base", "x")
	pulled(t, s, ns, "two", "base", "y", "z")
	pulled(t, s, "other", "three", "base", "x")
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "container", Kind: metadata.Active, Parent: chain("base", "y"), Folder: "container"}))
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "by hand", Kind: metadata.Committed, Folder: "by hand"}))
	all := []string{chain("base"), chain("base", "x"), chain("base", "y"), chain("base", "y", "z"), "by hand", "container"}
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, all...)
	wantFolders(t, s, overlay, "base", "by hand", "container", "x", "y", "z")

	// One image goes; what the other namespace has stays.
	_, err := s.RemoveImages(ctx, ns, "one")
	must(t, err)
	garbage, err := s.Garbage(ctx, nil)
	if err != nil || len(garbage.Snapshots) != 1 || garbage.Snapshots[0].Key != chain("base", "x") {
		t.Errorf("garbage: %v, error %v", garbage, err)
	}
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, chain("base"), chain("base", "y"), chain("base", "y", "z"), "by hand", "container")
	wantSnapshots(t, s, "other", overlay, chain("base"), chain("base", "x"))
	wantFolders(t, s, overlay, "base", "by hand", "container", "x", "y", "z")

	// The other goes; a container stands on the middle of its stack.
	_, err = s.RemoveImages(ctx, ns, "two")
	must(t, err)
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, chain("base"), chain("base", "y"), "by hand", "container")
	wantFolders(t, s, overlay, "base", "by hand", "container", "x", "y")
	if _, err := s.UnpackedLayer(ctx, overlay, desc("z").Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the layer that no snapshot has: %v", err)
	}
	if _, err := s.RemoveSnapshot(ctx, ns, overlay, "container"); err != nil {
		t.Fatal(err)
	}
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, "by hand")
	wantFolders(t, s, overlay, "base", "by hand", "x")

	_, err = s.RemoveImages(ctx, "other", "three")
	must(t, err)
	swept(t, s)
	wantFolders(t, s, overlay, "by hand")
}

// An index keeps the snapshots of its manifests; another name for the image does, too.
func TestSweepKeepsWhatIsNamed(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "one", "a")
	apply(t, s, ns, metadata.Batch{
		Blobs: blobs("index"), Documents: []metadata.Document{index("index", on("one", "amd64"))}, Images: []metadata.PutImage{put("list", "index")},
	})
	_, err := s.RemoveImages(ctx, ns, "one")
	must(t, err)
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, chain("a"))
	if _, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "lease", Digests: []image.Digest{desc("one").Digest}}); err != nil {
		t.Fatal(err)
	}
	_, err = s.RemoveImages(ctx, ns, "list")
	must(t, err)
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, chain("a"))
	must(t, s.DeleteLease(ctx, ns, "lease"))
	swept(t, s)
	wantSnapshots(t, s, ns, overlay)
	wantFolders(t, s, overlay)
}

// What clients of a daemon made goes when its time is over, whatever its kind, unless something keeps it.
func TestSweepExpired(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	add := func(row metadata.Snapshot) {
		row.Folder = row.Key
		must(t, s.AddSnapshot(ctx, ns, overlay, row))
	}
	then, later := time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	add(metadata.Snapshot{Key: "below", Kind: metadata.Committed, Expires: then})
	add(metadata.Snapshot{Key: "stands", Kind: metadata.Active, Parent: "below", Expires: later})
	add(metadata.Snapshot{Key: "layer", Kind: metadata.Committed, DiffID: desc("l").Digest, Expires: later})
	add(metadata.Snapshot{Key: "looked", Kind: metadata.View, Parent: "below", Expires: then})
	add(metadata.Snapshot{Key: "leased", Kind: metadata.Active, Expires: then})
	add(metadata.Snapshot{Key: "labelled", Kind: metadata.Active, Expires: then, Labels: map[string]string{"containerd.io/gc.root": "x"}})
	add(metadata.Snapshot{Key: "work", Kind: metadata.Active, Expires: then})
	add(metadata.Snapshot{Key: "ours", Kind: metadata.Active})
	_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "l", Snapshots: []metadata.SnapshotRef{{Snapshotter: overlay, Key: "leased"}}})
	must(t, err)
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, "below", "stands", "layer", "leased", "labelled", "ours")
	must(t, s.DeleteLease(ctx, ns, "l"))
	must(t, s.CommitSnapshot(ctx, ns, overlay, "done", "stands", func(row *metadata.Snapshot) { row.Expires = then }))
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, "layer", "labelled", "ours")
}

// A running operation keeps the stacks and the layers that it holds, with no image yet.
func TestSweepHeld(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	u := stackOf("m", "a", "b", "c")
	u.Snapshots[2].Manifests = nil // as one publishes what it is not yet done with
	u.Layers = append(u.Layers, metadata.UnpackedLayer{DiffID: desc("alone").Digest, Folder: "alone"})
	apply(t, s, ns, metadata.Batch{Unpacked: []metadata.Unpacked{u}})
	hold, err := s.Hold(ctx, ns, image.Digest(chain("a", "b")), desc("alone").Digest)
	must(t, err)
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, chain("a"), chain("a", "b"))
	wantFolders(t, s, overlay, "a", "alone", "b")
	// Who removes a snapshot by hand does not take what is held either.
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "x", Kind: metadata.Active, Folder: "x"}))
	if _, err := s.RemoveSnapshot(ctx, ns, overlay, "x"); err != nil {
		t.Fatal(err)
	}
	wantFolders(t, s, overlay, "a", "alone", "b")
	must(t, hold.Release(ctx))
	swept(t, s)
	wantSnapshots(t, s, ns, overlay)
	wantFolders(t, s, overlay)
}

// Without digests a hold keeps everything.
func TestSweepHeldAll(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	apply(t, s, ns, metadata.Batch{Unpacked: []metadata.Unpacked{stackOf("m", "a", "b")}})
	hold, err := s.Hold(ctx, ns)
	must(t, err)
	swept(t, s)
	wantFolders(t, s, overlay, "a", "b")
	must(t, hold.Release(ctx))
	swept(t, s)
	wantFolders(t, s, overlay)
}

// One row that does not decode is reported by whoever would have to know it; the others can still
// be read, and nothing is collected by mistake.
func TestDamagedSnapshot(t *testing.T) {
	db := mem.New()
	s, ctx := metadata.New(db, filepath.Join(t.TempDir(), "holders")), t.Context()
	pulled(t, s, ns, "one", "a", "b")
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "x", Kind: metadata.Active, Folder: "x"}))
	must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: "damaged", Kind: metadata.Committed, Parent: chain("a"), Folder: "damaged", DiffID: desc("a").Digest}))
	damaged := fmt.Sprintf("s/%s\x00%s\x00%s", ns, overlay, "damaged")
	must(t, db.Update(ctx, func(w kv.Writer) error { return w.Put([]byte(damaged), []byte("{")) }))

	_, err := s.SnapshotChain(ctx, ns, overlay, "damaged")
	if !errdefs.IsDataLoss(err) {
		t.Errorf("the damaged one: %v", err)
	}
	for _, name := range []string{"x", chain("a", "b")} {
		if _, err := s.SnapshotChain(ctx, ns, overlay, name); err != nil {
			t.Errorf("another one: %v", err)
		}
	}
	// What it stands on and which folder it has is known all the same.
	wantFolders(t, s, overlay, "a", "b", "damaged", "x")
	_, err = s.RemoveImages(ctx, ns, "one")
	must(t, err)
	swept(t, s)
	wantFolders(t, s, overlay, "a", "damaged", "x")
	if _, err := s.RemoveSnapshot(ctx, ns, overlay, chain("a")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove what the damaged one stands on: %v", err)
	}
	list, err := s.Snapshots(ctx, ns, overlay)
	must(t, err)
	found := false
	for _, row := range list {
		found = found || row.Key == "damaged" && row.Damaged
	}
	if !found || len(list) != 3 {
		t.Errorf("a list of %v, want three, one of them damaged", list)
	}
	// It can be removed, and then all is as before.
	_, err = s.RemoveSnapshot(ctx, ns, overlay, "damaged")
	must(t, err)
	swept(t, s)
	wantSnapshots(t, s, ns, overlay, "x")
	wantFolders(t, s, overlay, "x")
}

// Rows that stand on one another in a circle are damage, and no endless loop.
func TestSnapshotCircle(t *testing.T) {
	db := mem.New()
	s, ctx := metadata.New(db, filepath.Join(t.TempDir(), "holders")), t.Context()
	for key, parent := range map[string]string{"a": "b", "b": "a"} {
		must(t, s.AddSnapshot(ctx, ns, overlay, metadata.Snapshot{Key: key, Kind: metadata.Committed, DiffID: desc(key).Digest, Folder: key}))
		must(t, db.Update(ctx, func(w kv.Writer) error {
			k := fmt.Sprintf("s/%s\x00%s\x00%s", ns, overlay, key)
			return w.Put([]byte(k), []byte(fmt.Sprintf(`{"key":%q,"kind":"Committed","parent":%q,"diffID":%q,"folder":%q}`, key, parent, desc(key).Digest, key)))
		}))
	}
	if _, err := s.SnapshotChain(ctx, ns, overlay, "a"); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
	swept(t, s)
	wantSnapshots(t, s, ns, overlay)
}

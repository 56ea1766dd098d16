package containerd_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

const (
	plainLayer = "application/vnd.oci.image.layer.v1.tar"
	gzipLayer  = plainLayer + "+gzip"
	zstdLayer  = plainLayer + "+zstd"
)

// tarLayer makes a layer: a name with a "/" at its end is a folder, one with "->" a hard link, and
// others are files that hold their own name and content.
func tarLayer(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	at := time.Unix(1600000000, 0)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, ModTime: at, Typeflag: tar.TypeReg, Size: int64(len(name))}
		link, target, isLink := strings.Cut(name, "->")
		switch {
		case isLink:
			h.Name, h.Linkname, h.Typeflag, h.Size = link, target, tar.TypeLink, 0
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o750, 0
		}
		must(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err := io.WriteString(w, name)
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

// packed packs a layer as its media type says.
func packed(t *testing.T, plain []byte, mediaType string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := io.WriteCloser(gzip.NewWriter(&b))
	switch mediaType {
	case plainLayer:
		return plain
	case zstdLayer:
		var err error
		w, err = zstd.NewWriter(&b)
		must(t, err)
	}
	_, err := w.Write(plain)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

func unpackedLayer(t *testing.T, b []byte, mediaType string) []byte {
	t.Helper()
	r := io.Reader(bytes.NewReader(b))
	var err error
	switch mediaType {
	case gzipLayer:
		r, err = gzip.NewReader(r)
	case zstdLayer:
		r, err = zstd.NewReader(r)
	}
	must(t, err)
	plain, err := io.ReadAll(r)
	must(t, err)
	return plain
}

// A differ unpacks and packs as containerd's clients do.
type differ struct {
	*testing.T
	store       *stowage.Store
	ctx         context.Context
	snapshotter string
	snapshots   snapshotsapi.SnapshotsClient
	diff        diffapi.DiffClient
}

func newDiffer(t *testing.T, snapshotter string) *differ {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	t.Cleanup(func() { unmountBeneath(t, store.Root()) })
	return newDifferOn(t, store, conn, snapshotter)
}

func newDifferOn(t *testing.T, store *stowage.Store, conn *grpc.ClientConn, snapshotter string) *differ {
	return &differ{t, store, inNamespace(t, "default"), snapshotter, snapshotsapi.NewSnapshotsClient(conn), diffapi.NewDiffClient(conn)}
}

// store a blob.
func (d *differ) blob(b []byte, mediaType string) *types.Descriptor {
	d.Helper()
	desc, err := d.store.Ingest(d.ctx, digest.FromBytes(b).String(), bytes.NewReader(b), "", -1)
	must(d.T, err)
	return &types.Descriptor{MediaType: mediaType, Digest: desc.Digest.String(), Size: desc.Size}
}

func (d *differ) prepare(key, parent string) []*types.Mount {
	d.Helper()
	r, err := d.snapshots.Prepare(d.ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: d.snapshotter, Key: key, Parent: parent})
	must(d.T, err)
	return r.Mounts
}

func (d *differ) view(key, parent string) []*types.Mount {
	d.Helper()
	r, err := d.snapshots.View(d.ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: d.snapshotter, Key: key, Parent: parent})
	must(d.T, err)
	return r.Mounts
}

// unpack unpacks layers one upon the other, and names the topmost.
func (d *differ) unpack(mediaType string, layers ...[]byte) (chain string) {
	d.Helper()
	for i, plain := range layers {
		mounts := d.prepare(fmt.Sprintf("extract %d", i), chain)
		r, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(packed(d.T, plain, mediaType), mediaType), Mounts: mounts})
		must(d.T, err)
		diffID := digest.FromBytes(plain)
		if got := r.Applied; got.Digest != diffID.String() || got.Size != int64(len(plain)) || got.MediaType != plainLayer {
			d.Errorf("applied %v, want %s of %d bytes", got, diffID, len(plain))
		}
		next := diffID.String()
		if chain != "" {
			next = digest.FromString(chain + " " + next).String()
		}
		_, err = d.snapshots.Commit(d.ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: d.snapshotter, Name: next, Key: fmt.Sprintf("extract %d", i)})
		must(d.T, err)
		chain = next
	}
	return chain
}

// What clients unpack layer by layer is what the layers say, and known as their layers.
func TestApply(t *testing.T) {
	layers := [][]byte{
		tarLayer(t, "./", "a/", "a/one", "a/two", "b/", "b/below", "c", "gone"),
		tarLayer(t, "a/.wh.one", "b/.wh..wh..opq", "b/new", ".wh.gone", "d->c"),
		tarLayer(t, "a/two", "c/", "c/in", "e"),
	}
	for _, tt := range []struct{ snapshotter, mediaType string }{{"overlayfs", gzipLayer}, {"native", zstdLayer}, {"erofs", plainLayer}} {
		t.Run(tt.snapshotter, func(t *testing.T) {
			d := newDiffer(t, tt.snapshotter)
			top := d.unpack(tt.mediaType, layers...)
			sn, err := d.store.Snapshotter(tt.snapshotter)
			must(t, err)
			want := t.TempDir()
			must(t, layer.PlainRoot(want))
			key := top
			for i := range layers {
				_, err := layer.Apply(d.ctx, bytes.NewReader(layers[i]), want, layer.Options{})
				must(t, err)
				row, err := sn.Stat(d.ctx, key)
				must(t, err)
				if diffID := digest.FromBytes(layers[len(layers)-1-i]); row.DiffID != diffID {
					t.Errorf("snapshot %s is of layer %q, want %s", key, row.DiffID, diffID)
				}
				key = row.Parent
			}
			wantTree, err := layer.OpenStack(layer.Whole, []string{want})
			must(t, err)
			tree, err := sn.Tree(d.ctx, top)
			must(t, err)
			var b bytes.Buffer
			must(t, layer.Diff(d.ctx, &b, wantTree, tree))
			if _, err := tar.NewReader(&b).Next(); err != io.EOF {
				t.Errorf("it differs from its layers: %v in %q", err, b.Bytes())
			}
			must(t, tree.Close())
			must(t, wantTree.Close())
			chain, err := d.store.Metadata().SnapshotChain(d.ctx, "default", sn.Name(), top)
			must(t, err)
			list, more, err := sn.Compare(d.ctx, chain, bytes.NewReader(layers[2]), layer.Limits{})
			if len(list)+more > 0 || err != nil {
				t.Errorf("the doctor finds %v and %d more, error %v", list, more, err)
			}
		})
	}
}

// upperOnly is how clients of containerd say that a layer is for a folder of a stack, whatever it will stand
// on.
func upperOnly(t *testing.T, mounts []*types.Mount) []*types.Mount {
	t.Helper()
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		t.Fatalf("mounts %v, want one that is bound", mounts)
	}
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + mounts[0].Source}}}
}

// Layers that clients apply side by side, and give their parents when they commit them, are in their stack
// what they are one upon the other, and known as their layers.
func TestApplySideBySide(t *testing.T) {
	d := newDiffer(t, "overlayfs")
	layers := [][]byte{
		tarLayer(t, "./", "a/", "a/one", "a/two", "b/", "b/below", "c", "gone", "deep/", "deep/er/", "deep/er/x"),
		tarLayer(t, "a/.wh.one", "b/.wh..wh..opq", "b/new", ".wh.gone", "d", "deep/er/y", "none/.wh.any"),
		tarLayer(t, "a/two", "c/", "c/in", "e"),
		tarLayer(t, ".wh..wh..opq", "last"),
	}
	var diffIDs []digest.Digest
	for i, b := range layers {
		mounts := upperOnly(t, d.prepare(fmt.Sprint("extract ", i), ""))
		_, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(b, plainLayer), Mounts: mounts})
		must(t, err)
		if _, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(b, plainLayer), Mounts: mounts}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a second layer to one folder: %v", err)
		}
		diffIDs = append(diffIDs, digest.FromBytes(b))
	}
	chain := image.ChainIDs(diffIDs)
	commit := func(name digest.Digest, key, parent string) error {
		_, err := d.snapshots.Commit(d.ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "overlayfs", Name: name.String(), Key: key, Parent: parent})
		return err
	}
	if err := commit(chain[1], "extract 1", chain[0].String()); status.Code(err) != codes.NotFound {
		t.Errorf("on a parent that is not there: %v", err)
	}
	parent := ""
	for i, name := range chain {
		must(t, commit(name, fmt.Sprint("extract ", i), parent))
		parent = name.String()
	}
	sn, err := d.store.Snapshotter("overlay")
	must(t, err)
	alone := newDiffer(t, "overlayfs")
	top := alone.unpack(plainLayer, layers...)
	asOne, err := alone.store.Snapshotter("overlay")
	must(t, err)
	want, err := asOne.Tree(d.ctx, top)
	must(t, err)
	got, err := sn.Tree(d.ctx, parent)
	must(t, err)
	var b bytes.Buffer
	must(t, layer.Diff(d.ctx, &b, want, got))
	if _, err := tar.NewReader(&b).Next(); err != io.EOF {
		t.Errorf("it differs from the same one upon the other: %v in %q", err, b.Bytes())
	}
	must(t, errors.Join(got.Close(), want.Close()))
	for i, key := range chain {
		row, err := sn.Stat(d.ctx, key.String())
		must(t, err)
		if row.DiffID != diffIDs[i] || !row.Stacked() {
			t.Errorf("snapshot %s is of layer %q, want %s", key, row.DiffID, diffIDs[i])
		}
		rows, err := d.store.Metadata().SnapshotChain(d.ctx, "default", "overlay", key.String())
		must(t, err)
		list, more, err := sn.Compare(d.ctx, rows, bytes.NewReader(layers[i]), layer.Limits{})
		if len(list)+more > 0 || err != nil {
			t.Errorf("the doctor finds %v and %d more of layer %d, error %v", list, more, i, err)
		}
	}

	// The kernel does not heed that a root hides what is below it: the mount must not have it.
	shown := strings.Join(d.view("shown", parent)[0].Options, " ")
	for i, key := range chain {
		row, err := sn.Stat(d.ctx, key.String())
		must(t, err)
		if top := i == len(chain)-1; strings.Contains(shown, "/"+row.Folder+"/") != top {
			t.Errorf("the mount of the topmost layer, which hides the others, is %s; layer %d is %s", shown, i, row.Folder)
		}
	}

	d.prepare("active", "")
	d.prepare("on an active one", "")
	if err := commit(digest.FromString("on"), "on an active one", "active"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("on a parent that is not committed: %v", err)
	}

	// What links to files below it cannot be told apart from them afterwards.
	mounts := upperOnly(t, d.prepare("links", ""))
	_, err = d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(tarLayer(t, "l->c"), plainLayer), Mounts: mounts})
	must(t, err)
	if err := commit(digest.FromString("links"), "links", chain[0].String()); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a layer that links to what is below: %v", err)
	}
	d.prepare("stands", chain[0].String())
	if err := commit(digest.FromString("stands"), "stands", chain[1].String()); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another parent than it has: %v", err)
	}
	elsewhere := []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + t.TempDir()}}}
	if _, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(layers[0], plainLayer), Mounts: elsewhere}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a folder of nobody: %v", err)
	}
}

// A snapshot that got something else than one layer, or another name than that of its stack, is
// nobody's unpacked layer.
func TestApplyElse(t *testing.T) {
	d := newDiffer(t, "native")
	one, two := tarLayer(t, "one"), tarLayer(t, "two")
	apply := func(b []byte, mounts []*types.Mount) {
		_, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(b, plainLayer), Mounts: mounts})
		must(t, err)
	}
	mounts := d.prepare("twice", "")
	apply(one, mounts)
	apply(two, mounts)
	apply(one, d.prepare("named", ""))
	for key, name := range map[string]string{"twice": digest.FromBytes(two).String(), "named": "else"} {
		_, err := d.snapshots.Commit(d.ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Name: name, Key: key})
		must(t, err)
		row, err := d.store.Metadata().Snapshot(d.ctx, "default", "native", name)
		if row.DiffID != "" || row.Size == 0 || err != nil {
			t.Errorf("%s: got %+v, error %v", key, row, err)
		}
	}
}

// A client packs what it wrote into a snapshot: a blob that it can read at once, under its lease, the
// same again and again.
func TestDiff(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "native", "erofs"} {
		t.Run(snapshotter, func(t *testing.T) {
			d := newDiffer(t, snapshotter)
			top := d.unpack(plainLayer, tarLayer(t, "./", "a/", "a/old", "a/gone"))
			work := d.prepare("work", top)
			at := t.TempDir()
			must(t, mount.All(mount.FromProto(work), at))
			must(t, os.WriteFile(filepath.Join(at, "a/new"), []byte("new"), 0o644))
			must(t, os.Remove(filepath.Join(at, "a/gone")))
			must(t, mount.UnmountAll(at, 0))
			below := d.view("below", top)
			_, err := d.store.CreateLease(d.ctx, stowage.Lease{ID: "l"})
			must(t, err)
			ctx := metadata.AppendToOutgoingContext(d.ctx, "containerd-lease", "l")
			plain := map[string]bool{}
			for _, mediaType := range []string{"", plainLayer, zstdLayer} {
				r, err := d.diff.Diff(ctx, &diffapi.DiffRequest{Left: below, Right: work, MediaType: mediaType, Ref: "r", Labels: map[string]string{"a": "b"}})
				must(t, err)
				if mediaType == "" {
					mediaType = gzipLayer
				}
				var b bytes.Buffer
				must(t, d.store.WriteBlob(d.ctx, &b, r.Diff.Digest, nil))
				if r.Diff.MediaType != mediaType || r.Diff.Size != int64(b.Len()) {
					t.Errorf("got %v of %d bytes", r.Diff, b.Len())
				}
				tarball := unpackedLayer(t, b.Bytes(), mediaType)
				plain[string(tarball)] = true
				blob, err := d.store.Blob(d.ctx, r.Diff.Digest)
				must(t, err)
				if blob.Labels["a"] != "b" || blob.Labels["containerd.io/uncompressed"] != digest.FromBytes(tarball).String() {
					t.Errorf("labels: %v", blob.Labels)
				}
				wantEntries(t, tarball, "a/ a/.wh.gone a/new")
			}
			if len(plain) != 1 {
				t.Errorf("%d layers of one difference", len(plain))
			}
			_, err = d.store.Prune(d.ctx, stowage.PruneOptions{})
			must(t, err)
			l, err := d.store.Metadata().Lease(d.ctx, "default", "l")
			must(t, err)
			if len(l.Digests) != 3 {
				t.Errorf("the lease has %q", l.Digests)
			}
			for _, kept := range l.Digests {
				_, err := d.store.Blob(d.ctx, kept.String())
				must(t, err)
			}
			r, err := d.diff.Diff(ctx, &diffapi.DiffRequest{Right: work, MediaType: plainLayer})
			must(t, err)
			var all bytes.Buffer
			must(t, d.store.WriteBlob(d.ctx, &all, r.Diff.Digest, nil))
			wantEntries(t, all.Bytes(), "./ a/ a/new a/old")
		})
	}
}

// wantEntries checks what is in a layer.
func wantEntries(t *testing.T, layer []byte, want string) {
	t.Helper()
	var got []string
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		got = append(got, h.Name)
	}
	if got := strings.Join(got, " "); got != want {
		t.Errorf("the layer has %q, want %q", got, want)
	}
}

// Folders that are no snapshot of ours can be compared, and layers applied to them; and what is written has
// no later time than a build says.
func TestDiffFolders(t *testing.T) {
	d := newDiffer(t, "native")
	old, is := t.TempDir(), t.TempDir()
	bind := func(dir string) []*types.Mount {
		return []*types.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
	}
	for _, dir := range []string{old, is} {
		_, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: d.blob(tarLayer(t, "./", "a"), plainLayer), Mounts: bind(dir)})
		must(t, err)
	}
	must(t, os.WriteFile(filepath.Join(is, "b"), nil, 0o644))
	at := time.Unix(1700000000, 0)
	r, err := d.diff.Diff(d.ctx, &diffapi.DiffRequest{Left: bind(old), Right: bind(is), MediaType: plainLayer, SourceDateEpoch: timestamppb.New(at)})
	must(t, err)
	var b bytes.Buffer
	must(t, d.store.WriteBlob(d.ctx, &b, r.Diff.Digest, nil))
	wantEntries(t, b.Bytes(), "./ b")
	tr := tar.NewReader(&b)
	for range 2 {
		h, err := tr.Next()
		must(t, err)
		if !h.ModTime.Equal(at) {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
	}
	entries, err := filepath.Glob(filepath.Join(d.store.Root(), ".mount-*"))
	if len(entries) > 0 || err != nil {
		t.Errorf("left in the root: %q, error %v", entries, err)
	}
}

func TestDiffRefused(t *testing.T) {
	d := newDiffer(t, "native")
	work := d.prepare("work", "")
	look := d.view("look", "")
	good := d.blob(tarLayer(t, "a"), plainLayer)
	for _, tt := range []struct {
		name string
		r    *diffapi.ApplyRequest
		want codes.Code
	}{
		{"nothing", &diffapi.ApplyRequest{Mounts: work}, codes.InvalidArgument},
		{"encrypted", &diffapi.ApplyRequest{Diff: &types.Descriptor{MediaType: gzipLayer + "+encrypted", Digest: good.Digest}, Mounts: work}, codes.Unimplemented},
		{"not here", &diffapi.ApplyRequest{Diff: &types.Descriptor{Digest: digest.FromString("none").String()}, Mounts: work}, codes.NotFound},
		{"no layer", &diffapi.ApplyRequest{Diff: d.blob([]byte(strings.Repeat("no layer", 100)), plainLayer), Mounts: work}, codes.InvalidArgument},
		{"no folder", &diffapi.ApplyRequest{Diff: good, Mounts: []*types.Mount{{Type: "bind", Source: "/does/not/exist"}}}, codes.NotFound},
		{"unknown mount", &diffapi.ApplyRequest{Diff: good, Mounts: []*types.Mount{{Type: "ext4", Source: "/dev/null"}}}, codes.Unimplemented},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := d.diff.Apply(d.ctx, tt.r); status.Code(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := d.diff.Apply(d.ctx, &diffapi.ApplyRequest{Diff: good, Mounts: look}); err == nil {
		t.Error("applied to a view")
	}
	_, err := d.diff.Diff(d.ctx, &diffapi.DiffRequest{Right: work, MediaType: "application/x-tar"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("diff of another media type: %v", err)
	}
	list, err := d.store.Ingests(d.ctx)
	if len(list) > 0 || err != nil {
		t.Errorf("ingests are left: %v, error %v", list, err)
	}
}

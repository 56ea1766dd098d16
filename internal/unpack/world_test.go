package unpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/stowage/stowage/internal/content"
	contentdir "github.com/stowage/stowage/internal/content/dir"
	contentmem "github.com/stowage/stowage/internal/content/mem"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv/bolt"
	kvmem "github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/layertest"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/erofs"
	"github.com/stowage/stowage/internal/snapshot/native"
	"github.com/stowage/stowage/internal/snapshot/overlay"
	"github.com/stowage/stowage/internal/unpack"
	"github.com/stowage/stowage/internal/vfs"
)

// Nothing that unpacks goes on when it has returned.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ns = "default"

// A world is a store on the disk with what unpacks into it, as one process has it.
type world struct {
	testing.TB
	dir string
	*unpack.Unpacker
}

// newWorld makes a store with one snapshotter, whose blobs and rows are in memory.
func newWorld(t testing.TB, driver string) *world {
	t.Helper()
	dir := t.TempDir()
	return worldOf(t, driver, dir, contentmem.New(), metadata.New(kvmem.New(), filepath.Join(dir, "holders")))
}

// openWorld opens a store that is all on the disk, as other processes do.
func openWorld(t testing.TB, driver, dir string) *world {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "content"), 0o700))
	disk, err := vfs.OS(filepath.Join(dir, "content"))
	must(t, err)
	blobs, err := contentdir.Open(vfs.NoSync(disk))
	must(t, err)
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), bolt.Options{NoSync: true})
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return worldOf(t, driver, dir, blobs, metadata.New(db, filepath.Join(dir, "holders")))
}

func worldOf(t testing.TB, driver, dir string, blobs content.Store, meta *metadata.Store) *world {
	t.Helper()
	snapshots := filepath.Join(dir, "snapshots")
	must(t, os.MkdirAll(snapshots, 0o711))
	var d snapshot.Driver
	var err error
	switch driver {
	case "overlay":
		d, err = overlay.Open(snapshots)
	case "erofs":
		d, err = erofs.Open(snapshots, true)
	case "native":
		d = native.New()
	}
	must(t, err)
	s, err := snapshot.Open(driver, snapshots, d, meta, snapshot.Options{Namespace: ns, NoSync: true})
	must(t, err)
	return &world{t, dir, &unpack.Unpacker{Snapshots: s, Content: blobs, Meta: meta, Namespace: ns}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A member is an entry of a layer.
type member struct {
	tar.Header
	content string
}

func file(name, content string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1_600_000_000, 0)}, content}
}

func folder(name string, mode int64) member {
	return member{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: 7, Gid: 8, ModTime: time.Unix(1_500_000_000, 0)}, ""}
}

func link(kind byte, name, target string) member {
	return member{tar.Header{Typeflag: kind, Name: name, Mode: 0o777, Linkname: target, ModTime: time.Unix(1_550_000_000, 0)}, ""}
}

// layerOf is an uncompressed tar.
func layerOf(members ...member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&m.Header); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// store puts a blob into the content store.
func (w *world) store(b []byte) image.Descriptor {
	w.Helper()
	d := image.Descriptor{MediaType: image.OCILayer + "+gzip", Digest: digest.FromBytes(b), Size: int64(len(b))}
	must(w, content.Put(context.Background(), w.Content, d.Digest, b))
	return d
}

// imageOf stores layers, and gives the image that they are.
func (w *world) imageOf(layers ...[]byte) unpack.Image {
	w.Helper()
	var img unpack.Image
	for _, l := range layers {
		img.Layers = append(img.Layers, w.store(gzipped(l)))
		img.DiffIDs = append(img.DiffIDs, digest.FromBytes(l))
	}
	img.Manifest = manifestOf(img)
	return img
}

func manifestOf(img unpack.Image) image.Digest {
	all := "manifest of"
	for _, d := range img.Layers {
		all += " " + d.Digest.String()
	}
	return digest.FromString(all)
}

// keep writes the rows of a run and ends it.
func (w *world) keep(r *unpack.Run) {
	w.Helper()
	ctx := context.Background()
	rows, err := r.Rows()
	must(w, err)
	_, err = w.Meta.Apply(ctx, ns, metadata.Batch{Unpacked: []metadata.Unpacked{rows}})
	must(w, err)
	must(w, r.Close(ctx))
}

// unpack unpacks an image that is stored.
func (w *world) unpack(img unpack.Image) {
	w.Helper()
	r := w.Begin()
	must(w, r.Add(context.Background(), img))
	w.keep(r)
}

// chain gives the rows of an image, all of which are to be there.
func (w *world) chain(img unpack.Image) []snapshot.Snapshot {
	w.Helper()
	rows, err := w.Snapshots.Chain(context.Background(), image.ChainIDs(img.DiffIDs))
	must(w, err)
	if len(rows) != len(img.DiffIDs) {
		w.Errorf("%d of %d layers are there", len(rows), len(img.DiffIDs))
	}
	return rows
}

// folders lists the folders of the layers of an image.
func (w *world) folders(img unpack.Image) (list []string) {
	w.Helper()
	for _, row := range w.chain(img) {
		list = append(list, row.Folder)
	}
	return list
}

// left lists the folders of snapshots, and the locks of layers.
func (w *world) left() (folders, locks []string) {
	w.Helper()
	entries, err := os.ReadDir(filepath.Join(w.dir, "snapshots"))
	must(w, err)
	for _, e := range entries {
		if e.IsDir() && e.Name() != "busy" {
			folders = append(folders, e.Name())
		}
	}
	entries, err = os.ReadDir(filepath.Join(w.dir, "snapshots", "busy"))
	must(w, err)
	for _, e := range entries {
		locks = append(locks, e.Name())
	}
	return folders, locks
}

// nothing checks that there are no more folders than those that rows name, and no locks.
func (w *world) nothing() {
	w.Helper()
	folders, locks := w.left()
	rows, err := w.Meta.SnapshotFolders(context.Background(), w.Snapshots.Name())
	must(w, err)
	folders = slices.DeleteFunc(folders, func(name string) bool { return rows[name] })
	if len(folders)+len(locks) > 0 {
		w.Errorf("folders %q and locks %q are left", folders, locks)
	}
}

// empty checks that there is nothing at all.
func (w *world) empty() {
	w.Helper()
	w.nothing()
	rows, err := w.Meta.SnapshotFolders(context.Background(), w.Snapshots.Name())
	must(w, err)
	if len(rows) > 0 {
		w.Errorf("rows name the folders %v", rows)
	}
}

// mounted describes an image as a view shows it.
func (w *world) mounted(img unpack.Image) []string {
	w.Helper()
	ctx := context.Background()
	top := ""
	if ids := image.ChainIDs(img.DiffIDs); len(ids) > 0 {
		top = ids[len(ids)-1].String()
	}
	mounts, err := w.Snapshots.View(ctx, "look", top, nil)
	must(w, err)
	dir, err := os.MkdirTemp(w.dir, "mount")
	must(w, err)
	must(w, mount.All(mounts, dir))
	lines, err := layertest.Describe(dir)
	must(w, errors.Join(err, unmount(dir), os.Remove(dir), w.Snapshots.Remove(ctx, "look")))
	return lines
}

// unmount waits for processes that other tests start: until they run their own program, they have
// what we had open.
func unmount(dir string) (err error) {
	for range 100 {
		if err = mount.Unmount(dir); !errdefs.IsFailedPrecondition(err) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// wholeOf describes what layers make of a folder.
func wholeOf(t testing.TB, layers ...[]byte) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	must(t, errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755), os.Chtimes(dir, time.Unix(0, 0), time.Unix(0, 0))))
	for _, l := range layers {
		_, err := layer.Apply(t.Context(), bytes.NewReader(l), dir, layer.Options{ReportLosses: true})
		must(t, err)
	}
	lines, err := layertest.Describe(dir)
	must(t, err)
	return lines
}

// looks compares an image with what its layers make of a folder.
func (w *world) looks(img unpack.Image, layers ...[]byte) {
	w.Helper()
	if diff := cmp.Diff(wholeOf(w, layers...), w.mounted(img)); diff != "" {
		w.Errorf("the image differs from its layers in a folder (-want +got):\n%s", diff)
	}
}

// within fails a test that takes too long, rather than to wait for all tests' end.
func within(t testing.TB, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s takes longer than %s", what, limit)
	}
}

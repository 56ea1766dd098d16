package metadata

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/mem"
)

var update = flag.Bool("update", false, "write the fixture of the current version")

// load returns a database with the rows of a fixture: on each line a key and its value, quoted.
func load(t *testing.T, name string) kv.DB {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	db := mem.New()
	err = db.Update(t.Context(), func(w kv.Writer) error {
		for line := range strings.Lines(string(b)) {
			var key, value string
			if _, err := fmt.Sscanf(line, "%q %q\n", &key, &value); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			if err := w.Put([]byte(key), []byte(value)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// dump writes the rows of a database as a fixture.
func dump(t *testing.T, db kv.DB, name string) {
	t.Helper()
	var rows []byte
	err := db.View(t.Context(), func(r kv.Reader) error {
		for e, err := range r.Scan(nil) {
			if err != nil {
				return err
			}
			rows = fmt.Appendf(rows, "%+q %+q\n", e.Key, e.Value)
		}
		return nil
	})
	if err := errors.Join(err, os.WriteFile(filepath.Join("testdata", name), rows, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func sample(name string, size int64) image.Descriptor {
	return image.Descriptor{MediaType: image.OCIManifest, Digest: digest.FromString(name), Size: size}
}

// fill makes a row of each kind.
func fill(t *testing.T, db kv.DB) {
	t.Helper()
	s, ctx := New(db, t.TempDir()), t.Context()
	config, layer, absent := sample("config", 20), sample("layer", 30), sample("absent", 40)
	root := image.Document{MediaType: image.OCIIndex, Index: true, Manifests: []image.Descriptor{sample("manifest", 10), absent}}
	root.Manifests[0].Platform = &image.Platform{OS: "linux", Architecture: "amd64"}
	root.Manifests[1].Platform = &image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	manifest := image.Document{MediaType: image.OCIManifest, Config: &config, Layers: []image.Descriptor{layer}, Platform: root.Manifests[0].Platform}
	_, err := s.Apply(ctx, "default", Batch{
		Blobs: []Blob{
			{Digest: sample("index", 0).Digest, Size: 5},
			{Digest: sample("manifest", 0).Digest, Size: 10},
			{Digest: config.Digest, Size: 20},
			{Digest: layer.Digest, Size: 30, Labels: map[string]string{"blob": "label"}},
			{Digest: sample("removed", 0).Digest, Size: 50},
		},
		Documents: []Document{
			{Digest: sample("index", 0).Digest, Size: 5, Document: root},
			{Digest: sample("manifest", 0).Digest, Size: 10, Document: manifest},
		},
		Images: []PutImage{{Name: "docker.io/library/alpine:latest", Target: sample("index", 5), Labels: map[string]string{"image": "label"}}},
	})
	bottom := Snapshot{Key: "bottom", Kind: Committed, Folder: "f0", DiffID: layer.Digest}
	top := Snapshot{Key: "top", Kind: Committed, Parent: "bottom", Folder: "f1", DiffID: layer.Digest, Manifests: []image.Digest{sample("manifest", 0).Digest}}
	_, unpackErr := s.Apply(ctx, "default", Batch{
		Blobs: []Blob{{Digest: sample("labelled", 0).Digest, Size: 60, Labels: map[string]string{brefLabel + "image": "docker.io/library/alpine:latest"}}},
		Unpacked: []Unpacked{{
			Snapshotter: "overlay", Snapshots: []Snapshot{bottom, top}, Layers: []UnpackedLayer{{DiffID: layer.Digest, Folder: "f0"}},
		}},
	})
	_, leaseErr := s.CreateLease(ctx, "other", Lease{ID: "keep", Digests: []image.Digest{layer.Digest}, ExpiresAt: time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err := errors.Join(err, unpackErr, leaseErr, s.RemoveBlob(ctx, "default", sample("removed", 0).Digest, false)); err != nil {
		t.Fatal(err)
	}
}

// Every later version opens what version 1 wrote, and makes of it what it writes itself.
func TestVersions(t *testing.T) {
	if *update {
		db := mem.New()
		fill(t, db)
		dump(t, db, fmt.Sprintf("v%d.txt", len(migrations())+1))
	}
	for _, name := range []string{"v1.txt", "v2.txt", "v3.txt"} {
		t.Run(name, func(t *testing.T) { readVersion(t, load(t, name)) })
	}
}

func readVersion(t *testing.T, db kv.DB) {
	s, ctx := New(db, t.TempDir()), t.Context()
	img, err := s.Image(ctx, "default", "docker.io/library/alpine:latest")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := img.Target.Digest, sample("index", 0).Digest; got != want || img.State != Complete || img.Size != 65 || img.Labels["image"] != "label" {
		t.Errorf("image: got %+v", img)
	}
	if p := img.Platforms; len(p) != 2 || p[0].State != Complete || !p[0].Wanted || p[1].State != Absent || p[1].Platform.Variant != "v8" {
		t.Errorf("platforms: got %+v", p)
	}
	if b, err := s.Blob(ctx, "default", sample("layer", 0).Digest); err != nil || b.Size != 30 || b.Labels["blob"] != "label" || b.CreatedAt.IsZero() {
		t.Errorf("blob: got %+v, %v", b, err)
	}
	if doc, err := s.Document(ctx, sample("manifest", 0).Digest); err != nil || doc.Config.Digest != sample("config", 0).Digest || doc.Platform.Architecture != "amd64" {
		t.Errorf("document: got %+v, %v", doc, err)
	}
	if edges, err := s.ReferencedBy(ctx, sample("manifest", 0).Digest); err != nil || len(edges) != 1 || edges[0].Place != "manifest 0" {
		t.Errorf("edges: got %+v, %v", edges, err)
	}
	if leases, err := s.Leases(ctx, "other"); err != nil || len(leases) != 1 || len(leases[0].Digests) != 1 {
		t.Errorf("leases: got %+v, %v", leases, err)
	}
	if f, err := s.Garbage(ctx, nil); err != nil || len(f.Blobs) != 1 || f.Blobs[0] != (Garbage{sample("removed", 0).Digest, 50}) {
		t.Errorf("garbage: got %+v, %v", f, err)
	}
	wantIndexed(t, db)
	for what, subject := range map[string]Subject{
		"a blob with a label":       {Digest: sample("labelled", 0).Digest},
		"what another stands on":    {Snapshotter: "overlay", Key: "bottom"},
		"what a manifest says":      {Digest: sample("config", 0).Digest},
		"an image without a label":  {Image: "docker.io/library/alpine:latest"},
		"what a manifest was up to": {Snapshotter: "overlay", Key: "top"},
	} {
		if needed, err := s.Needed(ctx, "default", subject); err != nil || !needed {
			t.Errorf("%s: needed %t, %v", what, needed, err)
		}
	}
	if _, err := s.Apply(ctx, "default", Batch{Blobs: []Blob{{Digest: sample("new", 0).Digest, Size: 1}}}); err != nil {
		t.Errorf("apply: %v", err)
	}
	wantIndexed(t, db)
}

func decodeIndexed[R indexed](key, value []byte) (indexed, error) {
	var row R
	err := decode(key, value, &row)
	return row, err
}

// wantIndexed checks that the index rows of a database are those that follow from its rows.
func wantIndexed(t *testing.T, db kv.DB) {
	t.Helper()
	want, got := map[string]string{}, map[string]string{}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.View(t.Context(), func(r kv.Reader) error {
		for e, err := range r.Scan(nil) {
			must(err)
			decoded := map[string]func(key, value []byte) (indexed, error){
				imageRows: decodeIndexed[imageRow], knownRows: decodeIndexed[knownRow], snapshotRows: decodeIndexed[Snapshot],
				layerRows: decodeIndexed[UnpackedLayer], documentRows: decodeIndexed[documentRow],
			}[string(e.Key[:len(imageRows)])]
			if decoded == nil {
				switch kind := string(e.Key[:len(imageRows)]); kind {
				case edgeRows, folderRows, markRows, targetRows, parentRows, lazyRows:
					got[string(e.Key)] = string(e.Value)
				}
				continue
			}
			row, err := decoded(e.Key, e.Value)
			must(err)
			for _, i := range row.index(e.Key) {
				want[string(i.Key)] = string(i.Value)
			}
		}
		return nil
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("index rows (-want +got):\n%s", diff)
	}
}

// A database of an older version is migrated once, by the first who comes, reader or writer.
func TestMigration(t *testing.T) {
	for name, first := range map[string]func(context.Context, *Store) error{
		"read":  func(ctx context.Context, s *Store) error { _, err := s.Namespaces(ctx); return err },
		"write": func(ctx context.Context, s *Store) error { return s.CreateNamespace(ctx, "new", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			db := load(t, "v1.txt")
			var ran []int
			step := func(n int) migration {
				return func(w kv.Writer) error {
					ran = append(ran, n)
					return w.Put(fmt.Append(nil, "migrated/", n), nil)
				}
			}
			s := New(db, t.TempDir())
			s.migrations = []migration{step(1), step(2), step(3)}
			for range 2 {
				if err := first(t.Context(), s); err != nil && !errdefs.IsAlreadyExists(err) {
					t.Fatal(err)
				}
			}
			if got, want := fmt.Sprint(ran), "[1 2 3]"; got != want {
				t.Errorf("migrations: got %s, want %s", got, want)
			}
			old := New(db, t.TempDir())
			for name, err := range map[string]error{
				"read":  old.view(t.Context(), func(view) error { return nil }),
				"write": old.update(t.Context(), func(change) error { return nil }),
			} {
				want := "the database is of version 4, and this program knows versions up to 3: failed precondition"
				if !errdefs.IsFailedPrecondition(err) || err.Error() != want {
					t.Errorf("%s by an old program: got %v, want %s", name, err, want)
				}
			}
		})
	}
}

// A migration that fails leaves the database as it was.
func TestFailedMigration(t *testing.T) {
	db, want := load(t, "v1.txt"), errors.New("no")
	s := New(db, t.TempDir())
	s.migrations = []migration{func(w kv.Writer) error { return errors.Join(w.Put([]byte("x"), nil), want) }}
	if _, err := s.Namespaces(t.Context()); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if _, err := New(db, t.TempDir()).Namespaces(t.Context()); err != nil {
		t.Errorf("version 1 afterwards: %v", err)
	}
}

func TestDamagedVersion(t *testing.T) {
	for _, value := range []string{"", "0", "-1", `"1"`, "x"} {
		db := mem.New()
		if err := db.Update(t.Context(), func(w kv.Writer) error { return w.Put(versionKey, []byte(value)) }); err != nil {
			t.Fatal(err)
		}
		if _, err := New(db, t.TempDir()).Namespaces(t.Context()); !errdefs.IsDataLoss(err) {
			t.Errorf("version %q: got %v, want data loss", value, err)
		}
	}
}

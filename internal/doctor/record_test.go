package doctor

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/metadata"
)

// rows lists the keys that begin so.
func rows(t *testing.T, db kv.DB, prefix string) (keys [][]byte) {
	t.Helper()
	err := db.View(t.Context(), func(r kv.Reader) error {
		for e, err := range r.Scan([]byte(prefix)) {
			if err != nil {
				return err
			}
			keys = append(keys, bytes.Clone(e.Key))
		}
		return nil
	})
	if err != nil || len(keys) == 0 {
		t.Fatalf("no rows %s: %v", prefix, err)
	}
	return keys
}

// change writes, or removes with a nil value, rows behind the back of the metadata.
func change(t *testing.T, db kv.DB, value []byte, keys ...[]byte) {
	t.Helper()
	err := db.Update(t.Context(), func(w kv.Writer) error {
		for _, k := range keys {
			err := w.Delete(k)
			if value != nil {
				err = w.Put(k, value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// said is what a user sees of a store.
func said(t *testing.T, meta *metadata.Store) (list []metadata.Image) {
	t.Helper()
	for _, ns := range []string{"default", "other"} {
		images, err := meta.Images(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			img.UpdatedAt, img.CreatedAt = img.CreatedAt, img.CreatedAt.Round(0)
			list = append(list, img)
		}
	}
	return list
}

// bad is no value of any row.
var bad = []byte("{\xff")

// Every kind of row is damaged, or gone, or is there too much. Doctor says so and nothing else, and
// what it mends is as it was.
func TestDamagedRows(t *testing.T) {
	digest := func(k []byte) image.Digest { // that of a key's last 32 bytes
		return image.Digest("sha256:" + hexOf(k[len(k)-32:]))
	}
	for _, tt := range []struct {
		name, kind, subject string
		damage              func(t *testing.T, db kv.DB)
	}{
		{"image", "damaged-record", "image default/example.com/default:1", func(t *testing.T, db kv.DB) {
			change(t, db, bad, rows(t, db, "i/default")...)
		}},
		{"namespace", "damaged-record", "namespace other", func(t *testing.T, db kv.DB) { change(t, db, bad, rows(t, db, "n/other")...) }},
		{"blob of a namespace", "damaged-record", "blob default/sha256:", func(t *testing.T, db kv.DB) {
			change(t, db, bad, rows(t, db, "c/default")[0])
		}},
		{"bytes", "damaged-record", "bytes of sha256:", func(t *testing.T, db kv.DB) { change(t, db, bad, rows(t, db, "b/")[0]) }},
		{"document", "damaged-record", "document sha256:", func(t *testing.T, db kv.DB) { change(t, db, bad, rows(t, db, "d/")[0]) }},
		{"lease", "damaged-record", "lease default/x", func(t *testing.T, db kv.DB) { change(t, db, bad, []byte("l/default\x00x")) }},
		{"snapshot", "damaged-record", "snapshot default/native/sha256:", func(t *testing.T, db kv.DB) {
			change(t, db, bad, []byte("s/default\x00native\x00"+string(digest(rows(t, db, "b/")[0]))))
		}},
		{"layer", "damaged-record", "layer native/sha256:", func(t *testing.T, db kv.DB) {
			change(t, db, bad, append([]byte("p/native\x00"), rows(t, db, "b/")[0][2:]...))
		}},
		{"a key", "damaged-record", "row ", func(t *testing.T, db kv.DB) { change(t, db, bad, []byte("b/odd")) }},
		{"no names by target", "dangling-edge", "image ", func(t *testing.T, db kv.DB) { change(t, db, nil, rows(t, db, "t/")...) }},
		{"no images by name", "dangling-edge", "name ", func(t *testing.T, db kv.DB) { change(t, db, nil, rows(t, db, "i/")...) }},
		{"no edges upwards", "dangling-edge", "document sha256:", func(t *testing.T, db kv.DB) { change(t, db, nil, rows(t, db, "u/")...) }},
		{"no document", "dangling-edge", "edge from sha256:", func(t *testing.T, db kv.DB) { change(t, db, nil, rows(t, db, "d/")...) }},
		{"another edge", "dangling-edge", "edge from sha256:", func(t *testing.T, db kv.DB) {
			b := rows(t, db, "b/")
			change(t, db, []byte{1}, slices.Concat([]byte("u/"), b[0][2:], b[0][2:]))
		}},
		{"a wrong edge", "dangling-edge", "document sha256:", func(t *testing.T, db kv.DB) { change(t, db, []byte{77}, rows(t, db, "u/")[0]) }},
		{"no bytes", "dangling-edge", "blob ", func(t *testing.T, db kv.DB) { change(t, db, nil, rows(t, db, "b/")[0]) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store, meta, db := journaledDB(t)
			before := said(t, meta)
			look := func(o Options) (list []Finding) {
				t.Helper()
				found, err := Run(t.Context(), exam(store, meta, o))
				if err != nil {
					t.Fatal(err)
				}
				return found
			}
			if found := look(Options{Verify: true}); len(found) > 0 {
				t.Fatalf("before there is any: got %+v", found)
			}
			tt.damage(t, db)
			found := look(Options{})
			if len(found) == 0 || found[0].Kind != tt.kind || !strings.HasPrefix(found[0].Subject, tt.subject) {
				t.Fatalf("got %+v, want %s of %s", found, tt.kind, tt.subject)
			}
			for _, f := range look(Options{Repair: true}) {
				if !f.Repaired {
					t.Errorf("it is left: %+v", f)
				}
			}
			if found := look(Options{Verify: true}); len(found) > 0 {
				t.Errorf("after it was mended: got %+v", found)
			}
			if after := said(t, meta); !reflect.DeepEqual(before, after) {
				t.Errorf("before:\n%+v\nafter:\n%+v", before, after)
			}
		})
	}
}

// exam is one without registries and snapshotters.
func exam(store content.Store, meta *metadata.Store, o Options) Exam {
	return Exam{
		Namespace: "default", Content: store, Meta: meta, Options: o, Snapshotters: noSnapshotters,
		Refetch: func(context.Context, []image.Descriptor) (map[image.Digest]error, error) { return nil, nil },
	}
}

func TestSnapshotsMadeByHandAreLeft(t *testing.T) {
	store, meta, db := journaledDB(t)
	change(t, db, bad, []byte("s/default\x00native\x00mine"))
	found, err := Run(t.Context(), exam(store, meta, Options{Repair: true}))
	if err != nil || len(found) != 1 || found[0].Subject != "snapshot default/native/mine" || found[0].Repaired ||
		!strings.Contains(found[0].Repair, "stowage snapshot rm") {
		t.Errorf("got %+v, %v", found, err)
	}
	rows(t, db, "s/default\x00native\x00mine")
}

func TestOverstatedImage(t *testing.T) {
	store, meta, db := journaledDB(t)
	k := rows(t, db, "i/default")[0]
	var before []byte
	err := db.View(t.Context(), func(r kv.Reader) error {
		b, err := r.Get(k)
		before = bytes.Clone(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	img := said(t, meta)[0]
	lost := img.Platforms[0].Manifest.Digest
	if err := meta.RemoveBlob(t.Context(), "default", lost, true); err != nil {
		t.Fatal(err)
	}
	if err := meta.RemoveBlob(t.Context(), "other", lost, true); err != nil {
		t.Fatal(err)
	}
	change(t, db, before, k)
	list, err := meta.Overstated(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != img.Name || list[0].Says != metadata.Complete || list[0].Is != metadata.Partial {
		t.Fatalf("got %+v, %v", list, err)
	}
	e := exam(store, meta, Options{Repair: true})
	got, err := e.run(t.Context(), []kind{{"overstated-image", (*Exam).overstatedImages}})
	if err != nil || len(got) != 1 || !got[0].Repaired || said(t, meta)[0].State != metadata.Partial {
		t.Errorf("got %+v, %v, and %s", got, err, said(t, meta)[0].State)
	}
}

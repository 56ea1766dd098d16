package metadata

import (
	"bytes"
	"encoding"
	"errors"
	"reflect"
	"slices"
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

// busy is a document that has everything.
func busy() documentRow {
	config, subject := sample("config", 20), sample("subject", 1<<40)
	config.MediaType = "application/vnd.oci.image.config.v1+json"
	subject.Digest = digest.SHA512.FromString("subject")
	odd := sample("odd", 0)
	odd.URLs, odd.Annotations, odd.ArtifactType = []string{"https://example.com/l"}, map[string]string{"a": "b"}, "application/x"
	odd.Data, odd.Platform = []byte("data"), &image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	return documentRow{Size: 7, Document: image.Document{
		MediaType: image.OCIManifest, ArtifactType: "application/y", Config: &config, Subject: &subject,
		Layers: []image.Descriptor{sample("a", 1), sample("a", 1), odd}, Manifests: []image.Descriptor{odd},
		Annotations: map[string]string{"c": "d"}, Platform: &image.Platform{OS: "windows", Architecture: "amd64"},
	}}
}

func partial() imageRow {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return imageRow{Image: Image{Name: "n", Target: sample("a", 1), State: Partial, CreatedAt: at, UpdatedAt: at}}
}

func ptr[T any](v T) *T { return &v }

// populate gives every field a value, also those that later versions of the types have: one that a row
// does not keep does not come back.
func populate(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
		return
	case image.Digest:
		v.SetString(string(digest.SHA512.FromString("d")))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		populate(t, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			populate(t, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		populate(t, v.Index(0))
		populate(t, v.Index(1))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"k": "v", "l": ""}))
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(1 << 40)
	case reflect.Uint8:
		v.SetUint(7)
	default:
		t.Fatalf("a field of type %v", v.Type())
	}
}

// What could not be read again is not written.
func TestBadDigests(t *testing.T) {
	for name, spoil := range map[string]func(*imageRow){
		"target":   func(r *imageRow) { r.Target.Digest = "" },
		"wanted":   func(r *imageRow) { r.Want = []image.Digest{"sha256:no"} },
		"manifest": func(r *imageRow) { r.Platforms = []PlatformState{{}} },
		"missing": func(r *imageRow) {
			r.Platforms = []PlatformState{{Manifest: r.Target, Missing: make([]image.Descriptor, 1)}}
		},
	} {
		row := partial()
		spoil(&row)
		if b, err := encode(row); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %q, %v, want an invalid argument", name, b, err)
		}
	}
}

// Rows are read as they were written, and what is cut off is an error.
func TestRows(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	known := knownRow{Size: 1 << 50, CreatedAt: when, UpdatedAt: when.Add(time.Hour)}
	labelled := known
	labelled.Labels = map[string]string{"k": "v"}
	places := parentRow{placeSubject, placeConfig}
	for _, c := range []image.Child{{Place: image.PlaceLayer, Index: 0}, {Place: image.PlaceLayer, Index: 300}, {Place: image.PlaceManifest, Index: 2}} {
		places = append(places, placeOf(c))
	}
	var img imageRow
	populate(t, reflect.ValueOf(&img).Elem())
	removed := removedRow{img, when}
	doc := busy()
	stored := doc
	stored.Types = []string{doc.Config.MediaType, doc.Layers[0].MediaType}
	for _, tt := range []struct {
		name      string
		row, want any
		got       encoding.BinaryUnmarshaler
		cuts      bool // every beginning is damaged
	}{
		{"blob", blobRow{300}, &blobRow{300}, new(blobRow), true},
		{"doomed", doomedRow{Size: 300}, &doomedRow{Size: 300}, new(doomedRow), true},
		{"doomed in a round", doomedRow{300, "round"}, &doomedRow{300, "round"}, new(doomedRow), false},
		{"known", known, &known, new(knownRow), true},
		{"known with labels", labelled, &labelled, new(knownRow), true},
		{"known with zero times", knownRow{}, &knownRow{}, new(knownRow), true},
		{"image", img, &img, new(imageRow), true},
		{"partial image", partial(), ptr(partial()), new(imageRow), true},
		{"removed image", removed, &removed, new(removedRow), true},
		{"places", places, &places, new(parentRow), false},
		{"document", doc, &stored, new(documentRow), false},
		{"empty document", documentRow{}, &documentRow{}, new(documentRow), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := encode(tt.row)
			if err != nil {
				t.Fatal(err)
			}
			if err := decode(nil, b, tt.got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.got, cmp.AllowUnexported(removedRow{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for n := range b {
				if err := decode(nil, b[:n], tt.got); tt.cuts && !errdefs.IsDataLoss(err) {
					t.Errorf("%d of %d bytes: got %v, want data loss", n, len(b), err)
				}
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	doc := busy()
	var got []string
	for _, e := range edges(&Document{Document: doc.Document}) {
		for _, p := range e.places {
			got = append(got, p.String())
		}
	}
	want := []string{"config", "layer 0", "layer 1", "layer 2", "manifest 0", "subject"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Digests in keys stand in the order of their text, and come back as they were.
func TestDigestKeys(t *testing.T) {
	var digests []image.Digest
	for _, s := range strings.Split("a b c d e f", " ") {
		digests = append(digests, digest.FromString(s), digest.SHA512.FromString(s))
	}
	slices.Sort(digests)
	var before string
	for _, d := range digests {
		k := blobKey(d)
		if got, err := lastDigest(k, []byte(blobRows)); err != nil || got != d {
			t.Errorf("got %s, %v, want %s", got, err, d)
		}
		if string(k) <= before {
			t.Errorf("%s is not behind the one before it", d)
		}
		before = string(k)
		if ns, got, err := parseKnownKey(knownKey("ns", d)); err != nil || ns != "ns" || got != d {
			t.Errorf("known: got %s, %s, %v", ns, got, err)
		}
		if got, ns, name, err := parseTargetKey(targetKey(d, "ns", "name")); err != nil || ns != "ns" || name != "name" || got != d {
			t.Errorf("target: got %s, %s, %s, %v", got, ns, name, err)
		}
		if got, err := lastDigest(parentKey("sha256:no", d), digestKey(parentRows, "sha256:no")); err != nil || got != d {
			t.Errorf("parent: got %s, %v", got, err)
		}
		if got, err := lastDigest(k[:len(k)-1], []byte(blobRows)); !errdefs.IsDataLoss(err) {
			t.Errorf("cut off: got %s, %v, want data loss", got, err)
		}
	}
	for _, d := range []image.Digest{"", "sha256:", "md5:" + image.Digest(strings.Repeat("0", 32)), "sha256:" + image.Digest(strings.Repeat("x", 64))} {
		if got, err := lastDigest(blobKey(d), []byte(blobRows)); err == nil {
			t.Errorf("key of %q: got %s from it", d, got)
		}
	}
}

// A key that cannot be is reported, wherever rows are listed.
func TestDamagedKeys(t *testing.T) {
	for kind, list := range map[string]func(*Store) error{
		"x/": func(s *Store) error { _, err := s.Hold(t.Context(), "ns"); return err },
		"c/": func(s *Store) error { _, err := s.Blobs(t.Context(), "ns"); return err },
		"u/": func(s *Store) error { _, err := s.ReferencedBy(t.Context(), sample("a", 0).Digest); return err },
	} {
		k := []byte(kind)
		switch kind {
		case "c/":
			k = append(key(knownRows, "ns", ""), algorithms[0].code)
		case "u/":
			k = digestKey(parentRows, sample("a", 0).Digest)
		}
		db := mem.New()
		if err := db.Update(t.Context(), func(w kv.Writer) error { return w.Put(append(k, "bad"...), nil) }); err != nil {
			t.Fatal(err)
		}
		s := New(db, t.TempDir())
		if err := list(s); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: got %v, want data loss", kind, err)
		}
		if f, err := s.Garbage(t.Context(), nil); err != nil || len(f.Blobs) > 0 {
			t.Errorf("%s: a collection takes %v, %v, want it to pass over what is damaged", kind, f, err)
		}
	}
}

// Whatever the bytes of a row are, they are read or refused, and what was read stays what it is.
func FuzzRows(f *testing.F) {
	for _, row := range []any{busy(), knownRow{Size: 1, Labels: map[string]string{"a": "b"}}, parentRow{1, 2, 3}, blobRow{7}, partial(), removedRow{imageRow: partial()}} {
		b, err := encode(row)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var doc, again documentRow
		if decode(nil, b, &doc) == nil {
			written, err := encode(doc)
			if err != nil {
				t.Fatal(err)
			}
			if err := decode(nil, written, &again); err != nil {
				t.Fatalf("what was written of %q: %v", b, err)
			}
			if got, want := len(again.Layers), len(doc.Layers); got != want {
				t.Errorf("layers: got %d, want %d", got, want)
			}
		}
		var img, same imageRow
		if decode(nil, b, &img) == nil {
			written, err := encode(img)
			if err == nil {
				err = decode(nil, written, &same)
			}
			again, encodeErr := encode(same)
			if err = errors.Join(err, encodeErr); err != nil || !bytes.Equal(written, again) {
				t.Errorf("image %q is written as %q, and that as %q, %v", b, written, again, err)
			}
		}
		_, _ = knownRow2(b)
		_, _, _ = decode(nil, b, new(knownRow)), decode(nil, b, new(parentRow)), decode(nil, b, new(blobRow))
	})
}

package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
)

func tempFile(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// mustAgree sees that an open archive holds what reading it as a stream gave.
func mustAgree(t *testing.T, a *Archive, sink memSink, c *Contents) {
	t.Helper()
	if !reflect.DeepEqual(a.Images, c.Images) || !slices.Equal(a.Warnings, c.Warnings) {
		t.Errorf("got %+v, want %+v", a.Contents, *c)
	}
	for d, want := range sink {
		r, err := a.Open(d)
		if err != nil {
			t.Errorf("%s: %v", d, err)
			continue
		}
		got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v, want %d", d, len(got), err, len(want))
		}
	}
	if _, err := a.Open(digest.FromString("absent")); !errdefs.IsNotFound(err) {
		t.Errorf("an absent blob: %v, want not found", err)
	}
	if _, err := a.Open("sha256:../../etc/passwd"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("what is no digest: %v, want invalid argument", err)
	}
}

// TestOpenFile opens archives of all forms: they hold what reading them in one go gives.
func TestOpenFile(t *testing.T) {
	files := map[string][]byte{
		"layout":    makeTar(t, layoutItems(t, `{"org.opencontainers.image.ref.name":"example.com/app:1"}`)...),
		"bare tag":  makeTar(t, layoutItems(t, `{"org.opencontainers.image.ref.name":"latest"}`)...),
		"backwards": nil,
	}
	for _, shape := range []string{"folders", "links back", "links forward", "digests"} {
		files[shape] = makeTar(t, dockerItems(t, shape)...)
	}
	items := layoutItems(t, `{}`)
	slices.Reverse(items)
	files["backwards"] = makeTar(t, items...)
	for name, b := range files {
		t.Run(name, func(t *testing.T) {
			sink, c, err := read(t, b)
			if err != nil {
				t.Fatal(err)
			}
			a, err := OpenFile(t.Context(), tempFile(t, b))
			if err != nil {
				t.Fatal(err)
			}
			mustAgree(t, a, sink, c)
			if name == "bare tag" && (len(a.Images) != 1 || a.Images[0].Tag != "latest") {
				t.Errorf("images %+v, want one with the tag latest", a.Images)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenDir(t *testing.T) {
	items := layoutItems(t, `{"org.opencontainers.image.ref.name":"example.com/app:1"}`)
	sink, c, err := read(t, makeTar(t, items...))
	if err != nil {
		t.Fatal(err)
	}
	dir := layoutDir(t, items)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	away := digest.FromString("secret")
	if err := os.Symlink(outside, filepath.Join(dir, "blobs", "sha256", away.Encoded())); err != nil {
		t.Fatal(err)
	}
	a, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustAgree(t, a, sink, c)
	if _, err := a.Open(away); err == nil {
		t.Error("a link led out of the folder")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenDir(t.TempDir()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestOpenFileRefuses(t *testing.T) {
	plain := makeTar(t, layoutItems(t, `{}`)...)
	for name, c := range map[string]struct {
		file string
		is   func(error) bool
	}{
		"gzip":      {tempFile(t, gzipped(t, plain)), errdefs.IsFailedPrecondition},
		"zstd":      {tempFile(t, zstded(t, plain)), errdefs.IsFailedPrecondition},
		"a device":  {"/dev/null", errdefs.IsFailedPrecondition},
		"a folder":  {t.TempDir(), errdefs.IsFailedPrecondition},
		"absent":    {filepath.Join(t.TempDir(), "x"), func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		"truncated": {tempFile(t, plain[:len(plain)-1500]), errdefs.IsDataLoss},
		"in a blob": {tempFile(t, plain[:1000]), errdefs.IsDataLoss},
		"words":     {tempFile(t, bytes.Repeat([]byte("word"), 400)), errdefs.IsInvalidArgument},
	} {
		if a, err := OpenFile(t.Context(), c.file); err == nil || !c.is(err) {
			t.Errorf("%s: got %v, %v", name, a, err)
		}
	}
}

// TestUpdateIndex adds images to a list: each takes the place of what had its name or tag, and of
// nothing else.
func TestUpdateIndex(t *testing.T) {
	at := func(s string) image.Descriptor { return image.Describe(image.OCIManifest, []byte(s)) }
	var index []byte
	for _, img := range []ExportImage{
		{Tag: "a", Target: at("1")},
		{Tag: "b", Target: at("1")},
		{Target: at("2")},
		{Target: at("2")},
		{Name: "example.com/x:a", Target: at("3")},
		{Name: "example.com/y:a", Target: at("4")},
		{Tag: "b", Target: at("5")},
		{Name: "example.com/y:a", Target: at("6")},
	} {
		var err error
		if index, err = UpdateIndex(index, img, []image.Descriptor{at("signature")}); err != nil {
			t.Fatal(err)
		}
	}
	var got v1.Index
	if err := json.Unmarshal(index, &got); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, d := range got.Manifests {
		for _, text := range []string{"1", "2", "3", "4", "5", "6", "signature"} {
			if d.Digest == at(text).Digest {
				list = append(list, d.Annotations[annotationName]+" "+d.Annotations[annotationRef]+" "+text)
			}
		}
	}
	slices.Sort(list)
	want := []string{"  2", "  signature", " b 5", "example.com/x:a a 3", "example.com/y:a a 6"}
	if !slices.Equal(list, want) {
		t.Errorf("got %q, want %q", list, want)
	}
	for _, old := range []string{"", "{", `{"schemaVersion":2,"config":{},"layers":[]}`} {
		if _, err := UpdateIndex([]byte(old), ExportImage{Target: at("1")}, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want invalid argument", old, err)
		}
	}
}

// FuzzOpenFile opens what reading as a stream takes too, with the same result.
func FuzzOpenFile(f *testing.F) {
	for _, shape := range []string{"folders", "links back", "links forward", "digests"} {
		f.Add(makeTar(f, dockerItems(f, shape)...))
	}
	f.Add(makeTar(f, layoutItems(f, `{"org.opencontainers.image.ref.name":"app:1"}`)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := OpenFile(t.Context(), tempFile(t, b))
		if err != nil {
			return
		}
		defer func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}()
		c, err := Read(t.Context(), bytes.NewReader(b), discard{})
		if err != nil || !reflect.DeepEqual(a.Images, c.Images) {
			t.Errorf("opened as %+v; read as %+v, %v", a.Images, c, err)
		}
		for _, e := range a.Images {
			if r, err := a.Open(e.Target.Digest); err == nil {
				_, _ = io.Copy(io.Discard, io.NewSectionReader(r, 0, r.Size())) // it must not panic
				_ = r.Close()
			}
		}
	})
}

// FuzzUpdateIndex never loses the image that is added.
func FuzzUpdateIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`), "a")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"annotations":{"org.opencontainers.image.ref.name":"a"}}]}`), "a")
	f.Fuzz(func(t *testing.T, old []byte, tag string) {
		target := image.Describe(image.OCIManifest, []byte("x"))
		b, err := UpdateIndex(old, ExportImage{Tag: tag, Target: target}, nil)
		if err != nil {
			return
		}
		doc, err := image.ParseDocument(b)
		if err != nil || !doc.Index || doc.Manifests[len(doc.Manifests)-1].Digest != target.Digest {
			t.Errorf("got %s, %v", b, err)
		}
	})
}

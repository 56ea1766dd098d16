package transfer_test

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
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/transfer"
)

// repositories is a registry that notes what it is asked for, by the names of its repositories.
type repositories struct {
	at map[string]*fakeRegistry

	mu    sync.Mutex
	asked []string
}

func (r *repositories) ask(name ref.Reference, d image.Digest) (*fakeRegistry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, name.Name()+" "+d.String())
	if reg := r.at[name.Name()]; reg != nil {
		return reg, nil
	}
	return nil, fmt.Errorf("%s is not reached: %w", name.Registry(), errdefs.ErrUnavailable)
}

func (r *repositories) Resolve(ctx context.Context, name ref.Reference) (registry.Resolved, error) {
	reg, err := r.ask(name, "")
	if err != nil {
		return registry.Resolved{}, err
	}
	return reg.Resolve(ctx, name)
}

func (r *repositories) Manifest(ctx context.Context, name ref.Reference, d image.Descriptor) ([]byte, error) {
	reg, err := r.ask(name, d.Digest)
	if err != nil {
		return nil, err
	}
	return reg.Manifest(ctx, name, d)
}

func (r *repositories) Blob(ctx context.Context, name ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	reg, err := r.ask(name, d.Digest)
	if err != nil {
		return nil, err
	}
	if doc := reg.img.Root.Digest; doc == d.Digest {
		return nil, fmt.Errorf("no blob: %w", errdefs.ErrNotFound) // registries keep documents apart
	}
	return reg.Blob(ctx, name, d, offset, onFault)
}

// forget empties the list of what was asked for.
func (r *repositories) forget() { r.asked = nil }

// lose takes bytes away behind the store's back, and has it notice.
func lose(t *testing.T, s transfer.Store, name string, list ...image.Descriptor) {
	t.Helper()
	var digests []image.Digest
	for _, d := range list {
		if err := s.Content.Delete(t.Context(), d.Digest); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.Digest)
	}
	img, err := s.Meta.Recheck(t.Context(), s.Namespace, name, digests)
	if err != nil || img.State != metadata.Partial {
		t.Fatalf("after the loss %s is %s, %v", name, img.State, err)
	}
}

func state(t *testing.T, s transfer.Store, name string, want metadata.State) {
	t.Helper()
	img, err := s.Meta.Image(t.Context(), s.Namespace, name)
	if err != nil || img.State != want {
		t.Errorf("%s in %s: %s, %v, want %s", name, s.Namespace, img.State, err, want)
	}
}

// everything lists all blobs of an image, the root among them.
func everything(img *imagetest.Image) []image.Descriptor {
	var list []image.Descriptor
	for _, b := range img.Blobs {
		list = append(list, image.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size})
	}
	return list
}

// All of an image is lost, which two namespaces have under other names than that it was pulled by. It
// comes back from where it came from, each blob once, with its labels, and is complete for both.
func TestRefetch(t *testing.T) {
	img := build(t, 10_000, 300_000)
	s := fresh(t)
	reg := &repositories{at: map[string]*fakeRegistry{"example.com/team/app": {img: img}}}
	other := s
	other.Namespace = "other"
	for _, s := range []transfer.Store{s, other} {
		if _, err := transfer.Pull(t.Context(), s, reg, parse(t, "example.com/team/app:1"), transfer.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Meta.Tag(t.Context(), s.Namespace, "example.com/team/app:1", "example.net/x:1", false); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Meta.RemoveImages(t.Context(), s.Namespace, "example.com/team/app:1"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Meta.LabelBlob(t.Context(), s.Namespace, img.Root.Digest, map[string]string{"of": s.Namespace}); err != nil {
			t.Fatal(err)
		}
	}
	all := everything(img)
	lose(t, s, "example.net/x:1", all...)
	state(t, other, "example.net/x:1", metadata.Partial)
	reg.forget()

	done, err := transfer.Refetch(t.Context(), s, reg, append(all, all...), transfer.RefetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != len(all) || len(reg.asked) != len(all) {
		t.Errorf("%d blobs were fetched with %d requests, want %d", len(done), len(reg.asked), len(all))
	}
	for _, f := range done {
		if f.From != "example.com/team/app" {
			t.Errorf("%s came from %q", f.Digest, f.From)
		}
	}
	for _, s := range []transfer.Store{s, other} {
		state(t, s, "example.net/x:1", metadata.Complete)
		mustBeWhole(t, s, "after it was fetched again")
		b, err := s.Meta.Blob(t.Context(), s.Namespace, img.Root.Digest)
		if err != nil || b.Labels["of"] != s.Namespace || b.Labels[metadata.SourceLabel+"example.com"] != "team/app" {
			t.Errorf("in %s the root has labels %v, %v", s.Namespace, b.Labels, err)
		}
	}

	done, err = transfer.Refetch(t.Context(), s, reg, all, transfer.RefetchOptions{})
	if err != nil || len(done) != 0 || len(reg.asked) != len(all) {
		t.Errorf("what is here was fetched: %v, %v", done, err)
	}
}

// A blob is asked of one place after the other: one that is not reached, one that gives wrong bytes, one
// that breaks off, and the name of the image in the end.
func TestRefetchGoesOn(t *testing.T) {
	img := build(t, 400_000)
	layer := image.Descriptor{Digest: img.Manifest().Layers[0].Digest, Size: img.Manifest().Layers[0].Size}
	s := fresh(t)
	spoil := func(d image.Descriptor, _ int64, body io.Reader) (io.Reader, error) {
		b, err := io.ReadAll(body)
		b[len(b)/2] ^= 1
		return bytes.NewReader(b), err
	}
	cut := func(d image.Descriptor, _ int64, body io.Reader) (io.Reader, error) {
		return io.MultiReader(io.LimitReader(body, d.Size/2), broken{}), nil
	}
	good := &fakeRegistry{img: img}
	reg := &repositories{at: map[string]*fakeRegistry{"example.com/app": good}}
	if _, err := transfer.Pull(t.Context(), s, reg, parse(t, "example.com/app:1"), transfer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{metadata.SourceLabel + "example.com": "", metadata.SourceLabel + "a.example": "cut,wrong,away", metadata.SourceLabel + "not a host": "x"}
	for _, b := range everything(img) {
		if _, err := s.Meta.LabelBlob(t.Context(), s.Namespace, b.Digest, labels); err != nil {
			t.Fatal(err)
		}
	}
	lose(t, s, "example.com/app:1", layer)
	reg.forget()
	reg.at = map[string]*fakeRegistry{"a.example/wrong": {img: img, hook: spoil}, "a.example/cut": {img: img, hook: cut}, "example.com/app": good}
	done, err := transfer.Refetch(t.Context(), s, reg, []image.Descriptor{layer}, transfer.RefetchOptions{})
	if err != nil || len(done) != 1 || done[0].From != "example.com/app" {
		t.Errorf("got %v, %v", done, err)
	}
	var asked []string
	for _, a := range reg.asked {
		name, _, _ := strings.Cut(a, " ")
		asked = append(asked, name)
	}
	if want := []string{"a.example/away", "a.example/wrong", "a.example/cut", "example.com/app"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	mustBeWhole(t, s, "after it was fetched again")
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broke off") }

// What cannot be had is listed with the reasons; the rest comes all the same.
func TestRefetchLost(t *testing.T) {
	img := build(t, 10_000, 20_000)
	layers := img.Manifest().Layers
	s := fresh(t)
	pull(t, s, img)
	lose(t, s, "example.com/app:1", everything(img)...)
	reg := &repositories{at: map[string]*fakeRegistry{}}
	_, err := transfer.Refetch(t.Context(), s, reg, everything(img), transfer.RefetchOptions{})
	var lost *transfer.LostError
	if !errors.As(err, &lost) || len(lost.Lost) != len(img.Blobs) || !errdefs.IsUnavailable(err) {
		t.Fatalf("got %v, want that nobody is reached", err)
	}
	if text := err.Error(); strings.Count(text, "not reached") != 1 || !strings.Contains(text, "example.com/app: example.com is not reached") || !strings.Contains(text, layers[0].Digest.String()) {
		t.Errorf("the error says %q", text)
	}

	// The registry has one of the layers only.
	part := *img
	part.Blobs = slices.DeleteFunc(slices.Clone(img.Blobs), func(b imagetest.Blob) bool { return b.Digest == layers[1].Digest })
	reg.at["example.com/app"] = &fakeRegistry{img: &part}
	done, err := transfer.Refetch(t.Context(), s, reg, everything(img), transfer.RefetchOptions{})
	var missing *transfer.MissingError
	if !errors.As(err, &lost) || len(lost.Lost) != 1 || lost.Lost[0].Digest != layers[1].Digest || !errors.As(err, &missing) {
		t.Errorf("got %v, want that one blob is nowhere", err)
	}
	if len(done) != len(img.Blobs)-1 {
		t.Errorf("%d blobs were fetched, want %d", len(done), len(img.Blobs)-1)
	}
	for _, b := range part.Blobs {
		if _, err := content.ReadBlob(t.Context(), s.Content, b.Digest, 1<<20); err != nil {
			t.Error(err)
		}
	}

	// Nobody ever heard of this one.
	stranger := image.Descriptor{Digest: build(t, 1).Root.Digest, Size: 10}
	if _, err := transfer.Refetch(t.Context(), s, reg, []image.Descriptor{stranger}, transfer.RefetchOptions{}); err == nil || !strings.Contains(err.Error(), "nothing says where it came from") {
		t.Errorf("got %v", err)
	}
}

// What is given goes first: layouts, archives of all kinds, and other registries.
func TestRefetchFrom(t *testing.T) {
	img := build(t, 10_000, 300_000)
	origin := fresh(t)
	pull(t, origin, img)
	dir := t.TempDir()
	export := func(to transfer.Endpoint) {
		t.Helper()
		_, err := transfer.Copy(t.Context(), nil, transfer.Endpoint{Transport: transfer.StoreTransport, Ref: "example.com/app:1"}, to, transfer.CopyOptions{Store: &origin})
		if err != nil {
			t.Fatal(err)
		}
	}
	folder := transfer.Endpoint{Transport: transfer.LayoutTransport, Path: filepath.Join(dir, "layout")}
	file := transfer.Endpoint{Transport: transfer.ArchiveTransport, Path: filepath.Join(dir, "image.tar")}
	export(folder)
	export(file)
	packed := file
	packed.Path += ".gz"
	gzipFile(t, file.Path, packed.Path)
	mirror := transfer.Endpoint{Transport: transfer.DockerTransport, Ref: "mirror.example/any:thing"}
	reg := &repositories{at: map[string]*fakeRegistry{"mirror.example/any": {img: img}}}
	for _, e := range []transfer.Endpoint{folder, file, packed, mirror} {
		s := fresh(t)
		pull(t, s, img)
		lose(t, s, "example.com/app:1", everything(img)...)
		reg.forget()
		done, err := transfer.Refetch(t.Context(), s, reg, everything(img), transfer.RefetchOptions{From: []transfer.Endpoint{e}})
		if err != nil || len(done) != len(img.Blobs) {
			t.Fatalf("from %s: %d blobs, %v", e, len(done), err)
		}
		want := e.String()
		if e == mirror {
			want = "mirror.example/any"
		} else if len(reg.asked) > 0 {
			t.Errorf("from %s: asked %v", e, reg.asked)
		}
		for _, f := range done {
			if f.From != want {
				t.Errorf("from %s: %s came from %q", e, f.Digest, f.From)
			}
		}
		state(t, s, "example.com/app:1", metadata.Complete)
		mustBeWhole(t, s, e.String())
	}

	// One that is not there does not keep others from being asked.
	s := fresh(t)
	pull(t, s, img)
	lose(t, s, "example.com/app:1", everything(img)[0])
	nowhere := transfer.Endpoint{Transport: transfer.ArchiveTransport, Path: filepath.Join(dir, "none.tar")}
	done, err := transfer.Refetch(t.Context(), s, reg, everything(img), transfer.RefetchOptions{From: []transfer.Endpoint{nowhere, packed}})
	if err != nil || len(done) != 1 || done[0].From != packed.String() {
		t.Errorf("got %v, %v", done, err)
	}
}

func gzipFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Docker's own archives do not say the digests of their layers: they are found by hashing, also in a
// compressed one.
func TestRefetchFromDocker(t *testing.T) {
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Plain, imagetest.Seeded(1, 50_000)), Docker: true}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain := transfer.Endpoint{Transport: transfer.DockerArchiveTransport, Path: filepath.Join(dir, "docker.tar")}
	dockerSave(t, img, plain.Path)
	packed := plain
	packed.Path += ".gz"
	gzipFile(t, plain.Path, packed.Path)
	layer := image.Descriptor{Digest: img.Manifest().Layers[0].Digest, Size: img.Manifest().Layers[0].Size}
	for _, e := range []transfer.Endpoint{plain, packed} {
		s := fresh(t)
		pull(t, s, img)
		lose(t, s, "example.com/app:1", layer)
		done, err := transfer.Refetch(t.Context(), s, &repositories{}, []image.Descriptor{layer}, transfer.RefetchOptions{From: []transfer.Endpoint{e}})
		if err != nil || len(done) != 1 || done[0].From != e.String() {
			t.Errorf("from %s: %v, %v", e, done, err)
		}
		mustBeWhole(t, s, e.String())
		left, err := s.Content.Ingests(t.Context())
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// dockerSave writes an image of one layer as old versions of docker did.
func dockerSave(t *testing.T, img *imagetest.Image, name string) {
	t.Helper()
	body := func(d image.Digest) []byte {
		blob, _ := img.Blob(d)
		b, err := blob.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range map[string][]byte{
		"c.json":        body(img.Manifest().Config.Digest),
		"1/layer.tar":   body(img.Manifest().Layers[0].Digest),
		"manifest.json": []byte(`[{"Config":"c.json","RepoTags":["app:1"],"Layers":["1/layer.tar"]}]`),
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(name, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

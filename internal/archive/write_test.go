package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// twoImages is a store with two images that share a layer, and how they are exported.
func twoImages(t testing.TB) (memSink, Layout) {
	store := memSink{}
	build := func(names ...string) (image.Descriptor, *DockerEntry) {
		var bodies []string
		var layers []image.Descriptor
		e := &DockerEntry{}
		for _, name := range names {
			bodies = append(bodies, layerTar(t, name))
			d := store.put(image.OCILayer, []byte(bodies[len(bodies)-1]))
			layers = append(layers, d)
			e.Layers = append(e.Layers, d.Digest)
		}
		config := store.put(image.OCIConfig, []byte(configOf(t, bodies...)))
		e.Config = config.Digest
		b, _, err := image.BuildManifest(config, layers)
		if err != nil {
			t.Fatal(err)
		}
		return store.put(image.OCIManifest, b), e
	}
	a, dockerA := build("base", "a")
	b, dockerB := build("base", "b")
	index := store.put(image.OCIIndex, []byte(`{"schemaVersion":2,"manifests":[`+toJSON(t, b)+`]}`))
	sum := digest.SHA512.FromString("a blob in sha512")
	store[sum] = []byte("a blob in sha512")
	layout := Layout{Images: []ExportImage{
		{Name: "docker.io/library/a:1", Target: a, Docker: dockerA},
		{Name: "quay.io/x/a:2", Target: a, Docker: dockerA},
		{Name: "docker.io/library/b:1", Target: index, Docker: dockerB},
		{Name: "docker.io/library/b@" + a.Digest.String(), Target: a, Docker: dockerA},
		{Target: b},
	}}
	layout.Blobs = store.blobs()
	return store, layout
}

func TestRoundTrip(t *testing.T) {
	store, layout := twoImages(t)
	var out bytes.Buffer
	if err := Write(t.Context(), &out, layout, store.open); err != nil {
		t.Fatal(err)
	}
	got := memSink{}
	c, err := Read(t.Context(), &out, got)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(got, store, bytes.Equal) {
		t.Errorf("got %d blobs, want the same %d", len(got), len(store))
	}
	var want []Entry
	for _, img := range layout.Images {
		want = append(want, Entry{Name: img.Name, Target: img.Target})
	}
	same := func(a, b Entry) bool {
		return a.Name == b.Name && a.Target.Digest == b.Target.Digest && a.Target.Size == b.Target.Size
	}
	if !slices.EqualFunc(c.Images, want, same) {
		t.Errorf("got images %v, want %v", c.Images, want)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("got warnings %q", c.Warnings)
	}
}

// The same images give the same bytes, in whatever order their blobs were found.
func TestDeterministic(t *testing.T) {
	store, layout := twoImages(t)
	var first []byte
	for range 4 {
		rand.Shuffle(len(layout.Blobs), func(i, j int) {
			layout.Blobs[i], layout.Blobs[j] = layout.Blobs[j], layout.Blobs[i]
		})
		layout.Blobs = append(layout.Blobs, layout.Blobs[0]) // each is written once
		var out bytes.Buffer
		if err := Write(t.Context(), &out, layout, store.open); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = out.Bytes()
		}
		if !bytes.Equal(out.Bytes(), first) {
			t.Fatal("other bytes for the same images")
		}
	}
	var order []string
	r := tar.NewReader(bytes.NewReader(first))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s: time or owner is set: %+v", h.Name, h)
		}
		order = append(order, h.Name)
	}
	head := []string{"blobs/", "blobs/sha256/", "blobs/sha512/", "oci-layout", "index.json", "manifest.json", "repositories"}
	if len(order) != len(head)+len(store) || !slices.Equal(order[:len(head)], head) || !slices.IsSorted(order[len(head):]) {
		t.Errorf("got entries %q", order)
	}
}

// What docker's own programs look for in the lists.
func TestLists(t *testing.T) {
	_, layout := twoImages(t)
	lists, err := layout.lists(layout.Blobs)
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]string{}
	for _, l := range lists {
		body[l.name] = string(l.body)
	}
	a, b := layout.Images[0], layout.Images[2]
	path := func(d image.Digest) string { return `"` + blobPath(d) + `"` }
	want := map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"manifest.json": `[{"Config":` + path(a.Docker.Config) + `,"RepoTags":["docker.io/library/a:1","quay.io/x/a:2"],"Layers":[` + path(a.Docker.Layers[0]) + `,` + path(a.Docker.Layers[1]) + `]},` +
			`{"Config":` + path(b.Docker.Config) + `,"RepoTags":["docker.io/library/b:1"],"Layers":[` + path(b.Docker.Layers[0]) + `,` + path(b.Docker.Layers[1]) + `]}]`,
		"repositories": `{"docker.io/library/a":{"1":"` + a.Docker.Layers[1].Encoded() + `"},"docker.io/library/b":{"1":"` + b.Docker.Layers[1].Encoded() + `"},"quay.io/x/a":{"2":"` + a.Docker.Layers[1].Encoded() + `"}}`,
	}
	for name, w := range want {
		if body[name] != w {
			t.Errorf("%s: got\n%s\nwant\n%s", name, body[name], w)
		}
	}
	for _, part := range []string{`"io.containerd.image.name":"quay.io/x/a:2"`, `"org.opencontainers.image.ref.name":"2"`} {
		if !strings.Contains(body["index.json"], part) {
			t.Errorf("index.json lacks %s: %s", part, body["index.json"])
		}
	}
	layout.Images = layout.Images[4:]
	if lists, err = layout.lists(layout.Blobs); err != nil || len(lists) != 2 {
		t.Errorf("without docker's images: got %d lists, %v; want oci-layout and index.json", len(lists), err)
	}
}

func TestWriteRefuses(t *testing.T) {
	store, layout := twoImages(t)
	write := func(change func(memSink, *Layout), w io.Writer) error {
		s, l := maps.Clone(store), layout
		l.Blobs = slices.Clone(l.Blobs)
		change(s, &l)
		return Write(t.Context(), w, l, s.open)
	}
	a := layout.Images[0]
	for _, tt := range []struct {
		name   string
		change func(memSink, *Layout)
		kind   error
	}{
		{"an image without its blob", func(_ memSink, l *Layout) {
			l.Blobs = slices.DeleteFunc(l.Blobs, func(d image.Descriptor) bool { return d.Digest == a.Target.Digest })
		}, errdefs.ErrInvalidArgument},
		{"docker's list without a layer", func(_ memSink, l *Layout) {
			l.Blobs = slices.DeleteFunc(l.Blobs, func(d image.Descriptor) bool { return d.Digest == a.Docker.Layers[0] })
		}, errdefs.ErrInvalidArgument},
		{"two sizes of a blob", func(_ memSink, l *Layout) {
			d := l.Blobs[0]
			d.Size++
			l.Blobs = append(l.Blobs, d)
		}, errdefs.ErrInvalidArgument},
		{"a bad digest", func(_ memSink, l *Layout) { l.Blobs[0].Digest = "x" }, errdefs.ErrInvalidArgument},
		{"a blob is gone", func(s memSink, _ *Layout) { delete(s, a.Docker.Layers[0]) }, errdefs.ErrNotFound},
		{"a blob is damaged", func(s memSink, _ *Layout) {
			b := slices.Clone(s[a.Docker.Layers[0]])
			b[700] ^= 1
			s[a.Docker.Layers[0]] = b
		}, errdefs.ErrDataLoss},
		{"a blob is shorter", func(s memSink, _ *Layout) { s[a.Docker.Layers[0]] = s[a.Docker.Layers[0]][1:] }, errdefs.ErrDataLoss},
	} {
		if err := write(tt.change, io.Discard); !errors.Is(err, tt.kind) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.kind)
		}
	}

	// A writer that takes no more is an error wherever it stops.
	var whole bytes.Buffer
	same := func(memSink, *Layout) {}
	if err := write(same, &whole); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < whole.Len(); n += 97 {
		if err := write(same, &shortWriter{n}); !errors.Is(err, errFull) {
			t.Fatalf("the writer is full after %d bytes: got %v", n, err)
		}
	}
}

var errFull = errors.New("full")

type shortWriter struct{ left int }

func (w *shortWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func TestBlobs(t *testing.T) {
	store, layout := twoImages(t)
	var out bytes.Buffer
	if err := WriteBlobs(t.Context(), &out, layout.Blobs, store.open); err != nil {
		t.Fatal(err)
	}
	got := memSink{}
	if err := ReadBlobs(t.Context(), bytes.NewReader(out.Bytes()), got); err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(got, store, bytes.Equal) {
		t.Errorf("got %d blobs, want the same %d", len(got), len(store))
	}
	if _, err := Read(t.Context(), &out, got); !errdefs.IsInvalidArgument(err) {
		t.Errorf("as an archive of images: got %v", err)
	}
	err := ReadBlobs(t.Context(), bytes.NewReader(makeTar(t, item{name: "a", body: "b"})), got)
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("no blobs: got %v", err)
	}
}

// A zeroReader is a blob of zeros of any size.
type zeroReader int64

func (z zeroReader) Size() int64  { return int64(z) }
func (z zeroReader) Close() error { return nil }
func (z zeroReader) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), int64(z)-off)
	clear(p[:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// A sinkFunc is a sink of one function.
type sinkFunc func(want image.Digest, size int64, r io.Reader) error

func (f sinkFunc) Blob(_ context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	return image.Descriptor{Digest: want, Size: size}, f(want, size, r)
}

// A large blob streams through both ends with little memory.
func TestLargeStream(t *testing.T) {
	const size = 64 << 20
	h := digest.SHA256.Digester()
	if _, err := io.Copy(h.Hash(), io.NewSectionReader(zeroReader(size), 0, size)); err != nil {
		t.Fatal(err)
	}
	d := image.Descriptor{Digest: h.Digest(), Size: size}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(WriteBlobs(t.Context(), w, []image.Descriptor{d}, func(context.Context, image.Descriptor) (content.Reader, error) {
			return zeroReader(size), nil
		}))
	}()
	err := ReadBlobs(t.Context(), r, sinkFunc(func(want image.Digest, n int64, r io.Reader) error {
		got, err := io.Copy(io.Discard, r)
		if want != d.Digest || n != size || got != size {
			return fmt.Errorf("got %s, %d of %d bytes", want, got, n)
		}
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("%d bytes were allocated", got)
	}
}

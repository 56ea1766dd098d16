package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"

	"github.com/stowage/stowage/internal/image"
)

func read(t *testing.T, b []byte) (memSink, *Contents, error) {
	t.Helper()
	sink := memSink{}
	c, err := Read(t.Context(), bytes.NewReader(b), sink)
	return sink, c, err
}

// hexOf is the hex of a sha256 digest.
func hexOf(s string) string { return digest.FromString(s).Encoded() }

// dockerItems is what docker save writes for one image, in the given shape of its layers.
func dockerItems(t testing.TB, shape string) []item {
	one, two := layerTar(t, "one"), layerTar(t, "two")
	config := configOf(t, one, two)
	list := func(config string, layers ...string) item {
		return item{name: "manifest.json", body: toJSON(t, []dockerImage{{config, []string{"app:1", "quay.io/a/app:2"}, layers}})}
	}
	conf := item{name: hexOf(config) + ".json", body: config}
	switch shape {
	case "folders":
		return []item{
			{name: "1/"},
			{name: "1/VERSION", body: "1.0"},
			{name: "1/json", body: `{"id":"1"}`},
			{name: "1/layer.tar", body: one},
			{name: "2/layer.tar", body: two},
			conf, list(conf.name, "1/layer.tar", "2/layer.tar"),
			{name: "repositories", body: `{"app":{"1":"2"}}`},
		}
	case "links back":
		return []item{
			{name: "x.tar", body: one},
			{name: "2/layer.tar", body: two},
			conf,
			{name: "1/layer.tar", kind: tar.TypeSymlink, link: "../x.tar"},
			list(conf.name, "1/layer.tar", "2/layer.tar"),
		}
	case "links forward":
		return []item{
			{name: "1/layer.tar", kind: tar.TypeSymlink, link: "../3/layer.tar"},
			{name: "3/layer.tar", kind: tar.TypeLink, link: "x.tar"},
			list(conf.name, "1/layer.tar", "2/layer.tar"), conf,
			{name: "2/layer.tar", body: two},
			{name: "x.tar", body: one},
		}
	case "digests":
		return []item{
			{name: "blobs/sha256/" + hexOf(one), body: one},
			{name: "blobs/sha256/" + hexOf(two), body: two},
			{name: "blobs/sha256/" + hexOf(config), body: config},
			list("blobs/sha256/"+hexOf(config), "blobs/sha256/"+hexOf(one), "blobs/sha256/"+hexOf(two)),
		}
	case "config by digest":
		return []item{
			{name: "./sha256:" + hexOf(config), body: config},
			{name: "./a.tar", body: one},
			{name: "./b.tar", body: two},
			list("sha256:"+hexOf(config), "a.tar", "b.tar"),
		}
	}
	panic(shape)
}

func TestReadDocker(t *testing.T) {
	one, two := layerTar(t, "one"), layerTar(t, "two")
	var first image.Digest
	for _, shape := range []string{"folders", "links back", "links forward", "digests", "config by digest"} {
		t.Run(shape, func(t *testing.T) {
			sink, c, err := read(t, makeTar(t, dockerItems(t, shape)...))
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"docker.io/library/app:1", "quay.io/a/app:2"}; !slices.Equal(names(c), want) {
				t.Errorf("got names %q, want %q", names(c), want)
			}
			target := c.Images[0].Target
			doc := sink.manifest(t, target.Digest)
			if string(sink[doc.Config.Digest]) != configOf(t, one, two) || doc.Config.MediaType != image.OCIConfig {
				t.Errorf("the config is not as it was: %+v", doc.Config)
			}
			if len(doc.Layers) != 2 || doc.Layers[0].Digest != digest.FromString(one) || doc.Layers[1].MediaType != image.OCILayer {
				t.Errorf("got layers %+v", doc.Layers)
			}
			if first == "" {
				first = target.Digest
			}
			if target.Digest != first {
				t.Errorf("got manifest %s, in another shape it was %s", target.Digest, first)
			}
		})
	}
}

// The entries of an archive may come in any order.
func TestReadAnyOrder(t *testing.T) {
	items := dockerItems(t, "folders")
	_, want, err := read(t, makeTar(t, items...))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		_, c, err := read(t, makeTar(t, items...))
		if err != nil || c.Images[0].Target.Digest != want.Images[0].Target.Digest {
			t.Fatalf("got %+v, %v; want %+v", c, err, want)
		}
	}
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func xzed(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := xz.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Layers of a docker archive may be packed, and the manifest says how.
func TestReadPackedLayers(t *testing.T) {
	one, two, three := layerTar(t, "one"), layerTar(t, "two"), layerTar(t, "three")
	config := configOf(t, one, two, three)
	sink, c, err := read(t, makeTar(t,
		item{name: "c.json", body: config},
		item{name: "1.tar", body: one},
		item{name: "2.tar.gz", body: string(gzipped(t, []byte(two)))},
		item{name: "3.tar", body: string(zstded(t, []byte(three)))},
		item{name: "manifest.json", body: `[{"Config":"c.json","RepoTags":null,"Layers":["1.tar","2.tar.gz","3.tar"]}]`}))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names(c), []string{""}) {
		t.Errorf("got names %q, want one image without a name", names(c))
	}
	var types []string
	for _, l := range sink.manifest(t, c.Images[0].Target.Digest).Layers {
		types = append(types, strings.TrimPrefix(l.MediaType, image.OCILayer))
	}
	if want := []string{"", "+gzip", "+zstd"}; !slices.Equal(types, want) {
		t.Errorf("got %q, want %q", types, want)
	}
}

// An archive by Docker before 1.10: no manifest.json, and a chain of layers.
func TestReadLegacy(t *testing.T) {
	base, top := layerTar(t, "base"), layerTar(t, "top")
	sink, c, err := read(t, makeTar(t,
		item{name: "bbb/"},
		item{name: "bbb/VERSION", body: "1.0"},
		item{name: "bbb/json", body: `{"id":"bbb","parent":"aaa","created":"2015-01-02T03:04:05Z","architecture":"arm","os":"linux","config":{"Env":["A=b"]},"container_config":{"Cmd":["/bin/sh","-c","run"]}}`},
		item{name: "bbb/layer.tar", body: top},
		item{name: "repositories", body: `{"old/app":{"V1":"bbb","v1":"bbb"},"base":{"latest":"aaa"}}`},
		item{name: "aaa/json", body: `{"id":"aaa","comment":"first"}`},
		item{name: "aaa/layer.tar", body: base}))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"docker.io/library/base:latest", "docker.io/old/app:V1", "docker.io/old/app:v1"}; !slices.Equal(names(c), want) {
		t.Errorf("got names %q, want %q", names(c), want)
	}
	doc := sink.manifest(t, c.Images[1].Target.Digest)
	config, err := image.ParseConfig(sink[doc.Config.Digest])
	if err != nil {
		t.Fatal(err)
	}
	if want := []image.Digest{digest.FromString(base), digest.FromString(top)}; !slices.Equal(config.DiffIDs, want) || doc.Layers[0].Digest != want[0] || doc.Layers[1].Digest != want[1] {
		t.Errorf("got diffIDs %v and layers %v, want %v", config.DiffIDs, doc.Layers, want)
	}
	if got := image.FormatPlatform(config.Platform); got != "linux/arm/v7" || config.History != 2 || config.Created.Year() != 2015 {
		t.Errorf("got %s, %d, %v", got, config.History, config.Created)
	}
	for _, part := range []string{`"Env":["A=b"]`, `"created_by":"/bin/sh -c run"`, `"comment":"first"`} {
		if !strings.Contains(string(config.Raw), part) {
			t.Errorf("the config lacks %s: %s", part, config.Raw)
		}
	}
}

// layoutItems is an OCI layout with one small image, called by its annotations.
func layoutItems(t testing.TB, annotations string) []item {
	config := configOf(t)
	manifest := `{"schemaVersion":2,"config":` + toJSON(t, image.Describe(image.OCIConfig, []byte(config))) + `,"layers":[]}`
	d := image.Describe(image.OCIManifest, []byte(manifest))
	entry := strings.TrimSuffix(toJSON(t, d), "}") + `,"annotations":` + annotations + `}`
	return []item{
		{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`},
		{name: "index.json", body: `{"schemaVersion":2,"manifests":[` + entry + `]}`},
		{name: blobPath(d.Digest), body: manifest},
		{name: "blobs/sha256/" + hexOf(config), body: config},
	}
}

func TestReadNames(t *testing.T) {
	for annotations, want := range map[string]string{
		`null`: "",
		`{"io.containerd.image.name":"quay.io/a/b:c"}`:                                 "quay.io/a/b:c",
		`{"io.containerd.image.name":"app:1","org.opencontainers.image.ref.name":"2"}`: "docker.io/library/app:1",
		`{"org.opencontainers.image.ref.name":"app:1"}`:                                "docker.io/library/app:1",
		`{"org.opencontainers.image.ref.name":"quay.io/a/b"}`:                          "quay.io/a/b:latest",
		`{"org.opencontainers.image.ref.name":"latest"}`:                               "",
		`{"io.containerd.image.name":"NO NAME"}`:                                       "",
	} {
		sink, c, err := read(t, makeTar(t, layoutItems(t, annotations)...))
		if err != nil {
			t.Errorf("%s: %v", annotations, err)
			continue
		}
		if !slices.Equal(names(c), []string{want}) {
			t.Errorf("%s: got %q, want %q", annotations, names(c), want)
		}
		if warned := len(c.Warnings) > 0; warned != (want == "" && annotations != "null") {
			t.Errorf("%s: got warnings %q", annotations, c.Warnings)
		}
		sink.manifest(t, c.Images[0].Target.Digest)
	}
}

// Of an archive that is both, the layout counts; what stands beside it is no harm, and an
// attestation is no image.
func TestReadLayoutFirst(t *testing.T) {
	items := append(dockerItems(t, "digests"), layoutItems(t, `{"io.containerd.image.name":"layout:1"}`)...)
	items = append(items, item{name: "README", body: "hello"}, item{name: "blobs/sha256/README", body: "hello"})
	_, c, err := read(t, makeTar(t, items...))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"docker.io/library/layout:1"}; !slices.Equal(names(c), want) || len(c.Warnings) != 1 {
		t.Errorf("got %q, %q; want %q and a warning", names(c), c.Warnings, want)
	}
	_, c, err = read(t, makeTar(t, layoutItems(t, `{"vnd.docker.reference.type":"attestation-manifest"}`)...))
	if err != nil || len(c.Images) != 0 {
		t.Errorf("an attestation: got %+v, %v", c, err)
	}
}

func TestReadCompressed(t *testing.T) {
	plain := makeTar(t, dockerItems(t, "folders")...)
	bz2, err := os.ReadFile("testdata/docker.tar.bz2")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain), "xz": xzed(t, plain), "bzip2": bz2,
		"zstd behind a skippable frame": append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00hi"), zstded(t, plain)...),
		"gzip in two members":           append(gzipped(t, plain[:1000]), gzipped(t, plain[1000:])...),
		"padded":                        append(slices.Clone(plain), make([]byte, 10240)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, c, err := read(t, b)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Images) != 2 || len(c.Warnings) != 0 {
				t.Errorf("got %+v", c)
			}
			// Wherever it is cut, that is noticed.
			for n := range 64 {
				cut := len(b) * n / 64
				if name == "padded" {
					cut = min(cut, len(plain)-512)
				}
				_, _, err := read(t, b[:cut])
				if !errdefs.IsDataLoss(err) && (n > 0 || !errdefs.IsInvalidArgument(err)) {
					t.Errorf("cut after %d of %d bytes: got %v", cut, len(b), err)
				}
			}
			// The last bytes hold the checksum; plain tars have none.
			if name != "plain" && name != "padded" {
				if _, _, err := read(t, b[:len(b)-1]); !errdefs.IsDataLoss(err) {
					t.Errorf("cut by one byte: got %v", err)
				}
			}
		})
	}
}

// A tar that is cut between two entries has no end.
func TestReadCutBetweenEntries(t *testing.T) {
	b := makeTar(t, layoutItems(t, "null")...)
	_, _, err := read(t, b[:len(b)-1024])
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("got %v, want truncated", err)
	}
}

func TestReadTrailing(t *testing.T) {
	b := makeTar(t, layoutItems(t, "null")...)
	_, c, err := read(t, append(slices.Clone(b), "garbage"...))
	if err != nil || len(c.Warnings) != 1 {
		t.Errorf("got %+v, %v; want a warning", c, err)
	}
	_, err = Read(t.Context(), io.MultiReader(bytes.NewReader(b), zeros{}), memSink{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("endless padding: got %v", err)
	}
	_, _, err = read(t, append(gzipped(t, b), "garbage"...))
	if !errdefs.IsDataLoss(err) {
		t.Errorf("garbage behind gzip: got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadRefuses(t *testing.T) {
	good := dockerItems(t, "folders")
	with := func(more ...item) []byte { return makeTar(t, append(slices.Clone(good), more...)...) }
	one := layerTar(t, "one")
	docker := func(list string, more ...item) []byte {
		return makeTar(t, append(more, item{name: "manifest.json", body: list})...)
	}
	legacy := func(repositories string, more ...item) []byte {
		return makeTar(t, append(more, item{name: "repositories", body: repositories})...)
	}
	sparse := &bytes.Buffer{}
	w := tar.NewWriter(sparse)
	if err := w.WriteHeader(&tar.Header{Name: "x", Size: 0, PAXRecords: map[string]string{"VENDOR.x": "y"}}); err != nil {
		t.Fatal(err)
	}
	var manyItems []item
	for range 20 {
		manyItems = append(manyItems, item{name: strings.Repeat("a", len(manyItems)+1), kind: tar.TypeSymlink, link: strings.Repeat("a", len(manyItems)+2)})
	}
	for _, tt := range []struct {
		name, reason string
		in           []byte
		kind         error
	}{
		{"nothing", "empty", nil, errdefs.ErrInvalidArgument},
		{"no tar", "unknown compression", bytes.Repeat([]byte("hello "), 500), errdefs.ErrInvalidArgument},
		{"lz4", "unknown compression", append([]byte("\x04\x22\x4d\x18"), make([]byte, 2000)...), errdefs.ErrInvalidArgument},
		{"damaged gzip", "gzip", append(gzipped(t, with())[:200], make([]byte, 2000)...), errdefs.ErrDataLoss},
		{"another tar", "neither", makeTar(t, item{name: "a", body: "b"}), errdefs.ErrInvalidArgument},
		{"empty tar", "neither", makeTar(t), errdefs.ErrInvalidArgument},
		{"dots", "'..'", with(item{name: "../x", body: "x"}), errdefs.ErrInvalidArgument},
		{"dots within", "'..'", with(item{name: "a/../../x", body: "x"}), errdefs.ErrInvalidArgument},
		{"a folder with dots", "'..'", with(item{name: "a/../"}), errdefs.ErrInvalidArgument},
		{"absolute", "absolute", with(item{name: "/etc/passwd", body: "x"}), errdefs.ErrInvalidArgument},
		{"long name", "too long", with(item{name: strings.Repeat("a/", 600), body: ""}), errdefs.ErrInvalidArgument},
		{"not text", "not text", with(item{name: "a\xff", body: ""}), errdefs.ErrInvalidArgument},
		{"twice", "stands twice", with(good[3]), errdefs.ErrInvalidArgument},
		{"twice in two spellings", "stands twice", with(item{name: "./1/layer.tar", body: one}), errdefs.ErrInvalidArgument},
		{"two lists", "stands twice", with(item{name: "manifest.json", body: "[]"}), errdefs.ErrInvalidArgument},
		{"link out", "leaves the archive", with(item{name: "l", kind: tar.TypeSymlink, link: "../x"}), errdefs.ErrInvalidArgument},
		{"absolute link", "leaves the archive", with(item{name: "l", kind: tar.TypeSymlink, link: "/x"}), errdefs.ErrInvalidArgument},
		{"hard link out", "'..'", with(item{name: "l", kind: tar.TypeLink, link: "../x"}), errdefs.ErrInvalidArgument},
		{"device", "no entries of type", with(item{name: "d", kind: tar.TypeChar}), errdefs.ErrInvalidArgument},
		{"pipe", "no entries of type", with(item{name: "d", kind: tar.TypeFifo}), errdefs.ErrInvalidArgument},
		{"links in a circle", "too many links", docker(`[{"Config":"a"}]`, item{name: "a", kind: tar.TypeSymlink, link: "b"}, item{name: "b", kind: tar.TypeSymlink, link: "a"}), errdefs.ErrInvalidArgument},
		{"links without end", "too many links", docker(`[{"Config":"a"}]`, manyItems...), errdefs.ErrInvalidArgument},
		{"list is no JSON", "manifest.json", docker(`[`), errdefs.ErrInvalidArgument},
		{"key twice in the list", "stands twice", docker(`[{"Config":"a","Config":"b"}]`), errdefs.ErrInvalidArgument},
		{"no config", "is listed", docker(`[{"Config":"a","Layers":[]}]`), errdefs.ErrDataLoss},
		{"config outside", "'..'", docker(`[{"Config":"../a","Layers":[]}]`), errdefs.ErrInvalidArgument},
		{"no layer", "is listed", docker(`[{"Config":"c","Layers":["a"]}]`, item{name: "c", body: configOf(t, one)}), errdefs.ErrDataLoss},
		{"another layer", "hashes to", docker(`[{"Config":"c","Layers":["a"]}]`, item{name: "c", body: configOf(t, one)}, item{name: "a", body: layerTar(t, "x")}), errdefs.ErrDataLoss},
		{"fewer layers", "0 layers", docker(`[{"Config":"c","Layers":[]}]`, item{name: "c", body: configOf(t, one)}), errdefs.ErrInvalidArgument},
		{"config of another digest", hexOf("x"), docker(`[]`, item{name: hexOf("x") + ".json", body: "{}"}), errdefs.ErrDataLoss},
		{"blob of another digest", hexOf("x"), with(item{name: "blobs/sha256/" + hexOf("x"), body: "y"}), errdefs.ErrDataLoss},
		{"layer in xz", "xz", docker(`[{"Config":"c","Layers":["a"]}]`, item{name: "c", body: configOf(t, one)}, item{name: "a", body: string(xzed(t, []byte(one)))}), errdefs.ErrNotImplemented},
		{"bad index", "index.json", makeTar(t, item{name: "index.json", body: "{}"}), errdefs.ErrInvalidArgument},
		{"index that is none", "not an index", makeTar(t, item{name: "index.json", body: layoutItems(t, "null")[2].body}), errdefs.ErrInvalidArgument},
		{"layout of the future", "version", makeTar(t, item{name: "oci-layout", body: `{"imageLayoutVersion":"2.0.0"}`}, item{name: "index.json", body: `{"schemaVersion":2,"manifests":[]}`}), errdefs.ErrNotImplemented},
		{"large list", "limit", makeTar(t, item{name: "index.json", body: strings.Repeat(" ", maxList+1)}), errdefs.ErrInvalidArgument},
		{"legacy, no JSON", "repositories", legacy(`[]`), errdefs.ErrInvalidArgument},
		{"legacy, no layer", "is listed", legacy(`{"a":{"b":"c"}}`), errdefs.ErrDataLoss},
		{"legacy, no tar", "is listed", legacy(`{"a":{"b":"c"}}`, item{name: "c/json", body: "{}"}), errdefs.ErrDataLoss},
		{"legacy, no name of a layer", "names no layer", legacy(`{"a":{"b":""}}`), errdefs.ErrInvalidArgument},
		{"legacy, its own parent", "more than", legacy(`{"a":{"b":"c"}}`, item{name: "c/json", body: `{"parent":"c"}`}, item{name: "c/layer.tar", body: one}), errdefs.ErrInvalidArgument},
		{"legacy, packed", "packed", legacy(`{"a":{"b":"c"}}`, item{name: "c/json", body: `{}`}, item{name: "c/layer.tar", body: string(gzipped(t, []byte(one)))}), errdefs.ErrNotImplemented},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c, err := read(t, tt.in)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("got %+v, %v; want %v and %q", c, err, tt.kind, tt.reason)
			}
		})
	}
}

// A sparse file could claim any size at no cost.
func TestReadRefusesSparse(t *testing.T) {
	b, err := os.ReadFile("testdata/sparse.tar")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(t, b); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "sparse") {
		t.Errorf("got %v, want a refusal of sparse files", err)
	}
}

func TestReadFailures(t *testing.T) {
	b := makeTar(t, dockerItems(t, "folders")...)
	broken := errors.New("broken")
	for n := 0; n < len(b); n += 500 {
		r := io.MultiReader(bytes.NewReader(b[:n]), failing{broken})
		if _, err := Read(t.Context(), r, memSink{}); !errors.Is(err, broken) {
			t.Fatalf("the source fails after %d bytes: got %v", n, err)
		}
	}
	_, err := Read(t.Context(), bytes.NewReader(b), sinkFunc(func(image.Digest, int64, io.Reader) error { return broken }))
	if !errors.Is(err, broken) {
		t.Errorf("the sink fails: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Read(ctx, bytes.NewReader(zstded(t, b)), sinkFunc(func(_ image.Digest, _ int64, r io.Reader) error {
		cancel()
		_, err := io.Copy(io.Discard, r)
		return err
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	// A sink that took something else.
	_, err = Read(t.Context(), bytes.NewReader(b), wrongSink{})
	if !errdefs.IsDataLoss(err) {
		t.Errorf("the sink took another size: got %v", err)
	}
}

type wrongSink struct{}

func (wrongSink) Blob(context.Context, image.Digest, int64, io.Reader) (image.Descriptor, error) {
	return image.Descriptor{Size: 1}, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// layoutDir unpacks items into a folder.
func layoutDir(t *testing.T, items []item) string {
	t.Helper()
	dir := t.TempDir()
	for _, it := range items {
		name := filepath.Join(dir, it.name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(it.body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadDir(t *testing.T) {
	items := layoutItems(t, `{"org.opencontainers.image.ref.name":"app:1"}`)
	want, _, err := read(t, makeTar(t, items...))
	if err != nil {
		t.Fatal(err)
	}
	dir := layoutDir(t, append(items, item{name: "blobs/sha256/.tmp", body: "x"}))
	sink := memSink{}
	c, err := ReadDir(t.Context(), dir, sink)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names(c), []string{"docker.io/library/app:1"}) || !maps.EqualFunc(sink, want, bytes.Equal) || len(c.Warnings) != 1 {
		t.Errorf("got %+v and %d blobs, want %d", c, len(sink), len(want))
	}
}

func TestReadDirRefuses(t *testing.T) {
	items := layoutItems(t, "null")
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte(items[2].body), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string) error
	}{
		{"no index", func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "index.json")) }},
		{"a damaged blob", func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, items[2].name), []byte("{}"), 0o644)
		}},
		{"a blob that is a folder", func(_ *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, items[2].name)), os.Mkdir(filepath.Join(dir, items[2].name), 0o755))
		}},
		{"a link out", func(_ *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, items[2].name)), os.Symlink(outside, filepath.Join(dir, items[2].name)))
		}},
		{"a list that is a link out", func(_ *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "index.json")), os.Symlink(outside, filepath.Join(dir, "index.json")))
		}},
		{"gone", func(_ *testing.T, dir string) error { return os.RemoveAll(dir) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := layoutDir(t, items)
			if err := tt.change(t, dir); err != nil {
				t.Fatal(err)
			}
			if c, err := ReadDir(t.Context(), dir, memSink{}); err == nil {
				t.Errorf("got %+v and no error", c)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadDir(ctx, layoutDir(t, items), memSink{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, shape := range []string{"folders", "links back", "links forward", "digests"} {
		f.Add(makeTar(f, dockerItems(f, shape)...))
	}
	plain := makeTar(f, layoutItems(f, `{"org.opencontainers.image.ref.name":"app:1"}`)...)
	f.Add(plain)
	f.Add(gzipped(f, plain))
	f.Add(zstded(f, plain))
	f.Add(makeTar(f, item{name: "a/json", body: "{}"}, item{name: "a/layer.tar"}, item{name: "repositories", body: `{"b":{"c":"a"}}`}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Read(t.Context(), bytes.NewReader(b), discard{})
		if err != nil {
			return
		}
		for _, e := range c.Images {
			if err := image.CheckDescriptor(e.Target); err != nil {
				t.Errorf("%q: %v", e.Name, err)
			}
		}
	})
}

// A discard sink believes every digest, so that fuzzing comes past it, and keeps nothing.
type discard struct{}

func (discard) Blob(_ context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	h := digest.SHA256.Digester()
	if _, err := io.Copy(h.Hash(), io.LimitReader(r, 1<<20)); err != nil {
		return image.Descriptor{}, err
	}
	if want == "" {
		want = h.Digest()
	}
	return image.Descriptor{Digest: want, Size: size}, nil
}

package imagetest_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	. "github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

var documents = []string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, DockerList, DockerManifest}

func build(t *testing.T, dir string, s Spec) *Image {
	t.Helper()
	img, err := s.Build(dir)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	return img
}

// Every blob comes back from the registry as it was made, whatever kind of image it is in.
func TestPush(t *testing.T) {
	server, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()

	tars := []Tar{Seeded(1, 10_000), Seeded(2, 300)}
	amd := build(t, "", Spec{Layers: Layers(Gzip, tars...)})
	arm := build(t, t.TempDir(), Spec{
		Layers:   Layers(Zstd, tars...),
		Platform: image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"},
	})
	docker := build(t, "", Spec{Layers: Layers(GzipFast, tars...), Docker: true})
	for name, img := range map[string]*Image{
		"oci":      amd,
		"docker":   docker,
		"octet":    build(t, "", Spec{Layers: Layers(Gzip, tars...), Docker: true, ConfigType: OctetStream}),
		"index":    Index(amd, arm, Attestation(amd)),
		"list":     DockerIndex(docker),
		"nested":   Index(Index(amd), arm),
		"artifact": Artifact("application/vnd.example.sbom", []byte("sbom"), amd),
		"lone":     Artifact("application/vnd.example.note", []byte("note"), nil),
	} {
		t.Run(name, func(t *testing.T) {
			if err := Push(t.Context(), server.Host, "made/"+name, "v1", img); err != nil {
				t.Fatal(err)
			}
			got, mediaType := get(t, server.Host, "made/"+name+"/manifests/v1")
			if got != img.Root.Digest || mediaType != img.Root.MediaType {
				t.Errorf("root is %s %s, want %s %s", got, mediaType, img.Root.Digest, img.Root.MediaType)
			}
			for _, b := range img.Blobs {
				kind := "/blobs/"
				if slices.Contains(documents, b.MediaType) {
					kind = "/manifests/"
				}
				got, _ := get(t, server.Host, "made/"+name+kind+b.Digest.String())
				if got != b.Digest {
					t.Errorf("%s came back as %s", b.Digest, got)
				}
			}
		})
	}
}

func get(t *testing.T, host, path string) (digest.Digest, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, accept := range documents {
		req.Header.Add("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", path, resp.Status)
	}
	d, err := digest.Canonical.FromReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return d, resp.Header.Get("Content-Type")
}

// Images whose layers differ only in compression have the same diffIDs and no layer in common.
func TestSharedLayers(t *testing.T) {
	tars := []Tar{Seeded(1, 50_000), Seeded(2, 50_000)}
	plain := build(t, "", Spec{Layers: Layers(Plain, tars...)})
	want := diffIDs(t, plain)
	seen := layerDigests(plain)
	if !slices.Equal(seen, want) {
		t.Errorf("uncompressed layers are %v, want the diffIDs %v", seen, want)
	}
	for _, how := range []Compression{Gzip, GzipFast, Zstd} {
		img := build(t, "", Spec{Layers: Layers(how, tars...)})
		if got := diffIDs(t, img); !slices.Equal(got, want) {
			t.Errorf("%s: diffIDs are %v, want %v", how, got, want)
		}
		for _, d := range layerDigests(img) {
			if slices.Contains(seen, d) {
				t.Errorf("%s: layer %s has the same bytes under another compression", how, d)
			}
			seen = append(seen, d)
		}
	}
}

func diffIDs(t *testing.T, img *Image) []digest.Digest {
	t.Helper()
	var found []digest.Digest
	for _, l := range img.Manifest().Layers {
		b, _ := img.Blob(l.Digest)
		r, err := b.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var plain io.Reader = r
		switch l.MediaType {
		case v1.MediaTypeImageLayerGzip:
			plain, err = gzip.NewReader(r)
		case v1.MediaTypeImageLayerZstd:
			plain, err = zstd.NewReader(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := digest.Canonical.FromReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, d)
	}
	return found
}

func layerDigests(img *Image) []digest.Digest {
	var found []digest.Digest
	for _, l := range img.Manifest().Layers {
		found = append(found, l.Digest)
	}
	return found
}

// The same input gives the same image, in memory and on disk.
func TestSameAgain(t *testing.T) {
	layers, err := Machine(200_000, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := build(t, "", Spec{Layers: Layers(Zstd, layers...)})
	again := build(t, dir, Spec{Layers: Layers(Zstd, layers...)})
	if first.Root.Digest != again.Root.Digest {
		t.Errorf("roots are %s and %s", first.Root.Digest, again.Root.Digest)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 2 {
		t.Errorf("the folder holds %v, %v; want the two layers alone", names, err)
	}
	if got := first.Size(); got != again.Size() || got < 10_000 {
		t.Errorf("sizes are %d and %d", got, again.Size())
	}
}

// Layers of the machine's files are tars of about the size asked for, with no file twice.
func TestMachine(t *testing.T) {
	sizes := []int64{300_000, 100_000}
	layers, err := Machine(sizes...)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, layer := range layers {
		var buf bytes.Buffer
		if err := layer(&buf); err != nil {
			t.Fatal(err)
		}
		var total int64
		for r := tar.NewReader(&buf); ; {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if seen[header.Name] {
				t.Errorf("%s is there twice", header.Name)
			}
			seen[header.Name] = true
			total += header.Size
		}
		if total < sizes[i] {
			t.Errorf("layer %d has %d bytes of files, want at least %d", i, total, sizes[i])
		}
	}
}

func TestUnknownCompression(t *testing.T) {
	dir := t.TempDir()
	_, err := Spec{Layers: Layers("lzma", Seeded(1, 10))}.Build(dir)
	if err == nil {
		t.Fatal("built a layer of an unknown compression")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left %v behind", left)
	}
}

package interop

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/layer/layertest"
)

// layoutOf is an OCI layout, as a tar, of an image.
func layoutOf(t *testing.T, img *imagetest.Image, name string) []byte {
	t.Helper()
	root := img.Root
	root.Annotations = map[string]string{"io.containerd.image.name": name}
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{root}})
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": index}
	for _, b := range img.Blobs {
		body, bodyErr := b.Bytes()
		files["blobs/sha256/"+b.Digest.Encoded()], err = body, errors.Join(err, bodyErr)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, body := range files {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}))
		_, writeErr := w.Write(body)
		err = errors.Join(err, writeErr)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// intertwined are the kinds of stacks whose layers depend on each other most.
var intertwined = []string{"hardlink/", "opaque/", "implied/", "root/"}

// unpacksSideBySide has stowage unpack the corpus of layers through a daemon that gives them their parents
// when they are committed: they become, in their stack, what GNU tar makes of them one on the other. In make
// interop it is the whole corpus.
func unpacksSideBySide(t *testing.T, n *node) {
	conf := filepath.Join(n.dir, "losses.toml")
	if err := os.WriteFile(conf, []byte("[unpack]\nlosses = \"report\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := os.Getenv("STOWAGE_CONTAINERD") != ""
	many, beside := 0, 0
	for _, c := range layertest.Corpus() {
		if len(c.Layers) < 2 || !whole && !slices.ContainsFunc(intertwined, func(kind string) bool { return strings.HasPrefix(c.Name, kind) }) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			n := n.in(t)
			dir := t.TempDir()
			reference, archive, at := filepath.Join(dir, "reference"), filepath.Join(dir, "image.tar"), filepath.Join(dir, "mounted")
			layertest.Reference(t, c, reference)
			want, err := layertest.Describe(reference)
			var spec imagetest.Spec
			for _, b := range c.Layers {
				spec.Layers = append(spec.Layers, imagetest.Layer{Compression: imagetest.Gzip, Tar: func(w io.Writer) error { _, err := w.Write(b); return err }})
			}
			img, buildErr := spec.Build("")
			if err := errors.Join(err, buildErr); err != nil {
				t.Fatal(err)
			}
			ref := "example.com/" + c.Name + ":1"
			if err := os.WriteFile(archive, layoutOf(t, img, ref), 0o600); err != nil {
				t.Fatal(err)
			}
			log := n.must(n.on("--config", conf, "--log-level", "debug", "load", "-i", archive))
			many += len(c.Layers)
			beside += strings.Count(log, "unpacked beside")
			n.must(n.on("image", "mount", ref, at))
			got, err := layertest.Describe(at)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("it differs from the reference (-want +got), %v:\n%s\n%s", err, diff, log)
			}
			n.must(n.on("image", "unmount", at))
		})
	}
	if beside < many/2 {
		t.Errorf("of %d layers, %d were unpacked beside others", many, beside)
	}
}

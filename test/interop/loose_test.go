package interop

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/layer/layertest"
)

// layoutOf is an OCI layout, as a tar, of an image.
func layoutOf(t *testing.T, img *imagetest.Image, name string) io.Reader {
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
	return &archive
}

// unpacksSideBySide has stowage unpack the whole corpus through a daemon that gives layers their parents
// when they are committed: they become, in their stack, what GNU tar makes of them one on the other.
func unpacksSideBySide(t *testing.T, address string) {
	var log bytes.Buffer
	connect := func(t *testing.T) *stowage.Store {
		t.Helper()
		peer, err := stowage.Connect(address, stowage.Options{
			Namespace: "side", Snapshotter: "overlay",
			Log:    slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Unpack: stowage.UnpackLimits{Losses: "report"},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := peer.Close(); err != nil {
				t.Error(err)
			}
		})
		return peer
	}
	many, beside := 0, 0
	for _, c := range layertest.Corpus() {
		if len(c.Layers) < 2 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			dir, at := filepath.Join(t.TempDir(), "reference"), t.TempDir()
			layertest.Reference(t, c, dir)
			want, err := layertest.Describe(dir)
			var spec imagetest.Spec
			for _, b := range c.Layers {
				spec.Layers = append(spec.Layers, imagetest.Layer{Compression: imagetest.Gzip, Tar: func(w io.Writer) error { _, err := w.Write(b); return err }})
			}
			img, buildErr := spec.Build("")
			if err := errors.Join(err, buildErr); err != nil {
				t.Fatal(err)
			}
			many += len(c.Layers)
			log.Reset()
			ref := "example.com/" + c.Name + ":1"
			peer := connect(t)
			if _, err := peer.Import(t.Context(), layoutOf(t, img, ref), stowage.ImportOptions{}); err != nil {
				t.Fatal(err)
			}
			beside += strings.Count(log.String(), "unpacked beside")
			if err := peer.MountImage(t.Context(), ref, at, stowage.MountOptions{}); err != nil {
				t.Fatal(err)
			}
			got, err := layertest.Describe(at)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("it differs from the reference (-want +got), %v:\n%s\n%s", err, diff, log.String())
			}
			if _, err := connect(t).UnmountImage(t.Context(), at, true); err != nil {
				t.Error(err)
			}
		})
	}
	if beside < many/2 {
		t.Errorf("of %d layers, %d were unpacked beside others", many, beside)
	}
}

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// A memSink keeps blobs in memory.
type memSink map[image.Digest][]byte

func (m memSink) Blob(_ context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return image.Descriptor{}, err
	}
	if want == "" {
		want = digest.FromBytes(b)
	}
	if got := want.Algorithm().FromBytes(b); got != want || int64(len(b)) != size {
		return image.Descriptor{}, fmt.Errorf("%s is %s: %w", want, got, errdefs.ErrDataLoss)
	}
	m[want] = b
	return image.Descriptor{Digest: want, Size: size}, nil
}

func (m memSink) put(mediaType string, b []byte) image.Descriptor {
	d := image.Describe(mediaType, b)
	m[d.Digest] = b
	return d
}

func (m memSink) open(_ context.Context, d image.Descriptor) (content.Reader, error) {
	b, ok := m[d.Digest]
	if !ok {
		return nil, fmt.Errorf("open blob %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	return blobReader{bytes.NewReader(b)}, nil
}

// blobs describes all blobs, in no order.
func (m memSink) blobs() (list []image.Descriptor) {
	for d, b := range m {
		list = append(list, image.Descriptor{Digest: d, Size: int64(len(b))})
	}
	return list
}

type blobReader struct{ *bytes.Reader }

func (blobReader) Close() error { return nil }

// manifest reads a manifest that a test knows to be there.
func (m memSink) manifest(t *testing.T, d image.Digest) *image.Document {
	t.Helper()
	doc, err := image.ParseDocument(m[d])
	if err != nil {
		t.Fatalf("manifest %s: %v", d, err)
	}
	return doc
}

// item is an entry of a tar made by hand: a file, or what its type says.
type item struct {
	name, body string
	kind       byte   // 0: a file, or a folder if the name ends in a slash
	link       string // for links
}

func makeTar(t testing.TB, items ...item) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, it := range items {
		h := &tar.Header{Name: it.name, Typeflag: it.kind, Linkname: it.link, Mode: 0o644, Size: int64(len(it.body))}
		if it.kind == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(it.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, it.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func toJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// layerTar is a small layer, a tar that holds one file.
func layerTar(t testing.TB, name string) string {
	return string(makeTar(t, item{name: name, body: "this is " + name}))
}

func configOf(t testing.TB, layers ...string) string {
	diffIDs := []image.Digest{}
	for _, l := range layers {
		diffIDs = append(diffIDs, digest.FromString(l))
	}
	return toJSON(t, map[string]any{
		"os": "linux", "architecture": "amd64",
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
}

// names lists the names of what was read, with the digests left out.
func names(c *Contents) (list []string) {
	for _, e := range c.Images {
		list = append(list, e.Name)
	}
	return list
}

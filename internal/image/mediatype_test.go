package image

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestLayerCompression(t *testing.T) {
	for mediaType, want := range map[string]Compression{
		"application/vnd.oci.image.layer.v1.tar":                       Uncompressed,
		"application/vnd.oci.image.layer.v1.tar+gzip":                  Gzip,
		"application/vnd.oci.image.layer.v1.tar+zstd":                  Zstd,
		"application/vnd.oci.image.layer.nondistributable.v1.tar":      Uncompressed,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": Gzip,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": Zstd,
		"application/vnd.docker.image.rootfs.diff.tar":                 Uncompressed,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            Gzip,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":            Zstd,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    Gzip,
		"application/vnd.oci.image.layer.v1.tar+bzip2":                 "",
		"application/vnd.oci.image.layer.v1.tar+xz":                    "",
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":        "",
		"application/vnd.oci.image.layer.v1.tarball":                   "",
		"application/octet-stream":                                     "",
		"":                                                             "",
	} {
		got, err := LayerCompression(mediaType)
		if got != want || (err != nil) != (want == "") || err != nil && !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: got %q, %v; want %q", mediaType, got, err, want)
		}
	}
}

func TestLayerType(t *testing.T) {
	for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
		mediaType, err := LayerType(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := LayerCompression(mediaType); got != c || err != nil {
			t.Errorf("%s: got %s, %v; want %s", mediaType, got, err, c)
		}
	}
	if _, err := LayerType(XZ); !errdefs.IsNotImplemented(err) {
		t.Errorf("xz: got %v", err)
	}
}

func TestNonDistributable(t *testing.T) {
	for mediaType, want := range map[string]bool{
		"application/vnd.oci.image.layer.v1.tar+gzip":                  false,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": true,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    true,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            false,
	} {
		if got := NonDistributable(Descriptor{MediaType: mediaType}); got != want {
			t.Errorf("%s: got %t, want %t", mediaType, got, want)
		}
	}
}

func TestSniff(t *testing.T) {
	for in, want := range map[string]Compression{
		"\x1f\x8b\x08\x00":     Gzip,
		"\x28\xb5\x2f\xfd\x00": Zstd,
		"\x50\x2a\x4d\x18":     Zstd,
		"\x5f\x2a\x4d\x18":     Zstd,
		"BZh9":                 Bzip2,
		"BZh0":                 Uncompressed,
		"\xfd7zXZ\x00":         XZ,
		"hello.txt\x00\x00":    Uncompressed,
		"\x1f\x8b":             Uncompressed,
		"":                     Uncompressed,
	} {
		if got := Sniff([]byte(in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestVerify(t *testing.T) {
	b := []byte("hello")
	d := Describe("text/plain", b)
	if err := Verify(d, b); err != nil {
		t.Error(err)
	}
	if err := Verify(d, []byte("hallo")); !errdefs.IsDataLoss(err) {
		t.Errorf("other bytes: got %v", err)
	}
	if err := Verify(d, []byte("hello!")); !errdefs.IsDataLoss(err) {
		t.Errorf("more bytes: got %v", err)
	}
	if err := Verify(Descriptor{Digest: "sha256:1", Size: 5}, b); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad digest: got %v", err)
	}
}

func TestBuildManifest(t *testing.T) {
	config := Describe(OCIConfig, []byte("{}"))
	layers := []Descriptor{Describe(OCILayer, []byte("a")), Describe(OCILayer+"+gzip", []byte("b"))}
	b, d, err := BuildManifest(config, layers)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := BuildManifest(config, layers)
	if err != nil || string(again) != string(b) {
		t.Errorf("not the same twice: %v", err)
	}
	if err := Verify(d, b); err != nil {
		t.Error(err)
	}
	doc, err := ParseDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	if doc.MediaType != OCIManifest || doc.Config.Digest != config.Digest || len(doc.Layers) != 2 || doc.Layers[1].Digest != layers[1].Digest {
		t.Errorf("got %s", b)
	}
	if _, _, err := BuildManifest(config, []Descriptor{{}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a layer without digest: got %v", err)
	}
}

package image

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of documents and of the configs and layers of images.
const (
	OCIManifest = v1.MediaTypeImageManifest
	OCIIndex    = v1.MediaTypeImageIndex
	OCIConfig   = v1.MediaTypeImageConfig
	OCILayer    = v1.MediaTypeImageLayer // a plain tar; +gzip and +zstd are appended

	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"

	ociForeignLayer    = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar"

	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json"
	orasArtifact        = "application/vnd.cncf.oras.artifact.manifest.v1+json"

	octetStream = "application/octet-stream"
)

// DocumentTypes returns the media types of the documents that [ParseDocument] reads, in the
// order in which a registry should prefer them.
func DocumentTypes() []string {
	return []string{OCIIndex, DockerManifestList, OCIManifest, DockerManifest}
}

// A Compression is how a stream of bytes is packed.
type Compression string

// Compressions. Layers are in the first three; archives may be in any.
const (
	Uncompressed Compression = "none"
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
	Bzip2        Compression = "bzip2"
	XZ           Compression = "xz"
)

// LayerCompression tells how a layer of this media type is packed. A type that is not that of a
// layer, or is packed in a way that no layer should be, is [errdefs.ErrNotImplemented].
func LayerCompression(mediaType string) (Compression, error) {
	for _, base := range []string{OCILayer, ociForeignLayer, dockerLayer, dockerForeignLayer} {
		rest, ok := strings.CutPrefix(mediaType, base)
		if !ok {
			continue
		}
		switch rest {
		case "":
			return Uncompressed, nil
		case "+gzip", ".gzip":
			return Gzip, nil
		case "+zstd", ".zstd":
			return Zstd, nil
		}
		return "", fmt.Errorf("layer compression %.100q of %.200q: %w", rest[1:], mediaType, errdefs.ErrNotImplemented)
	}
	return "", fmt.Errorf("layer media type %.200q: %w", mediaType, errdefs.ErrNotImplemented)
}

// LayerType is the OCI media type of a layer packed with c, which is none, gzip or zstd.
func LayerType(c Compression) (string, error) {
	switch c {
	case Uncompressed:
		return OCILayer, nil
	case Gzip, Zstd:
		return OCILayer + "+" + string(c), nil
	}
	return "", fmt.Errorf("layer compression %q: %w", c, errdefs.ErrNotImplemented)
}

// NonDistributable tells whether d is a layer that its publisher alone may hand out: one that
// stays where its URLs say.
func NonDistributable(d Descriptor) bool {
	return strings.HasPrefix(d.MediaType, ociForeignLayer) || strings.HasPrefix(d.MediaType, dockerForeignLayer)
}

// SniffLen is how many bytes [Sniff] needs to tell.
const SniffLen = 6

// Sniff tells from the first bytes of a stream how it is packed. What it does not know counts
// as uncompressed.
func Sniff(b []byte) Compression {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b, 0x08}):
		return Gzip
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // a skippable frame comes first, as in zstd:chunked
	case len(b) >= 4 && bytes.HasPrefix(b, []byte("BZh")) && b[3] >= '1' && b[3] <= '9':
		return Bzip2
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0x00}):
		return XZ
	}
	return Uncompressed
}

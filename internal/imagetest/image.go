package imagetest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
)

// Media types of Docker's schema 2.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"

	// OctetStream is what manifests pushed by Docker before 1.10 call their config;
	// redis:2.8.23 is one: schema 2, with this ConfigType.
	OctetStream = "application/octet-stream"
)

// An Image is a manifest or an index with every blob beneath it.
type Image struct {
	Root image.Descriptor
	// Blobs come in the order in which a registry takes them: the root is the last.
	Blobs []Blob
}

// Blob returns the blob of the image that has the digest d.
func (img *Image) Blob(d digest.Digest) (Blob, bool) {
	for _, b := range img.Blobs {
		if b.Digest == d {
			return b, true
		}
	}
	return Blob{}, false
}

// Size is the bytes of all blobs, each counted once.
func (img *Image) Size() int64 {
	var size int64
	for _, b := range img.Blobs {
		size += b.Size
	}
	return size
}

// Manifest returns the parsed root. It panics unless the root is a manifest made here.
func (img *Image) Manifest() v1.Manifest {
	var m v1.Manifest
	root := img.Blobs[len(img.Blobs)-1]
	if err := json.Unmarshal(root.body, &m); err != nil {
		panic(err)
	}
	return m
}

// A Spec says what image to build. Only Layers is needed.
type Spec struct {
	Layers     []Layer
	Platform   image.Platform // zero: linux/amd64
	Docker     bool           // Docker's schema 2 in place of OCI's media types
	ConfigType string         // media type in the config's descriptor; empty: the usual one
	Env        []string       // in the config
	User       string         // likewise
	Created    *time.Time     // likewise, and in its history
}

// A Layer is a tar and how to compress it.
type Layer struct {
	Tar         Tar
	Compression Compression
	MediaType   string // in its descriptor; empty: the usual one
}

// Layers gives every tar the same compression. Two images whose Layers differ only in how share
// their diffIDs and no layer digest.
func Layers(how Compression, tars ...Tar) []Layer {
	layers := make([]Layer, len(tars))
	for i, t := range tars {
		layers[i] = Layer{Tar: t, Compression: how}
	}
	return layers
}

// Build makes the image, its layers as files in dir or, if dir is empty, in memory.
func (s Spec) Build(dir string) (*Image, error) {
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	config := v1.Image{
		Created:  s.Created,
		Platform: s.platform(),
		Config:   v1.ImageConfig{User: s.User, Env: s.Env, Cmd: []string{"/bin/sh"}},
		RootFS:   v1.RootFS{Type: "layers"},
	}
	img := &Image{}
	for i, layer := range s.Layers {
		blob, diffID, err := compress(dir, layer.Tar, layer.Compression)
		if err != nil {
			return nil, fmt.Errorf("build layer %d: %w", i, err)
		}
		blob.MediaType = s.layerType(layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		config.History = append(config.History, v1.History{Created: s.Created, CreatedBy: fmt.Sprintf("layer %d", i)})
		manifest.Layers = append(manifest.Layers, blob.Descriptor)
		img.add(blob)
	}
	configType := v1.MediaTypeImageConfig
	if s.Docker {
		configType, manifest.MediaType = DockerConfig, DockerManifest
	}
	if s.ConfigType != "" {
		configType = s.ConfigType
	}
	manifest.Config = img.addJSON(configType, config).Descriptor
	img.Root = img.addJSON(manifest.MediaType, manifest).Descriptor
	platform := config.Platform
	img.Root.Platform = &platform
	return img, nil
}

func (s Spec) platform() image.Platform {
	if s.Platform.OS == "" {
		return image.Platform{OS: "linux", Architecture: "amd64"}
	}
	return s.Platform
}

func (s Spec) layerType(layer Layer) string {
	base := v1.MediaTypeImageLayer
	if s.Docker {
		base = DockerLayer
	}
	switch {
	case layer.MediaType != "":
		return layer.MediaType
	case layer.Compression == Zstd && s.Docker:
		return base + ".zstd"
	case layer.Compression == Zstd:
		return v1.MediaTypeImageLayerZstd
	case layer.Compression == Plain:
		return base
	case s.Docker:
		return base + ".gzip"
	default:
		return v1.MediaTypeImageLayerGzip
	}
}

// Index lists images, each with the platform in its Root; indexes among them are nested.
func Index(images ...*Image) *Image { return index(v1.MediaTypeImageIndex, images) }

// DockerIndex is a Docker manifest list of images.
func DockerIndex(images ...*Image) *Image { return index(DockerList, images) }

func index(mediaType string, images []*Image) *Image {
	list := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType}
	whole := &Image{}
	for _, img := range images {
		list.Manifests = append(list.Manifests, img.Root)
		whole.add(img.Blobs...)
	}
	whole.Root = whole.addJSON(mediaType, list).Descriptor
	return whole
}

// Attestation is what BuildKit puts into an index beside the manifest of subject: in-toto
// statements, under the platform unknown/unknown.
func Attestation(subject *Image) *Image {
	const statements = "application/vnd.in-toto+json"
	img := &Image{}
	layer := NewBlob(statements, []byte(`{"_type":"https://in-toto.io/Statement/v0.1","subject":[]}`))
	img.add(layer)
	unknown := image.Platform{OS: "unknown", Architecture: "unknown"}
	config := img.addJSON(v1.MediaTypeImageConfig, v1.Image{
		Platform: unknown,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	img.Root = img.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config.Descriptor, Layers: []image.Descriptor{layer.Descriptor},
	}).Descriptor
	img.Root.Platform = &unknown
	img.Root.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": subject.Root.Digest.String(),
	}
	return img
}

// Artifact is a manifest with the empty config and one layer, body. It is a referrer of
// subject, unless that is nil.
func Artifact(artifactType string, body []byte, subject *Image) *Image {
	img := &Image{}
	config := NewBlob(v1.MediaTypeEmptyJSON, []byte("{}"))
	layer := NewBlob(artifactType, body)
	img.add(config, layer)
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: config.Descriptor, Layers: []image.Descriptor{layer.Descriptor},
	}
	if subject != nil {
		manifest.Subject = &image.Descriptor{
			MediaType: subject.Root.MediaType, Digest: subject.Root.Digest, Size: subject.Root.Size,
		}
	}
	img.Root = img.addJSON(v1.MediaTypeImageManifest, manifest).Descriptor
	img.Root.ArtifactType = artifactType
	return img
}

// add keeps the blobs that the image has not yet.
func (img *Image) add(blobs ...Blob) {
	for _, b := range blobs {
		if _, ok := img.Blob(b.Digest); !ok {
			img.Blobs = append(img.Blobs, b)
		}
	}
}

func (img *Image) addJSON(mediaType string, document any) Blob {
	body, err := json.Marshal(document)
	if err != nil {
		panic(err) // the types are ours and have no way to fail
	}
	b := NewBlob(mediaType, body)
	img.add(b)
	return b
}

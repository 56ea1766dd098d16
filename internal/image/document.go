package image

import (
	"iter"
	"slices"
	"strings"
)

// A Document is what a manifest or an index says: what it is, and what it points to.
// It is read from the document's exact bytes by [ParseDocument], which refuses what is neither
// or both.
type Document struct {
	MediaType    string            `json:"mediaType"` // as the document says, or what its shape means
	Index        bool              `json:"index,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Config       *Descriptor       `json:"config,omitempty"` // of a manifest
	Layers       []Descriptor      `json:"layers,omitempty"` // of a manifest, in order, lowest first
	Manifests    []Descriptor      `json:"manifests,omitempty"`
	Subject      *Descriptor       `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	// Platform is what the config of a manifest says. ParseDocument cannot know it; whoever
	// reads the config fills it in.
	Platform *Platform `json:"platform,omitempty"`
}

// A Place is where in a document a descriptor stands. It decides what the descriptor is.
type Place string

// The places of a document's children.
const (
	PlaceConfig   Place = "config"
	PlaceLayer    Place = "layer"
	PlaceManifest Place = "manifest" // in an index: a manifest, or a further index
)

// A Child is what a document is made of: a descriptor, and its place.
type Child struct {
	Place Place
	Index int // among the layers or manifests
	Descriptor
}

// Children yields the config and then the layers of a manifest, or the manifests of an index.
// The subject is not among them: a document does not need it to be whole.
func (doc *Document) Children() iter.Seq[Child] {
	return func(yield func(Child) bool) {
		if doc.Config != nil && !yield(Child{PlaceConfig, 0, *doc.Config}) {
			return
		}
		for i, d := range doc.Layers {
			if !yield(Child{PlaceLayer, i, d}) {
				return
			}
		}
		for i, d := range doc.Manifests {
			if !yield(Child{PlaceManifest, i, d}) {
				return
			}
		}
	}
}

// IsImage tells whether doc is the manifest of a container image, so that its config says how
// to run it and its layers make a root filesystem. Indexes and artifacts are not.
//
// A manifest is an image unless it says otherwise: by an artifactType, by the media type of a
// config made for something else, or by layers of which none is a filesystem, as in signatures
// and attestations that borrow the image's config type.
func (doc *Document) IsImage() bool {
	if doc.Index || doc.Config == nil || doc.ArtifactType != "" {
		return false
	}
	switch doc.Config.MediaType {
	case OCIConfig, DockerConfig, octetStream, "application/json", "":
	default:
		return false
	}
	return len(doc.Layers) == 0 || slices.ContainsFunc(doc.Layers, func(d Descriptor) bool {
		return d.MediaType == "" || d.MediaType == octetStream ||
			strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.") ||
			strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.") ||
			strings.HasPrefix(d.MediaType, "application/vnd.erofs.layer.")
	})
}

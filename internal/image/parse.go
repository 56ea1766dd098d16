package image

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// MaxDocument is the size in bytes of the largest manifest or index that is read: what
// registries promise to take.
const MaxDocument = 4 << 20

// fields are those of manifests and of indexes together.
type fields struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        *[]Descriptor     `json:"layers"`
	Manifests     *[]Descriptor     `json:"manifests"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
	Blobs         *[]any            `json:"blobs"`    // of artifact manifests before OCI 1.1
	FSLayers      *[]any            `json:"fsLayers"` // of Docker schema 1
}

// ParseDocument reads a manifest or an index: OCI, or Docker schema 2. Which of them it is
// follows from its shape, and its media type must not contradict.
//
// What was embedded in descriptors as data is left out; it can be fetched like any other blob.
// Errors, each with the reason: [errdefs.ErrInvalidArgument], and [errdefs.ErrNotImplemented]
// for Docker schema 1 and the artifact manifests that came before OCI 1.1.
func ParseDocument(b []byte) (*Document, error) {
	doc, err := parseDocument(b)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return doc, nil
}

func parseDocument(b []byte) (*Document, error) {
	var f fields
	if err := DecodeStrict(b, MaxDocument, &f); err != nil {
		return nil, err
	}
	if err := f.checkKind(); err != nil {
		return nil, err
	}
	doc := &Document{
		MediaType:    f.MediaType,
		Index:        f.Config == nil,
		ArtifactType: f.ArtifactType,
		Config:       f.Config,
		Subject:      f.Subject,
		Annotations:  f.Annotations,
	}
	if f.Layers != nil {
		doc.Layers = *f.Layers
	}
	if f.Manifests != nil {
		doc.Manifests = *f.Manifests
	}
	if doc.MediaType == "" {
		doc.MediaType = OCIManifest
		if doc.Index {
			doc.MediaType = OCIIndex
		}
	}
	return doc, doc.checkDescriptors()
}

// checkKind refuses what is not exactly one of manifest and index.
func (f *fields) checkKind() error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch f.MediaType {
	case dockerSchema1, dockerSchema1Signed:
		return fmt.Errorf("manifest of Docker schema 1: %w", errdefs.ErrNotImplemented)
	case ociArtifact, orasArtifact:
		return fmt.Errorf("artifact manifest %s, which OCI 1.1 replaced: %w", f.MediaType, errdefs.ErrNotImplemented)
	}
	index, manifest := f.Manifests != nil, f.Config != nil || f.Layers != nil
	switch {
	case f.SchemaVersion == 1 && f.FSLayers != nil:
		return fmt.Errorf("manifest of Docker schema 1: %w", errdefs.ErrNotImplemented)
	case index && manifest:
		return invalid("both a manifest and an index: it has manifests beside config or layers")
	case !index && !manifest && f.Blobs != nil:
		return fmt.Errorf("artifact manifest with blobs, which OCI 1.1 replaced: %w", errdefs.ErrNotImplemented)
	case !index && !manifest:
		return invalid("neither a manifest nor an index: it has none of config, layers and manifests")
	case f.SchemaVersion != 2:
		return invalid("schemaVersion is %d where 2 is needed", f.SchemaVersion)
	case manifest && f.Config == nil:
		return invalid("a manifest without config")
	}
	switch f.MediaType {
	case OCIManifest, DockerManifest:
		if index {
			return invalid("mediaType says manifest (%s), but the content is an index", f.MediaType)
		}
	case OCIIndex, DockerManifestList:
		if manifest {
			return invalid("mediaType says index (%s), but the content is a manifest", f.MediaType)
		}
	}
	return nil
}

// checkDescriptors refuses descriptors that point nowhere, and drops embedded data.
func (doc *Document) checkDescriptors() error {
	check := func(d *Descriptor, place string, i int) error {
		d.Data = nil
		if err := CheckDescriptor(*d); err != nil {
			if i >= 0 {
				place = fmt.Sprintf("%s[%d]", place, i)
			}
			return fmt.Errorf("%s: %w", place, err)
		}
		return nil
	}
	if doc.Config != nil {
		if err := check(doc.Config, "config", -1); err != nil {
			return err
		}
	}
	for i := range doc.Layers {
		if err := check(&doc.Layers[i], "layers", i); err != nil {
			return err
		}
	}
	for i := range doc.Manifests {
		if err := check(&doc.Manifests[i], "manifests", i); err != nil {
			return err
		}
	}
	if doc.Subject != nil {
		return check(doc.Subject, "subject", -1)
	}
	return nil
}

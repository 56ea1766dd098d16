package archive

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
)

// LayoutFile is oci-layout, the file that makes a folder an OCI layout.
func LayoutFile() (name string, body []byte) {
	return layoutName, []byte(`{"imageLayoutVersion":"` + layoutVersion + `"}`)
}

// IndexFile is the name of the file that lists the images of an OCI layout.
const IndexFile = indexName

// BlobFile is the name of the file, below the folder of an OCI layout, that holds d.
func BlobFile(d image.Digest) string { return blobPath(d) }

// UpdateIndex adds an image to index.json, whose bytes are old, or nil where there is none yet. An
// image that had its name or its tag loses it; others are kept as they are. What refers to the image
// is listed too, without a name. Errors: [errdefs.ErrInvalidArgument] when old is no index.
func UpdateIndex(old []byte, img ExportImage, referrers []image.Descriptor) ([]byte, error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: image.OCIIndex}
	if old != nil {
		doc, err := image.ParseDocument(old)
		if err == nil && !doc.Index {
			err = fmt.Errorf("a manifest: %w", errdefs.ErrInvalidArgument)
		}
		if err == nil {
			err = json.Unmarshal(old, &index)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", indexName, err)
		}
	}
	name, _ := ref.Parse(img.Name) // what is no reference has no tag
	add := indexEntry(img, name)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d image.Descriptor) bool { return replaces(add, d) })
	index.Manifests = append(index.Manifests, add)
	for _, d := range referrers {
		e := image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType}
		if !slices.ContainsFunc(index.Manifests, func(o image.Descriptor) bool { return o.Digest == e.Digest }) {
			index.Manifests = append(index.Manifests, e)
		}
	}
	return json.Marshal(index)
}

// replaces tells whether an entry takes the place of another. Of two images with different names
// and the same tag, both stay.
func replaces(add, old image.Descriptor) bool {
	name, tag := add.Annotations[annotationName], add.Annotations[annotationRef]
	oldName, oldTag := old.Annotations[annotationName], old.Annotations[annotationRef]
	switch {
	case tag != "" && tag == oldTag && (name == "" || oldName == "" || name == oldName):
		return true
	case name != "" && (name == oldName || name == oldTag):
		return true
	}
	// Without any name, an image stands in the list once.
	return old.Digest == add.Digest && oldName == "" && oldTag == ""
}

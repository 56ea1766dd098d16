package image

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// BuildManifest writes the OCI manifest of an image that came without one. The same config and
// layers always give the same bytes.
func BuildManifest(config Descriptor, layers []Descriptor) ([]byte, Descriptor, error) {
	for _, d := range append([]Descriptor{config}, layers...) {
		if err := CheckDescriptor(d); err != nil {
			return nil, Descriptor{}, fmt.Errorf("build manifest: %w", err)
		}
	}
	b, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: OCIManifest,
		Config:    config,
		Layers:    slices.Concat([]Descriptor{}, layers),
	})
	if err != nil {
		return nil, Descriptor{}, fmt.Errorf("build manifest: %w", err)
	}
	return b, Describe(OCIManifest, b), nil
}

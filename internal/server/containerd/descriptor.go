package containerd

import (
	"github.com/containerd/containerd/api/types"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
)

// descriptorToProto writes what containerd's API has of descriptors.
func descriptorToProto(d stowage.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

// descriptorFromProto is the inverse of descriptorToProto.
func descriptorFromProto(d *types.Descriptor) stowage.Descriptor {
	return stowage.Descriptor{
		MediaType: d.GetMediaType(), Digest: image.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations(),
	}
}

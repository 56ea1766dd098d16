package image

import (
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Descriptor is a typed pointer to a blob: media type, digest and size, and in an index the
// platform.
type Descriptor = v1.Descriptor

// A Platform is an operating system, an architecture, and what narrows them.
type Platform = v1.Platform

// A Digest names exact bytes as algorithm:hex.
type Digest = digest.Digest

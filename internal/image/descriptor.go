package image

import (
	_ "crypto/sha256" // digests in sha256 can be checked
	_ "crypto/sha512" // and in sha512
	"fmt"

	"github.com/containerd/errdefs"
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

// CheckDigest refuses what is not a whole sha256 or sha512 digest:
// [errdefs.ErrInvalidArgument].
func CheckDigest(d Digest) error {
	if d == "" {
		return fmt.Errorf("the digest is empty: %w", errdefs.ErrInvalidArgument)
	}
	err := d.Validate()
	if err == nil && d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		err = digest.ErrDigestUnsupported
	}
	if err != nil {
		return fmt.Errorf("%w: digest %.200q: %w", errdefs.ErrInvalidArgument, string(d), err)
	}
	return nil
}

// CheckDescriptor refuses a descriptor that cannot point to a blob: one with a bad digest or a
// negative size. Errors: [errdefs.ErrInvalidArgument].
func CheckDescriptor(d Descriptor) error {
	if err := CheckDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("the size %d of %s is negative: %w", d.Size, d.Digest, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Verify tells whether b are the bytes that d points to: [errdefs.ErrDataLoss] if their size
// or digest is another.
func Verify(d Descriptor, b []byte) error {
	if err := CheckDescriptor(d); err != nil {
		return err
	}
	if int64(len(b)) != d.Size {
		return fmt.Errorf("%s has %d bytes where %d were expected: %w", d.Digest, len(b), d.Size, errdefs.ErrDataLoss)
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return fmt.Errorf("bytes of %s hash to %s: %w", d.Digest, got, errdefs.ErrDataLoss)
	}
	return nil
}

// Describe makes the sha256 descriptor of b.
func Describe(mediaType string, b []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

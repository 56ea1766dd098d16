package metadata

import (
	"context"

	"github.com/stowage/stowage/internal/image"
)

// Held tells of digests whether a running operation of any namespace holds them itself.
func (s *Store) Held(ctx context.Context) (isHeld func(image.Digest) bool, err error) {
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		isHeld = held(live)
		return err
	})
	return isHeld, err
}

// ForgetBlobs notes that the bytes of blobs were found to be gone. Every image that reaches one of
// them is partial; documents are kept, so that what is to be fetched again can be told.
func (s *Store) ForgetBlobs(ctx context.Context, digests ...image.Digest) error {
	if err := checkDigests(digests...); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		for _, d := range digests {
			if err := c.forgetBlob(d); err != nil {
				return err
			}
		}
		return c.recompute(nil, digests...)
	})
}

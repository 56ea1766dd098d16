package stowage

import (
	"context"
	"fmt"

	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/transfer"
)

// PutImage is a name to be given to content that is in the store already.
type PutImage = metadata.PutImage

// NameImage names what a client of the daemon brought blob by blob, whatever of it is here. See
// [transfer.Adopt].
func (s *Store) NameImage(ctx context.Context, put PutImage) (Image, error) {
	img, err := transfer.Adopt(ctx, s.place(), put)
	if err != nil {
		return Image{}, fmt.Errorf("name image: %w", err)
	}
	s.brought(ctx, img.Name)
	return img, nil
}

// FetchSkipped fetches what a client left out that brought an image, because it had the content of those
// blobs unpacked, from where the image came from. The image is complete then, unless more is missing of
// it. See [transfer.Skipped] and [transfer.Refetch].
func (s *Store) FetchSkipped(ctx context.Context, name string) ([]Refetched, error) {
	img, err := s.meta.Image(ctx, s.ns, name)
	if err != nil {
		return nil, err
	}
	list, err := transfer.Skipped(ctx, s.place(), img)
	if len(list) == 0 || err != nil {
		return nil, err
	}
	defer s.writing()()
	done, err := transfer.Refetch(ctx, s.place(), s.reg, list, transfer.RefetchOptions{})
	if err != nil {
		return done, fmt.Errorf("fetch what is missing of %s: %w", name, err)
	}
	s.makeRoom(ctx, name)
	return done, nil
}

// RemoveImage takes one name away, exactly as it is written, if it stands for target or that is empty.
// Content goes at the next collection, as with [Store.RemoveImages]. Errors: [errdefs.ErrNotFound].
func (s *Store) RemoveImage(ctx context.Context, name string, target Digest) error {
	img, err := s.meta.Image(ctx, s.ns, name)
	if err == nil {
		err = s.meta.RemoveImage(ctx, s.ns, name, target)
	}
	if err == nil && s.gc.OnRemoval {
		_, err = s.Prune(ctx, PruneOptions{Below: []Digest{img.Target.Digest}})
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

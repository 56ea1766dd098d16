package stowage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/ref"
)

// RemovedImages lists by name the names that were taken away within the grace time.
func (s *Store) RemovedImages(ctx context.Context) ([]RemovedImage, error) {
	return s.meta.Removed(ctx, s.ns, time.Now().Add(-s.grace()))
}

// RestoreImage brings a name back that was taken away, with its labels: one that a reference, or
// the digest of its root descriptor or a unique prefix of it, finds. Of several with one digest it is
// the one that was removed last. The image may be partial, if something of it was collected.
//
// Errors: [errdefs.ErrNotFound], also when its manifest or index was collected;
// [errdefs.ErrAlreadyExists] for a name that stands for another image by now, unless force moves
// it back; [errdefs.ErrFailedPrecondition] for one that was not removed.
func (s *Store) RestoreImage(ctx context.Context, name string, force bool) (Image, error) {
	full, err := s.findRemoved(ctx, name)
	if err != nil {
		return Image{}, fmt.Errorf("restore %s: %w", name, err)
	}
	img, err := s.meta.RestoreImage(ctx, s.ns, full, force)
	if err != nil {
		return Image{}, fmt.Errorf("restore %s: %w", full, err)
	}
	return img, nil
}

// findRemoved is find among the names that were taken away.
func (s *Store) findRemoved(ctx context.Context, name string) (string, error) {
	removed, err := s.meta.Removed(ctx, s.ns, time.Time{}) // also what no collection has forgotten yet
	if err != nil {
		return "", err
	}
	r, refErr := ref.Parse(name)
	algorithm, hex, isPrefix := ref.ParseDigestPrefix(name)
	if refErr != nil && !isPrefix {
		return "", refErr
	}
	var found []RemovedImage
	for _, img := range removed {
		switch {
		case img.Name == name, refErr == nil && img.Name == r.String():
			return img.Name, nil
		case isPrefix && img.Target.Digest.Algorithm().String() == algorithm && strings.HasPrefix(img.Target.Digest.Encoded(), hex):
			found = append(found, img)
		}
	}
	if len(found) == 0 {
		if img, err := s.find(ctx, name); err == nil {
			return "", fmt.Errorf("image %s is there, and was not removed: %w", img.Name, errdefs.ErrFailedPrecondition)
		}
		return "", fmt.Errorf("no such name was removed lately: %w", errdefs.ErrNotFound)
	}
	last := slices.MaxFunc(found, func(a, b RemovedImage) int { return a.RemovedAt.Compare(b.RemovedAt) })
	for _, img := range found {
		if img.Target.Digest != last.Target.Digest {
			return "", fmt.Errorf("several removed images begin so; give more digits: %w", errdefs.ErrInvalidArgument)
		}
	}
	return last.Name, nil
}

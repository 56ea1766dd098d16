package unpack

import (
	"context"
	"io"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

// Folder applies the layers of an image one after the other to dir, an empty folder, which becomes
// the root, and returns what could not be kept there. It needs no snapshotter. After an error dir
// holds part of the image.
func (u *Unpacker) Folder(ctx context.Context, img Image, dir string) (losses []layer.Loss, err error) {
	if err := layer.PlainRoot(dir); err != nil {
		return nil, err
	}
	for i, d := range img.Layers {
		lost, err := u.Layer(ctx, d, img.DiffIDs[i], dir)
		if err != nil {
			return nil, err
		}
		losses = append(losses, lost...)
	}
	return losses, nil
}

// Loose applies one layer to dir, a folder of a stack that overlay mounts. Below is what it stands on; nil:
// that is not known yet, and what depends on it is told in the result. After an error dir holds part of
// the layer.
func (u *Unpacker) Loose(ctx context.Context, d image.Descriptor, diffID image.Digest, dir string, below layer.Tree) (layer.Result, error) {
	res, err := u.fromStore(ctx, d, diffID, func(ctx context.Context, in io.Reader) (layer.Result, error) {
		o := u.options()
		o.Form, o.Below = layer.Overlay, below
		return layer.Apply(ctx, in, dir, o)
	})
	if err != nil {
		return res, &LayerError{d.Digest, err}
	}
	return res, nil
}

// Layer applies one layer to dir, which holds the tree below it, such as a mount of an active
// snapshot, and returns what could not be kept there. It needs no snapshotter. After an error dir holds
// part of the layer.
func (u *Unpacker) Layer(ctx context.Context, d image.Descriptor, diffID image.Digest, dir string) ([]layer.Loss, error) {
	res, err := u.fromStore(ctx, d, diffID, func(ctx context.Context, in io.Reader) (layer.Result, error) {
		return layer.Apply(ctx, in, dir, u.options())
	})
	if err != nil {
		return nil, &LayerError{d.Digest, err}
	}
	return res.Losses, nil
}

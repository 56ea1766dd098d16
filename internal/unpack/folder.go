package unpack

import (
	"context"
	"io"

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
		res, err := u.fromStore(ctx, d, img.DiffIDs[i], func(ctx context.Context, in io.Reader) (layer.Result, error) {
			return layer.Apply(ctx, in, dir, u.options())
		})
		if err != nil {
			return nil, &LayerError{d.Digest, err}
		}
		losses = append(losses, res.Losses...)
	}
	return losses, nil
}

package unpack

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

// Folder applies the layers of an image one after the other to dir, an empty folder, which becomes
// the root, and returns what could not be kept there. It needs no snapshotter. After an error dir holds part of the
// image.
func (u *Unpacker) Folder(ctx context.Context, img Image, dir string) (losses []layer.Loss, err error) {
	r := &Run{u: u}
	if err := plainRoot(dir); err != nil {
		return nil, err
	}
	for i, d := range img.Layers {
		res, err := r.toFolder(ctx, d, img.DiffIDs[i], dir)
		if err != nil {
			return nil, &LayerError{d.Digest, err}
		}
		losses = append(losses, res.Losses...)
	}
	return losses, nil
}

// plainRoot gives a folder the attributes of a root of which no layer says anything.
func plainRoot(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o755), layer.SetTime(f, time.Unix(0, 0)), f.Close())
}

func (r *Run) toFolder(ctx context.Context, d image.Descriptor, diffID image.Digest, dir string) (res layer.Result, err error) {
	blob, err := r.u.Content.Open(ctx, d.Digest)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	res, _, err = r.pass(ctx, io.NewSectionReader(blob, 0, blob.Size()), diffID, func(ctx context.Context, in io.Reader) (layer.Result, error) {
		return layer.Apply(ctx, in, dir, r.options())
	})
	return res, err
}

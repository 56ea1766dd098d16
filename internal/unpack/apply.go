package unpack

import (
	"context"
	"errors"
	"io"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

// An Applied layer is what became of it.
type Applied struct {
	layer.Result
	DiffID image.Digest
	Length int64 // bytes of its uncompressed tar
}

// Apply has apply make the changes of a layer, whose blob is stored, from its uncompressed tar.
func (u *Unpacker) Apply(ctx context.Context, blob image.Digest, apply func(context.Context, io.Reader, layer.Options) (layer.Result, error)) (a Applied, err error) {
	r, err := u.Content.Open(ctx, blob)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	a.Result, a.DiffID, err = u.pass(ctx, io.NewSectionReader(r, 0, r.Size()), "", func(ctx context.Context, plain io.Reader) (layer.Result, error) {
		counted := &counter{r: plain}
		res, err := apply(ctx, counted, u.options())
		a.Length = counted.n.Load()
		return res, err
	})
	return a, err
}

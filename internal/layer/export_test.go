package layer

import (
	"context"
	"io"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// ApplyInTurn is [Apply] with nothing made side by side: each entry is done before the next one.
func ApplyInTurn(ctx context.Context, r io.Reader, dir string, o Options) (Result, error) {
	a, err := newApplier(ctx, r, dir, o)
	if err != nil {
		return Result{}, err
	}
	return a.run(func(e *tarstream.Entry) error {
		if err := a.entry(e); err != nil {
			return err
		}
		return a.crew.wait()
	})
}

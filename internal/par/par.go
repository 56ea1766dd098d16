// Package par runs work side by side, with a bound and one way to stop.
package par

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Each calls f for every item, at most limit at a time (limit < 1: one), and waits for all of
// them. The first error ends the context of the others and is returned; items that were not
// begun by then are left out.
func Each[T any](ctx context.Context, limit int, items []T, f func(context.Context, T) error) error {
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(max(limit, 1))
	for _, item := range items {
		if inner.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := inner.Err(); err != nil {
				return err
			}
			return f(inner, item)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

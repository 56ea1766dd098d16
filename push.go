package stowage

import (
	"context"
	"fmt"
	"time"

	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/transfer"
)

// Push brings a stored image to a registry, under the name target, or if that is empty under
// its own. See [transfer.Push].
func (s *Store) Push(ctx context.Context, name, target string, o PushOptions) (*PushResult, error) {
	began := time.Now()
	img, err := s.find(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", name, err)
	}
	if target == "" {
		target = img.Name
	}
	to, err := ref.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", name, err)
	}
	s.touch(ctx, img)
	o.Fetch = s.sources(to)
	reg := s.reg
	if !o.IsZero() {
		reg = reg.With(o.Manner)
		defer reg.Close()
	}
	res, err := transfer.Push(ctx, s.place(), reg, img.Name, to, o)
	a := Act{Kind: PushAct, Err: err}
	if err == nil {
		a.Moved = res.Pushed
		a.Reused = Count{Blobs: res.Existing.Blobs + res.Mounted.Blobs, Bytes: res.Existing.Bytes + res.Mounted.Bytes}
	}
	s.ended(began, a)
	return res, err
}

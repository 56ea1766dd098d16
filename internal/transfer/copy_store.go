package transfer

import (
	"context"
	"io"
	"maps"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// toStore brings an image into the store as a pull does, whatever it comes from.
func (c *copying) toStore(ctx context.Context, from source, name string) (*PushResult, error) {
	r, err := ref.Parse(c.to.Ref)
	if err != nil {
		return nil, err
	}
	m := c.mover(from, nowhere{}, name)
	main, err := readCargo(ctx, from, from.root())
	if err != nil {
		return nil, err
	}
	choice := c.o.Choice
	if len(choice.Platforms) == 0 {
		if choice, err = m.whole(main); err != nil {
			return nil, err
		}
	}
	bodies := maps.Clone(main.bodies)
	var referrers []*cargo
	if !c.o.NoReferrers {
		if referrers, err = m.referrers(ctx, main); err != nil {
			return nil, err
		}
		for _, ref := range referrers {
			maps.Copy(bodies, ref.bodies)
		}
	}
	if err := ready(ctx, from, main.blobs()); err != nil {
		return nil, err
	}
	p := newPull(*c.o.Store, asRegistry{from}, r, PullOptions{
		Choice: choice, Streams: c.o.Streams, Progress: c.o.Progress, UnpackOptions: UnpackOptions{NoUnpack: true},
	})
	p.bodies, p.referrers, p.labels = bodies, referrers, nil
	if at, ok := from.(*registrySource); ok {
		p.labels = sourceLabels(at.r)
	}
	res, err := p.run(ctx, from.root())
	if err != nil {
		return nil, err
	}
	return &PushResult{
		Digest: res.Digest, MediaType: res.MediaType, Platforms: res.Platforms,
		Pushed: res.Fetched, Existing: res.Reused, Referrers: len(referrers),
	}, nil
}

// whole chooses the platforms that the source has whole.
func (m *mover) whole(c *cargo) (Choice, error) {
	before := len(c.parts)
	if err := m.dropGaps(c); err != nil {
		return Choice{}, err
	}
	if len(c.parts) == before {
		return Choice{All: true}, nil
	}
	var choice Choice
	for _, p := range c.parts {
		if p.Platform != nil && !image.IsAttestation(p.Descriptor) {
			choice.Platforms = append(choice.Platforms, *p.Platform)
		}
	}
	return choice, nil
}

// asRegistry lets a pull take from any source.
type asRegistry struct{ from source }

func (a asRegistry) Resolve(context.Context, ref.Reference) (registry.Resolved, error) {
	return registry.Resolved{Descriptor: a.from.root()}, nil
}

func (a asRegistry) Manifest(ctx context.Context, _ ref.Reference, d image.Descriptor) ([]byte, error) {
	return a.from.document(ctx, d)
}

func (a asRegistry) Blob(ctx context.Context, _ ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	return a.from.open(ctx, d, offset, onFault)
}

package transfer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
)

// holdImages looks up images and holds all that is below them until release. What is here of them then
// stays; what is lazy of them can be fetched and stays then, too.
func (s Store) holdImages(ctx context.Context, names ...string) (list []metadata.Image, release func() error, err error) {
	for {
		_, digests, err := s.images(ctx, names)
		if err != nil {
			return nil, nil, err
		}
		if release, err = s.hold(ctx, digests); err != nil {
			return nil, nil, err
		}
		// A name may have been removed or moved by then, and what it stood for be gone.
		now, held, err := s.images(ctx, names)
		if err == nil && slices.Equal(held, digests) {
			return now, release, nil
		}
		if err = errors.Join(err, release()); err != nil {
			return nil, nil, err
		}
	}
}

// images looks up images by name, and lists their targets.
func (s Store) images(ctx context.Context, names []string) (list []metadata.Image, targets []image.Digest, err error) {
	for _, name := range names {
		img, err := s.Meta.Image(ctx, s.Namespace, name)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, img)
		targets = append(targets, img.Target.Digest)
	}
	return list, targets, nil
}

// fetchGaps fetches what an operation failed for the lack of: lazy blobs, and all others too if all is set.
// When it returns nil the operation is worth another try; else it returns the error that it was given, or
// that of fetching. What is looked for must be held.
func (s Store) fetchGaps(ctx context.Context, failed error, reg Registry, all bool, sink progress.Sink) ([]Refetched, error) {
	var gaps *MissingError
	if !errors.As(failed, &gaps) || reg == nil {
		return nil, failed
	}
	// Another process may have brought some of them meanwhile.
	gone, err := s.missing(ctx, gaps.Missing)
	if err != nil {
		return nil, err
	}
	if !all {
		for _, d := range gone {
			if ok, err := s.canHave(ctx, d); err != nil {
				return nil, err
			} else if !ok {
				return nil, failed
			}
		}
	}
	return Refetch(ctx, s, reg, gone, RefetchOptions{Progress: sink})
}

// canHave tells whether a blob is here, or is fetched on demand.
func (s Store) canHave(ctx context.Context, d image.Descriptor) (bool, error) {
	if ok, err := s.have(ctx, d); ok || err != nil {
		return ok, err
	}
	if lazy, err := s.Meta.OnDemand(ctx, d.Digest); lazy != nil || err != nil {
		return lazy != nil, err
	}
	return s.have(ctx, d) // it may have come in between
}

// A demand fetches lazy blobs when they are asked for, and notes which. Goroutines may share it.
type demand struct {
	Store
	reg  Registry
	sink progress.Sink

	mu      sync.Mutex
	fetched []Refetched
}

// has tells whether a blob is here, or is fetched when it is opened.
func (m *demand) has(ctx context.Context, d image.Descriptor) (bool, error) { return m.canHave(ctx, d) }

// open opens a blob, and fetches it first if it is lazy. Whoever has its image held finds it when it was
// fetched. Errors: [errdefs.ErrNotFound]; those of [Refetch].
func (m *demand) open(ctx context.Context, d image.Descriptor) (content.Reader, error) {
	r, err := m.Content.Open(ctx, d.Digest)
	if !errdefs.IsNotFound(err) {
		return r, err
	}
	if err := m.bring(ctx, d); err != nil {
		return nil, err
	}
	return m.Content.Open(ctx, d.Digest)
}

// bring fetches those of blobs that are lazy.
func (m *demand) bring(ctx context.Context, blobs ...image.Descriptor) error {
	var lazy []image.Descriptor
	for _, d := range blobs {
		is, err := m.Meta.OnDemand(ctx, d.Digest)
		if err != nil {
			return err
		}
		if is != nil {
			lazy = append(lazy, d)
		}
	}
	if len(lazy) == 0 {
		return nil
	}
	fetched, err := Refetch(ctx, m.Store, m.reg, lazy, RefetchOptions{Progress: m.sink})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fetched = append(m.fetched, fetched...)
	return err
}

// list gives what was fetched so far, by digest.
func (m *demand) list() []Refetched {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(slices.Values(m.fetched), func(a, b Refetched) int {
		return strings.Compare(string(a.Digest), string(b.Digest))
	})
}

// OnDemand is the content of a store for who reads some blobs of an image that is held: those of
// them that are lazy are fetched when they are opened. Errors of Open: also those of [Refetch].
func OnDemand(s Store, reg Registry, blobs []image.Descriptor, sink progress.Sink) content.Store {
	o := &onDemand{s.Content, &demand{Store: s, reg: reg, sink: sink}, map[image.Digest]image.Descriptor{}}
	for _, d := range blobs {
		o.blobs[d.Digest] = d
	}
	return o
}

type onDemand struct {
	content.Store
	demand *demand
	blobs  map[image.Digest]image.Descriptor
}

// Open implements [content.Store].
func (o *onDemand) Open(ctx context.Context, d image.Digest) (content.Reader, error) {
	if known, ok := o.blobs[d]; ok {
		return o.demand.open(ctx, known)
	}
	return o.Store.Open(ctx, d)
}

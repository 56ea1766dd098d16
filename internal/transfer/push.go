package transfer

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// PushOptions tunes [Push]. The zero value pushes the image as it is, with what refers to it.
type PushOptions struct {
	// Choice: one platform is pushed as its manifest alone, several in an index of these; all
	// that the index lists, as the index.
	Choice
	Streams     int  // blobs pushed at once; 0: 4, and 16 small ones beside them
	NoReferrers bool // leaves out what refers to the image: signatures, SBOMs; also those under cosign's tags
	// FetchMissing first gets blobs that are missing, as [Refetch] does. Lazy ones are fetched in
	// any case, when the target needs them.
	FetchMissing bool
	Fetch        Registry // where blobs are fetched for that; nil: by way of the one that is pushed to
	// Manner is how whoever pushes has the target reached. The door gives [Push] a registry that is
	// reached so.
	registry.Manner
	Progress progress.Sink
}

// PushResult is what a push or a copy did.
type PushResult struct {
	Name      string       `json:"name"`
	Digest    image.Digest `json:"digest"`
	MediaType string       `json:"mediaType"`
	Platforms []string     `json:"platforms"`
	Pushed    Count        `json:"pushed"`   // blobs that were sent
	Mounted   Count        `json:"mounted"`  // that the target took from another repository of its own
	Existing  Count        `json:"existing"` // that the target had
	Referrers int          `json:"referrers"`
	Refetched []Refetched  `json:"refetched,omitempty"` // lazy blobs of the store that were needed
	Seconds   float64      `json:"seconds"`
}

// Push brings a stored image to a registry, and gives it the tag, or the digest, of to. Blobs
// come first and the name last, so that a push that is cut off leaves no name, and the next
// one goes on from there. What the registry has is not sent, and need not be in the store. Layers
// that only their publisher may hand out stay where they are. What is stored under cosign's tags in the
// repository of the image follows too.
//
// Errors: a *[MissingError], which a *[PartialError] is too, before anything is sent, when the
// image is not whole; [errdefs.ErrInvalidArgument] when to has another digest than what is pushed.
func Push(ctx context.Context, s Store, reg Pusher, name string, to ref.Reference, o PushOptions) (*PushResult, error) {
	begun := time.Now()
	res, err := s.push(ctx, reg, name, to, o)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", to, err)
	}
	res.Name, res.Seconds = to.String(), time.Since(begun).Seconds()
	o.Progress.Send(progress.Event{Kind: progress.Finished, Name: res.Name, Digest: res.Digest.String()})
	return res, nil
}

func (s Store) push(ctx context.Context, reg Pusher, name string, to ref.Reference, o PushOptions) (res *PushResult, err error) {
	images, release, err := s.holdImages(ctx, name)
	if err != nil {
		return nil, err
	}
	defer joinRelease(release, &err)
	img := images[0]
	if o.Fetch == nil {
		o.Fetch = reg
	}
	from := storeSource{&demand{Store: s, reg: o.Fetch, sink: o.Progress}, img.Name, img.Target}
	m := newMover(from, registryTarget{reg, to}, img.Name, moveOptions{
		Choice: o.Choice, Streams: o.Streams, NoReferrers: o.NoReferrers, Progress: o.Progress,
	})
	l, err := m.prepare(ctx)
	for o.FetchMissing && err != nil {
		// A manifest that comes may show that more is missing.
		var fetched []Refetched
		if fetched, err = s.fetchGaps(ctx, err, o.Fetch, true, o.Progress); err != nil {
			return nil, err
		}
		from.fetched = append(from.fetched, fetched...)
		m.res = PushResult{}
		l, err = m.prepare(ctx)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range img.Platforms {
		// Without an index, only the config says it.
		if len(m.res.Platforms) == 0 && p.Manifest.Digest == m.res.Digest {
			m.res.Platforms = append(m.res.Platforms, image.FormatPlatform(p.Platform))
		}
	}
	err = m.send(ctx, l, to)
	m.res.Refetched = from.list()
	return &m.res, err
}

// send moves a load to a registry.
func (m *mover) send(ctx context.Context, l *load, to ref.Reference) error {
	if d := to.Digest(); d != "" && d != l.main.root.Digest {
		return fmt.Errorf("the image is %s: %w", l.main.root.Digest, errdefs.ErrInvalidArgument)
	}
	return m.carry(ctx, l)
}

package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
)

// PushOptions tunes [Push]. The zero value pushes the image as it is, with what refers to it.
type PushOptions struct {
	// Choice: one platform is pushed as its manifest alone, several in an index of these; all
	// that the index lists, as the index.
	Choice
	Streams     int  // blobs pushed at once; 0: 4, and 16 small ones beside them
	NoReferrers bool // leaves out what refers to the image: signatures, SBOMs; also those under cosign's tags
	// FetchMissing first gets blobs that are missing from the registry that the image's name
	// points to. Those of lazy layers are fetched in any case.
	FetchMissing bool
	Progress     progress.Sink
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
	img, err := s.Meta.Image(ctx, s.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", to, err)
	}
	res, err := s.push(ctx, reg, img, to, o)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", to, err)
	}
	res.Name, res.Seconds = to.String(), time.Since(begun).Seconds()
	o.Progress.Send(progress.Event{Kind: progress.Finished, Name: res.Name, Digest: res.Digest.String()})
	return res, nil
}

func (s Store) push(ctx context.Context, reg Pusher, img metadata.Image, to ref.Reference, o PushOptions) (res *PushResult, err error) {
	// All that is below the root is held with it.
	release, err := s.hold(ctx, []image.Digest{img.Target.Digest})
	if err != nil {
		return nil, err
	}
	defer joinRelease(release, &err)
	m := newMover(storeSource{s, img.Name, img.Target}, registryTarget{reg, to}, img.Name, moveOptions{
		Choice: o.Choice, Streams: o.Streams, NoReferrers: o.NoReferrers, Progress: o.Progress,
	})
	l, err := m.prepare(ctx)
	var gaps *MissingError
	if errors.As(err, &gaps) && (o.FetchMissing || areLazy(img, gaps.Missing)) {
		choice := o.Choice
		if o.FetchMissing && len(choice.Platforms) == 0 {
			choice.All = true
		}
		if err := s.fetchMissing(ctx, img, reg, choice, o.Progress); err != nil {
			return nil, err
		}
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
	return &m.res, m.send(ctx, l, to)
}

// send moves a load to a registry.
func (m *mover) send(ctx context.Context, l *load, to ref.Reference) error {
	if d := to.Digest(); d != "" && d != l.main.root.Digest {
		return fmt.Errorf("the image is %s: %w", l.main.root.Digest, errdefs.ErrInvalidArgument)
	}
	return m.carry(ctx, l)
}

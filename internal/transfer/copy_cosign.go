package transfer

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
)

// What cosign says of a manifest has no subject, but a tag that is made of the manifest's digest: it follows
// from and to places that have tags beside each other.

// cosignKinds are what the tags of signatures, attestations and SBOMs end in.
var cosignKinds = []string{".sig", ".att", ".sbom"}

// A tagged source has a repository around the image.
type tagged interface {
	// tagged finds what a tag stands for in the repository. Errors: [errdefs.ErrNotFound].
	tagged(ctx context.Context, tag string) (image.Descriptor, error)
}

// A tagger is a target with a repository around the image.
type tagger interface {
	// putTagged puts a manifest or an index there under a tag of the repository.
	putTagged(ctx context.Context, tag string, d image.Descriptor, body []byte) error
}

// cosigned reads what stands under cosign's tags for the root and the images of a cargo.
func (m *mover) cosigned(ctx context.Context, c *cargo) ([]*cargo, error) {
	from, ok := m.from.(tagged)
	if _, can := m.to.(tagger); !ok || !can {
		return nil, nil
	}
	type question struct {
		subject image.Descriptor
		tag     string
		answer  *cargo
	}
	var list []*question
	subjects := c.images()
	if !slices.ContainsFunc(subjects, func(d image.Descriptor) bool { return d.Digest == c.root.Digest }) {
		subjects = append(subjects, c.root)
	}
	for _, d := range subjects {
		for _, kind := range cosignKinds {
			tag := d.Digest.Algorithm().String() + "-" + d.Digest.Encoded() + kind
			list = append(list, &question{subject: d, tag: tag})
		}
	}
	err := par.Each(ctx, smallStreams, list, func(ctx context.Context, q *question) error {
		d, err := from.tagged(ctx, q.tag)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", q.tag, err)
		}
		if q.answer, err = m.referrer(ctx, d, q.subject); q.answer != nil {
			q.answer.tag = q.tag
		}
		return err
	})
	var found []*cargo
	for _, q := range list {
		if q.answer != nil {
			found = append(found, q.answer)
		}
	}
	return found, err
}

package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/registry"
)

// settle looks whether the target has what the source lacks, or can get it from a neighbour.
// That is done before anything is sent, so that an image that cannot be whole costs nothing.
func (m *mover) settle(ctx context.Context, c *cargo) error {
	var open []*part
	for _, p := range c.parts {
		if len(p.lacks) > 0 {
			open = append(open, p)
		}
	}
	return par.Each(ctx, smallStreams, open, func(ctx context.Context, p *part) error {
		// A target takes a manifest only with all that it lists.
		there, err := m.to.hasDocument(ctx, p.Descriptor)
		if err != nil {
			return err
		}
		if there {
			p.needs, p.lacks = nil, nil
			return nil
		}
		if p.doc == nil {
			return nil
		}
		var lacks []image.Descriptor
		for _, d := range p.lacks {
			got, err := m.obtain(ctx, d)
			if err != nil {
				return err
			}
			if !got {
				lacks = append(lacks, d)
				continue
			}
			p.needs = slices.DeleteFunc(p.needs, func(n need) bool { return n.Digest == d.Digest })
		}
		p.lacks = lacks
		return nil
	})
}

// obtain tells whether the target has, now at least, a blob that the source lacks.
func (m *mover) obtain(ctx context.Context, d image.Descriptor) (bool, error) {
	origins, err := m.to.origins(ctx, m.from, d)
	if err != nil {
		return false, err
	}
	if len(origins) == 0 {
		there, err := m.to.hasBlob(ctx, d)
		if there {
			m.tally(need{Descriptor: d, what: "blob"}, registry.PushOutcome{How: registry.Present})
		}
		return there, err
	}
	absent := func(context.Context, int64) (io.ReadCloser, error) { return nil, errAbsent }
	for _, repo := range origins {
		out, err := m.to.putBlob(ctx, d, registry.BlobSource{Open: absent, From: []string{repo}}, func(error) {})
		switch {
		case err == nil:
			m.tally(need{Descriptor: d, what: "blob"}, out)
			return true, nil
		case !errors.Is(err, errAbsent):
			return false, err
		}
	}
	return false, nil
}

// dropGaps leaves out the manifests that are not whole, for targets whose indexes may list what is
// not there.
func (m *mover) dropGaps(c *cargo) error {
	err := c.partial(m.name)
	var gaps *PartialError
	if !errors.As(err, &gaps) {
		return err
	}
	c.parts = slices.DeleteFunc(c.parts, func(p *part) bool { return len(p.lacks) > 0 })
	if len(c.platforms()) == 0 && len(c.tree.Platforms()) > 0 {
		return err // what is whole is not an image
	}
	m.warn(fmt.Sprintf("%s: %s not copied: the source lacks %d blobs of it", m.name, isAre(gaps.Gaps), len(gaps.Missing)))
	return nil
}

// tellForeign says which layers stay where they are.
func (m *mover) tellForeign(c *cargo) {
	var left []string
	for _, p := range c.parts {
		if p.doc == nil {
			continue
		}
		for _, l := range p.doc.Layers {
			if image.NonDistributable(l) {
				left = append(left, l.Digest.String())
			}
		}
	}
	if len(left) > 0 {
		m.warn(fmt.Sprintf("%s: layers that only their publisher may hand out stay where they are: %s", m.name, strings.Join(left, " ")))
	}
}

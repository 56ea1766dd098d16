package transfer

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
)

// A cargo is a root and what is below it, to be moved as a whole: an image, or a referrer.
type cargo struct {
	root    image.Descriptor
	tree    *image.Tree
	bodies  map[image.Digest][]byte // of the documents that there are
	indexes []image.Descriptor      // each after those that it lists; the root, if it is one, is the last
	parts   []*part                 // the manifests, in the order of the indexes
	tag     string                  // that the root gets, of what follows an image by its tag
}

// A part is one manifest of a cargo.
type part struct {
	image.Descriptor // as its index lists it
	doc              *image.Document
	needs            []need             // config and layers; none of a manifest that the target has
	lacks            []image.Descriptor // what neither source nor target has, as far as was looked
}

// label is what people call a part.
func (p *part) label() string {
	switch {
	case image.IsAttestation(p.Descriptor):
		return "an attestation"
	case p.Platform != nil:
		return image.FormatPlatform(*p.Platform)
	}
	return p.Digest.String()
}

// readCargo reads the documents below root, and finds out which blobs they need and which of
// these the source lacks.
func readCargo(ctx context.Context, from source, root image.Descriptor) (*cargo, error) {
	var mu sync.Mutex
	bodies := map[image.Digest][]byte{}
	get := func(ctx context.Context, d image.Descriptor) ([]byte, error) {
		mu.Lock()
		b := bodies[d.Digest]
		mu.Unlock()
		if b != nil {
			return b, nil
		}
		b, err := from.document(ctx, d)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		bodies[d.Digest] = b
		mu.Unlock()
		return b, nil
	}
	t, err := image.ReadTree(ctx, root, func(ctx context.Context, d image.Descriptor) ([]byte, error) {
		b, err := get(ctx, d)
		if err != nil {
			return nil, err
		}
		if doc, err := image.ParseDocument(b); err == nil && doc.Index {
			// Side by side. What fails is asked for again, one by one.
			_ = par.Each(ctx, smallStreams, doc.Manifests, func(ctx context.Context, d image.Descriptor) error {
				if image.CheckDescriptor(d) == nil && d.Size <= image.MaxDocument {
					_, _ = get(ctx, d)
				}
				return nil
			})
		}
		return b, nil
	})
	if err != nil {
		return nil, err
	}
	c := &cargo{root: root, tree: t, bodies: bodies}
	for _, d := range t.Documents() {
		if t.Document(d.Digest).Index {
			c.indexes = append([]image.Descriptor{d}, c.indexes...)
		}
	}
	c.addParts()
	for _, p := range c.parts {
		if err := p.look(ctx, from); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// addParts lists the manifests, here or not.
func (c *cargo) addParts() {
	seen := map[image.Digest]bool{}
	add := func(d image.Descriptor) {
		doc := c.tree.Document(d.Digest)
		if seen[d.Digest] || doc != nil && doc.Index {
			return
		}
		seen[d.Digest] = true
		c.parts = append(c.parts, &part{Descriptor: d, doc: doc})
	}
	add(c.root)
	for _, d := range c.tree.Documents() {
		for _, m := range c.tree.Document(d.Digest).Manifests {
			add(m)
		}
	}
}

// look finds out what the manifest needs, and what of it the source lacks.
func (p *part) look(ctx context.Context, from source) error {
	if p.doc == nil {
		p.lacks = []image.Descriptor{p.Descriptor}
		return nil
	}
	for c := range p.doc.Children() {
		what := "layer"
		if c.Place == image.PlaceConfig {
			what = "config"
		}
		if image.NonDistributable(c.Descriptor) {
			continue // it stays where its URLs say
		}
		p.needs = append(p.needs, need{Descriptor: c.Descriptor, what: what})
		ok, err := from.has(ctx, c.Descriptor)
		if err != nil {
			return err
		}
		if !ok {
			p.lacks = append(p.lacks, c.Descriptor)
		}
	}
	return nil
}

// documents lists all documents, each after those that it lists.
func (c *cargo) documents() []image.Descriptor {
	var list []image.Descriptor
	for _, p := range c.parts {
		list = append(list, p.Descriptor)
	}
	return append(list, c.indexes...)
}

// blobs lists what the manifests need, each blob once.
func (c *cargo) blobs() []need {
	var list []need
	seen := map[image.Digest]bool{}
	for _, p := range c.parts {
		for _, n := range p.needs {
			if !seen[n.Digest] {
				seen[n.Digest] = true
				list = append(list, n)
			}
		}
	}
	return list
}

// platforms names those of the images among the parts.
func (c *cargo) platforms() []string {
	moved := map[image.Digest]bool{}
	for _, p := range c.parts {
		moved[p.Digest] = true
	}
	list := []string{}
	for _, d := range c.tree.Platforms() {
		if moved[d.Digest] && d.Platform != nil {
			list = append(list, image.FormatPlatform(*d.Platform))
		}
	}
	return list
}

// A PartialError reports an image of which some platforms are whole and others are not. It is
// a *[MissingError].
type PartialError struct {
	MissingError
	Whole []string // platforms, or other manifests of the index
	Gaps  []string
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("%s is here in part: %s whole, %s not", e.Name, isAre(e.Whole), isAre(e.Gaps))
}

// Unwrap makes a PartialError a *[MissingError].
func (e *PartialError) Unwrap() error { return &e.MissingError }

func isAre(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none is"
	case n == 1:
		return names[0] + " is"
	case n > 12:
		names = append(names[:12:12], fmt.Sprintf("%d more", n-12))
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " are"
}

// partial makes the error of the parts that lack something; nil if there are none.
func (c *cargo) partial(name string) error {
	e := &PartialError{MissingError: MissingError{Name: name}}
	for _, p := range c.parts {
		if len(p.lacks) == 0 {
			e.Whole = append(e.Whole, p.label())
			continue
		}
		e.Gaps = append(e.Gaps, p.label())
		e.Missing = append(e.Missing, p.lacks...)
	}
	switch {
	case len(e.Gaps) == 0:
		return nil
	case len(e.Whole) == 0:
		return &e.MissingError // there is nothing to choose from
	}
	return e
}

var errAbsent = fmt.Errorf("the source does not have it: %w", errdefs.ErrNotFound)

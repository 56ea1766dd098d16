package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

const (
	// maxIndexes bounds how deep indexes may be nested. One level is common, two are used.
	maxIndexes = 8
	// maxDocuments bounds the manifests and indexes of one tree, and maxTree their bytes.
	maxDocuments = 4096
	maxTree      = 32 << 20
)

// A Tree is an image's root and all manifests and indexes below it, as far as they are there.
type Tree struct {
	Root      Descriptor
	order     []Descriptor
	documents map[Digest]*Document
}

// ReadTree reads root and what is below it, each document once, through get, which is called
// for one document at a time. Sizes and digests are verified; the kinds of error are those of
// [Verify], [ParseDocument] and get. A document other than root for which get answers
// [errdefs.ErrNotFound] is left absent.
//
// An index cannot contain itself, since its digest would have to stand in its own bytes; one
// that claims to does not verify. Trees are limited in depth, documents and bytes.
func ReadTree(ctx context.Context, root Descriptor, get func(context.Context, Descriptor) ([]byte, error)) (*Tree, error) {
	r := treeReader{Tree: &Tree{Root: root, documents: map[Digest]*Document{}}, get: get, met: map[Digest]Descriptor{}}
	if err := r.read(ctx, root, 0); err != nil {
		return nil, err
	}
	if r.documents[root.Digest] == nil {
		return nil, fmt.Errorf("document %s: %w", root.Digest, errdefs.ErrNotFound)
	}
	return r.Tree, nil
}

// IsIndex tells whether the root is an index.
func (t *Tree) IsIndex() bool { return t.documents[t.Root.Digest].Index }

// Documents lists the documents that are there, every one before those that it holds.
func (t *Tree) Documents() []Descriptor { return t.order }

// Document is what a document of the tree says, or nil if it is absent.
func (t *Tree) Document(d Digest) *Document { return t.documents[d] }

// Platforms lists the manifests that the indexes offer, here or not, each with the platform
// that its index gives, if it does. Attestations and the platform unknown are left out. Of a
// root that is a manifest, the list is that manifest.
func (t *Tree) Platforms() []Descriptor {
	if !t.IsIndex() {
		return []Descriptor{t.Root}
	}
	var list []Descriptor
	// One manifest may serve several platforms.
	type offer struct {
		digest   Digest
		platform string
	}
	listed := map[offer]bool{}
	for _, d := range t.order {
		for _, m := range t.documents[d.Digest].Manifests {
			doc := t.documents[m.Digest]
			isIndex := doc != nil && doc.Index ||
				doc == nil && (m.MediaType == OCIIndex || m.MediaType == DockerManifestList)
			o := offer{digest: m.Digest}
			if m.Platform != nil {
				o.platform = FormatPlatform(*m.Platform)
			}
			if isIndex || listed[o] || notForRunning(m) {
				continue
			}
			listed[o] = true
			list = append(list, m)
		}
	}
	return list
}

type treeReader struct {
	*Tree
	get   func(context.Context, Descriptor) ([]byte, error)
	met   map[Digest]Descriptor // documents that were asked for
	bytes int64
}

func (r *treeReader) read(ctx context.Context, d Descriptor, depth int) error {
	if first, ok := r.met[d.Digest]; ok {
		if first.Size != d.Size {
			return fmt.Errorf("document %s is said to have %d and %d bytes: %w", d.Digest, first.Size, d.Size, errdefs.ErrInvalidArgument)
		}
		return nil
	}
	r.met[d.Digest] = d
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.checkLimits(d, depth); err != nil {
		return err
	}
	b, err := r.get(ctx, d)
	if errdefs.IsNotFound(err) && depth > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if err := Verify(d, b); err != nil {
		return err
	}
	doc, err := ParseDocument(b)
	if err != nil {
		return fmt.Errorf("document %s: %w", d.Digest, err)
	}
	r.documents[d.Digest] = doc
	r.order = append(r.order, d)
	for _, m := range doc.Manifests {
		if err := r.read(ctx, m, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (r *treeReader) checkLimits(d Descriptor, depth int) error {
	if err := CheckDescriptor(d); err != nil {
		return err
	}
	over := func(what string, limit int) error {
		return fmt.Errorf("document %s: %s more than %d: %w", d.Digest, what, limit, errdefs.ErrInvalidArgument)
	}
	switch {
	case depth > maxIndexes:
		return over("indexes nested", maxIndexes)
	case len(r.met) > maxDocuments:
		return over("documents in one image", maxDocuments)
	case d.Size > MaxDocument:
		return over("bytes in a manifest", MaxDocument)
	case r.bytes+d.Size > maxTree:
		return over("bytes of manifests in one image", maxTree)
	}
	r.bytes += d.Size
	return nil
}

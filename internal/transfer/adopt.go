package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// Adopt names what somebody brought into the store blob by blob, whatever of it is here, and sees that
// the namespace knows all of that. What is wanted of the image are the platforms that were brought (see
// [Skipped]), or else the host's.
//
// Errors: those of [metadata.Store.Apply].
func Adopt(ctx context.Context, s Store, put metadata.PutImage) (img metadata.Image, err error) {
	hold, err := s.Meta.Hold(ctx, s.Namespace, put.Target.Digest)
	if err != nil {
		return metadata.Image{}, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	put.Unseen = true
	batch := metadata.Batch{}
	t, err := s.tree(ctx, put.Target)
	switch {
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err), errdefs.IsDataLoss(err), errdefs.IsResourceExhausted(err):
		// It has a name all the same, as its owner wants, and is partial.
	case err != nil:
		return metadata.Image{}, err
	default:
		if err := s.holdTree(ctx, hold, t); err != nil {
			return metadata.Image{}, err
		}
		if err := s.addRows(ctx, &batch, map[image.Digest]bool{}, t); err != nil {
			return metadata.Image{}, err
		}
		if put.Want, err = s.wanted(ctx, t); err != nil {
			return metadata.Image{}, err
		}
	}
	batch.Images = []metadata.PutImage{put}
	images, err := s.Meta.Apply(ctx, s.Namespace, batch)
	if err != nil {
		return metadata.Image{}, err
	}
	return images[0], nil
}

// holdTree holds what is below documents of which the store may not know yet that they are some.
func (s Store) holdTree(ctx context.Context, hold *metadata.Hold, t *image.Tree) error {
	var digests []image.Digest
	for _, d := range t.Documents() {
		for c := range t.Document(d.Digest).Children() {
			digests = append(digests, c.Digest)
		}
	}
	return hold.Add(ctx, digests...)
}

// wanted lists the manifests that count as asked for.
func (s Store) wanted(ctx context.Context, t *image.Tree) (want []image.Digest, err error) {
	for _, d := range t.Platforms() {
		doc := t.Document(d.Digest)
		if doc == nil {
			continue
		}
		ok, err := s.wasBrought(ctx, doc)
		if err != nil {
			return nil, err
		}
		if ok {
			want = append(want, d.Digest)
		}
	}
	if len(want) > 0 {
		return want, nil
	}
	host, err := image.Choose([]image.Platform{image.Host()}, t.Platforms())
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	for _, d := range host {
		want = append(want, d.Digest)
	}
	return want, err
}

// wasBrought tells whether somebody brought a manifest for its layers: its config is here, and they all
// are, too, or are unpacked. One layer alone says nothing: others may share it.
func (s Store) wasBrought(ctx context.Context, doc *image.Document) (bool, error) {
	if !doc.IsImage() {
		gone, err := s.missing(ctx, doc.Layers)
		return len(gone) == 0, err
	}
	c, err := s.config(ctx, doc)
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) || errdefs.IsDataLoss(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	gone, err := s.missing(ctx, slices.DeleteFunc(slices.Clone(doc.Layers), image.NonDistributable))
	if len(gone) == 0 || err != nil {
		return err == nil, err
	}
	return s.isUnpacked(ctx, c.DiffIDs)
}

// isUnpacked tells whether some snapshotter has all of a stack of layers, under its chainID.
func (s Store) isUnpacked(ctx context.Context, diffIDs []image.Digest) (bool, error) {
	chain := image.ChainIDs(diffIDs)
	if len(chain) == 0 {
		return false, nil
	}
	snapshotters, err := s.Meta.Snapshotters(ctx, s.Namespace)
	if err != nil {
		return false, err
	}
	for _, sn := range snapshotters {
		row, err := s.Meta.Snapshot(ctx, s.Namespace, sn, chain[len(chain)-1].String())
		if err == nil && row.Kind == metadata.Committed {
			return true, nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return false, err
		}
	}
	return false, nil
}

// Skipped lists the blobs that whoever brought an image left out, because it had their content unpacked:
// they are missing of a platform that is wanted, whose config is here and whose layers are unpacked.
func Skipped(ctx context.Context, s Store, img metadata.Image) (list []image.Descriptor, err error) {
	if img.State != metadata.Partial {
		return nil, nil
	}
	for _, p := range img.Platforms {
		if !p.Wanted || p.State != metadata.Partial {
			continue
		}
		b, err := content.ReadBlob(ctx, s.Content, p.Manifest.Digest, image.MaxDocument)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		doc, err := image.ParseDocument(b)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", p.Manifest.Digest, err)
		}
		ok, err := s.wasBrought(ctx, doc)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, p.Missing...)
		}
	}
	return list, nil
}

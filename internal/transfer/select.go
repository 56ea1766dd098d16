package transfer

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// Choice says which platforms of an image are meant. The zero value leaves it to the operation.
type Choice struct {
	Platforms []image.Platform // exactly these
	All       bool             // every one that the index lists
}

// A selection is the part of an image that an operation is about.
type selection struct {
	manifests []image.Descriptor // the chosen manifests, in the order of the index
	needed    []need             // the indexes, and every blob of the chosen manifests
	attached  []need             // every blob of the attestations of the chosen manifests
	extra     []need             // manifests and configs of the rest of the tree
}

// all lists every blob of the selection; none stands in two of its lists.
func (s selection) all() []need { return slices.Concat(s.needed, s.attached, s.extra) }

// A need is a blob and what it is for.
type need struct {
	image.Descriptor
	what     string // index, manifest, config, layer
	optional bool   // worth having, but the image is complete without it
}

// selectPlatforms finds the manifests that want means.
func selectPlatforms(t *image.Tree, want Choice, byDefault []image.Platform) ([]image.Descriptor, error) {
	list := t.Platforms()
	if want.All {
		return list, nil
	}
	if !t.IsIndex() {
		// There is nothing to choose from. Whether it is what was asked for, its config says.
		return list, nil
	}
	platforms := want.Platforms
	if len(platforms) == 0 {
		platforms = byDefault
	}
	return image.Choose(platforms, list)
}

// selectBlobs lists what the chosen manifests need, and what else of the tree is worth having.
// A chosen manifest that the tree does not have is [errdefs.ErrNotFound].
func selectBlobs(t *image.Tree, chosen []image.Descriptor) (selection, error) {
	s := selection{manifests: chosen}
	seen := map[image.Digest]bool{}
	add := func(list *[]need, d image.Descriptor, what string) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			*list = append(*list, need{Descriptor: d, what: what, optional: list != &s.needed})
		}
	}
	picked := map[image.Digest]bool{}
	for _, d := range chosen {
		picked[d.Digest] = true
	}
	for _, d := range t.Documents() {
		doc := t.Document(d.Digest)
		if doc.Index {
			add(&s.needed, d, "index")
		}
	}
	whole := func(list *[]need, d image.Descriptor) error {
		doc := t.Document(d.Digest)
		if doc == nil {
			return fmt.Errorf("manifest %s: %w", d.Digest, errdefs.ErrNotFound)
		}
		add(list, d, "manifest")
		for c := range doc.Children() {
			if image.NonDistributable(c.Descriptor) {
				continue // not ours to keep: it stays where its URLs say
			}
			what := "layer"
			if c.Place == image.PlaceConfig {
				what = "config"
			}
			add(list, c.Descriptor, what)
		}
		return nil
	}
	for _, d := range chosen {
		if err := whole(&s.needed, d); err != nil {
			return selection{}, err
		}
	}
	for _, d := range t.Documents() {
		doc := t.Document(d.Digest)
		switch {
		case doc.Index:
		case image.IsAttestation(d) && picked[image.AttestationSubject(d)]:
			// What was said of a chosen manifest belongs to it.
			if err := whole(&s.attached, d); err != nil {
				return selection{}, err
			}
		default:
			add(&s.extra, d, "manifest")
			if doc.Config != nil {
				add(&s.extra, *doc.Config, "config")
			}
		}
	}
	return s, nil
}

package metadata

import (
	"context"
	"slices"

	"github.com/stowage/stowage/internal/image"
)

// An Edge is a stored fact that something points to a blob: a document, or a name.
type Edge struct {
	Parent    image.Digest `json:"parent,omitempty"`    // a document
	Place     string       `json:"place"`               // config, layer i, manifest i, subject or target
	Namespace string       `json:"namespace,omitempty"` // of an image whose target it is
	Image     string       `json:"image,omitempty"`     // its name
}

// ReferencedBy lists what points straight to a digest: the documents that hold it and the images
// whose target it is, of all namespaces.
func (s *Store) ReferencedBy(ctx context.Context, d image.Digest) (list []Edge, err error) {
	if err := checkDigests(d); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(v view) error {
		err := v.parents(d, func(parent image.Digest, places []place) error {
			for _, p := range places {
				list = append(list, Edge{Parent: parent, Place: p.String()})
			}
			return nil
		})
		if err != nil {
			return err
		}
		return v.imagesOf(d, func(ns, name string) {
			list = append(list, Edge{Place: "target", Namespace: ns, Image: name})
		})
	})
	return list, err
}

// edges lists what doc points to, each child once with all its places.
func edges(doc *Document) (list []edge) {
	at := map[image.Digest]int{}
	add := func(child image.Digest, p place) {
		i, ok := at[child]
		if !ok {
			i = len(list)
			at[child] = i
			list = append(list, edge{child: child})
		}
		list[i].places = append(list[i].places, p)
	}
	for c := range doc.Children() {
		add(c.Digest, placeOf(c))
	}
	if doc.Subject != nil {
		add(doc.Subject.Digest, placeSubject)
	}
	return list
}

type edge struct {
	child  image.Digest
	places []place
}

// parents calls f for each document that points to d.
func (v view) parents(d image.Digest, f func(parent image.Digest, places []place) error) error {
	prefix := digestKey(parentRows, d)
	for e, err := range v.Scan(prefix) {
		if err != nil {
			return err
		}
		parent, err := lastDigest(e.Key, prefix)
		if err != nil {
			return err
		}
		var places parentRow
		if err := decode(e.Key, e.Value, &places); err != nil {
			return err
		}
		if err := f(parent, places); err != nil {
			return err
		}
	}
	return nil
}

// imagesOf calls f for each image whose target is d.
func (v view) imagesOf(d image.Digest, f func(ns, name string)) error {
	for e, err := range v.Scan(digestKey(targetRows, d)) {
		if err != nil {
			return err
		}
		_, ns, name, err := parseTargetKey(e.Key)
		if err != nil {
			return err
		}
		f(ns, name)
	}
	return nil
}

// above returns digests and all documents that need one of them, however far up.
func (v view) above(digests ...image.Digest) (map[image.Digest]bool, error) {
	found := map[image.Digest]bool{}
	for len(digests) > 0 {
		d := digests[len(digests)-1]
		digests = digests[:len(digests)-1]
		if found[d] {
			continue
		}
		found[d] = true
		err := v.parents(d, func(parent image.Digest, places []place) error {
			if slices.ContainsFunc(places, func(p place) bool { return p != placeSubject }) {
				digests = append(digests, parent)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

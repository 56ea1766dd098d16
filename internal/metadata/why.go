package metadata

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stowage/stowage/internal/image"
)

// A Subject is what may be kept in a namespace: one of a blob, an image and a snapshot.
type Subject struct {
	Digest      image.Digest `json:"digest,omitempty"`
	Image       string       `json:"image,omitempty"`
	Snapshotter string       `json:"snapshotter,omitempty"` // of a snapshot, with Key
	Key         string       `json:"key,omitempty"`
}

func (s Subject) node(ns string) (node, error) {
	switch {
	case s.Digest != "":
		return blobNode(ns, s.Digest), checkDigests(s.Digest)
	case s.Image != "":
		return string(key(imageRows, ns, s.Image)), checkName(s.Image)
	default:
		return string(snapshotKey(ns, s.Snapshotter, s.Key)), checkSnapshotKey(s.Key)
	}
}

func subjectOf(n node) (s Subject, err error) {
	_, rest := cutNode(n)
	switch n[:len(knownRows)] {
	case knownRows:
		s.Digest, err = lastDigest([]byte(rest), nil)
	case imageRows:
		s.Image = rest
	default:
		s.Snapshotter, s.Key, _ = strings.Cut(rest, "\x00")
	}
	return s, err
}

// A Path leads from what keeps itself, or is kept by a lease, down to what was asked about.
type Path []Step

// A Step of a path is kept By the one before it: as its target, config, layer N, manifest N,
// subject (of which it is a referrer), parent, label, or as unpacked: the snapshots of a manifest.
// Of the first, By says why it is kept: image, a lease, a running operation, a label, or what kind
// of snapshot it is.
type Step struct {
	Subject
	By string `json:"by"`
}

// Why finds what keeps something in a namespace: a shortest path from each root that does, of
// which it returns at most so many, and how many there are. What nothing keeps has none.
func (s *Store) Why(ctx context.Context, ns string, what Subject, most int) (paths []Path, roots int, err error) {
	start, err := what.node(ns)
	if err != nil {
		return nil, 0, fmt.Errorf("why: %w", err)
	}
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		if err != nil {
			return err
		}
		paths, roots, err = v.search(rootsOf(live)).why(start, most)
		return err
	})
	return paths, roots, err
}

func (s *search) why(start node, most int) (paths []Path, total int, err error) {
	type step struct {
		down node
		by   string
	}
	met, queue := map[node]step{start: {}}, []node{start}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		meet := func(up node, l link) bool {
			if _, ok := met[up]; !ok {
				met[up] = step{at, l.String()}
				queue = append(queue, up)
			}
			return false
		}
		root, err := s.aboveRow(at, meet)
		if err == nil && root == "" && strings.HasPrefix(at, knownRows) {
			root, err = s.aboveReferrer(at, meet)
		}
		if err != nil {
			return nil, 0, err
		}
		for _, by := range s.reasons(at, at == start, root) {
			if total++; len(paths) == most {
				continue
			}
			var path Path
			for n := at; n != ""; n = met[n].down {
				subject, err := subjectOf(n)
				if err != nil {
					return nil, 0, err
				}
				path = append(path, Step{subject, by})
				by = met[n].by
			}
			paths = append(paths, path)
		}
	}
	return paths, total, nil
}

// reasons lists what keeps a node for its own sake: leases, of which a flat one keeps nothing below,
// running operations, and what its own row says.
func (s *search) reasons(n node, itself bool, own string) (list []string) {
	for _, id := range s.keeps[n] {
		list = append(list, s.leaseName(id))
	}
	if itself {
		for _, id := range s.flat[n] {
			list = append(list, s.leaseName(id))
		}
	}
	switch {
	case own != "":
		list = append(list, own)
	case itself && s.all:
		list = append(list, "a running operation, which holds everything")
	}
	return list
}

// String is the first of the places of a document, if it is one.
func (l link) String() string {
	if l.how != "" {
		return l.how
	}
	var places parentRow
	if err := decode(nil, l.value, &places); err != nil || len(places) == 0 {
		return "document"
	}
	i := slices.IndexFunc(places, func(p place) bool { return p != placeSubject })
	return places[max(i, 0)].String()
}

// Needed tells whether an image, a lease or a running operation needs something in a namespace.
// Errors: [errdefs.ErrInvalidArgument].
func (s *Store) Needed(ctx context.Context, ns string, what Subject) (needed bool, err error) {
	n, err := what.node(ns)
	if err != nil {
		return false, fmt.Errorf("needed: %w", err)
	}
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		if err != nil {
			return err
		}
		needed, err = v.search(rootsOf(live)).needed(n)
		return err
	})
	return needed, err
}

package metadata

import (
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// size returns the size of a blob, and whether its bytes are here.
func (v view) size(d image.Digest) (int64, bool, error) {
	if n, ok := v.sizes[d]; ok {
		return n, n >= 0, nil
	}
	var row blobRow
	err := v.get(blobKey(d), &row)
	switch {
	case errdefs.IsNotFound(err):
		v.sizes[d] = -1
	case err != nil:
		return 0, false, err
	default:
		v.sizes[d] = row.Size
	}
	return v.sizes[d], v.sizes[d] >= 0, nil
}

// complete finds anew what of an image is here. Nothing else may say so.
//
// A platform is a manifest that an index offers for running, or the target itself. Attestations
// and artifacts within an index are not platforms: they do not make an image partial. Nor do
// layers that only their publisher may hand out and that are absent. An index that leads to a
// platform is as needed for it as its manifest. A platform of which only
// layers are missing that a remote snapshotter has, or that were evicted, is lazy.
func (v view) complete(row *imageRow) error {
	s := survey{view: v, met: map[image.Digest]bool{}, listed: map[string]bool{}}
	if err := s.root(row.Target); err != nil {
		return err
	}
	row.Size, row.Platforms = s.size, s.platforms
	complete, lazy, gaps := false, false, len(s.platforms) == 0 && s.gaps
	for i := range row.Platforms {
		p := &row.Platforms[i]
		p.Wanted = slices.Contains(row.Want, p.Manifest.Digest)
		switch {
		case len(p.Missing) == 0:
			p.State, complete = Complete, true
		case s.lazy(p.Missing):
			p.State, lazy = Lazy, true
		case p.Wanted:
			p.State, gaps = Partial, true
		default:
			p.State, p.Missing = Absent, nil
		}
	}
	switch {
	case s.err != nil:
		return s.err
	case gaps:
		row.State = Partial
	case lazy:
		row.State = Lazy
	case complete || len(s.platforms) == 0:
		row.State = Complete
	default:
		row.State = Partial
	}
	return nil
}

// wantedFromNowOn is what counts as wanted when nobody said: the platforms that are complete,
// and if none is, all.
func wantedFromNowOn(platforms []PlatformState) (want []image.Digest) {
	for _, p := range platforms {
		if p.State == Complete {
			want = append(want, p.Manifest.Digest)
		}
	}
	if len(want) > 0 {
		return want
	}
	for _, p := range platforms {
		want = append(want, p.Manifest.Digest)
	}
	return want
}

// A survey walks the documents of one image.
type survey struct {
	view
	met       map[image.Digest]bool // blobs that were counted
	listed    map[string]bool       // platforms that were, by manifest and name
	platforms []PlatformState
	lost      []image.Descriptor // the indexes above what is looked at whose bytes are not here
	size      int64
	gaps      bool // something that is not optional is missing, in whatever part
	err       error
}

// lazy tells whether all that is missing is fetched on demand.
func (s *survey) lazy(missing []image.Descriptor) bool {
	for _, d := range missing {
		ok, err := s.onDemand(d.Digest)
		if err != nil {
			s.err = err
		}
		if !ok {
			return false
		}
	}
	return true
}

// root surveys the image of target.
func (s *survey) root(target image.Descriptor) error {
	doc, err := s.document(target.Digest)
	if err != nil {
		return err
	}
	if doc != nil && doc.Index {
		return s.index(target, doc)
	}
	return s.manifest(target, doc, true)
}

// count adds a blob to the size of the image, and tells whether it is here.
func (s *survey) count(d image.Descriptor) (here bool, err error) {
	n, here, err := s.view.size(d.Digest)
	if here && !s.met[d.Digest] {
		s.size += n
	}
	s.met[d.Digest] = true
	if !here && !image.NonDistributable(d) {
		s.gaps = true
	}
	return here, err
}

func (s *survey) index(d image.Descriptor, doc *Document) error {
	if s.met[d.Digest] {
		return nil
	}
	here, err := s.count(d)
	if err != nil {
		return err
	}
	if above := s.lost; !here {
		s.lost = append(slices.Clip(above), d)
		defer func() { s.lost = above }()
	}
	for _, m := range doc.Manifests {
		child, err := s.document(m.Digest)
		if err != nil {
			return err
		}
		if child != nil && child.Index {
			err = s.index(m, child)
		} else {
			err = s.manifest(m, child, isPlatform(m, child))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isPlatform tells whether a manifest in an index is there to be run.
func isPlatform(d image.Descriptor, doc *Document) bool {
	switch {
	case image.IsAttestation(d):
		return false
	case d.Platform != nil:
		return d.Platform.OS != "unknown" && d.Platform.Architecture != "unknown"
	case doc == nil:
		return d.ArtifactType == ""
	default:
		return doc.Platform != nil || doc.IsImage()
	}
}

// manifest counts the blobs of a manifest, of which only the descriptor is known if doc is nil,
// and lists it if it is a platform.
func (s *survey) manifest(d image.Descriptor, doc *Document, platform bool) error {
	state := PlatformState{Platform: platformOf(d, doc), Manifest: d, Missing: slices.Clone(s.lost)}
	own := map[image.Digest]bool{}
	add := func(b image.Descriptor, known bool) error {
		if own[b.Digest] {
			return nil
		}
		own[b.Digest] = true
		state.Size += b.Size
		here, err := s.count(b)
		if (!here || !known) && !image.NonDistributable(b) {
			state.Missing = append(state.Missing, b)
		}
		return err
	}
	if err := add(d, doc != nil); err != nil {
		return err
	}
	if doc != nil {
		for c := range doc.Children() {
			if err := add(c.Descriptor, true); err != nil {
				return err
			}
		}
	}
	id := d.Digest.String() + " " + image.FormatPlatform(state.Platform)
	if platform && !s.listed[id] {
		s.listed[id] = true
		s.platforms = append(s.platforms, state)
	}
	return nil
}

// platformOf is what a manifest is for: its index says so, else its config.
func platformOf(d image.Descriptor, doc *Document) image.Platform {
	switch {
	case d.Platform != nil:
		return *d.Platform
	case doc != nil && doc.Platform != nil:
		return *doc.Platform
	default:
		return image.Platform{}
	}
}

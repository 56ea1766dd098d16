package stowage

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
)

// WhyReport says what keeps something.
type WhyReport struct {
	Subject WhyStep `json:"subject"`
	Size    int64   `json:"size"` // bytes of its own: of a blob that is here, or what a snapshot takes on the disk
	// Missing is set for a blob that is not here: one that is fetched when it is needed, or damage.
	Missing bool `json:"missing,omitempty"`
	// Paths lead from what is kept for its own sake, or by a lease or a running operation, down to
	// the subject.
	Paths [][]WhyStep `json:"paths"`
	Roots int         `json:"roots"` // how many there are, of which Paths may be a part
	Uses  []Use       `json:"uses"`  // of an image, what it is needed for besides its name
	// Frees is what would come free if all images that keep the subject were removed. Nil when that
	// would not do, because something else keeps it as well, and when not all paths were asked for.
	Frees *Freed `json:"frees"`
}

// Freed is what would come free.
type Freed struct {
	Images    []string `json:"images"` // that would have to be removed
	Blobs     int      `json:"blobs"`
	Bytes     int64    `json:"bytes"` // of the blobs
	Snapshots int      `json:"snapshots"`
	Unpacked  int64    `json:"unpacked"` // bytes that the snapshots take on the disk
}

// A WhyStep is one thing on a path, kept By the one before it: as its target, config, layer N,
// manifest N, subject (of which it is a referrer), parent, label, or as unpacked, which is what the
// snapshots of a manifest are. Of the first, By is what keeps it: image, a lease, a running operation,
// a label, or the kind of a snapshot.
type WhyStep struct {
	Kind        string `json:"kind"` // image, index, manifest, blob or snapshot
	Namespace   string `json:"namespace"`
	Image       string `json:"image,omitempty"`
	Digest      Digest `json:"digest,omitempty"`
	Platform    string `json:"platform,omitempty"` // of a manifest, where that is known
	Snapshotter string `json:"snapshotter,omitempty"`
	Key         string `json:"key,omitempty"` // of a snapshot
	By          string `json:"by,omitempty"`
}

// Why finds what keeps an image, a blob or a snapshot: by the name of an image, a digest or a unique
// prefix of one, or the key of a snapshot. Of a blob it asks all namespaces, of which any may keep
// its bytes. It returns at most so many paths; 0: all. Errors: [errdefs.ErrNotFound].
func (s *Store) Why(ctx context.Context, what string, most int) (*WhyReport, error) {
	r, err := s.why(ctx, what, most)
	if err != nil {
		return nil, fmt.Errorf("why %s: %w", what, err)
	}
	return r, nil
}

func (s *Store) why(ctx context.Context, what string, most int) (r *WhyReport, err error) {
	r = &WhyReport{Paths: [][]WhyStep{}, Uses: []Use{}}
	subject, err := s.subject(ctx, what, r)
	if err != nil {
		return nil, err
	}
	spaces := []string{s.ns}
	if subject.Digest != "" {
		if spaces, err = s.spaces(ctx); err != nil {
			return nil, err
		}
	}
	images := map[string][]string{} // that keep it, by namespace
	alone := true
	for _, ns := range spaces {
		left := most - len(r.Paths)
		if most == 0 {
			left = -1
		}
		paths, roots, err := s.meta.Why(ctx, ns, subject, left)
		if err != nil {
			return nil, err
		}
		r.Roots += roots
		for _, p := range paths {
			path := make([]WhyStep, len(p))
			for i, step := range p {
				path[i] = whyStep(ns, step.Subject, step.By)
			}
			r.Paths = append(r.Paths, path)
			if p[0].Image != "" {
				images[ns] = append(images[ns], p[0].Image)
			} else {
				alone = false
			}
		}
	}
	if err := s.describe(ctx, r); err != nil {
		return nil, err
	}
	if subject.Image != "" {
		uses, err := s.meta.Uses(ctx, s.ns, subject.Image)
		if err != nil {
			return nil, err
		}
		r.Uses = append(r.Uses, uses...)
	}
	if !alone || len(r.Paths) < r.Roots || len(images) != 1 {
		return r, nil
	}
	for ns, names := range images {
		if r.Frees, err = s.frees(ctx, ns, names); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// subject finds what is meant: an image by its name, a blob, or a snapshot.
func (s *Store) subject(ctx context.Context, what string, r *WhyReport) (subject metadata.Subject, err error) {
	defer func() {
		if err == nil {
			r.Subject = whyStep(s.ns, subject, "")
		}
	}()
	parsed, refErr := ref.Parse(what)
	if refErr == nil {
		img, err := s.meta.Image(ctx, s.ns, parsed.String())
		if err == nil {
			return metadata.Subject{Image: img.Name}, nil
		}
		if !errdefs.IsNotFound(err) {
			return subject, err
		}
	}
	if d, err := s.digestOf(ctx, what); err == nil {
		known, err := s.knownBlob(ctx, d, r)
		if known || err != nil {
			return metadata.Subject{Digest: d}, err
		}
	} else if _, _, prefix := ref.ParseDigestPrefix(what); prefix && !errdefs.IsNotFound(err) {
		return subject, err
	}
	names, err := s.meta.Snapshotters(ctx, s.ns)
	if err != nil {
		return subject, err
	}
	for _, name := range names {
		chain, err := s.meta.SnapshotChain(ctx, s.ns, name, what)
		if err == nil && len(chain) > 0 {
			r.Size = chain[len(chain)-1].Size
			return metadata.Subject{Snapshotter: name, Key: what}, nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return subject, err
		}
	}
	return subject, fmt.Errorf("no image, blob or snapshot is called so: %w", errdefs.ErrNotFound)
}

// knownBlob tells whether a blob is here, or something points to it.
func (s *Store) knownBlob(ctx context.Context, d Digest, r *WhyReport) (bool, error) {
	info, err := s.content.Info(ctx, d)
	if !errdefs.IsNotFound(err) {
		r.Size = info.Size
		return err == nil, err
	}
	edges, err := s.meta.ReferencedBy(ctx, d)
	r.Missing = len(edges) > 0
	return r.Missing, err
}

// spaces names all namespaces, the store's own first.
func (s *Store) spaces(ctx context.Context) ([]string, error) {
	all, err := s.meta.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{s.ns}
	for _, n := range all {
		if n.Name != s.ns {
			names = append(names, n.Name)
		}
	}
	return names, nil
}

func whyStep(ns string, subject metadata.Subject, by string) WhyStep {
	w := WhyStep{
		Kind: "blob", Namespace: ns, Image: subject.Image, Digest: subject.Digest,
		Snapshotter: subject.Snapshotter, Key: subject.Key, By: by,
	}
	switch {
	case w.Image != "":
		w.Kind = "image"
	case w.Key != "":
		w.Kind = "snapshot"
	}
	return w
}

// describe says of the blobs in a report which are documents, and of manifests for what platform.
func (s *Store) describe(ctx context.Context, r *WhyReport) error {
	steps := []*WhyStep{&r.Subject}
	for _, path := range r.Paths {
		for i := range path {
			steps = append(steps, &path[i])
		}
	}
	var digests []Digest
	for _, step := range steps {
		if step.Digest != "" && !slices.Contains(digests, step.Digest) {
			digests = append(digests, step.Digest)
		}
	}
	documents, err := s.meta.Documents(ctx, digests...)
	if err != nil {
		return err
	}
	platforms := map[Digest]*Platform{} // as indexes say
	for _, doc := range documents {
		for _, m := range doc.Manifests {
			if m.Platform != nil {
				platforms[m.Digest] = m.Platform
			}
		}
	}
	for _, step := range steps {
		i := slices.IndexFunc(documents, func(d metadata.Document) bool { return d.Digest == step.Digest })
		switch {
		case i < 0:
		case documents[i].Index:
			step.Kind = "index"
		default:
			step.Kind = "manifest"
			if p := cmp.Or(platforms[step.Digest], documents[i].Platform); p != nil {
				step.Platform = image.FormatPlatform(*p)
			}
		}
	}
	return nil
}

// frees finds what the removal of images would free.
func (s *Store) frees(ctx context.Context, ns string, names []string) (*Freed, error) {
	blobs, snapshots, err := s.meta.Only(ctx, ns, names...)
	if err != nil {
		return nil, err
	}
	f := &Freed{Images: names, Blobs: len(blobs), Snapshots: len(snapshots)}
	for _, b := range blobs {
		f.Bytes += b.Size
	}
	f.Unpacked, err = s.meta.FreedFolders(ctx, snapshots)
	return f, err
}

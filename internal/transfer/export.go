package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
)

// ExportOptions tunes [Export]. The zero value exports the platforms that each image was pulled
// or imported for.
type ExportOptions struct {
	Choice
	// Verify hashes every blob on its way out. Without it, those that the store vouches for are
	// not hashed again: nothing has touched them since they were verified and stored.
	Verify bool
	// FetchMissing gets blobs that are missing from the registry that the image's name points
	// to. Otherwise a missing blob is a *[MissingError]; those of lazy layers are fetched in
	// any case.
	FetchMissing bool
	Registry     Registry
	Progress     progress.Sink
}

// Export writes images to w as an OCI layout tar that also carries docker's manifest.json. The
// same images always give the same bytes. A blob that was touched since it was stored is verified
// as it is written; nothing is written before all of them are known to be there.
func Export(ctx context.Context, s Store, w io.Writer, names []string, o ExportOptions) (err error) {
	var layout archive.Layout
	var all []image.Digest
	seen := map[image.Digest]bool{}
	for _, name := range names {
		e, err := s.exported(ctx, name, o)
		if err != nil {
			return err
		}
		layout.Images = append(layout.Images, e.image)
		for _, d := range e.blobs {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				layout.Blobs = append(layout.Blobs, d.Descriptor)
				all = append(all, d.Digest)
			}
		}
	}
	release, err := s.hold(ctx, all)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer joinRelease(release, &err)
	// Looked up again now that nothing can be collected.
	if gone, err := s.missing(ctx, layout.Blobs); err != nil {
		return fmt.Errorf("export: %w", err)
	} else if len(gone) > 0 {
		return fmt.Errorf("export: %w", &MissingError{Name: strings.Join(names, " "), Missing: gone})
	}
	var total int64
	for _, d := range layout.Blobs {
		total += d.Size
	}
	o.Progress.Send(progress.Event{Kind: progress.Planned, Count: len(layout.Blobs), Total: total})
	err = archive.Write(ctx, w, layout, func(ctx context.Context, d image.Descriptor) (content.Reader, error) {
		r, err := s.Content.Open(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		e := progress.Event{Kind: progress.Started, Digest: d.Digest.String(), What: "blob", Total: d.Size}
		o.Progress.Send(e)
		return &told{Reader: r, verify: o.Verify, sink: o.Progress, event: e, last: time.Now()}, nil
	})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	o.Progress.Send(progress.Event{Kind: progress.Finished})
	return nil
}

// told is a blob that tells how far it has been read.
type told struct {
	content.Reader
	verify bool
	sink   progress.Sink
	event  progress.Event
	last   time.Time
}

func (t *told) ReadAt(p []byte, off int64) (int, error) {
	n, err := t.Reader.ReadAt(p, off)
	t.event.Offset = max(t.event.Offset, off+int64(n))
	if now := time.Now(); now.Sub(t.last) >= tellEvery {
		t.last, t.event.Kind = now, progress.Advanced
		t.sink.Send(t.event)
	}
	return n, err
}

// Vouched implements [content.Voucher], as far as the reader beneath does.
func (t *told) Vouched() bool {
	v, ok := t.Reader.(content.Voucher)
	return ok && !t.verify && v.Vouched()
}

func (t *told) Close() error {
	if t.event.Offset == t.event.Total {
		t.event.Kind = progress.Done
		t.sink.Send(t.event)
	}
	return t.Reader.Close()
}

// exported is one image to be exported: how it is listed, and its blobs.
type exported struct {
	image archive.ExportImage
	blobs []need
}

// exported finds out what of an image is to be exported and sees that it is there.
func (s Store) exported(ctx context.Context, name string, o ExportOptions) (*exported, error) {
	img, err := s.Meta.Image(ctx, s.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	sel, t, err := s.selected(ctx, img, o.Choice)
	if err == nil {
		var gone []image.Descriptor
		gone, err = s.missing(ctx, descriptors(sel.needed))
		if err == nil && len(gone) > 0 {
			err = &MissingError{Name: name, Missing: gone}
		}
	}
	var gaps *MissingError
	if errors.As(err, &gaps) && o.Registry != nil && (o.FetchMissing || areLazy(img, gaps.Missing)) {
		if err := s.fetchMissing(ctx, img, o.Registry, o.Choice, o.Progress); err != nil {
			return nil, fmt.Errorf("export %s: %w", name, err)
		}
		o.Registry = nil
		return s.exported(ctx, name, o)
	}
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	e := &exported{image: archive.ExportImage{Name: img.Name, Target: img.Target}, blobs: sel.needed}
	if gone, err := s.missing(ctx, descriptors(sel.attached)); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	} else if len(gone) == 0 {
		e.blobs = append(e.blobs, sel.attached...)
	}
	e.image.Docker = dockerEntry(t, sel.manifests)
	return e, nil
}

// areLazy tells whether all that is missing of an image is of lazy layers.
func areLazy(img metadata.Image, missing []image.Descriptor) bool {
	lazy := map[image.Digest]bool{}
	for _, p := range img.Platforms {
		if p.State == metadata.Lazy {
			for _, d := range p.Missing {
				lazy[d.Digest] = true
			}
		}
	}
	return !slices.ContainsFunc(missing, func(d image.Descriptor) bool { return !lazy[d.Digest] })
}

// selected finds the part of a stored image that want means: by default what it was brought for.
func (s Store) selected(ctx context.Context, img metadata.Image, want Choice) (selection, *image.Tree, error) {
	t, err := s.tree(ctx, img.Target)
	if errdefs.IsNotFound(err) {
		return selection{}, nil, &MissingError{Name: img.Name, Missing: []image.Descriptor{img.Target}}
	}
	if err != nil {
		return selection{}, nil, fmt.Errorf("read %s: %w", img.Name, err)
	}
	var chosen []image.Descriptor
	if len(want.Platforms) == 0 && !want.All {
		for _, p := range img.Platforms {
			if p.Wanted || p.State == metadata.Complete || p.State == metadata.Lazy {
				chosen = append(chosen, p.Manifest)
			}
		}
	}
	if len(chosen) == 0 {
		if chosen, err = selectPlatforms(t, want, []image.Platform{image.Host()}); err != nil {
			return selection{}, nil, err
		}
	}
	for _, d := range chosen {
		if t.Document(d.Digest) == nil {
			return selection{}, nil, &MissingError{Name: img.Name, Missing: []image.Descriptor{d}}
		}
	}
	sel, err := selectBlobs(t, chosen)
	return sel, t, err
}

// fetchMissing pulls what an image lacks from where its name points, by digest: a tag may stand
// for something else by now.
func (s Store) fetchMissing(ctx context.Context, img metadata.Image, reg Registry, choice Choice, sink progress.Sink) error {
	r, err := ref.Parse(img.Name)
	if err != nil {
		return err
	}
	if len(choice.Platforms) == 0 && !choice.All {
		for _, p := range img.Platforms {
			if p.Wanted {
				choice.Platforms = append(choice.Platforms, p.Platform)
			}
		}
	}
	p := newPull(s, reg, r, PullOptions{Choice: choice, Progress: sink, OnlyChosen: true, UnpackOptions: UnpackOptions{NoUnpack: true}})
	_, err = p.run(ctx, img.Target)
	return err
}

// dockerEntry is how docker's manifest.json lists an image: one platform, the host's if it is
// among the chosen, else the first. Artifacts are not listed there.
func dockerEntry(t *image.Tree, chosen []image.Descriptor) *archive.DockerEntry {
	if len(chosen) == 0 {
		return nil
	}
	d := chosen[0]
	if best, err := image.Choose([]image.Platform{image.Host()}, chosen); err == nil && len(best) > 0 {
		d = best[0]
	}
	doc := t.Document(d.Digest)
	if doc == nil || !doc.IsImage() {
		return nil
	}
	e := &archive.DockerEntry{Config: doc.Config.Digest}
	for _, l := range doc.Layers {
		if image.NonDistributable(l) {
			return nil // docker could not load an image without all of its layers
		}
		e.Layers = append(e.Layers, l.Digest)
	}
	return e
}

func descriptors(needs []need) []image.Descriptor {
	list := make([]image.Descriptor, len(needs))
	for i, n := range needs {
		list[i] = n.Descriptor
	}
	return list
}

package transfer

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
)

// ExportOptions tunes [Export]. The zero value exports the platforms that each image was pulled
// or imported for.
type ExportOptions struct {
	Choice
	// Verify hashes every blob on its way out. Without it, those that the store vouches for are
	// not hashed again: nothing has touched them since they were verified and stored.
	Verify bool
	// FetchMissing gets blobs that are missing, as [Refetch] does. Otherwise a missing blob is a
	// *[MissingError]; lazy ones are fetched in any case.
	FetchMissing bool
	Registry     Registry // nil: nothing is fetched
	NoDocker     bool     // leaves out the lists that docker reads
	Progress     progress.Sink
}

// Export writes images to w as an OCI layout tar that also carries docker's manifest.json. The
// same images always give the same bytes. A blob that was touched since it was stored is verified
// as it is written; nothing is written before all of them are there.
func Export(ctx context.Context, s Store, w io.Writer, names []string, o ExportOptions) (err error) {
	images, release, err := s.holdImages(ctx, names...)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer joinRelease(release, &err)
	var layout archive.Layout
	seen := map[image.Digest]bool{}
	for _, img := range images {
		e, err := s.exported(ctx, img, o)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		layout.Images = append(layout.Images, e.image)
		for _, d := range e.blobs {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				layout.Blobs = append(layout.Blobs, d.Descriptor)
			}
		}
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

// exported finds out what of an image, which is held, is to be exported and sees that it is there.
func (s Store) exported(ctx context.Context, img metadata.Image, o ExportOptions) (*exported, error) {
	var sel selection
	var t *image.Tree
	for {
		var err error
		sel, t, err = s.selected(ctx, img, o.Choice)
		if err == nil {
			var gone []image.Descriptor
			if gone, err = s.missing(ctx, descriptors(sel.needed)); err == nil && len(gone) > 0 {
				err = &MissingError{Name: img.Name, Missing: gone}
			}
		}
		if err == nil {
			break
		}
		// A manifest that comes may show that more is missing.
		if _, err := s.fetchGaps(ctx, err, o.Registry, o.FetchMissing, o.Progress); err != nil {
			return nil, err
		}
	}
	e := &exported{image: archive.ExportImage{Name: img.Name, Target: img.Target}, blobs: sel.needed}
	if gone, err := s.missing(ctx, descriptors(sel.attached)); err != nil {
		return nil, err
	} else if len(gone) == 0 {
		e.blobs = append(e.blobs, sel.attached...)
	}
	if !o.NoDocker {
		e.image.Docker = dockerEntry(t, sel.manifests)
	}
	return e, nil
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

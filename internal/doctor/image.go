package doctor

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// An ImageFinding is what was found of one image. It is in order when State is complete or
// lazy and nothing is missing or corrupt.
type ImageFinding struct {
	Name    string         `json:"name"`
	Digest  image.Digest   `json:"digest"`
	State   metadata.State `json:"state"`
	Blobs   int            `json:"blobs"` // that were looked at
	Missing []image.Digest `json:"missing,omitempty"`
	Lazy    []image.Digest `json:"lazy,omitempty"` // fetched when they are needed
	Corrupt []image.Digest `json:"corrupt,omitempty"`
	Absent  []string       `json:"absent,omitempty"` // platforms that nobody asked for, and that are not here
}

// Whole tells whether nothing is wrong.
func (f ImageFinding) Whole() bool {
	return (f.State == metadata.Complete || f.State == metadata.Lazy) && len(f.Missing) == 0 && len(f.Corrupt) == 0
}

// CheckImages looks for every blob that images need on the platforms they are wanted for: on the
// disk, whatever the rows say, and with the right size. With verify, which may be nil, it also
// reads them all, each once, and compares their digests. What it finds missing is recorded, so
// that the images no longer count as complete.
func CheckImages(ctx context.Context, store content.Store, meta *metadata.Store, ns string, images []metadata.Image, verify *VerifyOptions) ([]ImageFinding, error) {
	list := make([]ImageFinding, len(images))
	found := make([][]image.Digest, len(images))
	var all []content.Info
	seen := map[image.Digest]bool{}
	for i, img := range images {
		f, here, err := lookAt(ctx, store, meta, img)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", img.Name, err)
		}
		list[i] = f
		for _, b := range here {
			found[i] = append(found[i], b.Digest)
			if !seen[b.Digest] {
				seen[b.Digest] = true
				all = append(all, b)
			}
		}
	}
	bad := map[image.Digest]Verdict{}
	if verify != nil {
		err := VerifyBlobs(ctx, store, all, *verify, func(b BlobFinding) {
			if b.Verdict != OK {
				bad[b.Digest] = b.Verdict
			}
		})
		if err != nil {
			return nil, fmt.Errorf("check images: %w", err)
		}
	}
	for i := range list {
		f := &list[i]
		for _, d := range found[i] {
			switch bad[d] {
			case Corrupt:
				f.Corrupt = append(f.Corrupt, d)
			case Missing:
				f.Missing = append(f.Missing, d)
			}
		}
		if len(f.Missing) > 0 {
			now, err := meta.Recheck(ctx, ns, f.Name, f.Missing)
			if err != nil {
				return nil, fmt.Errorf("check %s: %w", f.Name, err)
			}
			f.State = now.State
		}
	}
	return list, nil
}

// lookAt finds out which blobs of an image are here, and returns them.
func lookAt(ctx context.Context, store content.Store, meta *metadata.Store, img metadata.Image) (f ImageFinding, here []content.Info, err error) {
	f = ImageFinding{Name: img.Name, Digest: img.Target.Digest, State: img.State}
	lazy := map[image.Digest]bool{}
	for _, p := range img.Platforms {
		if p.State == metadata.Lazy {
			for _, d := range p.Missing {
				lazy[d.Digest] = true
			}
		}
	}
	seen := map[image.Digest]bool{}
	look := func(d image.Descriptor) error {
		if seen[d.Digest] {
			return nil
		}
		seen[d.Digest] = true
		f.Blobs++
		info, err := store.Info(ctx, d.Digest)
		switch {
		case errdefs.IsNotFound(err) && lazy[d.Digest]:
			f.Lazy = append(f.Lazy, d.Digest)
		case errdefs.IsNotFound(err):
			f.Missing = append(f.Missing, d.Digest)
		case err != nil:
			return err
		case info.Size != d.Size:
			f.Corrupt = append(f.Corrupt, d.Digest)
		default:
			here = append(here, info)
		}
		return nil
	}
	meant := map[image.Digest]bool{}
	for _, p := range img.Platforms {
		if p.State == metadata.Absent {
			f.Absent = append(f.Absent, image.FormatPlatform(p.Platform))
		} else {
			meant[p.Manifest.Digest] = true
		}
	}
	// What the documents say is read from the rows: a manifest whose bytes are damaged is then
	// one finding, and not the end of the search.
	var walk func(d image.Descriptor) error
	walk = func(d image.Descriptor) error {
		if seen[d.Digest] {
			return nil
		}
		if err := look(d); err != nil {
			return err
		}
		doc, err := meta.Document(ctx, d.Digest)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for c := range doc.Children() {
			switch {
			case c.Place != image.PlaceManifest:
				if !image.NonDistributable(c.Descriptor) {
					err = look(c.Descriptor)
				}
			case meant[c.Digest] || isIndex(ctx, meta, c.Digest):
				err = walk(c.Descriptor)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	err = walk(img.Target)
	return f, here, err
}

func isIndex(ctx context.Context, meta *metadata.Store, d image.Digest) bool {
	doc, err := meta.Document(ctx, d)
	return err == nil && doc.Index
}

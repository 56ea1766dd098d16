package stowage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
)

// ImagePruneOptions choose what [Store.PruneImages] looks at. The zero value is the images without a
// tag: those named by a digest alone, whose manifest or index no name with a tag stands for.
type ImagePruneOptions struct {
	All       bool      // those with a tag as well
	Since     time.Time // those used since then stay; zero: whenever they were used
	Labels    []string  // KEY or KEY=VALUE, all of which an image must have
	NotLabels []string  // likewise, none of which it may have
	DryRun    bool      // find what would go, and change nothing
}

// ImagePruneReport is what [Store.PruneImages] did.
type ImagePruneReport struct {
	Images []string    `json:"images"` // names that were taken away
	Kept   []KeptImage `json:"kept"`   // those that were chosen, and are needed
	PruneReport
}

// A KeptImage is one that was to go, and is needed.
type KeptImage struct {
	Name string `json:"name"`
	Uses []Use  `json:"uses"`
}

// PruneImages takes names away that nobody uses, and then deletes what only they kept. An image
// that is mounted, leased, pinned or in use by a running operation stays, and the report says so.
// After an error the report has what was done before it.
func (s *Store) PruneImages(ctx context.Context, o ImagePruneOptions) (*ImagePruneReport, error) {
	report := &ImagePruneReport{Images: []string{}, Kept: []KeptImage{}, PruneReport: gc.NewReport()}
	if err := s.cleanMounts(ctx); err != nil {
		return nil, fmt.Errorf("prune images: %w", err)
	}
	all, err := s.meta.ImageUses(ctx)
	if err != nil {
		return nil, fmt.Errorf("prune images: %w", err)
	}
	chosen := o.choose(s.ns, all)
	if !o.DryRun {
		names := make([]string, len(chosen))
		for i, u := range chosen {
			names[i] = u.Image.Name
		}
		if chosen, err = s.meta.RemoveUnused(ctx, s.ns, o.Since, names...); err != nil {
			err = fmt.Errorf("prune images: %w", err)
		}
	}
	var targets []Digest
	for _, u := range chosen {
		if len(u.Uses) > 0 {
			report.Kept = append(report.Kept, KeptImage{u.Image.Name, u.Uses})
			continue
		}
		report.Images = append(report.Images, u.Image.Name)
		targets = append(targets, u.Image.Target.Digest)
	}
	if len(targets) == 0 {
		return report, err
	}
	var freed *PruneReport
	var gcErr error
	if o.DryRun {
		freed, gcErr = s.only(ctx, report.Images)
	} else {
		freed, gcErr = s.Prune(ctx, PruneOptions{Below: targets})
	}
	if freed != nil {
		report.PruneReport = *freed
	}
	return report, errors.Join(err, gcErr)
}

// only reports what the removal of images would free.
func (s *Store) only(ctx context.Context, names []string) (*PruneReport, error) {
	blobs, snapshots, err := s.meta.Only(ctx, s.ns, names...)
	if err != nil {
		return nil, fmt.Errorf("what only %s need: %w", strings.Join(names, " "), err)
	}
	report := gc.NewReport()
	r := &report
	for _, b := range blobs {
		r.Blobs = append(r.Blobs, b)
		r.Bytes += b.Size
	}
	for _, row := range snapshots {
		r.Snapshots = append(r.Snapshots, gc.Snapshot{Namespace: row.Namespace, Snapshotter: row.Snapshotter, Key: row.Key})
	}
	r.Unpacked.Size, err = s.meta.FreedFolders(ctx, snapshots)
	return r, err
}

// choose finds the images of a namespace that the options are about.
func (o ImagePruneOptions) choose(ns string, all []metadata.ImageUse) (chosen []metadata.ImageUse) {
	tagged := map[Digest]bool{}
	for _, u := range all {
		if u.Namespace == ns && hasTag(u.Image.Name) {
			tagged[u.Image.Target.Digest] = true
		}
	}
	for _, u := range all {
		has := func(label string) bool {
			key, value, exact := strings.Cut(label, "=")
			got, ok := u.Image.Labels[key]
			return ok && (!exact || got == value)
		}
		switch {
		case u.Namespace != ns:
		case !o.All && tagged[u.Image.Target.Digest]:
		case !o.Since.IsZero() && !u.UsedAt.Before(o.Since):
		case slices.ContainsFunc(o.Labels, func(l string) bool { return !has(l) }):
		case slices.ContainsFunc(o.NotLabels, has):
		default:
			chosen = append(chosen, u)
		}
	}
	return chosen
}

// hasTag tells whether a name has a tag.
func hasTag(name string) bool {
	r, err := ref.Parse(name)
	return err == nil && r.Tag() != ""
}

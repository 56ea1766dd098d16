package gc

import (
	"context"

	"github.com/stowage/stowage/internal/metadata"
)

// EvictOptions tunes [Evict]. The zero value gives up what it can in every namespace.
type EvictOptions struct {
	DryRun bool // find what would go, and change nothing
	// Images, if there are any, are those whose layers go, by name in Namespace.
	Namespace string
	Images    []string
}

// An Eviction says what was given up, or would be.
type Eviction struct {
	Blobs []metadata.Garbage `json:"blobs"`
	Bytes int64              `json:"bytes"`
}

// Evict gives up layers that are unpacked and can be fetched again: see [metadata.Sweep.Unpacked]. It is
// safe beside whatever runs, as [Run] is. What was given up is good after an error, too.
func Evict(ctx context.Context, s Store, o EvictOptions) (Eviction, error) {
	r := &run{Store: s, sweep: s.Meta.NewSweep(), opened: map[string]Folders{}}
	err := r.sweep.Unpacked(ctx, o.Namespace, o.Images...)
	switch {
	case err != nil:
	case o.DryRun:
		var list []metadata.Garbage
		list, err = r.sweep.Evictable(ctx)
		for _, g := range list {
			r.report.addBlob(g)
		}
	default:
		err = r.rounds(ctx)
	}
	return Eviction{Blobs: r.report.Blobs, Bytes: r.report.Bytes}, err
}

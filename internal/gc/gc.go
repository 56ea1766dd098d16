// Package gc throws away the blobs that nothing needs.
//
// What is needed follows from rows alone, and metadata decides it: see [metadata.Sweep], which
// also keeps running operations safe. This package owns the order: rows first, then bytes, then
// the marks that said that the bytes were going. It may be stopped, or killed, at any moment; the
// next run takes up what is left.
package gc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// blobs is the little that collection needs of a content store.
type blobs interface {
	Delete(ctx context.Context, d image.Digest) error
	Blobs(ctx context.Context) iter.Seq2[content.Info, error]
}

// Options tunes [Run]. The zero value is for everyday use.
type Options struct {
	DryRun bool // find what would go, and change nothing
	// Grace is the age from which bytes that no row knows are garbage. Operations that hold
	// what they write do not need it. 0: 24h; negative: none.
	Grace time.Duration
}

// A Report says what went, or would go.
type Report struct {
	Blobs     []metadata.Garbage `json:"blobs"`
	Snapshots []string           `json:"snapshots"` // by key; their folders are the snapshotters' to remove
	Bytes     int64              `json:"bytes"`     // of the blobs
}

// Run collects: all blobs that no image, lease or running operation reaches go, in every
// namespace, and the rows of the snapshots of images that are gone. It waits while another collection runs. When some bytes cannot be deleted, the
// others are all the same, and the error says which; they are tried again by the next run.
func Run(ctx context.Context, meta *metadata.Store, store blobs, o Options) (report Report, err error) {
	if o.Grace == 0 {
		o.Grace = 24 * time.Hour
	}
	snapshots, err := meta.GarbageSnapshots(ctx)
	if err != nil {
		return Report{}, err
	}
	for _, row := range snapshots {
		report.Snapshots = append(report.Snapshots, row.Key)
	}
	if o.DryRun {
		strays, err := strays(ctx, store, o.Grace)
		if err != nil {
			return Report{}, err
		}
		garbage, err := meta.Garbage(ctx, strays)
		for _, g := range garbage {
			report.add(g)
		}
		return report, err
	}
	sweep, err := meta.BeginSweep(ctx)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, sweep.End()) }()
	found, err := strays(ctx, store, o.Grace)
	if err != nil {
		return Report{}, err
	}
	doomed, err := sweep.Doom(ctx, found)
	if err != nil {
		return Report{}, err
	}
	removed, err := remove(ctx, sweep, store, doomed)
	removed.Snapshots = report.Snapshots
	return removed, err
}

// Sweep deletes the bytes of the blobs that [metadata.Store.RemoveBlob] condemned, and collects
// nothing else.
func Sweep(ctx context.Context, meta *metadata.Store, store blobs) (report Report, err error) {
	sweep, err := meta.BeginSweep(ctx)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, sweep.End()) }()
	doomed, err := sweep.Doomed(ctx)
	if err != nil {
		return Report{}, err
	}
	return remove(ctx, sweep, store, doomed)
}

// strays lists the blobs of the store that are older than grace. The listing is made before the
// rows are looked at, so that what is committed meanwhile is not in it.
func strays(ctx context.Context, store blobs, grace time.Duration) (list []metadata.Garbage, err error) {
	before := time.Now().Add(-grace)
	for b, err := range store.Blobs(ctx) {
		if err != nil {
			return nil, err
		}
		if grace < 0 || b.CreatedAt.Before(before) {
			list = append(list, metadata.Garbage{Digest: b.Digest, Size: b.Size})
		}
	}
	return list, nil
}

// remove deletes the bytes of what is doomed, and then the marks of what is gone.
func remove(ctx context.Context, sweep *metadata.Sweep, store blobs, doomed []metadata.Garbage) (report Report, err error) {
	var gone []image.Digest
	for _, g := range doomed {
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
			break
		}
		deleteErr := store.Delete(ctx, g.Digest)
		switch {
		case deleteErr == nil:
			report.add(g)
		case !errdefs.IsNotFound(deleteErr):
			err = errors.Join(err, fmt.Errorf("delete blob %s: %w", g.Digest, deleteErr))
			continue
		}
		gone = append(gone, g.Digest)
	}
	if len(gone) > 0 {
		// Also when ctx has ended: the marks of what is gone would only make others wait.
		err = errors.Join(err, sweep.Forget(context.WithoutCancel(ctx), gone...))
	}
	return report, err
}

func (r *Report) add(g metadata.Garbage) {
	r.Blobs = append(r.Blobs, g)
	r.Bytes += g.Size
}

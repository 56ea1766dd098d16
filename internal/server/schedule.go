package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/stowage/stowage"
)

// settling is how long a daemon leaves the disk to others when it starts: machines start many things
// at once.
const settling = time.Minute

// every does something again and again until ctx ends: that is when it returns. What it fails with is
// logged, and the next time comes.
func (d *daemon) every(ctx context.Context, what string, interval time.Duration, do func(context.Context) error) {
	if interval <= 0 {
		return
	}
	for wait := min(settling, interval); ; wait = interval {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			d.Log.Warn(what+" failed", "reason", err, "again", interval)
		}
	}
}

// collect deletes what nothing needs.
func (d *daemon) collect(ctx context.Context, store *stowage.Store) error {
	began := time.Now()
	r, err := store.Prune(ctx, stowage.PruneOptions{})
	if err == nil {
		d.Log.Info("collected", "blobs", len(r.Blobs), "bytes", r.Bytes, "snapshots", len(r.Snapshots), "took", time.Since(began), "longest", r.Longest)
	}
	return err
}

// examine looks for what is not as it should be, and changes nothing.
func (d *daemon) examine(ctx context.Context, store *stowage.Store) error {
	r, err := store.Doctor(ctx, stowage.DoctorOptions{})
	if err != nil {
		return err
	}
	kinds := map[string]int{}
	for _, f := range r.Findings {
		kinds[f.Kind]++
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		d.Log.Warn("the store is not as it should be; see `stowage doctor`", "kind", kind, "findings", kinds[kind])
	}
	return nil
}

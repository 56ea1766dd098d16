// Package gc throws away what nothing needs: blobs, snapshots with their folders, images whose
// time is over, and ingests that nobody goes on with.
//
// What is needed follows from rows alone, and metadata decides it: see [metadata.Sweep], which
// also keeps running operations safe. This package owns the order: rows first, in short
// transactions, then, outside of them, bytes and folders, then the marks that said that bytes were
// going. It may be stopped, or killed, at any moment; the next run takes up what is left.
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
	"github.com/stowage/stowage/internal/snapshot"
)

// blobs is the little that collection needs of a content store.
type blobs interface {
	Delete(ctx context.Context, d image.Digest) error
	Digests(ctx context.Context) iter.Seq2[image.Digest, error]
	Info(ctx context.Context, d image.Digest) (content.Info, error)
	Ingests(ctx context.Context) ([]content.Status, error)
	Abort(ctx context.Context, key string) error
}

// Folders is the little that collection needs of a [snapshot.Store].
type Folders interface {
	// Discard removes folders that no row names.
	Discard(ctx context.Context, names ...string) (snapshot.Usage, error)
	// Sweep removes all that are left over.
	Sweep(ctx context.Context) (snapshot.Usage, error)
}

// A Store is what is collected.
type Store struct {
	Meta    *metadata.Store
	Content blobs
	// Snapshotters names those that have folders, and Open opens one. The folders of one that
	// does not work here, [errdefs.ErrNotImplemented], stay.
	Snapshotters []string
	Open         func(snapshotter string) (Folders, error)
}

// Options tunes [Run]. The zero value is for everyday use.
type Options struct {
	DryRun bool // find what would go, and change nothing
	// Grace is the age from which unfinished ingests are garbage, and bytes that no row knows, of
	// pulls that were cancelled. Operations that hold what they write do not need it. 0: 24h.
	Grace time.Duration
	All   bool // without any grace
	// Below, if there are any, collects only what is below these blobs in any namespace: what
	// the documents among them are made of, their referrers, and their snapshots; what images
	// that were just removed were the names of. Ingests, and what no row knows, are left.
	Below []image.Digest
}

// A Report says what went, or would go.
type Report struct {
	Blobs     []metadata.Garbage `json:"blobs"`
	Snapshots []Snapshot         `json:"snapshots"`
	Images    []string           `json:"images"`   // whose time was over
	Ingests   []string           `json:"ingests"`  // by key
	Bytes     int64              `json:"bytes"`    // of the blobs
	Unpacked  snapshot.Usage     `json:"unpacked"` // of the folders; beforehand the bytes alone, as their rows say
	// Longest is for how long the database was locked at most.
	Longest time.Duration `json:"longest"`
}

// NewReport is one of nothing, whose lists are empty in JSON rather than null.
func NewReport() Report {
	return Report{Blobs: []metadata.Garbage{}, Snapshots: []Snapshot{}, Images: []string{}, Ingests: []string{}}
}

// A Snapshot is one that went.
type Snapshot struct {
	Namespace   string `json:"namespace"`
	Snapshotter string `json:"snapshotter"`
	Key         string `json:"key"`
}

// A run is one collection.
type run struct {
	Store
	Options
	sweep  *metadata.Sweep
	opened map[string]Folders
	report Report
}

// Run collects what no image, lease or running operation needs, in every namespace. Several may
// run at once. When some bytes or folders cannot be deleted, the others are all the same, and the
// error says which; they are tried again by the next run. The report is good after an error, too.
func Run(ctx context.Context, s Store, o Options) (Report, error) {
	if o.Grace == 0 {
		o.Grace = 24 * time.Hour
	}
	r := &run{Store: s, Options: o, sweep: s.Meta.NewSweep(), opened: map[string]Folders{}, report: NewReport()}
	err := r.run(ctx)
	return r.report, err
}

// Sweep deletes the bytes of the blobs that [metadata.Store.RemoveBlob] condemned, and collects
// nothing else.
func Sweep(ctx context.Context, s Store) (Report, error) {
	r := &run{Store: s, sweep: s.Meta.NewSweep(), opened: map[string]Folders{}}
	err := r.sweep.Doomed(ctx)
	if err == nil {
		err = r.rounds(ctx)
	}
	return r.report, err
}

func (r *run) run(ctx context.Context) error {
	local := len(r.Below) > 0
	var err error
	if local {
		err = r.sweep.Below(ctx, r.Below...)
	} else {
		err = r.sweep.Everything(ctx)
		if err == nil {
			err = r.strays(ctx)
		}
	}
	if err != nil {
		return err
	}
	if r.DryRun {
		found, err := r.sweep.Found(ctx)
		r.report.add(found)
		for _, g := range found.Blobs {
			r.report.addBlob(g)
		}
		if err == nil {
			r.report.Unpacked.Size, err = r.Meta.FreedFolders(ctx, found.Snapshots)
		}
		if err == nil && !local {
			err = r.ingests(ctx)
		}
		return err
	}
	err = r.rounds(ctx)
	if local || ctx.Err() != nil {
		return err
	}
	err = errors.Join(err, r.ingests(ctx))
	for _, name := range r.Snapshotters {
		err = errors.Join(err, r.folders(ctx, name, func(f Folders) (snapshot.Usage, error) { return f.Sweep(ctx) }))
	}
	return errors.Join(err, r.Meta.RemoveStrayHolders(), r.Meta.CompactNames(ctx))
}

// old tells whether something is beyond the grace time.
func (r *run) old(at time.Time) bool { return r.All || time.Since(at) > r.Grace }

// batch is how many blobs are looked up at once.
const batch = 2048

// strays adds the blobs of the content store that are older than grace and that no row knows. They
// are listed before the rows are looked at, so that what is committed meanwhile is not among them.
func (r *run) strays(ctx context.Context) error {
	var list []image.Digest
	for d, err := range r.Content.Digests(ctx) {
		if err != nil {
			return err
		}
		if list = append(list, d); len(list) == batch {
			if err := r.unknown(ctx, list); err != nil {
				return err
			}
			list = list[:0]
		}
	}
	return r.unknown(ctx, list)
}

// unknown adds those of list that are strays. Only at few of them the disk is looked at.
func (r *run) unknown(ctx context.Context, list []image.Digest) error {
	known, err := r.Meta.HasBlobs(ctx, list...)
	if err != nil {
		return err
	}
	var strays []metadata.Garbage
	for _, d := range list {
		if known[d] {
			continue
		}
		b, err := r.Content.Info(ctx, d)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if r.old(b.CreatedAt) {
			strays = append(strays, metadata.Garbage{Digest: d, Size: b.Size})
		}
	}
	if len(strays) == 0 {
		return nil
	}
	return r.sweep.Strays(ctx, strays)
}

// rounds takes away what was found.
func (r *run) rounds(ctx context.Context) (err error) {
	// Also when ctx has ended: the marks of what is gone would only be in others' way.
	defer func() { err = errors.Join(err, r.sweep.End(context.WithoutCancel(ctx))) }()
	for {
		round, roundErr := r.sweep.Round(ctx)
		if round == nil || roundErr != nil {
			return errors.Join(err, roundErr)
		}
		err = errors.Join(err, r.remove(ctx, round))
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// remove deletes what a round has condemned.
func (r *run) remove(ctx context.Context, round *metadata.Round) (err error) {
	r.report.add(round.Found)
	for _, g := range round.Blobs {
		if ctx.Err() != nil {
			break
		}
		deleteErr := r.Content.Delete(ctx, g.Digest)
		switch {
		case deleteErr == nil:
			r.report.addBlob(g)
		case !errdefs.IsNotFound(deleteErr):
			err = errors.Join(err, fmt.Errorf("delete blob %s: %w", g.Digest, deleteErr))
			continue
		}
		round.Deleted(g.Digest)
	}
	// Nobody has to wait for folders.
	err = errors.Join(err, round.End())
	names := map[string][]string{}
	for _, f := range round.Folders {
		names[f.Snapshotter] = append(names[f.Snapshotter], f.Name)
	}
	for snapshotter, folders := range names {
		err = errors.Join(err, r.folders(ctx, snapshotter, func(f Folders) (snapshot.Usage, error) { return f.Discard(ctx, folders...) }))
	}
	return err
}

// folders lets a snapshotter remove some of its folders.
func (r *run) folders(ctx context.Context, snapshotter string, remove func(Folders) (snapshot.Usage, error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f := r.opened[snapshotter]
	if f == nil {
		var err error
		f, err = r.Open(snapshotter)
		if errdefs.IsNotImplemented(err) {
			return nil
		}
		if err != nil {
			return err
		}
		r.opened[snapshotter] = f
	}
	freed, err := remove(f)
	r.report.Unpacked.Size += freed.Size
	r.report.Unpacked.Inodes += freed.Inodes
	if err != nil {
		err = fmt.Errorf("folders of %s: %w", snapshotter, err)
	}
	return err
}

// ingests throws away those that nobody writes any more, and that no lease keeps.
func (r *run) ingests(ctx context.Context) error {
	leased, err := r.Meta.LeasedIngests(ctx)
	if err != nil {
		return err
	}
	list, err := r.Content.Ingests(ctx)
	if err != nil {
		return err
	}
	for _, in := range list {
		if in.Busy || leased[in.Key] || !r.old(in.UpdatedAt) {
			continue
		}
		if !r.DryRun {
			// Somebody may have come back to it, or have finished it.
			abortErr := r.Content.Abort(ctx, in.Key)
			if errdefs.IsUnavailable(abortErr) || errdefs.IsNotFound(abortErr) {
				continue
			}
			if abortErr != nil {
				err = errors.Join(err, fmt.Errorf("abort ingest %s: %w", in.Key, abortErr))
				continue
			}
		}
		r.report.Ingests = append(r.report.Ingests, in.Key)
	}
	return err
}

// add notes what has gone but for the blobs, whose bytes are still there.
func (r *Report) add(f metadata.Found) {
	for _, img := range f.Images {
		r.Images = append(r.Images, img.Name)
	}
	for _, row := range f.Snapshots {
		r.Snapshots = append(r.Snapshots, Snapshot{row.Namespace, row.Snapshotter, row.Key})
	}
}

func (r *Report) addBlob(g metadata.Garbage) {
	r.Blobs = append(r.Blobs, g)
	r.Bytes += g.Size
}

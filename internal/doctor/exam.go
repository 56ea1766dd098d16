package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/snapshot"
)

// A Finding is one thing that is not as it should be, with what mends it.
type Finding struct {
	Kind     string `json:"kind"`
	Subject  string `json:"subject"` // what it is about; no two findings of a kind have the same
	Detail   string `json:"detail"`
	Repair   string `json:"repair"` // what mends it, as one would ask for it: fetch it again
	Repaired bool   `json:"repaired"`

	mend func(context.Context) error
}

// id tells findings apart.
func (f Finding) id() string { return f.Kind + " " + f.Subject }

// Options tune [Run]. The zero value looks, reads no blob whole, and changes nothing.
type Options struct {
	Verify bool          // read every blob and every tree, and compare them
	Repair bool          // mend what is found
	Rate   int64         // bytes that Verify reads in a second; 0: no limit
	Grace  time.Duration // how long what was left unfinished is nobody's fault; 0: 24h
	// Progress is told what is being looked at.
	Progress progress.Sink
}

// An Exam is a store that is looked through, in all of its namespaces, and what helps to mend
// it. What a running operation holds is in nobody's way: it is never a finding.
type Exam struct {
	Root      string // the folder of the store
	Namespace string // the one that gets what belongs to none
	Content   content.Store
	Meta      *metadata.Store
	// Snapshotters opens those that have folders here and work here, each in each namespace.
	Snapshotters func(context.Context) ([]*snapshot.Store, error)

	// Rebuild makes a new database of what is beside the old one, which it moves aside.
	Rebuild func(context.Context) error
	// Refetch brings blobs back: verified, durable, and with their rows. It says of each that it
	// could not get why not; the others are there all the same.
	Refetch func(ctx context.Context, want []image.Descriptor) (lost map[image.Digest]error, err error)
	// Unpack unpacks a manifest's layers again, as far as they are not there.
	Unpack func(ctx context.Context, snapshotter, namespace string, manifest image.Digest) error

	// Plain hands the uncompressed tar of a layer that is here to use, which reads it to its end,
	// and checks its diffID.
	Plain func(ctx context.Context, layer image.Descriptor, diffID image.Digest, use func(context.Context, io.Reader) error) error

	Options

	found   []Finding        // of the kind that is being looked for
	blind   bool             // there are no rows to look at
	mending string           // the id of the finding that is being mended
	failed  map[string]error // why findings could not be mended, by id
	wanted  []wanted
	sound   map[image.Digest]bool // blobs that were read, and are what they should be
}

// A kind of finding is one file: it looks, and reports findings that know how to mend what they
// found.
type kind struct {
	name string
	look func(*Exam, context.Context) error
}

// kinds are looked for in this order, each after what those before it found was mended: rows
// before what rows say, blobs before trees that are made of them.
var kinds = []kind{
	{"damaged-database", (*Exam).damagedDatabase},
	{"damaged-record", (*Exam).damagedRecords},
	{"dangling-edge", (*Exam).danglingEdges},
	{"expired-lease", (*Exam).expiredLeases},
	{"stale-ingest", (*Exam).staleIngests},
	{"wrong-size", (*Exam).wrongSizes},
	{"corrupt-blob", (*Exam).corruptBlobs},
	{"orphan-blob", (*Exam).orphanBlobs},
	{"missing-blob", (*Exam).missingBlobs},
	{"overstated-image", (*Exam).overstatedImages},
	{"lost-snapshot", (*Exam).lostSnapshots},
	{"orphan-snapshot", (*Exam).orphanSnapshots},
	{"damaged-tree", (*Exam).damagedTrees},
	{"stray-mount", (*Exam).strayMounts},
	{"orphan-folder", (*Exam).orphanFolders},
}

// report adds a finding of the kind that is being looked for.
func (e *Exam) report(f Finding) { e.found = append(e.found, f) }

// grace is the age from which what was left unfinished is a finding.
func (e *Exam) grace() time.Duration {
	if e.Grace == 0 {
		return 24 * time.Hour
	}
	return e.Grace
}

// Run looks for every kind of damage, in order. To repair, it mends what it found and looks
// again, since one damage may hide another, until there is nothing new. A finding is repaired
// when it is not found again.
//
// What cannot be mended is no error: it is left, and its finding says why.
func Run(ctx context.Context, e Exam) ([]Finding, error) { return e.run(ctx, kinds) }

func (e *Exam) run(ctx context.Context, kinds []kind) (all []Finding, err error) {
	e.failed, e.sound = map[string]error{}, map[image.Digest]bool{}
	known := map[string]bool{}
	for {
		found, err := e.round(ctx, kinds, known)
		left, fresh := map[string]bool{}, false
		for _, f := range found {
			left[f.id()] = true
			if !known[f.id()] {
				known[f.id()], fresh = true, true
				all = append(all, f)
			}
		}
		if err != nil {
			return all, err
		}
		if e.Repair && fresh {
			continue
		}
		for i := range all {
			f := &all[i]
			f.Repaired = !left[f.id()]
			if err := e.failed[f.id()]; err != nil && !f.Repaired {
				f.Repair += "; that failed: " + err.Error()
			}
		}
		return all, nil
	}
}

// round looks for every kind, and mends those findings that are not known yet.
func (e *Exam) round(ctx context.Context, kinds []kind, known map[string]bool) (all []Finding, err error) {
	e.blind = false
	for _, k := range kinds {
		e.Progress.Send(progress.Event{Kind: progress.Examining, What: k.name})
		e.found = nil
		switch err := k.look(e, ctx); {
		case errdefs.IsDataLoss(err) && len(all) > 0:
			continue // a row that it needs cannot be read, which has been told
		case err != nil:
			return all, fmt.Errorf("look for %s: %w", k.name, err)
		}
		for i := range e.found {
			f := &e.found[i]
			f.Kind = k.name
			all = append(all, *f)
			if !e.Repair || known[f.id()] {
				continue
			}
			if err := e.mend(ctx, *f); err != nil {
				return all, err
			}
		}
		if err := e.refetch(ctx); err != nil {
			return all, err
		}
		if e.blind {
			break
		}
	}
	return all, nil
}

// mend repairs one finding. That it fails is noted, and only the end of ctx is an error.
func (e *Exam) mend(ctx context.Context, f Finding) error {
	e.mending = f.id()
	if err := f.mend(ctx); err != nil {
		e.failed[f.id()] = err
	}
	return context.Cause(ctx)
}

// A wanted blob is one that is to be fetched again, together with all the others of a kind.
type wanted struct {
	image.Descriptor
	finding string // its id
}

// want asks, on behalf of the finding that is being mended, for a blob that is not here.
func (e *Exam) want(d image.Descriptor) { e.wanted = append(e.wanted, wanted{d, e.mending}) }

// refetch brings what was asked for. From before it tries, no row says that it is here.
func (e *Exam) refetch(ctx context.Context) error {
	list := e.wanted
	e.wanted = nil
	if len(list) == 0 {
		return nil
	}
	want, digests := make([]image.Descriptor, len(list)), make([]image.Digest, len(list))
	for i, w := range list {
		want[i], digests[i] = w.Descriptor, w.Digest
	}
	if err := e.Meta.ForgetBlobs(ctx, digests...); err != nil {
		return err
	}
	lost, err := e.Refetch(ctx, want)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, w := range list {
		if why := cmp.Or(lost[w.Digest], err); why != nil {
			e.failed[w.finding] = why
		} else {
			e.sound[w.Digest] = true
		}
	}
	return nil
}

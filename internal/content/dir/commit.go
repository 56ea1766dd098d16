package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

// Modes of a blob's file: on its way to its name; with its name, on a disk that was not synced;
// with its name, and durable.
const (
	sealed   = 0o400
	unsynced = 0o440
	finished = 0o444
)

// modes are those of a blob from when it is sealed, and from the end of its commit.
func (s *Store) modes() (from, to fs.FileMode) {
	if vfs.Syncs(s.disk) {
		return sealed, finished
	}
	return unsynced, unsynced
}

// Commit implements [content.Store].
func (s *Store) Commit(ctx context.Context, ingests ...content.Ingest) error {
	var b batch
	for _, c := range ingests {
		in, ok := c.(*ingest)
		switch {
		case !ok || in.store != s:
			err := fmt.Errorf("it is not of this store: %w", errdefs.ErrInvalidArgument)
			b.errs = append(b.errs, fmt.Errorf("commit ingest %s: %w", c.Key(), errors.Join(err, c.Close())))
		case in.ended:
			b.failed(in, in.usable())
		case ctx.Err() != nil:
			b.failed(in, errors.Join(context.Cause(ctx), in.end(in.keep())))
		default:
			b.add(in)
		}
	}
	s.publish(&b)
	return errors.Join(b.errs...)
}

// A batch is committed together. An ingest that fails leaves it.
type batch struct {
	ingests []*ingest
	errs    []error
}

// add takes in an ingest whose bytes are what was wanted.
func (b *batch) add(in *ingest) {
	err := in.want.Check(in.offset, in.Digest())
	switch {
	case err == nil:
		b.ingests = append(b.ingests, in)
	case errdefs.IsOutOfRange(err) && in.offset > 0: // too short: another try may mend it
		b.failed(in, errors.Join(err, in.end(in.keep())))
	default:
		b.failed(in, errors.Join(err, in.end(in.discard())))
	}
}

func (b *batch) failed(in *ingest, err error) {
	b.errs = append(b.errs, fmt.Errorf("commit ingest %s: %w", in.key, err))
}

// each does one step for every ingest and drops those that it fails for, their bytes kept.
func (b *batch) each(step func(*ingest) error) {
	var rest []*ingest
	for _, in := range b.ingests {
		if err := step(in); err != nil {
			_ = in.store.disk.Chmod(in.path, 0o644) // no longer on its way; Begin copes if it stays
			b.failed(in, errors.Join(err, in.end(in.keep())))
			continue
		}
		rest = append(rest, in)
	}
	b.ingests = rest
}

// publish is the one place where blobs become visible: written, synced, renamed, and their
// folder synced, each step for all before the next begins.
func (s *Store) publish(b *batch) {
	// The mode goes to disk with the bytes: a file without its write bit was on its way here.
	from, to := s.modes()
	b.each(func(in *ingest) error { return s.disk.Chmod(in.path, from) })
	if len(b.ingests) == 0 {
		return
	}
	if err := s.flush(b.ingests); err != nil {
		for _, in := range b.ingests {
			b.failed(in, errors.Join(err, in.end(in.spoil())))
		}
		return
	}
	b.each(func(in *ingest) error {
		if in.hasState { // first, since the next writer of the key may have its own right after
			_ = s.disk.Remove(statePath(in.path)) // one that is left vouches for nothing that is there
		}
		return s.disk.Rename(in.path, blobPath(in.Digest()))
	})
	synced := map[string]error{}
	sync := func(folder string) error {
		if _, done := synced[folder]; !done {
			synced[folder] = s.disk.SyncDir(folder)
		}
		return synced[folder]
	}
	for _, in := range b.ingests {
		err := sync(algorithmDir(in.want.Algorithm()))
		if in.synced { // or a power loss may put the state beside what the next writer of the key has
			err = errors.Join(err, sync(ingestsDir))
		}
		if err != nil {
			// The mode that stays says that the name may not: see settled.
			b.failed(in, in.end(err))
			continue
		}
		if from != to {
			err = s.disk.Chmod(blobPath(in.Digest()), to)
		}
		if err = in.end(err); err != nil {
			b.failed(in, err)
		}
	}
}

// flush makes the bytes durable. One file is synced alone; for more, one flush of the whole disk
// is cheaper than one each.
func (s *Store) flush(ingests []*ingest) error {
	if len(ingests) == 1 {
		return ingests[0].file.Sync()
	}
	return s.disk.SyncAll()
}

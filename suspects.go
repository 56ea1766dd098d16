package stowage

import (
	"context"
	"fmt"
	"time"

	"github.com/stowage/stowage/internal/doctor"
	"github.com/stowage/stowage/internal/progress"
)

// distrust verifies what was written last, if the machine went down meanwhile. What keeps it from
// that, such as a damaged database, is told and is no error: the next one tries again.
func (s *Store) distrust(o Options) error {
	ctx := o.Context
	if ctx == nil {
		ctx = context.Background()
	}
	warn := func(format string, args ...any) {
		o.Progress.Send(progress.Event{Kind: progress.Warning, Message: fmt.Sprintf(format, args...)})
	}
	err := s.mark.Check(ctx, func(since time.Time) error {
		when := "ever"
		if !since.IsZero() {
			when = since.Local().Format(time.DateTime)
		}
		warn("the machine went down while the store was being written to; verifying what was written since %s", when)
		found, err := doctor.Distrust(ctx, doctor.Exam{
			Root: s.root, Namespace: s.ns, Content: s.content, Meta: s.meta,
			Snapshotters: s.allSnapshotters, Plain: s.extractor().Plain, Options: doctor.Options{Progress: o.Progress},
		}, since)
		if err != nil {
			return err
		}
		if found.Wrong() == 0 {
			warn("verified %d blobs and %d unpacked layers: all are whole", found.Blobs, found.Trees)
			return nil
		}
		warn("verified %d blobs and %d unpacked layers: %d are damaged or missing, and are not used; run `stowage doctor --repair`",
			found.Blobs, found.Trees, found.Wrong())
		return nil
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	s.log.Warn("what was written before the machine went down could not be verified", "reason", err)
	return nil
}

// Writing begins an operation that may write blobs or snapshots; what it returns ends it. The faces that
// write to [Store.Content] by themselves say so.
func (s *Store) Writing() (end func()) { return s.writing() }

func (s *Store) writing() (end func()) {
	if s.peer != nil {
		end := s.peer.Act()
		return func() {
			if err := end(context.Background()); err != nil {
				s.log.Warn("the lease of an operation stays until it expires", "reason", err)
			}
		}
	}
	s.mark.Enter()
	return func() {
		// A mark that stays costs a verification, should the machine go down.
		if err := s.mark.Leave(); err != nil {
			s.log.Warn("the store is still marked as being written", "reason", err)
		}
	}
}

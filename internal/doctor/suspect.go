package doctor

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// Suspects says what was verified after the machine went down, and what of it counts for nothing
// now.
type Suspects struct {
	Blobs, Trees int            // that were verified
	Corrupt      []image.Digest // blobs of other bytes than they should have
	Missing      []image.Digest // blobs that should be here
	Damaged      []string       // trees, as findings call them
}

// Wrong counts what is damaged.
func (s Suspects) Wrong() int { return len(s.Corrupt) + len(s.Missing) + len(s.Damaged) }

// coarse is by how much times that the kernel gives files may be behind those that it tells.
const coarse = time.Second

// Distrust verifies what was written at a time or later: blobs, and unpacked layers. What is
// wrong counts for nothing from then on, and is found by [Run], which can mend it: a blob is moved
// aside, and images that need it are partial; a tree is condemned, and unpacked again by whoever
// needs it.
func Distrust(ctx context.Context, e Exam, since time.Time) (s Suspects, err error) {
	since = since.Add(-coarse)
	if err := e.distrustBlobs(ctx, since, &s); err != nil {
		return s, err
	}
	in := scope{since: since, all: true, lost: slices.Concat(s.Corrupt, s.Missing)}
	s.Trees, err = e.eachTree(ctx, in, func(t tree, why string) error {
		s.Damaged = append(s.Damaged, t.subject(t.key))
		return t.Condemn(t.folder, why)
	})
	return s, err
}

func (e *Exam) distrustBlobs(ctx context.Context, since time.Time, s *Suspects) error {
	var list []content.Info
	there := map[image.Digest]bool{}
	for info, err := range e.Content.Blobs(ctx) {
		if err != nil {
			return err
		}
		there[info.Digest] = true
		if !info.CreatedAt.Before(since) {
			list = append(list, info)
		}
	}
	s.Blobs = len(list)
	err := VerifyBlobs(ctx, e.Content, list, VerifyOptions{Rate: e.Rate, Progress: e.Progress}, func(f BlobFinding) {
		if f.Verdict == Corrupt {
			s.Corrupt = append(s.Corrupt, f.Digest)
		}
	})
	if err != nil {
		return err
	}
	for _, d := range s.Corrupt {
		if _, err := e.Content.Quarantine(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	namespaces, err := e.Meta.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		rows, err := e.Meta.Blobs(ctx, ns.Name)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !there[row.Digest] && !row.CreatedAt.Before(since) {
				s.Missing = append(s.Missing, row.Digest)
			}
		}
	}
	// Some need not be here, such as those that were evicted.
	here, err := e.Meta.HasBlobs(ctx, s.Missing...)
	if err != nil {
		return err
	}
	s.Missing = slices.DeleteFunc(s.Missing, func(d image.Digest) bool { return !here[d] })
	if gone := slices.Concat(s.Corrupt, s.Missing); len(gone) > 0 {
		return e.Meta.ForgetBlobs(ctx, gone...)
	}
	return nil
}

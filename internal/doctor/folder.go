package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/snapshot"
)

// snapshotters gives each snapshotter once, in whichever namespace.
func (e *Exam) snapshotters(ctx context.Context) (list []*snapshot.Store, err error) {
	stores, err := e.Snapshotters(ctx)
	if err != nil {
		return nil, err
	}
	met := map[string]bool{}
	for _, s := range stores {
		if !met[s.Name()] {
			met[s.Name()] = true
			list = append(list, s)
		}
	}
	return list, nil
}

// secondLook is how long whoever has just removed the row of a snapshot gets to remove its folder.
const secondLook = time.Second

// orphanFolders looks for folders among those of snapshots that no snapshot has. A row goes before its
// folder does, so that only what is there at a second look counts.
func (e *Exam) orphanFolders(ctx context.Context) error {
	list, err := e.snapshotters(ctx)
	if err != nil {
		return err
	}
	first := map[string][]string{}
	for _, s := range list {
		names, err := strays(ctx, s)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			first[s.Name()] = names
		}
	}
	if len(first) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(secondLook):
	}
	for _, s := range list {
		names, err := strays(ctx, s)
		if err != nil {
			return err
		}
		for _, name := range names {
			if !slices.Contains(first[s.Name()], name) {
				continue
			}
			e.report(Finding{
				Subject: s.Path(name),
				Detail:  fmt.Sprintf("no snapshot of %s has this folder", s.Name()),
				Repair:  "remove it",
				mend:    func(ctx context.Context) error { return s.RemoveStray(ctx, name) },
			})
		}
	}
	return nil
}

// strays lists the folders of a snapshotter that no snapshot has.
func strays(ctx context.Context, s *snapshot.Store) ([]string, error) {
	names, err := s.Strays(ctx)
	if errdefs.IsDataLoss(err) {
		return nil, nil // a row that cannot be read may have any of them
	}
	return names, err
}

package doctor

import (
	"context"
	"fmt"

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

// orphanFolders looks for folders among those of snapshots that no snapshot has.
func (e *Exam) orphanFolders(ctx context.Context) error {
	list, err := e.snapshotters(ctx)
	if err != nil {
		return err
	}
	for _, s := range list {
		names, err := s.Strays(ctx)
		if errdefs.IsDataLoss(err) {
			continue // a row that cannot be read may have any of them
		}
		if err != nil {
			return err
		}
		for _, name := range names {
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

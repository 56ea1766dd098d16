package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

// strayMounts looks for mounts of folders that no snapshot has. A mount at a place that a snapshot
// is called after is that snapshot's, and one of a folder that was found damaged belongs to whoever
// had it mounted before.
func (e *Exam) strayMounts(ctx context.Context) error {
	shelves, err := e.shelves(ctx)
	if err != nil {
		return err
	}
	list, err := e.snapshotters(ctx)
	if err != nil {
		return err
	}
	mounts, err := mount.Beneath("/")
	if err != nil {
		return err
	}
	for _, s := range list {
		folders, err := s.Folders(ctx)
		if errdefs.IsDataLoss(err) {
			continue // a row that cannot be read may have any of them
		}
		if err != nil {
			return err
		}
		for _, m := range mounts {
			shown := s.Shows(m)
			if len(shown) == 0 || slices.ContainsFunc(shown, func(name string) bool { return folders[name] }) ||
				slices.ContainsFunc(shelves, func(other *shelf) bool { return other.Name() == s.Name() && other.rows[m.Target].Key != "" }) {
				continue
			}
			if stays, err := condemned(s, shown); stays || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			e.report(Finding{
				Subject: m.Target,
				Detail:  fmt.Sprintf("what is mounted there shows %s, which no snapshot of %s has", strings.Join(shown, ", "), s.Name()),
				Repair:  "unmount it",
				mend:    func(context.Context) error { return mount.Unmount(m.Target) },
			})
		}
	}
	return nil
}

// condemned tells whether one of the folders was found damaged.
func condemned(s *snapshot.Store, folders []string) (bool, error) {
	for _, name := range folders {
		if _, is, err := s.Condemned(name); is || err != nil {
			return is, err
		}
	}
	return false, nil
}

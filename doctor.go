package stowage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// A DoctorReport is what [Store.Doctor] found.
type DoctorReport struct {
	Snapshotters []SnapshotterState
	Findings     []Finding
}

// A SnapshotterState says whether a snapshotter works here.
type SnapshotterState struct {
	Name    string
	Default bool   // used when none is named
	Reason  string // why it does not work; empty: it does
}

// A Finding is one thing that is not as it should be.
type Finding struct {
	Kind     string `json:"kind"` // partial-image, lost-snapshot or damaged-snapshot
	Subject  string `json:"subject"`
	Detail   string `json:"detail"`
	Repair   string `json:"repair"` // what would mend it
	Repaired bool   `json:"repaired"`
}

// Doctor finds out which snapshotters work on the store's filesystem, and which images and
// snapshots are not whole. It changes nothing.
func (s *Store) Doctor(ctx context.Context) (*DoctorReport, error) {
	report := &DoctorReport{Findings: []Finding{}}
	best, bestErr := s.Snapshotter("")
	for _, name := range snapshotters {
		sn, err := s.Snapshotter(name)
		state := SnapshotterState{Name: name, Default: bestErr == nil && name == best.Name()}
		if err != nil {
			state.Reason = err.Error()
		}
		report.Snapshotters = append(report.Snapshotters, state)
		if err != nil {
			continue
		}
		lost, err := lostSnapshots(ctx, sn)
		if err != nil {
			return nil, fmt.Errorf("examine snapshotter %s: %w", name, err)
		}
		report.Findings = append(report.Findings, lost...)
	}
	images, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if img.State == Partial {
			report.Findings = append(report.Findings, Finding{
				Kind: "partial-image", Subject: img.Name, Detail: "blobs are missing; `stowage image check` lists them", Repair: "pull it again",
			})
		}
	}
	return report, nil
}

// lostSnapshots finds those whose folder is gone.
func lostSnapshots(ctx context.Context, sn *Snapshotter) (list []Finding, err error) {
	rows, err := sn.Walk(ctx)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		_, err := os.Lstat(sn.Path(row.Folder))
		switch {
		case row.Damaged:
			list = append(list, Finding{
				Kind: "damaged-snapshot", Subject: row.Key, Detail: "the record of this " + sn.Name() + " snapshot cannot be read",
				Repair: "`stowage snapshot rm --snapshotter " + sn.Name() + "` removes it",
			})
		case errors.Is(err, fs.ErrNotExist) && !row.Lazy:
			repair := "remove it: what was written there is lost"
			if row.DiffID != "" {
				repair = "pull or mount its image, which unpacks it again"
			}
			list = append(list, Finding{
				Kind: "lost-snapshot", Subject: row.Key, Detail: "the folder of this " + sn.Name() + " snapshot is gone", Repair: repair,
			})
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return slices.Clip(list), nil
}

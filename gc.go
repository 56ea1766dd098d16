package stowage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/gc"
)

// PruneReport is what a collection took away.
type PruneReport = gc.Report

// Prune deletes what no image, lease or running operation refers to: blobs, and the snapshots of
// images. Snapshots that were prepared or committed by hand stay. The report is good after an
// error, too.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	began := time.Now()
	if s.peer != nil {
		return s.prunePeer(ctx, o)
	}
	if !o.DryRun {
		if err := s.cleanMounts(ctx); err != nil {
			return &PruneReport{}, fmt.Errorf("collect: %w", err)
		}
	}
	if o.Grace == 0 {
		o.Grace = s.gc.Grace
	}
	s.held.reset()
	r, err := gc.Run(ctx, s.collected(), o)
	r.Longest = s.held.longest()
	if err == nil && !o.DryRun && len(o.Below) == 0 {
		err = s.meta.Forget(ctx, time.Now().Add(-s.grace()))
	}
	if err != nil {
		err = fmt.Errorf("collect: %w", err)
	}
	if !o.DryRun {
		s.ended(began, Act{Kind: CollectAct, Err: err, Collected: &r})
	}
	return &r, err
}

// collected is the store as collections see it.
func (s *Store) collected() gc.Store {
	var there []string
	for _, name := range s.Snapshotters() {
		if _, err := os.Stat(filepath.Join(s.root, "snapshots", name)); !errors.Is(err, fs.ErrNotExist) {
			there = append(there, name)
		}
	}
	return gc.Store{
		Meta: s.meta, Content: s.content, Snapshotters: there,
		Open: func(name string) (gc.Folders, error) {
			sn, err := s.Snapshotter(name)
			if errdefs.IsNotImplemented(err) {
				s.log.Warn("the folders of a snapshotter cannot be collected", "snapshotter", name, "reason", err)
			}
			return sn, err
		},
	}
}

// A stopwatch keeps for how long the database was locked at most.
type stopwatch struct{ most atomic.Int64 }

func (w *stopwatch) note(d time.Duration) {
	for {
		most := w.most.Load()
		if int64(d) <= most || w.most.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

func (w *stopwatch) reset() { w.most.Store(0) }

func (w *stopwatch) longest() time.Duration { return time.Duration(w.most.Load()) }

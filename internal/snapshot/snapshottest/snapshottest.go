// Package snapshottest is the suite that every driver of snapshots passes: that of the states,
// which [snapshot.Store] keeps, and of the trees, which are looked at through real mounts.
package snapshottest

import (
	"testing"

	"github.com/stowage/stowage/internal/snapshot"
)

// Run checks that a snapshotter keeps the contract of [snapshot.Store], with containerd's meaning
// of keys, names, kinds, parents and labels, and that its driver keeps that of [snapshot.Driver].
// Open is called once per check and returns an empty store, with [snapshot.Options.NoSync] so that
// the suite takes seconds; it registers its own cleanup with t. The process may make mounts, and
// has the ids from 0 to 65535.
func Run(t *testing.T, open func(t *testing.T) *snapshot.Store) {
	for _, c := range []struct {
		name  string
		check func(*world)
	}{
		{"states", states},
		{"one space of keys", oneSpace},
		{"not there", notThere},
		{"parents", parents},
		{"odd keys", oddKeys},
		{"labels", labels},
		{"walk", walk},
		{"usage", usage},
		{"side by side", sideBySide},
		{"committed side by side", commitBeside},
		{"bound", bound},

		{"active", active},
		{"view", view},
		{"root", root},
		{"unchanged", unchanged},
		{"changes", changes},
		{"moved and removed below", movedBelow},
		{"60 commits", deep},
		{"commit refused", commitRefused},
		{"mounted", mounted},

		{"sweep", sweep},
		{"sweep what is mounted", sweepMounted},
		{"no layers", noLayers},
		{"not alone", notAlone},
		{"130 layers", manyLayers},
		{"layer twice", layerTwice},
		{"opaque root", opaqueRoot},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // unmounting an overlay waits for the disk
			w := &world{T: t, s: open(t)}
			t.Cleanup(w.clear)
			c.check(w)
		})
	}
}

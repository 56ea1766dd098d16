package snapshottest

import (
	"context"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/layertest"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

// A world is one check with its store.
type world struct {
	*testing.T
	s *snapshot.Store
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// is checks the kind of an error.
func (w *world) is(what string, err error, kind func(error) bool) {
	w.Helper()
	if !kind(err) {
		w.Errorf("%s: the error is of another kind, or there is none: %v", what, err)
	}
}

// prepare makes an active snapshot and mounts it until [world.unmount] or the end of the check.
func (w *world) prepare(key, parent string) (dir string) {
	w.Helper()
	mounts, err := w.s.Prepare(w.Context(), key, parent, nil)
	w.must(err)
	return w.mount(mounts)
}

// view is prepare for one that is looked at.
func (w *world) view(key, parent string) (dir string) {
	w.Helper()
	mounts, err := w.s.View(w.Context(), key, parent, nil)
	w.must(err)
	return w.mount(mounts)
}

func (w *world) mount(mounts []mount.Mount) (dir string) {
	w.Helper()
	dir = w.TempDir()
	w.must(mount.All(mounts, dir))
	w.Cleanup(func() { w.unmount(dir) })
	return dir
}

// unmount takes a mount away, unless that was done. It waits for processes that other checks start:
// until they run their own program, they have what we had open.
func (w *world) unmount(dir string) {
	w.Helper()
	var err error
	for range 100 {
		if err = mount.Unmount(dir); !errdefs.IsFailedPrecondition(err) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		w.Error(err)
	}
}

// commit makes a committed snapshot of what change makes of its parent.
func (w *world) commit(name, parent string, change func(*tree)) {
	w.Helper()
	key := "making " + name
	dir := w.prepare(key, parent)
	change(&tree{w: w, dir: dir})
	w.unmount(dir)
	w.must(w.s.Commit(w.Context(), name, key, nil))
}

// looked describes a committed snapshot by a view of it.
func (w *world) looked(name string) []string {
	w.Helper()
	key := "look at " + name
	dir := w.view(key, name)
	lines := w.describe(dir)
	w.unmount(dir)
	w.must(w.s.Remove(w.Context(), key))
	return lines
}

// read describes a snapshot of any kind without a mount.
func (w *world) read(key string) []string {
	w.Helper()
	t, err := w.s.Tree(w.Context(), key)
	w.must(err)
	lines := w.describe(w.made(w.emptyTree(), nil, t))
	w.must(t.Close())
	return lines
}

// emptyTree is a folder as the tree of no layers.
func (w *world) emptyTree() (dir string) {
	w.Helper()
	dir = w.TempDir()
	t := &tree{w: w, dir: dir}
	t.chmod(".", 0o755)
	t.date(".", 0)
	return dir
}

// made applies the layer between two trees to the folder dir, and returns it.
func (w *world) made(dir string, lower, upper layer.Tree) string {
	w.Helper()
	r, out := io.Pipe()
	go func() { out.CloseWithError(layer.Diff(w.Context(), out, lower, upper)) }()
	_, err := layer.Apply(w.Context(), r, dir, layer.Options{})
	w.must(r.CloseWithError(err))
	w.must(err)
	return dir
}

func (w *world) describe(dir string) []string {
	w.Helper()
	lines, err := layertest.Describe(dir)
	w.must(err)
	return lines
}

func (w *world) same(what string, want, got []string) {
	w.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

func (w *world) content(name, want string) {
	w.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != want {
		w.Errorf("%s: got %.40q and error %v, want %.40q", name, b, err, want)
	}
}

// clear removes all that a check left, children first. Nothing may be in the way of that, and
// nothing may stay.
func (w *world) clear() {
	ctx := context.Background() // that of the test is over
	for {
		rows, err := w.s.Walk(ctx)
		w.must(err)
		if len(rows) == 0 {
			break
		}
		parents := map[string]bool{}
		for _, row := range rows {
			parents[row.Parent] = true
		}
		rows = slices.DeleteFunc(rows, func(row snapshot.Snapshot) bool { return parents[row.Key] })
		for _, row := range rows {
			w.must(w.s.Remove(ctx, row.Key))
		}
	}
	_, err := w.s.Sweep(ctx)
	w.must(err)
	entries, err := os.ReadDir(w.s.Path("."))
	w.must(err)
	for _, e := range entries {
		// What is not a folder of a snapshot is the store's or the driver's own.
		if e.IsDir() && e.Name() != "busy" {
			w.Errorf("folder %s is left", e.Name())
		}
	}
}

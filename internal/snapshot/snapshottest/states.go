package snapshottest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/snapshot"
)

// A snapshot goes from active to committed, and is described at every step.
func states(w *world) {
	ctx, begun := w.Context(), time.Now()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	_, err := w.s.Prepare(ctx, "work", "base", map[string]string{"a": "1"})
	w.must(err)
	_, err = w.s.View(ctx, "look", "base", nil)
	w.must(err)
	for _, want := range []struct {
		key, parent string
		kind        snapshot.Kind
	}{{"base", "", snapshot.Committed}, {"work", "base", snapshot.Active}, {"look", "base", snapshot.View}} {
		row, err := w.s.Stat(ctx, want.key)
		w.must(err)
		if row.Key != want.key || row.Parent != want.parent || row.Kind != want.kind {
			w.Errorf("got %+v, want %+v", row, want)
		}
		if row.CreatedAt.Before(begun) || row.UpdatedAt.Before(row.CreatedAt) || time.Now().Before(row.UpdatedAt) {
			w.Errorf("%s: created at %s, updated at %s", want.key, row.CreatedAt, row.UpdatedAt)
		}
	}
	// Mounts are given again, as often as somebody asks.
	for _, key := range []string{"work", "look"} {
		for range 2 {
			mounts, err := w.s.Mounts(ctx, key)
			w.must(err)
			dir := w.mount(mounts)
			w.content(dir+"/file", "base")
			w.unmount(dir)
		}
	}
	_, err = w.s.Mounts(ctx, "base")
	w.is("mounts of a committed one", err, errdefs.IsFailedPrecondition)
	w.must(w.s.Commit(ctx, "next", "work", nil))
	row, err := w.s.Stat(ctx, "next")
	w.must(err)
	if row.Kind != snapshot.Committed || row.Parent != "base" {
		w.Errorf("committed: got %+v", row)
	}
	_, err = w.s.Stat(ctx, "work")
	w.is("the key after commit", err, errdefs.IsNotFound)
	// And so it may be used again.
	_, err = w.s.Prepare(ctx, "work", "next", nil)
	w.must(err)
}

// Keys and names are one space.
func oneSpace(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(*tree) {})
	_, err := w.s.Prepare(ctx, "work", "base", nil)
	w.must(err)
	_, err = w.s.View(ctx, "look", "", nil)
	w.must(err)
	for _, key := range []string{"base", "work", "look"} {
		_, err := w.s.Prepare(ctx, key, "base", nil)
		w.is("prepare "+key, err, errdefs.IsAlreadyExists)
		_, err = w.s.View(ctx, key, "", nil)
		w.is("view "+key, err, errdefs.IsAlreadyExists)
		w.is("commit as "+key, w.s.Commit(ctx, key, "work", nil), errdefs.IsAlreadyExists)
	}
	w.is("commit a view", w.s.Commit(ctx, "new", "look", nil), errdefs.IsFailedPrecondition)
	w.is("commit a committed one", w.s.Commit(ctx, "new", "base", nil), errdefs.IsFailedPrecondition)
}

func notThere(w *world) {
	ctx := w.Context()
	for what, f := range map[string]func() error{
		"stat":    func() error { _, err := w.s.Stat(ctx, "no"); return err },
		"mounts":  func() error { _, err := w.s.Mounts(ctx, "no"); return err },
		"usage":   func() error { _, err := w.s.Usage(ctx, "no"); return err },
		"label":   func() error { _, err := w.s.Label(ctx, "no", map[string]string{"a": "b"}); return err },
		"tree":    func() error { _, err := w.s.Tree(ctx, "no"); return err },
		"remove":  func() error { return w.s.Remove(ctx, "no") },
		"commit":  func() error { return w.s.Commit(ctx, "name", "no", nil) },
		"prepare": func() error { _, err := w.s.Prepare(ctx, "key", "no", nil); return err },
		"view":    func() error { _, err := w.s.View(ctx, "key", "no", nil); return err },
	} {
		w.is(what, f(), errdefs.IsNotFound)
	}
	t, err := w.s.Tree(ctx, "")
	if t != nil || err != nil {
		w.Errorf("the tree of nothing: got %v and error %v", t, err)
	}
}

// Only committed snapshots are parents, and they stay as long as they are.
func parents(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(*tree) {})
	for _, make := range []func(key, parent string) error{
		func(key, parent string) error { _, err := w.s.Prepare(ctx, key, parent, nil); return err },
		func(key, parent string) error { _, err := w.s.View(ctx, key, parent, nil); return err },
	} {
		w.must(make("child", "base"))
		w.is("on one that is not committed", make("grandchild", "child"), errdefs.IsFailedPrecondition)
		w.is("remove a parent", w.s.Remove(ctx, "base"), errdefs.IsFailedPrecondition)
		w.must(w.s.Remove(ctx, "child"))
	}
	w.commit("child", "base", func(*tree) {})
	w.is("remove a parent", w.s.Remove(ctx, "base"), errdefs.IsFailedPrecondition)
	w.must(w.s.Remove(ctx, "child"))
	w.must(w.s.Remove(ctx, "base"))
	_, err := w.s.Stat(ctx, "base")
	w.is("stat of what was removed", err, errdefs.IsNotFound)
	w.is("remove it again", w.s.Remove(ctx, "base"), errdefs.IsNotFound)
}

func oddKeys(w *world) {
	ctx := w.Context()
	keys := []string{
		"a/b", "/", "../../../escape", "..", ".", "busy", " ", "line\nbreak", "snow ☃", "%2f", "a\\b",
		strings.Repeat("long", 250), "sha256:" + strings.Repeat("0", 64),
	}
	for _, key := range keys {
		w.commit(key, "", func(t *tree) { t.write("key", key) })
	}
	for _, key := range keys {
		dir := w.view("look at "+key[:min(20, len(key))], key)
		w.content(dir+"/key", key)
		w.unmount(dir)
	}
	for _, key := range []string{"", "nul\x00", "not utf-8 \xff", strings.Repeat("x", 4096)} {
		what := fmt.Sprintf("%.10q", key)
		_, err := w.s.Prepare(ctx, key, "", nil)
		w.is("prepare "+what, err, errdefs.IsInvalidArgument)
		_, err = w.s.Prepare(ctx, "to commit as "+what, "", nil)
		w.must(err)
		w.is("commit as "+what, w.s.Commit(ctx, key, "to commit as "+what, nil), errdefs.IsInvalidArgument)
	}
}

// Labels are set, changed and removed one by one; a commit has those that it is given and not
// those of the active snapshot.
func labels(w *world) {
	ctx := w.Context()
	has := func(key string, want map[string]string) {
		w.Helper()
		row, err := w.s.Stat(ctx, key)
		w.must(err)
		if !maps.Equal(row.Labels, want) {
			w.Errorf("labels of %s: got %v, want %v", key, row.Labels, want)
		}
	}
	_, err := w.s.Prepare(ctx, "work", "", map[string]string{"a": "1", "b": "2"})
	w.must(err)
	has("work", map[string]string{"a": "1", "b": "2"})
	row, err := w.s.Label(ctx, "work", map[string]string{"a": "", "b": "3", "c": "4"})
	w.must(err)
	if want := map[string]string{"b": "3", "c": "4"}; !maps.Equal(row.Labels, want) {
		w.Errorf("label returns %v, want %v", row.Labels, want)
	}
	has("work", map[string]string{"b": "3", "c": "4"})
	w.must(w.s.Commit(ctx, "done", "work", map[string]string{"d": "5"}))
	has("done", map[string]string{"d": "5"})
	_, err = w.s.View(ctx, "look", "done", nil)
	w.must(err)
	has("look", nil)
	before, err := w.s.Stat(ctx, "done")
	w.must(err)
	_, err = w.s.Label(ctx, "done", map[string]string{"e": "6"})
	w.must(err)
	after, err := w.s.Stat(ctx, "done")
	w.must(err)
	if !after.CreatedAt.Equal(before.CreatedAt) || after.UpdatedAt.Before(before.UpdatedAt) || after.Kind != snapshot.Committed {
		w.Errorf("a label changes %+v to %+v", before, after)
	}
	_, err = w.s.Label(ctx, "done", map[string]string{"": "no key"})
	w.is("label without a key", err, errdefs.IsInvalidArgument)
}

func walk(w *world) {
	ctx := w.Context()
	w.commit("b", "", func(*tree) {})
	w.commit("a", "b", func(*tree) {})
	_, err := w.s.Prepare(ctx, "c", "a", nil)
	w.must(err)
	rows, err := w.s.Walk(ctx)
	w.must(err)
	var got []string
	for _, row := range rows {
		got = append(got, fmt.Sprintf("%s on %q: %s", row.Key, row.Parent, row.Kind))
		stat, err := w.s.Stat(ctx, row.Key)
		w.must(err)
		if stat.Folder != row.Folder || !stat.CreatedAt.Equal(row.CreatedAt) {
			w.Errorf("stat gives %+v, walk %+v", stat, row)
		}
	}
	if want := []string{`a on "b": committed`, `b on "": committed`, `c on "a": active`}; !slices.Equal(got, want) {
		w.Errorf("got %q, want %q", got, want)
	}
}

// Of many who want a key, one gets it; and a sweep meanwhile takes nothing that is needed.
func sideBySide(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			_, err := w.s.Prepare(ctx, "wanted", "base", nil)
			switch {
			case err == nil:
				won.Add(1)
			case !errdefs.IsAlreadyExists(err):
				w.Errorf("prepare what others prepare: %v", err)
			}
			for n := range 4 {
				key := fmt.Sprintf("own %d %d", i, n)
				_, err := w.s.Prepare(ctx, key, "base", nil)
				if err == nil {
					err = w.s.Commit(ctx, "committed "+key, key, nil)
				}
				if err == nil {
					_, err = w.s.View(ctx, key, "committed "+key, nil)
				}
				if n%2 == 0 {
					err = errors.Join(err, w.s.Remove(ctx, key), w.s.Remove(ctx, "committed "+key))
				}
				if err != nil {
					w.Errorf("%s: %v", key, err)
				}
			}
		})
		all.Go(func() {
			if _, err := w.s.Sweep(ctx); err != nil {
				w.Errorf("sweep: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		w.Errorf("%d prepared one key", won.Load())
	}
	rows, err := w.s.Walk(ctx)
	w.must(err)
	if want := 2 + 8*4; len(rows) != want { // base and wanted; of each its two views, and what is below
		w.Errorf("got %d snapshots, want %d", len(rows), want)
	}
	for _, row := range rows {
		if row.Kind != snapshot.Committed {
			mounts, err := w.s.Mounts(ctx, row.Key)
			w.must(err)
			dir := w.mount(mounts)
			w.content(dir+"/file", "base")
			w.unmount(dir)
		}
	}
}

// Of many who commit one snapshot, one does, and it is whole.
func commitBeside(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	dir := w.prepare("work", "base")
	for i := range 50 {
		w.must(os.WriteFile(fmt.Sprintf("%s/%d", dir, i), []byte("new"), 0o644))
	}
	w.unmount(dir)
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			err := w.s.Commit(ctx, fmt.Sprintf("done %d", i), "work", nil)
			switch {
			case err == nil:
				won.Add(1)
			case !errdefs.IsNotFound(err):
				w.Errorf("commit what others commit: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		w.Errorf("%d committed one snapshot", won.Load())
	}
	rows, err := w.s.Walk(ctx)
	w.must(err)
	if len(rows) != 2 {
		w.Fatalf("got %d snapshots, want 2", len(rows))
	}
	dir = w.view("look", rows[1].Key)
	w.content(dir+"/file", "base")
	for i := range 50 {
		w.content(fmt.Sprintf("%s/%d", dir, i), "new")
	}
	w.unmount(dir)
}

// What other programs are to mount is of kinds that they know, and shows the same.
func bound(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	_, err := w.s.Prepare(ctx, "work", "base", nil)
	w.must(err)
	_, err = w.s.View(ctx, "look", "base", nil)
	w.must(err)
	for _, key := range []string{"work", "look", "look"} {
		mounts, err := w.s.Bind(ctx, key)
		w.must(err)
		for _, m := range mounts {
			if m.Type != "bind" && m.Type != "overlay" {
				w.Errorf("%s: a mount of type %s", key, m.Type)
			}
		}
		dir := w.mount(mounts)
		w.content(dir+"/file", "base")
		if err := os.WriteFile(dir+"/new", nil, 0o644); (err == nil) != (key == "work") {
			w.Errorf("%s: write: %v", key, err)
		}
		w.unmount(dir)
	}
	_, err = w.s.Bind(ctx, "base")
	w.is("mounts of a committed one", err, errdefs.IsFailedPrecondition)
	_, err = w.s.Bind(ctx, "no")
	w.is("mounts of none", err, errdefs.IsNotFound)
	w.must(w.s.Remove(ctx, "look"))
	w.must(w.s.Commit(ctx, "next", "work", nil))
}

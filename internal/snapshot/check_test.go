package snapshot_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/native"
)

// A folder that was found damaged counts as gone, for every process, until it is gone.
func TestCondemn(t *testing.T) {
	s, meta := open(t, native.New())
	ctx := t.Context()
	_, err := s.Prepare(ctx, "work", "", nil)
	must(t, err)
	must(t, s.Commit(ctx, "base", "work", nil))
	row, err := s.Stat(ctx, "base")
	must(t, err)
	if _, is, err := s.Condemned(row.Folder); is || err != nil {
		t.Errorf("condemned at once: %t, error %v", is, err)
	}
	must(t, s.Condemn(row.Folder, strings.Repeat("broken ", 2000)))
	other, err := snapshot.Open("native", filepath.Dir(s.Path("x")), native.New(), meta, snapshot.Options{Namespace: "default"})
	must(t, err)
	if why, is, err := other.Condemned(row.Folder); !is || err != nil || !strings.HasPrefix(why, "broken broken") {
		t.Errorf("condemned: %t for %.20q, error %v", is, why, err)
	}
	if other.There(row) {
		t.Error("it is still there")
	}
	if _, err := other.Prepare(ctx, "child", "base", nil); !errdefs.IsDataLoss(err) {
		t.Errorf("prepare on it: %v", err)
	}
	if whole, err := other.Whole(ctx, row); whole != nil || err != nil {
		t.Errorf("whole: %v, error %v", whole, err)
	}
	must(t, other.Remove(ctx, "base"))
	if list := names(t, s); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

// What somebody wrote is moved aside when its snapshot cannot stay; what only shows something else
// goes.
func TestSetAside(t *testing.T) {
	s, _ := open(t, native.New())
	ctx := t.Context()
	mounts, err := s.Prepare(ctx, "work", "", nil)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(mounts[0].Source, "file"), []byte("written"), 0o644))
	_, err = s.View(ctx, "view", "", nil)
	must(t, err)
	moved, err := s.SetAside(ctx, "work")
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(moved, "fs", "file")); err != nil || string(b) != "written" {
		t.Errorf("moved aside to %s: %q, error %v", moved, b, err)
	}
	if moved, err = s.SetAside(ctx, "view"); moved != "" || err != nil {
		t.Errorf("a view is moved to %q, error %v", moved, err)
	}
	if _, err := s.SetAside(ctx, "view"); !errdefs.IsNotFound(err) {
		t.Errorf("again: %v", err)
	}
	if list := names(t, s); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

// Folders that no row names are strays, unless somebody fills them.
func TestStrays(t *testing.T) {
	s, _ := open(t, native.New())
	ctx := t.Context()
	_, err := s.Prepare(ctx, "work", "", nil)
	must(t, err)
	filled, err := s.NewFolder()
	must(t, err)
	for _, name := range []string{"notours", "nobodys1"} {
		must(t, os.Mkdir(s.Path(name), 0o755))
	}
	list, err := s.Strays(ctx)
	must(t, err)
	if want := []string{"nobodys1", "notours"}; !slices.Equal(list, want) {
		t.Errorf("strays: got %q, want %q", list, want)
	}
	for _, name := range append(list, filled.Name) {
		must(t, s.RemoveStray(ctx, name))
	}
	if _, err := os.Stat(filled.Path); err != nil {
		t.Errorf("one that is being filled: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Path(".."), "quarantine", "native-notours")); err != nil {
		t.Errorf("one that is not ours: %v", err)
	}
	must(t, filled.Discard())
	if list, err = s.Strays(ctx); len(list) > 0 || err != nil {
		t.Errorf("strays are left: %q, error %v", list, err)
	}
}

package layer_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/layertest"
)

// The corpus becomes what GNU tar makes of it: in a whole tree, in folders that overlay mounts, and
// in folders that need no privileges.
func TestCorpus(t *testing.T) {
	for _, c := range layertest.Corpus() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			want := filepath.Join(t.TempDir(), "tree")
			layertest.Reference(t, c, want)

			whole := newRoot(t)
			for _, l := range c.Layers {
				applyTo(t, l, whole, layer.Options{ReportLosses: true})
			}
			alike(t, "a whole tree", want, whole)

			alike(t, "overlay", want, mountStack(t, layer.Overlay, applyStack(t, layer.Overlay, c.Layers)))
			alike(t, "overlay with userxattr", want, mountStack(t, layer.UserOverlay, applyStack(t, layer.UserOverlay, c.Layers)))
		})
	}
}

// newRoot is a folder as the root of the lowest layer should be.
func newRoot(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chtimes(dir, time.Unix(0, 0), time.Unix(0, 0)))
	return dir
}

func applyTo(t testing.TB, tar []byte, dir string, o layer.Options) layer.Result {
	t.Helper()
	result, err := layer.Apply(t.Context(), bytes.NewReader(tar), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// applyStack makes a folder of each layer, on those below it.
func applyStack(t testing.TB, form layer.Form, layers [][]byte) (dirs []string) {
	t.Helper()
	// An empty folder stands for what is below the lowest layer.
	stack := []string{newRoot(t)}
	for _, l := range layers {
		below, err := layer.OpenStack(form, stack)
		must(t, err)
		dir := filepath.Join(t.TempDir(), "layer")
		must(t, os.Mkdir(dir, 0o700))
		result := applyTo(t, l, dir, layer.Options{Form: form, Below: below, ReportLosses: true})
		must(t, below.Close())
		if result.Opaque {
			stack = stack[:1]
		}
		stack = append(stack, dir)
	}
	return stack
}

// mountStack mounts folders, the lowest first, and returns where.
func mountStack(t testing.TB, form layer.Form, dirs []string) string {
	t.Helper()
	place := t.TempDir()
	mountAt(t, form, dirs, place)
	// A process that another test starts has our files open for a moment, until it is itself.
	t.Cleanup(func() { must(t, unix.Unmount(place, unix.MNT_DETACH)) })
	return place
}

// mountAt mounts folders one by one: all of them may not fit into one page of options.
func mountAt(t fataler, form layer.Form, dirs []string, place string) {
	t.Helper()
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	mustBe(t, err)
	defer func() { mustBe(t, unix.Close(fs)) }()
	for _, dir := range slices.Backward(dirs) {
		mustBe(t, unix.FsconfigSetString(fs, "lowerdir+", dir))
	}
	if form == layer.UserOverlay {
		mustBe(t, unix.FsconfigSetFlag(fs, "userxattr"))
	}
	mustBe(t, unix.FsconfigSetFlag(fs, "ro"))
	mustBe(t, unix.FsconfigCreate(fs))
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	mustBe(t, err)
	defer func() { mustBe(t, unix.Close(mount)) }()
	mustBe(t, unix.MoveMount(mount, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// alike compares two trees.
func alike(t testing.TB, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(describe(t, want), describe(t, got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

func describe(t testing.TB, dir string) []string {
	t.Helper()
	lines, err := linesOf(dir)
	must(t, err)
	return lines
}

// linesOf describes a tree. Overlay counts the names of a file that a layer above hides: a file is
// linked when two names show it.
func linesOf(dir string) ([]string, error) {
	lines, err := layertest.Describe(dir)
	names := map[string]int{}
	for _, line := range lines {
		_, first, _ := strings.Cut(line, " same=")
		names[first]++
	}
	for i, line := range lines {
		if rest, first, linked := strings.Cut(line, " same="); linked && names[first] == 1 {
			lines[i] = rest
		}
	}
	return lines, err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

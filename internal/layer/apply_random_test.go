package layer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/layer"
)

// Random stacks of layers full of conflicts become the same tree in all forms, whether or not their
// entries are made side by side and whether or not it is known what is below.
func TestRandomStacks(t *testing.T) {
	place := t.TempDir()
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		base := filepath.Join(place, fmt.Sprint(round))
		must(t, os.Mkdir(base, 0o755))
		var layers [][]entry
		for range rapid.IntRange(1, 4).Draw(r, "layers") {
			layers = append(layers, rapid.SliceOfN(randomEntry(), 0, 30).Draw(r, "entries"))
		}
		checkStack(r, base, layers)
		must(t, layer.RemoveAll(base))
	})
}

// fataler is what both kinds of tests have.
type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func checkStack(t fataler, base string, layers [][]entry) {
	t.Helper()
	names := 0
	folder := func() string {
		names++
		dir := filepath.Join(base, fmt.Sprint("dir", names))
		mustBe(t, os.Mkdir(dir, 0o755))
		mustBe(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, make([]unix.Timespec, 2), 0))
		return dir
	}
	whole, inTurn := folder(), folder()
	stacks := map[layer.Form][]string{layer.Overlay: {folder()}, layer.UserOverlay: {folder()}}
	for i := 0; i < len(layers); {
		tar := archive(layers[i]...)
		if refused := refusal(t, stacks[layer.Overlay], tar, folder()); refused != nil && len(layers[i]) > 1 {
			// Most random layers are refused for something: try without.
			all := len(layers[i])
			layers[i] = slices.DeleteFunc(layers[i], func(e entry) bool {
				return strings.Contains(refused.Error(), fmt.Sprintf("entry %q:", e.name))
			})
			if len(layers[i]) == all {
				layers[i] = layers[i][:all-1]
			}
			continue
		}
		i++
		result, refused := apply(layer.Apply, tar, whole, layer.Options{})
		resultInTurn, refusedInTurn := apply(layer.ApplyInTurn, tar, inTurn, layer.Options{})
		if fmt.Sprint(refused) != fmt.Sprint(refusedInTurn) {
			t.Fatalf("layer %d: %v; in turn: %v", i, refused, refusedInTurn)
		}
		if diff := cmp.Diff(resultInTurn, result); diff != "" {
			t.Fatalf("layer %d: the result differs from that in turn (-in turn +not):\n%s", i, diff)
		}
		for form, stack := range stacks {
			dir, err := pileUp(t, form, stack, tar, folder)
			if (err == nil) != (refused == nil) {
				t.Fatalf("layer %d: %v in a whole tree, %v in form %d", i, refused, err, form)
			}
			if dir.Opaque {
				stack = stack[:1]
			}
			stacks[form] = append(slices.Clone(stack), dir.path)
		}
		if refused != nil {
			return
		}
	}
	want := described(t, inTurn)
	if diff := cmp.Diff(want, described(t, whole)); diff != "" {
		t.Fatalf("it depends on what is made side by side (-in turn +not):\n%s", diff)
	}
	for form, stack := range stacks {
		mount := folder()
		mountAt(t, form, stack, mount)
		diff := cmp.Diff(want, described(t, mount))
		mustBe(t, unix.Unmount(mount, 0))
		if diff != "" {
			t.Fatalf("form %d differs from a whole tree (-whole +form):\n%s", form, diff)
		}
	}
}

// refusal is why a layer cannot be put on a stack.
func refusal(t fataler, stack []string, tar []byte, dir string) error {
	t.Helper()
	below, err := layer.OpenStack(layer.Overlay, stack)
	mustBe(t, err)
	defer func() { mustBe(t, below.Close()) }()
	_, err = apply(layer.Apply, tar, dir, layer.Options{Form: layer.Overlay, Below: below})
	return err
}

type piled struct {
	layer.Result
	path string
}

// pileUp makes the folder of a layer on a stack, with and without knowing it.
func pileUp(t fataler, form layer.Form, stack []string, tar []byte, folder func() string) (piled, error) {
	t.Helper()
	below, err := layer.OpenStack(form, stack)
	mustBe(t, err)
	defer func() { mustBe(t, below.Close()) }()
	dir := folder()
	result, refused := apply(layer.Apply, tar, dir, layer.Options{Form: form, Below: below})

	blind := folder()
	blindResult, err := apply(layer.Apply, tar, blind, layer.Options{Form: form})
	if refused == nil && err != nil {
		t.Fatalf("not knowing what is below: %v", err)
	}
	if err == nil && complete(t, form, below, blind, blindResult) {
		if refused != nil {
			t.Fatalf("only refused when it is known what is below: %v", refused)
		}
		got, want := describedStack(t, form, stack, blindResult.Opaque, blind), describedStack(t, form, stack, result.Opaque, dir)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("a folder that was completed differs (-want +got):\n%s\nneeds %+v", diff, blindResult.Needs)
		}
		// The completed one is as good, so that those above are on top of either.
		return piled{blindResult, blind}, nil
	}
	return piled{result, dir}, refused
}

// complete does for a folder what [layer.Needs] say, and says whether that can be done.
func complete(t fataler, form layer.Form, below layer.Tree, dir string, result layer.Result) bool {
	t.Helper()
	needs := result.Needs
	lookup := func(path string) *layer.Node {
		n, err := below.Lookup(path)
		if errdefs.IsNotFound(err) {
			return nil
		}
		mustBe(t, err)
		return n
	}
	if len(needs.Links) > 0 {
		return false
	}
	for _, path := range slices.Concat(needs.Folders, needs.Through) {
		if n := lookup(path); n != nil && n.Mode&unix.S_IFMT == unix.S_IFLNK {
			return false
		}
	}
	for _, path := range needs.Whiteouts {
		if n := lookup(filepath.Dir(path)); n == nil || n.Mode&unix.S_IFMT != unix.S_IFDIR {
			removeFrom(t, filepath.Join(dir, path))
		}
	}
	for _, path := range slices.Backward(needs.Folders) {
		real := filepath.Join(dir, path)
		n := lookup(path)
		if n == nil || n.Mode&unix.S_IFMT != unix.S_IFDIR {
			entries, err := os.ReadDir(real)
			mustBe(t, err)
			if len(entries) == 0 {
				removeFrom(t, real)
			}
			continue
		}
		giveAttributes(t, real, n)
	}
	if n := lookup("."); !result.Root {
		giveAttributes(t, dir, n)
	}
	return true
}

// removeFrom removes something without changing the time of its folder.
func removeFrom(t fataler, path string) {
	t.Helper()
	folder, err := os.Stat(filepath.Dir(path))
	mustBe(t, err)
	mustBe(t, os.Remove(path))
	mustBe(t, os.Chtimes(filepath.Dir(path), folder.ModTime(), folder.ModTime()))
}

func giveAttributes(t fataler, real string, n *layer.Node) {
	t.Helper()
	mustBe(t, os.Chown(real, int(n.UID), int(n.GID)))
	mustBe(t, unix.Chmod(real, n.Mode&0o7777))
	for name, value := range n.Xattrs {
		mustBe(t, unix.Setxattr(real, name, []byte(value), 0))
	}
	mustBe(t, os.Chtimes(real, n.ModTime, n.ModTime))
}

type applyFunc func(context.Context, io.Reader, string, layer.Options) (layer.Result, error)

func apply(f applyFunc, tar []byte, dir string, o layer.Options) (layer.Result, error) {
	result, err := f(context.Background(), bytes.NewReader(tar), dir, o)
	if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
		panic(fmt.Sprintf("layers fail for other reasons: %v", err))
	}
	return result, err
}

func described(t fataler, dir string) []string {
	t.Helper()
	lines, err := linesOf(dir)
	mustBe(t, err)
	return lines
}

func describedStack(t fataler, form layer.Form, stack []string, opaque bool, dir string) []string {
	t.Helper()
	if opaque {
		stack = stack[:1]
	}
	mount, err := os.MkdirTemp(filepath.Dir(dir), "mount")
	mustBe(t, err)
	mountAt(t, form, append(slices.Clone(stack), dir), mount)
	lines, err := linesOf(mount)
	mustBe(t, errors.Join(err, unix.Unmount(mount, 0), os.Remove(mount)))
	return lines
}

func mustBe(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// String is for the report of a stack that fails.
func (e entry) String() string {
	return fmt.Sprintf("%c %s %s %o %d:%d %d", e.kind, e.name, e.target, e.mode, e.uid, e.gid, len(e.content))
}

// GoString is what rapid prints.
func (e entry) GoString() string { return e.String() }

// randomPath has few names, so that they meet.
func randomPath() *rapid.Generator[string] {
	return rapid.Custom(func(r *rapid.T) string {
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3).Draw(r, "names")
		return strings.Join(names, "/")
	})
}

func randomEntry() *rapid.Generator[entry] {
	return rapid.Custom(func(r *rapid.T) entry {
		path := randomPath().Draw(r, "path")
		e := entry{
			name:  path,
			mode:  rapid.SampledFrom([]int64{0o644, 0o755, 0o4711, 0o1777, 0o2070}).Draw(r, "mode"),
			uid:   rapid.Int64Range(0, 2).Draw(r, "uid"),
			gid:   rapid.Int64Range(0, 2).Draw(r, "gid"),
			mtime: rapid.Int64Range(1, 1<<33).Draw(r, "mtime"),
		}
		if rapid.IntRange(0, 3).Draw(r, "with xattrs") == 0 {
			e = e.with("SCHILY.xattr.trusted."+rapid.SampledFrom([]string{"x", "y"}).Draw(r, "xattr"), "1")
		}
		switch rapid.IntRange(0, 11).Draw(r, "kind") {
		case 0, 1, 2, 3:
			e.kind = '0'
			size := rapid.SampledFrom([]int{0, 1, 100, 5000, 300 << 10}).Draw(r, "size")
			e.content = strings.Repeat(rapid.SampledFrom([]string{"x", "y", "\x00"}).Draw(r, "content"), size)
		case 4, 5, 6:
			e.kind = '5'
		case 7:
			e.kind = '2'
			e.target = rapid.SampledFrom([]string{"", "/", "../", "../../"}).Draw(r, "from") + randomPath().Draw(r, "target")
		case 8:
			e.kind = '1'
			e.target = randomPath().Draw(r, "target")
		case 9:
			e.kind = rapid.SampledFrom([]byte{'3', '4', '6'}).Draw(r, "special")
			e.major, e.minor = 1, 3
		case 10:
			e.kind = '0'
			dir, name := filepath.Split(path)
			e.name = dir + ".wh." + name
		default:
			e.kind = '0'
			e.name = filepath.Dir(path) + "/.wh..wh..opq"
		}
		return e
	})
}

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// diffOf is the layer between two stacks of folders.
func diffOf(t failer, form Form, lower, upper []string) []byte {
	t.Helper()
	var below Tree
	if len(lower) > 0 {
		var err error
		below, err = OpenStack(form, lower)
		treeMust(t, err)
		defer func() { treeMust(t, below.Close()) }()
	}
	above, err := OpenStack(form, upper)
	treeMust(t, err)
	defer func() { treeMust(t, above.Close()) }()
	var b bytes.Buffer
	treeMust(t, Diff(t.Context(), &b, below, above))
	return b.Bytes()
}

// diffEntries lists the entries of a layer: their types and names, and what links lead to.
func diffEntries(t failer, layer []byte) []string {
	t.Helper()
	var all []string
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		treeMust(t, err)
		s := string(h.Typeflag) + " " + h.Name
		if h.Linkname != "" {
			s += " > " + h.Linkname
		}
		all = append(all, s)
	}
}

// treeChange draws a tree that has much in common with another.
func treeChange(t *rapid.T, spec treeSpec) treeSpec {
	changed := maps.Clone(spec)
	for _, p := range slices.Sorted(maps.Keys(spec)) {
		f, ok := changed[p]
		if !ok { // its folder went
			continue
		}
		switch rapid.IntRange(0, 11).Draw(t, "change") {
		case 0:
			if p != "." {
				treeRemove(changed, p)
			}
		case 1:
			f.Mode ^= 0o022
			changed[p] = f
		case 2:
			changed[p] = treeFileGen(t, f.Mode&unix.S_IFMT, "")
		case 3:
			if p != "." {
				treeRemove(changed, p)
				changed[p] = treeFileGen(t, rapid.SampledFrom([]uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFSOCK}).Draw(t, "kind"), "")
			}
		case 4:
			f.link = ""
			changed[p] = f
		}
	}
	more := treeGen(t, "more files", "")
	for _, p := range slices.Sorted(maps.Keys(more)) {
		if f, ok := changed[path.Dir(p)]; p != "." && ok && f.Mode&unix.S_IFMT == unix.S_IFDIR {
			if _, ok := changed[p]; !ok {
				changed[p] = more[p]
			}
		}
	}
	for p, f := range changed {
		if to, ok := changed[f.link]; f.link != "" && (!ok || to.Mode&unix.S_IFMT != unix.S_IFREG || to.link != "") {
			f.link = ""
			changed[p] = f
		}
	}
	return changed
}

func treeRemove(spec treeSpec, path string) {
	for p := range spec {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(spec, p)
		}
	}
}

// treeNew makes a folder with a tree in it.
func treeNew(t failer, base, name string, spec treeSpec) string {
	t.Helper()
	dir := filepath.Join(base, name)
	treeMust(t, os.Mkdir(dir, 0o755))
	treeMake(t, dir, spec)
	return dir
}

// diffApply applies a layer, of which nothing may be lost.
func diffApply(t failer, layer []byte, dir string, o Options) Result {
	t.Helper()
	result, err := Apply(t.Context(), bytes.NewReader(layer), dir, o)
	if err != nil {
		t.Fatal(err, diffEntries(t, layer))
	}
	return result
}

// Applied to the lower tree, the layer gives the upper one, in every form; which differs from the
// lower one by the same bytes, whatever it is kept in.
func TestDiffApply(t *testing.T) {
	base := treeTemp(t)
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(base, "")
		treeMust(t, err)
		defer func() { treeMust(t, os.RemoveAll(root)) }()
		spec := treeGen(t, "files", "")
		change := treeChange(t, spec)
		lower, upper := treeNew(t, root, "lower", spec), treeNew(t, root, "upper", change)

		layer := diffOf(t, Whole, []string{lower}, []string{upper})
		maps.DeleteFunc(change, func(_ string, f treeFile) bool { return f.Mode&unix.S_IFMT == unix.S_IFSOCK })
		want := treeNew(t, root, "want", change)
		whole := treeNew(t, root, "whole", spec)
		diffApply(t, layer, whole, Options{})
		treesAlike(t, Whole, []string{want}, Whole, []string{whole})
		if again := diffOf(t, Whole, []string{lower}, []string{whole}); !bytes.Equal(layer, again) {
			t.Fatal(cmp.Diff(diffEntries(t, layer), diffEntries(t, again)))
		}

		all := diffOf(t, Whole, nil, []string{upper})
		first := treeNew(t, root, "first", treeSpec{".": {Attr: Attr{Mode: unix.S_IFDIR | 0o755}}})
		treeTouch(t, first, unnamed.mtime)
		diffApply(t, all, first, Options{})
		treesAlike(t, Whole, []string{want}, Whole, []string{first})

		for _, form := range []Form{Overlay, UserOverlay} {
			below, err := OpenStack(form, []string{lower})
			treeMust(t, err)
			top := treeNew(t, root, fmt.Sprint("top", form), nil)
			diffApply(t, layer, top, Options{Form: form, Below: below})
			treeMust(t, below.Close())
			treesAlike(t, Whole, []string{want}, form, []string{lower, top})
			if again := diffOf(t, form, []string{lower}, []string{lower, top}); !bytes.Equal(layer, again) {
				t.Fatal(cmp.Diff(diffEntries(t, layer), diffEntries(t, again)))
			}
			// It needs nothing of what is below, so it is the same without.
			alone := treeNew(t, root, fmt.Sprint("alone", form), nil)
			result := diffApply(t, layer, alone, Options{Form: form})
			if len(result.Needs.Folders)+len(result.Needs.Links)+len(result.Needs.Through) > 0 {
				t.Fatalf("the layer needs %+v: %q", result.Needs, diffEntries(t, layer))
			}
		}
	})
}

// treeUse changes a mounted tree as programs do. What the kernel refuses stays as it is.
func treeUse(t *rapid.T, root string) {
	one := func(label string) string {
		name := rapid.SampledFrom([]string{"a", "a.b", "b", "c", "d"})
		parts := rapid.SliceOfN(name, 1, 3).Draw(t, label)
		return filepath.Join(root, path.Join(parts...))
	}
	write := func(name, content string) {
		if f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o644); err == nil {
			_, _ = f.WriteString(content)
			_ = f.Close()
		}
	}
	remove := func(name string) {
		if _, err := os.Lstat(name); err == nil { // or else a fifo might be on the way
			_ = os.RemoveAll(name)
		}
	}
	acts := []func(){
		func() { _ = os.MkdirAll(one("mkdir"), 0o755) },
		func() { write(one("write"), rapid.SampledFrom([]string{"x", "new"}).Draw(t, "content")) },
		func() { remove(one("remove")) },
		func() { remove(one("remove")) },
		func() { // an opaque folder
			p := one("replace")
			remove(p)
			_ = os.Mkdir(p, 0o755)
		},
		func() {
			p := one("replace by a file")
			remove(p)
			write(p, "")
		},
		func() { _ = os.Rename(one("from"), one("to")) },
		func() { _ = os.Link(one("file"), one("link")) },
		func() { _ = os.Symlink("a", one("symlink")) },
		func() { _ = os.Lchown(one("chown"), 5, 6) },
		func() {
			_ = os.Chmod(one("chmod"), os.FileMode(rapid.SampledFrom([]uint32{0o700, 0o755}).Draw(t, "mode")))
		},
		func() { // a copy in the upper folder that says nothing new
			if f, err := os.OpenFile(one("open"), os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err == nil {
				_ = f.Close()
			}
		},
		func() { _ = unix.Lsetxattr(one("xattr"), "user.k", []byte("w"), 0) },
		func() { _ = unix.Mknod(one("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
	}
	for range rapid.IntRange(1, 10).Draw(t, "acts") {
		acts[rapid.IntRange(0, len(acts)-1).Draw(t, "act")]()
	}
}

// What programs did in a mounted overlay is in the layer, and the same as if the tree were kept
// whole.
func TestDiffOfMount(t *testing.T) {
	base := treeTemp(t)
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(base, "")
		treeMust(t, err)
		defer func() { treeMust(t, os.RemoveAll(root)) }()
		var lower []string
		for i := range rapid.IntRange(1, 3).Draw(t, "layers") {
			lower = append(lower, treeNew(t, root, fmt.Sprint(i), treeGen(t, "files", "trusted.overlay.")))
		}
		upper, work := treeNew(t, root, "upper", nil), treeNew(t, root, "work", nil)
		topFirst := slices.Clone(lower)
		slices.Reverse(topFirst)
		options := "lowerdir=" + strings.Join(topFirst, ":") + treeOptions
		before, after := filepath.Join(root, "before"), filepath.Join(root, "after")
		if len(lower) == 1 {
			treeMust(t, os.Mkdir(before, 0o755))
			options = "lowerdir=" + lower[0] + ":" + treeNew(t, root, "empty", nil) + treeOptions
		}
		defer treeMount(t, before, options)()
		defer treeMount(t, after, options+",upperdir="+upper+",workdir="+work)()
		treeUse(t, after)
		treesAlike(t, Whole, []string{after}, Overlay, append(slices.Clone(lower), upper))

		layer := diffOf(t, Overlay, lower, append(slices.Clone(lower), upper))
		if mounted := diffOf(t, Whole, []string{before}, []string{after}); !bytes.Equal(layer, mounted) {
			t.Fatal(cmp.Diff(diffEntries(t, layer), diffEntries(t, mounted)))
		}
		below, err := OpenStack(Overlay, lower)
		treeMust(t, err)
		defer func() { treeMust(t, below.Close()) }()
		committed := treeNew(t, root, "committed", nil)
		diffApply(t, layer, committed, Options{Form: Overlay, Below: below})
		treesAlike(t, Whole, []string{after}, Overlay, append(slices.Clone(lower), committed))
	})
}

// The layer between two known trees.
func TestDiffEntries(t *testing.T) {
	dir := treeFile{Attr: Attr{Mode: unix.S_IFDIR | 0o755, ModTime: unnamed.mtime}}
	file := treeFile{Attr: Attr{Mode: unix.S_IFREG | 0o644, ModTime: unnamed.mtime}, content: "x"}
	other := file
	other.content = "y"
	link := func(to string) treeFile {
		f := file
		f.link = to
		return f
	}
	for _, c := range []struct {
		name         string
		lower, upper treeSpec
		want         []string
	}{
		{"nothing", treeSpec{"a": file, "d": dir}, treeSpec{"a": file, "d": dir}, nil},
		{"order", nil, treeSpec{"a": dir, "a/z": file, "a.b": file, "a-b": file, "A": file}, []string{"0 A", "5 a/", "0 a/z", "0 a-b", "0 a.b"}},
		{"gone", treeSpec{"a": file, "d": dir, "d/e": dir, "d/e/f": file, "d/g": file, "z": file}, treeSpec{"d": dir, "d/g": file, "z": file}, []string{"0 .wh.a", "5 d/", "0 d/.wh.e"}},
		{"folders above", treeSpec{"d": dir, "d/e": dir, "d/e/f": file}, treeSpec{"d": dir, "d/e": dir, "d/e/f": other}, []string{"5 d/", "5 d/e/", "0 d/e/f"}},
		{"another kind", treeSpec{"a": dir, "a/f": file, "b": file}, treeSpec{"a": file, "b": dir, "b/f": file}, []string{"0 a", "5 b/", "0 b/f"}},
		{"links", nil, treeSpec{"b": file, "c": link("b"), "a": link("b")}, []string{"0 a", "1 b > a", "1 c > a"}},
		{"a link more", treeSpec{"d": dir, "d/a": file}, treeSpec{"d": dir, "d/a": file, "b": link("d/a")}, []string{"0 b", "5 d/", "1 d/a > b"}},
		{"a link less", treeSpec{"a": file, "b": link("a"), "c": link("a")}, treeSpec{"a": file, "c": link("a")}, []string{"0 .wh.b"}},
		{"links kept", treeSpec{"a": file, "b": link("a")}, treeSpec{"a": file, "b": link("a"), "c": file}, []string{"0 c"}},
		{"links changed", treeSpec{"a": file, "b": link("a")}, treeSpec{"a": other, "b": link("a")}, []string{"0 a", "1 b > a"}},
		{"links parted", treeSpec{"a": file, "b": link("a"), "c": link("a")}, treeSpec{"a": file, "b": file, "c": link("b")}, []string{"0 b", "1 c > b"}},
		{"socket", treeSpec{"a": file}, treeSpec{"a": {Attr: Attr{Mode: unix.S_IFSOCK | 0o755}}, "b": {Attr: Attr{Mode: unix.S_IFSOCK | 0o755}}}, []string{"0 .wh.a"}},
		{"the root", treeSpec{}, treeSpec{".": {Attr: Attr{Mode: unix.S_IFDIR | 0o700, ModTime: unnamed.mtime}}}, []string{"5 ./"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			for _, spec := range []treeSpec{c.lower, c.upper} {
				if _, ok := spec["."]; spec != nil && !ok {
					spec["."] = dir
				}
			}
			var lower []string
			if c.lower != nil {
				lower = append(lower, treeNew(t, base, "lower", c.lower))
			}
			got := diffEntries(t, diffOf(t, Whole, lower, []string{treeNew(t, base, "upper", c.upper)}))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A name of a file in a folder that no layer touches is written when another one is.
func TestDiffLinkIntoSame(t *testing.T) {
	base := t.TempDir()
	dir := treeFile{Attr: Attr{Mode: unix.S_IFDIR | 0o755}}
	file := treeFile{Attr: Attr{Mode: unix.S_IFREG | 0o644}}
	link := file
	link.link = "b/c/f"
	common := treeNew(t, base, "common", treeSpec{".": dir, "a": link, "b": dir, "b/c": dir, "b/c/f": file, "d": dir})
	hides := treeNew(t, base, "hides", treeSpec{".": dir, "a": file})
	leaves := treeNew(t, base, "leaves", treeSpec{".": dir, "d": dir})
	got := diffEntries(t, diffOf(t, Overlay, []string{common, hides}, []string{common, leaves}))
	if diff := cmp.Diff([]string{"0 a", "5 b/", "5 b/c/", "1 b/c/f > a"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDiffErrors(t *testing.T) {
	base := t.TempDir()
	file := treeFile{Attr: Attr{Mode: unix.S_IFREG | 0o644}}
	odd, plain, deep := treeNew(t, base, "odd", treeSpec{".wh.a": file}), treeNew(t, base, "plain", nil), t.TempDir()
	treeDeep(t, deep)
	open := func(dir string) Tree { return treeOpen(t, Whole, dir) }
	for _, c := range []struct {
		name         string
		lower, upper Tree
	}{
		{"a marker", nil, open(odd)},
		{"a marker that was not there", open(plain), open(odd)},
		{"a marker that is gone", open(odd), open(plain)},
		{"a path that is too long", nil, open(deep)},
	} {
		if err := Diff(t.Context(), io.Discard, c.lower, c.upper); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Diff(ctx, io.Discard, open(plain), open(odd)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	if err := Diff(t.Context(), shortWriter{}, nil, open(plain)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a writer that is full: got %v", err)
	}
}

type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// Files with holes are compared and written as the zeros that they read as.
func TestDiffHoles(t *testing.T) {
	base := t.TempDir()
	const size = 5<<20 + 3
	spec := treeSpec{"f": {Attr: Attr{Mode: unix.S_IFREG | 0o644}}}
	var dirs []string
	for i, data := range []map[int64]string{{1 << 20: "data"}, {1 << 20: "data", 3 << 20: "\x00"}, {1 << 20: "data", size - 1: "!"}} {
		dir := treeNew(t, base, fmt.Sprint(i), spec)
		f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
		treeMust(t, err)
		treeMust(t, f.Truncate(size))
		for off, s := range data {
			_, err := f.WriteAt([]byte(s), off)
			treeMust(t, err)
		}
		treeMust(t, f.Close())
		treeTouch(t, dir+"/f", unnamed.mtime)
		treeTouch(t, dir, unnamed.mtime)
		dirs = append(dirs, dir)
	}
	if got := diffEntries(t, diffOf(t, Whole, dirs[:1], dirs[1:2])); len(got) > 0 {
		t.Errorf("with other holes: got %q, want nothing", got)
	}
	layer := diffOf(t, Whole, dirs[:1], dirs[2:])
	r := tar.NewReader(bytes.NewReader(layer))
	_, err := r.Next()
	treeMust(t, err)
	got, err := io.ReadAll(r)
	treeMust(t, err)
	want, err := os.ReadFile(dirs[2] + "/f")
	treeMust(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes with holes are written as %d others", len(want), len(got))
	}
}

func BenchmarkDiff(b *testing.B) {
	base := b.TempDir()
	lower, top := treeNew(b, base, "lower", nil), treeNew(b, base, "top", nil)
	treeMany(b, lower)
	treeMust(b, os.MkdirAll(top+"/usr/share/package7/part7", 0o755))
	treeMust(b, os.WriteFile(top+"/usr/share/package7/part7/file7", []byte("changed"), 0o644))
	upper := filepath.Join(base, "upper")
	_, err := Clone(b.Context(), lower, upper, Options{})
	treeMust(b, err)
	treeMust(b, os.WriteFile(upper+"/usr/share/package7/part7/file7", []byte("changed"), 0o644))
	for _, c := range []struct {
		name         string
		form         Form
		lower, upper []string
	}{
		{"stack", Overlay, []string{lower}, []string{lower, top}},
		{"whole", Whole, []string{lower}, []string{upper}},
		{"all", Whole, nil, []string{upper}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				diffOf(b, c.form, c.lower, c.upper)
			}
		})
	}
}

package layer

import (
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
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// A treeFile says what treeMake makes at a path.
type treeFile struct {
	Attr
	content string
	link    string // the path of another file that this one is, too
}

// A treeSpec is a whole tree by paths. The root is left out, or ".".
type treeSpec map[string]treeFile

// treeMake makes a tree beneath a folder, parents before what is in them.
func treeMake(t failer, root string, spec treeSpec) {
	t.Helper()
	paths := slices.Sorted(maps.Keys(spec))
	for _, p := range paths {
		f := spec[p]
		if f.link != "" {
			continue
		}
		name := filepath.Join(root, p)
		var err error
		switch f.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if p != "." {
				err = os.Mkdir(name, 0o700)
			}
		case unix.S_IFLNK:
			err = os.Symlink(f.Target, name)
		case unix.S_IFREG:
			err = os.WriteFile(name, []byte(f.content), 0o600)
		default:
			err = unix.Mknod(name, f.Mode, int(unix.Mkdev(f.Major, f.Minor)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range slices.Backward(paths) {
		f := spec[p]
		name := filepath.Join(root, p)
		if f.link != "" {
			treeMust(t, os.Link(filepath.Join(root, f.link), name))
			continue
		}
		treeMust(t, unix.Lchown(name, int(f.UID), int(f.GID)))
		if f.Mode&unix.S_IFMT != unix.S_IFLNK {
			treeMust(t, unix.Chmod(name, f.Mode&0o7777))
		}
		for key, value := range f.Xattrs {
			treeMust(t, unix.Lsetxattr(name, key, []byte(value), 0))
		}
	}
	for _, p := range slices.Backward(paths) {
		treeTouch(t, filepath.Join(root, p), spec[p].ModTime)
	}
}

func treeTouch(t failer, name string, at time.Time) {
	t.Helper()
	times := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	treeMust(t, unix.UtimesNanoAt(unix.AT_FDCWD, name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// A failer is a test, or a check of a property.
type failer interface {
	Helper()
	Context() context.Context
	Fatal(...any)
}

func treeMust(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// treeDump says all that a tree tells of itself, by path. Hard links name the first of them.
func treeDump(t failer, tree Tree) map[string]string {
	t.Helper()
	root, err := tree.Lookup(".")
	treeMust(t, err)
	all := map[string]string{}
	linked := map[FileID][]string{}
	var walk func(n *Node)
	walk = func(n *Node) {
		s := fmt.Sprintf("%o %d:%d %d %s %d,%d %q %q", n.Mode, n.UID, n.GID, n.Size,
			n.ModTime.UTC().Format(time.RFC3339Nano), n.Major, n.Minor, n.Target, n.Xattrs)
		if n.File != (FileID{}) {
			linked[n.File] = append(linked[n.File], n.Path)
		}
		if n.Mode&unix.S_IFMT == unix.S_IFREG {
			f, err := tree.Open(n)
			treeMust(t, err)
			b, err := io.ReadAll(io.NewSectionReader(f, 0, n.Size))
			treeMust(t, err)
			treeMust(t, f.Close())
			s += fmt.Sprintf(" %q", b)
		}
		all[n.Path] = s
		if n.Mode&unix.S_IFMT != unix.S_IFDIR {
			return
		}
		list, err := tree.List(n)
		treeMust(t, err)
		if !slices.IsSortedFunc(list, func(a, b *Node) int { return strings.Compare(a.Path, b.Path) }) {
			t.Fatal(n.Path, "is not listed in order")
		}
		for _, child := range list {
			if path.Dir(child.Path) != n.Path {
				t.Fatal(child.Path, "is listed in", n.Path)
			}
			walk(child)
		}
	}
	walk(root)
	for _, paths := range linked {
		for _, p := range paths[1:] {
			all[p] += " = " + paths[0]
		}
	}
	return all
}

func treeOpen(t *testing.T, form Form, dirs ...string) Tree {
	t.Helper()
	tree, err := OpenStack(form, dirs)
	treeMust(t, err)
	t.Cleanup(func() { treeMust(t, tree.Close()) })
	return tree
}

// treeWhiteout stands for a whiteout among the kinds of files.
const treeWhiteout = 0o160000

// treeGen draws a tree: of a layer in overlay's format, when mark is the prefix of its xattrs.
func treeGen(t *rapid.T, label, mark string) treeSpec {
	spec := treeSpec{".": treeFileGen(t, unix.S_IFDIR, "")}
	names := rapid.SampledFrom([]string{"a", "a.b", "b", "c", "\xff\n"})
	kinds := []uint32{unix.S_IFREG, unix.S_IFREG, unix.S_IFDIR, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO, unix.S_IFCHR, 0}
	if mark != "" {
		kinds = append(kinds, treeWhiteout)
	}
	n := rapid.IntRange(0, 12).Draw(t, label)
	for range n {
		dir := "."
		for range rapid.IntRange(0, 3).Draw(t, "depth") {
			p := path.Join(dir, names.Draw(t, "folder"))
			if f, ok := spec[p]; ok && f.Mode&unix.S_IFMT != unix.S_IFDIR {
				break
			} else if !ok {
				spec[p] = treeFileGen(t, unix.S_IFDIR, mark)
			}
			dir = p
		}
		p := path.Join(dir, names.Draw(t, "name"))
		if _, ok := spec[p]; ok {
			continue
		}
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		switch kind {
		case treeWhiteout:
			spec[p] = treeFile{Attr: Attr{Mode: unix.S_IFCHR}}
			continue
		case 0: // another name of a file that there is
			for _, other := range slices.Sorted(maps.Keys(spec)) {
				if f := spec[other]; f.Mode&unix.S_IFMT == unix.S_IFREG && f.link == "" {
					f.link = other
					spec[p] = f
					break
				}
			}
			continue
		}
		spec[p] = treeFileGen(t, kind, mark)
	}
	return spec
}

// treeFileGen draws a file of few possible ones, so that those of two trees are often alike.
func treeFileGen(t *rapid.T, kind uint32, mark string) treeFile {
	f := treeFile{Attr: Attr{
		Mode:    kind | rapid.SampledFrom([]uint32{0o755, 0o755, 0o755, 0o4711}).Draw(t, "mode"),
		UID:     rapid.SampledFrom([]uint32{0, 0, 0, 1<<31 + 1}).Draw(t, "owner"),
		ModTime: time.Unix(rapid.SampledFrom([]int64{1e9, 1e9, 0, -5}).Draw(t, "time"), rapid.SampledFrom([]int64{0, 0, 999999999}).Draw(t, "ns")),
	}}
	switch kind {
	case unix.S_IFREG:
		f.content = rapid.SampledFrom([]string{"x", "y", "z", "", "longer"}).Draw(t, "content")
	case unix.S_IFLNK:
		f.Mode = unix.S_IFLNK | 0o777
		f.Target = rapid.SampledFrom([]string{"a", "/nowhere/at/all", "../../nowhere/at/all"}).Draw(t, "target")
	case unix.S_IFCHR:
		f.Major, f.Minor = 1, rapid.Uint32Range(3, 4).Draw(t, "minor")
	case unix.S_IFDIR:
		if mark != "" && rapid.IntRange(0, 3).Draw(t, "opaque") == 0 {
			set(&f.Xattrs, mark+markOpaque, "y")
		}
	}
	if (kind == unix.S_IFREG || kind == unix.S_IFDIR) && rapid.IntRange(0, 3).Draw(t, "xattr") == 0 {
		set(&f.Xattrs, "user.k", rapid.SampledFrom([]string{"v", "a\x00=b\n"}).Draw(t, "value"))
	}
	return f
}

// treeOptions keep overlay from leaving more than its contents in the folders that it writes to.
const treeOptions = ",index=off,redirect_dir=off,metacopy=off"

// treeMount mounts an overlay, until the function that it gives back is called.
func treeMount(t failer, place, options string) (unmount func()) {
	t.Helper()
	treeMust(t, os.MkdirAll(place, 0o755))
	if err := unix.Mount("overlay", place, "overlay", 0, options); err != nil {
		t.Fatal(options, err)
	}
	return func() { treeMust(t, unix.Unmount(place, 0)) }
}

// treeTemp mounts a filesystem in memory, for as long as the test runs.
func treeTemp(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	treeMust(t, unix.Mount("tmpfs", base, "tmpfs", 0, ""))
	t.Cleanup(func() { treeMust(t, unix.Unmount(base, unix.MNT_DETACH)) })
	return base
}

// What the kernel shows of any folders is what is read of them.
func TestStackIsOverlay(t *testing.T) {
	for _, form := range []struct {
		Form
		mark, options string
	}{{Overlay, "trusted.overlay.", treeOptions}, {UserOverlay, "user.overlay.", ",userxattr"}} {
		t.Run(form.mark, func(t *testing.T) {
			base := treeTemp(t)
			rapid.Check(t, func(t *rapid.T) {
				root, err := os.MkdirTemp(base, "")
				treeMust(t, err)
				defer func() { treeMust(t, os.RemoveAll(root)) }()
				var dirs []string
				for i := range rapid.IntRange(2, 5).Draw(t, "layers") {
					dir := filepath.Join(root, fmt.Sprint(i))
					treeMust(t, os.Mkdir(dir, 0o755))
					treeMake(t, dir, treeGen(t, "files", form.mark))
					dirs = append(dirs, dir)
				}
				place := filepath.Join(root, "mounted")
				topFirst := slices.Clone(dirs)
				slices.Reverse(topFirst)
				defer treeMount(t, place, "lowerdir="+strings.Join(topFirst, ":")+form.options)()
				treesAlike(t, Whole, []string{place}, form.Form, dirs)

				top := len(dirs) - 1
				below, err := OpenStack(form.Form, dirs[:top])
				treeMust(t, err)
				over, err := OpenOver(form.Form, dirs[top], below)
				treeMust(t, err)
				shown, err := OpenStack(Whole, []string{place})
				treeMust(t, err)
				if diff := cmp.Diff(treeDump(t, shown), treeDump(t, over)); diff != "" {
					t.Fatal("over a tree: wanted - and got +:\n" + diff)
				}
				treeMust(t, errors.Join(over.Close(), shown.Close()))
			})
		})
	}
}

func treesAlike(t failer, wantForm Form, want []string, gotForm Form, got []string) {
	t.Helper()
	wantTree, err := OpenStack(wantForm, want)
	treeMust(t, err)
	defer func() { treeMust(t, wantTree.Close()) }()
	gotTree, err := OpenStack(gotForm, got)
	treeMust(t, err)
	defer func() { treeMust(t, gotTree.Close()) }()
	if diff := cmp.Diff(treeDump(t, wantTree), treeDump(t, gotTree)); diff != "" {
		t.Fatal("wanted - and got +:\n" + diff)
	}
}

// A folder has the same identity wherever nothing above touches it.
func TestStackSame(t *testing.T) {
	dir := func() treeFile { return treeFile{Attr: Attr{Mode: unix.S_IFDIR | 0o755}} }
	file := treeFile{Attr: Attr{Mode: unix.S_IFREG | 0o644}}
	opaque := dir()
	set(&opaque.Xattrs, "trusted.overlay."+markOpaque, "y")
	var dirs []string
	for _, spec := range []treeSpec{
		{"both": dir(), "both/one": file, "only": dir(), "only/f": file, "gone": dir(), "new": dir(), "new/old": file},
		{"both": dir(), "both/two": file},
		{"both": dir(), "both/three": file, "gone": {Attr: Attr{Mode: unix.S_IFCHR}}, "new": opaque},
	} {
		name := t.TempDir()
		treeMake(t, name, spec)
		dirs = append(dirs, name)
	}
	low, middle, alone := treeOpen(t, Overlay, dirs[:1]...), treeOpen(t, Overlay, dirs[:2]...), treeOpen(t, Overlay, dirs[2])
	below, err := OpenStack(Overlay, dirs[:2])
	treeMust(t, err)
	over, err := OpenOver(Overlay, dirs[2], below)
	treeMust(t, err)
	t.Cleanup(func() { treeMust(t, over.Close()) })
	for name, high := range map[string]Tree{"stack": treeOpen(t, Overlay, dirs...), "over a tree": over} {
		t.Run(name, func(t *testing.T) { treesSame(t, low, middle, high, alone) })
	}
}

// treesSame checks a tree on top of two others, which is opaque at new, for what it shares with them.
func treesSame(t *testing.T, low, middle, high, alone Tree) {
	same := func(path string, a, b Tree) bool {
		t.Helper()
		x, err := a.Lookup(path)
		treeMust(t, err)
		y, err := b.Lookup(path)
		treeMust(t, err)
		return x.Same == y.Same && x.Same != FileID{}
	}
	for _, path := range []string{"only", "only/f", "both/one"} {
		if !same(path, low, middle) || !same(path, middle, high) {
			t.Errorf("%s is another one higher up", path)
		}
	}
	for _, path := range []string{".", "both"} {
		if same(path, low, middle) || same(path, middle, high) {
			t.Errorf("%s stays the same", path)
		}
	}
	if !same("both/two", middle, high) || !same("gone", low, middle) || !same("new", high, alone) {
		t.Error("files and folders of one layer differ")
	}
	for _, path := range []string{"gone", "new/old", "both/one/x", "both/nothing", "both/" + strings.Repeat("x", 300)} {
		if n, err := high.Lookup(path); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("look up %.20s: got %v, %v", path, n, err)
		}
	}
}

// What is read of each kind of file, and what is refused.
func TestStackWhole(t *testing.T) {
	root := t.TempDir()
	at := time.Unix(-1, 1)
	spec := treeSpec{
		".":        {Attr: Attr{Mode: unix.S_IFDIR | 0o1777, GID: 7, ModTime: at}},
		"dir":      {Attr: Attr{Mode: unix.S_IFDIR | 0o2750, ModTime: at, Xattrs: map[string]string{"user.big": strings.Repeat("v", 3000)}}},
		"dir/file": {Attr: Attr{Mode: unix.S_IFREG | 0o4711, UID: 1 << 31, Size: 4, ModTime: at, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "trusted.x": ""}}, content: "text"},
		"dir/link": {Attr: Attr{Mode: unix.S_IFLNK | 0o777, ModTime: at, Target: strings.Repeat("t", 1000), Xattrs: map[string]string{"trusted.y": "z"}}},
		"null":     {Attr: Attr{Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3, ModTime: at}},
		"whiteout": {Attr: Attr{Mode: unix.S_IFCHR, ModTime: at}},
		"disk":     {Attr: Attr{Mode: unix.S_IFBLK | 0o600, Major: 511, Minor: 262143, ModTime: at}},
		"fifo":     {Attr: Attr{Mode: unix.S_IFIFO | 0o600, ModTime: at}},
	}
	treeMake(t, root, spec)
	// Overlay's own are no attributes of a file.
	treeMust(t, unix.Setxattr(filepath.Join(root, "dir"), "trusted.overlay."+markOpaque, []byte("y"), 0))
	treeMust(t, unix.Setxattr(filepath.Join(root, "dir"), "user.overlay."+markOpaque, []byte("y"), 0))
	tree := treeOpen(t, Whole, root)
	for path, want := range spec {
		n, err := tree.Lookup(path)
		treeMust(t, err)
		if diff := cmp.Diff(want.Attr, n.Attr); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if n, err := tree.Lookup("dir/link/x"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("through a link: got %v, %v", n, err)
	}
	for _, path := range []string{"..", "dir/../..", "/dir", "dir/", "", "./dir", "a\x00b"} {
		if n, err := tree.Lookup(path); err == nil {
			t.Errorf("look up %q: got %v", path, n)
		}
	}
	if _, err := OpenStack(Whole, []string{root, root}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("two whole trees: got %v", err)
	}
	if _, err := OpenStack(Overlay, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("no folder: got %v", err)
	}
	if _, err := OpenStack(Overlay, []string{root, root + "/nothing"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a folder that is not there: got %v", err)
	}
	if _, err := OpenOver(Whole, root, Empty()); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a whole tree over another: got %v", err)
	}
	if _, err := OpenOver(Overlay, root+"/nothing", Empty()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a folder that is not there over a tree: got %v", err)
	}
	over, err := OpenOver(Overlay, root, Empty())
	treeMust(t, err)
	defer func() { treeMust(t, over.Close()) }()
	if n, err := over.Lookup("."); err != nil || n.Same != (FileID{}) {
		t.Errorf("a folder over what nobody can tell again: got %v, %v", n, err)
	}
}

// Nothing of a folder is read through a link that appears after it was listed, nor from a file
// that takes the place of another.
func TestStackSwapped(t *testing.T) {
	root := t.TempDir()
	treeMust(t, os.Mkdir(root+"/dir", 0o755))
	treeMust(t, os.WriteFile(root+"/dir/passwd", []byte("ours"), 0o644))
	tree := treeOpen(t, Whole, root)
	dir, err := tree.Lookup("dir")
	treeMust(t, err)
	file, err := tree.Lookup("dir/passwd")
	treeMust(t, err)
	treeMust(t, os.Rename(root+"/dir", root+"/moved"))
	treeMust(t, os.Symlink("/etc", root+"/dir"))
	if _, err := tree.Open(file); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("open: got %v", err)
	}
	if _, err := tree.List(dir); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("list: got %v", err)
	}
	if _, err := tree.Lookup("dir/passwd"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("look up: got %v", err)
	}
	treeMust(t, os.Remove(root+"/dir"))
	treeMust(t, os.Mkdir(root+"/dir", 0o755))
	treeMust(t, unix.Mkfifo(root+"/dir/passwd", 0o644))
	if _, err := tree.Open(file); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("open a fifo: got %v", err)
	}
}

// Marked whiteouts, a root that hides what is below, and what is refused.
func TestStackMarks(t *testing.T) {
	dir := func(opaque string) treeFile {
		f := treeFile{Attr: Attr{Mode: unix.S_IFDIR | 0o755}}
		if opaque != "" {
			set(&f.Xattrs, "trusted.overlay."+markOpaque, opaque)
		}
		return f
	}
	file := treeFile{Attr: Attr{Mode: unix.S_IFREG | 0o644}}
	white := file
	white.Xattrs = map[string]string{"trusted.overlay." + markWhiteout: "y"}
	base, marked, hiding, moved := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	treeMake(t, base, treeSpec{"a": file, "b": file, "d": dir(""), "d/a": file, "d/b": file})
	treeMake(t, marked, treeSpec{".": dir("x"), "a": white, "d": dir("x"), "d/b": white, "d/new": white})
	treeMake(t, hiding, treeSpec{".": dir("y"), "c": file})
	redirect := dir("")
	redirect.Xattrs = map[string]string{"trusted.overlay." + markRedirect: "/d"}
	treeMake(t, moved, treeSpec{"e": redirect})

	list := func(tree Tree) string {
		return strings.Join(slices.Sorted(maps.Keys(treeDump(t, tree))), " ")
	}
	if got, want := list(treeOpen(t, Overlay, base, marked)), ". b d d/a"; got != want {
		t.Errorf("marked whiteouts: got %q, want %q", got, want)
	}
	if got, want := list(treeOpen(t, Overlay, base, hiding)), ". c"; got != want {
		t.Errorf("an opaque root: got %q, want %q", got, want)
	}
	if _, err := treeOpen(t, Overlay, base, moved).Lookup("e"); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("a redirected folder: got %v", err)
	}
}

// Trees deeper than a path that the kernel takes are read to their end.
func TestStackDeep(t *testing.T) {
	root := t.TempDir()
	deep := treeDeep(t, root)
	all := treeDump(t, treeOpen(t, Whole, root))
	if got := all[deep]; !strings.HasSuffix(got, `"reached"`) {
		t.Errorf("of %d files, the deepest is %q", len(all), got)
	}
}

// treeDeep makes a file whose path is longer than those that the kernel takes.
func treeDeep(t *testing.T, root string) (path string) {
	t.Helper()
	at, err := os.OpenRoot(root)
	treeMust(t, err)
	name := strings.Repeat("n", 200)
	for range 50 {
		treeMust(t, at.Mkdir(name, 0o755))
		next, err := at.OpenRoot(name)
		treeMust(t, err)
		treeMust(t, at.Close())
		at = next
	}
	treeMust(t, at.WriteFile("end", []byte("reached"), 0o644))
	treeMust(t, at.Close())
	return strings.Repeat(name+"/", 50) + "end"
}

// What a file holds is told as runs.
func TestStackHoles(t *testing.T) {
	root := t.TempDir()
	f, err := os.Create(root + "/sparse")
	treeMust(t, err)
	_, err = f.WriteAt([]byte("data"), 1<<20)
	treeMust(t, err)
	treeMust(t, f.Truncate(3<<20))
	treeMust(t, f.Close())
	tree := treeOpen(t, Whole, root)
	n, err := tree.Lookup("sparse")
	treeMust(t, err)
	file, err := tree.Open(n)
	treeMust(t, err)
	defer func() { treeMust(t, file.Close()) }()
	start, end, err := file.Data(0)
	if err != nil || start != 1<<20 || end < 1<<20+4 || end > 2<<20 {
		t.Errorf("the first run: got %d to %d, %v", start, end, err)
	}
	if _, _, err := file.Data(end); err != io.EOF {
		t.Errorf("after it: got %v, want the end", err)
	}
}

// treeMany makes 25,000 files in 2,500 folders.
func treeMany(t failer, root string) {
	t.Helper()
	for i := range 50 {
		for j := range 50 {
			dir := fmt.Sprintf("%s/usr/share/package%d/part%d", root, i, j)
			treeMust(t, os.MkdirAll(dir, 0o755))
			for k := range 10 {
				treeMust(t, os.WriteFile(fmt.Sprintf("%s/file%d", dir, k), fmt.Appendf(nil, "%d %d %d", i, j, k), 0o644))
			}
		}
	}
}

func BenchmarkStackWalk(b *testing.B) {
	base, top := b.TempDir(), b.TempDir()
	treeMany(b, base)
	treeMake(b, top, treeSpec{"usr": {Attr: Attr{Mode: unix.S_IFDIR | 0o755}}})
	var walk func(tree Tree, n *Node) int
	walk = func(tree Tree, n *Node) int {
		list, err := tree.List(n)
		treeMust(b, err)
		count := len(list)
		for _, n := range list {
			if n.Mode&unix.S_IFMT == unix.S_IFDIR {
				count += walk(tree, n)
			}
		}
		return count
	}
	b.ReportAllocs()
	for b.Loop() {
		tree, err := OpenStack(Overlay, []string{base, top, top})
		treeMust(b, err)
		root, err := tree.Lookup(".")
		treeMust(b, err)
		if n := walk(tree, root); n < 25000 {
			b.Fatal(n)
		}
		treeMust(b, tree.Close())
	}
}

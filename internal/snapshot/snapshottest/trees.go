package snapshottest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// What is written to an active snapshot is its own, until it is committed; then nobody writes to
// it.
func active(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	before := w.looked("base")
	one, other := w.prepare("one", "base"), w.prepare("other", "base")
	t := &tree{w: w, dir: one}
	t.write("file", "one")
	t.write("new", "one")
	w.content(other+"/file", "base")
	w.same("the parent, while a child is written,", before, w.looked("base"))
	w.unmount(one)
	w.must(w.s.Commit(ctx, "done", "one", nil))
	done := w.looked("done")
	again := w.prepare("again", "done")
	w.content(again+"/file", "one")
	t = &tree{w: w, dir: again}
	t.remove("new")
	t.write("file", "again")
	w.same("what is committed, while a child is written,", done, w.looked("done"))
	w.same("the parent of a parent", before, w.looked("base"))
}

// A view shows its parent, and nothing can be changed in it.
func view(w *world) {
	w.commit("base", "", func(t *tree) {
		t.mkdir("folder", 0o755)
		t.write("folder/file", "base")
	})
	for _, parent := range []string{"", "base"} {
		dir := w.view("view of "+parent, parent)
		for what, err := range map[string]error{
			"write":  os.WriteFile(dir+"/new", nil, 0o644),
			"mkdir":  os.Mkdir(dir+"/newer", 0o755),
			"chmod":  os.Chmod(dir, 0o700),
			"xattr":  unix.Setxattr(dir, "user.x", []byte("1"), 0),
			"remove": os.Remove(dir + "/folder/file"),
		} {
			if !errors.Is(err, unix.EROFS) && !(parent == "" && what == "remove") {
				w.Errorf("%s in a view of %q: %v", what, parent, err)
			}
		}
	}
	w.same("the parent of a view", w.read("base"), w.looked("base"))
	w.same("a view of nothing, unmounted,", w.describe(w.emptyTree()), w.read("view of "))
	w.same("a view, unmounted,", w.looked("base"), w.read("view of base"))
}

// The root's attributes are those of whoever set them last, wherever that was.
func root(w *world) {
	empty := w.describe(w.emptyTree())
	w.same("the root of nothing", empty, w.read(w.keyOf(w.prepare("nothing", ""), "nothing")))
	w.commit("plain", "", func(t *tree) { t.date(".", 0) })
	w.same("the root of an empty snapshot", empty, w.looked("plain"))

	reference := &tree{w: w, dir: w.emptyTree()}
	set := func(t *tree) {
		t.steps = 0
		t.write("file", "content")
		t.chown(".", 12, 34)
		t.chmod(".", 0o2751)
		t.xattr(".", "user.root", "yes")
	}
	set(reference)
	w.commit("odd", "plain", set)
	want := w.describe(reference.dir)
	w.same("an odd root", want, w.looked("odd"))
	w.same("an odd root, unmounted,", want, w.read("odd"))

	active := w.prepare("active", "odd")
	w.same("the root that an active snapshot inherits", want, w.describe(active))
	w.unmount(active)
	w.same("the same, unmounted,", want, w.read("active"))
	w.must(w.s.Commit(w.Context(), "unchanged", "active", nil))
	w.same("the root that was inherited twice", want, w.looked("unchanged"))
	w.same("the same, unmounted,", want, w.read("unchanged"))

	undo := func(t *tree) {
		t.chmod(".", 0o700)
		t.dropXattr(".", "user.root")
	}
	reference.steps = 0
	undo(reference)
	w.commit("changed", "unchanged", undo)
	want = w.describe(reference.dir)
	w.same("a root that was changed again", want, w.looked("changed"))
	w.same("the same, unmounted,", want, w.read("changed"))
}

// What an active snapshot leaves as it was is known to be the same as in its parent, if they share
// it; what it changes never is.
func unchanged(w *world) {
	w.commit("base", "", func(t *tree) {
		t.mkdir("left", 0o755)
		t.write("left/file", "left")
		t.mkdir("changed", 0o755)
		t.write("changed/left", "left")
		t.write("changed/file", "base")
		t.write("changed/mode", "base")
		t.mkdir("opaque", 0o755)
		t.write("opaque/file", "base")
	})
	dir := w.prepare("work", "base")
	t := &tree{w: w, dir: dir, steps: 100}
	t.write("changed/file", "work")
	t.chmod("changed/mode", 0o600)
	t.remove("opaque")
	t.mkdir("opaque", 0o755)
	t.write("opaque/file", "base")
	w.unmount(dir)
	lower, err := w.s.Tree(w.Context(), "base")
	w.must(err)
	upper, err := w.s.Tree(w.Context(), "work")
	w.must(err)
	shared := w.s.Driver().Alone() // the others copy
	for path, want := range map[string]bool{
		"left": shared, "left/file": shared, "changed/left": shared,
		".": false, "changed": false, "changed/file": false, "changed/mode": false, "opaque": false, "opaque/file": false,
	} {
		was, err := lower.Lookup(path)
		w.must(err)
		is, err := upper.Lookup(path)
		w.must(err)
		if got := was.Same == is.Same && is.Same != (layer.FileID{}); got != want {
			w.Errorf("%s is the same: got %t, want %t", path, got, want)
		}
	}
	w.must(errors.Join(upper.Close(), lower.Close()))
}

// keyOf unmounts what a key is mounted at.
func (w *world) keyOf(dir, key string) string {
	w.Helper()
	w.unmount(dir)
	return key
}

// generations are what is done to a tree, one commit each.
var generations = []func(*tree){
	func(t *tree) {
		t.mkdir("etc", 0o755)
		t.mkdir("etc/deep", 0o750)
		t.mkdir("etc/deep/er", 0o700)
		t.write("etc/passwd", "root")
		t.write("etc/deep/file", strings.Repeat("deep ", 5000))
		t.write("etc/deep/er/file", "deeper")
		t.mkdir("opaque", 0o1777)
		t.write("opaque/old", "old")
		t.mkdir("opaque/folder", 0o755)
		t.write("opaque/folder/old", "old")
		t.write("gone", "gone")
		t.write("setuid", "x")
		t.chown("setuid", 1000, 1000)
		t.chmod("setuid", 0o6755)
		t.symlink("etc/passwd", "link")
		t.symlink("nowhere", "dangling")
		t.symlink("etc", "folder link")
		t.write("names", "several names")
		t.link("names", "etc/name")
		t.fifo("fifo")
		t.xattr("gone", "user.gone", "1")
		t.xattr("etc/passwd", "user.color", "blue")
		t.xattr("etc", "user.folder", "1")
		t.write("alone", "alone")
		t.mkdir("moved", 0o711)
		t.write("moved/file", "moved")
		t.mkdir("swap", 0o755)
		t.write("swap/in", "in a folder")
		t.write("paws", "a file")
	},
	func(t *tree) { // taken away, and changed in their attributes alone
		t.remove("gone")
		t.remove("etc/deep/er")
		t.chmod("etc/deep", 0o700)
		t.chown("etc/passwd", 1, 2)
		t.chmod("setuid", 0o755)
		t.dropXattr("etc", "user.folder")
		t.xattr("etc/passwd", "user.color", "red")
		t.remove("dangling")
	},
	func(t *tree) { // replaced
		t.remove("opaque")
		t.mkdir("opaque", 0o755)
		t.write("opaque/new", "new")
		t.mkdir("opaque/folder", 0o700)
		t.remove("swap")
		t.write("swap", "now a file")
		t.remove("paws")
		t.mkdir("paws", 0o755)
		t.write("paws/in", "now a folder")
		t.remove("folder link")
		t.mkdir("folder link", 0o755)
		t.remove("link")
		t.symlink("paws/in", "link")
	},
	func(t *tree) { // moved and linked
		t.move("moved", "etc/here")
		t.move("alone", "etc/deep/alone")
		t.link("etc/passwd", "passwd")
		t.remove("names")
		t.remove("fifo")
		t.write("fifo", "a file")
	},
	func(*tree) {}, // nothing
	func(t *tree) { // things come back under names that were hidden
		t.write("gone", "here again")
		t.mkdir("etc/deep/er", 0o755)
		t.write("etc/deep/er/new", "new")
		t.write("opaque/old", "again")
		t.mkdir("moved", 0o755)
	},
	func(t *tree) { t.remove("etc") },
	func(t *tree) {
		t.mkdir("etc", 0o700)
		t.write("etc/passwd", "anew")
		t.chmod(".", 0o711)
	},
	func(t *tree) {
		for _, name := range []string{"etc", "opaque", "paws", "folder link", "moved", "link", "gone"} {
			t.remove(name)
		}
	},
	func(t *tree) { t.write("last", "last") },
}

// unlinked drops from a description which names are one file. The kernel does not tell that of
// files that were linked to in an overlay whose folders are on several filesystems.
func unlinked(lines []string) []string {
	lines = slices.Clone(lines)
	for i, line := range lines {
		lines[i], _, _ = strings.Cut(line, " same=")
	}
	return lines
}

// Every generation is as a folder would be in which the same was done: active, committed and
// looked at, mounted and not; and so is the difference between one and the next, applied to the
// one.
func changes(w *world) {
	ctx := w.Context()
	reference := &tree{w: w, dir: w.emptyTree()}
	copied := w.emptyTree() // has the differences applied
	parent := ""
	for i, change := range generations {
		reference.steps = 1000 * i
		change(reference)
		want := w.describe(reference.dir)

		key, name := fmt.Sprintf("key %d", i), fmt.Sprintf("generation %d", i)
		dir := w.prepare(key, parent)
		change(&tree{w: w, dir: dir, steps: 1000 * i})
		w.same(key+", mounted,", unlinked(want), unlinked(w.describe(dir)))
		w.unmount(dir)
		w.same(key+", unmounted,", want, w.read(key))
		w.must(w.s.Commit(ctx, name, key, nil))
		w.same(name+", mounted,", want, w.looked(name))
		w.same(name+", unmounted,", want, w.read(name))

		lower, err := w.s.Tree(ctx, parent)
		w.must(err)
		upper, err := w.s.Tree(ctx, name)
		w.must(err)
		w.same("the difference up to "+name, want, w.describe(w.made(copied, lower, upper)))
		w.must(upper.Close())
		if lower != nil {
			w.must(lower.Close())
		}
		if w.Failed() {
			return // what follows would only repeat it
		}
		parent = name
	}
}

// Files of lower layers are moved, written and removed without harm to those layers.
func movedBelow(w *world) {
	w.commit("base", "", func(t *tree) {
		t.mkdir("a", 0o755)
		t.mkdir("b", 0o755)
		t.write("a/1", "one")
		t.write("a/2", "two")
	})
	base := w.looked("base")
	dir := w.prepare("work", "base")
	w.must(os.Rename(dir+"/a/1", dir+"/b/1"))
	w.must(os.Rename(dir+"/a/2", dir+"/a/3"))
	w.must(os.WriteFile(dir+"/a/2", []byte("new"), 0o644))
	w.content(dir+"/b/1", "one")
	w.content(dir+"/a/2", "new")
	w.content(dir+"/a/3", "two")
	if _, err := os.Lstat(dir + "/a/1"); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("what was moved away: %v", err)
	}
	w.unmount(dir)
	w.must(w.s.Commit(w.Context(), "moved", "work", nil))
	dir = w.view("look", "moved")
	w.content(dir+"/b/1", "one")
	w.content(dir+"/a/2", "new")
	w.content(dir+"/a/3", "two")
	w.same("the layer below", base, w.looked("base"))
}

// Long chains of commits are mounted and read as short ones are.
func deep(w *world) {
	reference := &tree{w: w, dir: w.emptyTree()}
	parent := ""
	for i := range 60 {
		change := func(t *tree) {
			t.steps = 10 * i
			t.write(fmt.Sprintf("file %d", i), fmt.Sprint(i))
			t.write("every", fmt.Sprint(i))
			if i >= 5 && i%2 == 0 {
				t.remove(fmt.Sprintf("file %d", i-5))
			}
		}
		change(reference)
		name := fmt.Sprintf("layer %d", i)
		w.commit(name, parent, change)
		parent = name
		if i == 9 || i == 59 {
			want := w.describe(reference.dir)
			w.same(name+", mounted,", want, w.looked(name))
			w.same(name+", unmounted,", want, w.read(name))
		}
	}
	dir := w.prepare("on top", parent)
	t := &tree{w: w, dir: dir}
	t.write("every", "top")
	t.remove("file 58")
	w.content(dir+"/every", "top")
	w.content(dir+"/file 56", "56")
	if _, err := os.Lstat(dir + "/file 58"); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("what was removed on top: %v", err)
	}
}

// noise is content that no filesystem makes smaller.
func noise(n int) string {
	b := bytes.Repeat([]byte{0}, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(1 + r.IntN(255))
	}
	return string(b)
}

// Usage grows with what is written.
func usage(w *world) {
	ctx := w.Context()
	const mega = 1 << 20
	dir := w.prepare("work", "")
	empty, err := w.s.Usage(ctx, "work")
	w.must(err)
	for i := range 4 {
		w.must(os.WriteFile(fmt.Sprintf("%s/%d", dir, i), []byte(noise(mega)), 0o644))
	}
	full, err := w.s.Usage(ctx, "work")
	w.must(err)
	if full.Size-empty.Size < 4*mega || full.Size > 5*mega || full.Inodes-empty.Inodes != 4 {
		w.Errorf("four files of 1 MiB take usage from %+v to %+v", empty, full)
	}
	w.unmount(dir)
	w.must(w.s.Commit(ctx, "base", "work", nil))
	base, err := w.s.Usage(ctx, "base")
	w.must(err)
	if base.Size < 4*mega || base.Size > 5*mega || base.Inodes < 4 || base.Inodes > 16 {
		w.Errorf("committed, four files of 1 MiB are %+v", base)
	}
	row, err := w.s.Stat(ctx, "base")
	w.must(err)
	if row.Size != base.Size || row.Inodes != base.Inodes {
		w.Errorf("stat says %d bytes and %d inodes, usage %+v", row.Size, row.Inodes, base)
	}
	_, err = w.s.View(ctx, "look", "base", nil)
	w.must(err)
	look, err := w.s.Usage(ctx, "look")
	w.must(err)
	if look.Size > mega {
		w.Errorf("a view takes %+v", look)
	}
}

// A commit that is refused leaves the snapshot active, with all that is in it.
func commitRefused(w *world) {
	ctx := w.Context()
	w.commit("taken", "", func(t *tree) { t.write("file", "taken") })
	dir := w.prepare("work", "taken")
	(&tree{w: w, dir: dir}).write("file", "work")
	want := w.describe(dir)
	w.is("commit what is mounted", w.s.Commit(ctx, "new", "work", nil), errdefs.IsFailedPrecondition)
	w.content(dir+"/file", "work")
	w.unmount(dir)
	w.is("commit as what is there", w.s.Commit(ctx, "taken", "work", nil), errdefs.IsAlreadyExists)
	w.is("commit without a name", w.s.Commit(ctx, "", "work", nil), errdefs.IsInvalidArgument)
	w.is("commit with a bad name", w.s.Commit(ctx, "\x00", "work", nil), errdefs.IsInvalidArgument)
	w.is("commit with bad labels", w.s.Commit(ctx, "new", "work", map[string]string{"x": strings.Repeat("x", 5000)}), errdefs.IsInvalidArgument)
	mounts, err := w.s.Mounts(ctx, "work")
	w.must(err)
	dir = w.mount(mounts)
	w.same("what could not be committed", want, w.describe(dir))
	w.unmount(dir)
	w.must(w.s.Commit(ctx, "new", "work", nil))
	w.same("what was committed at last", want, w.looked("new"))
}

package snapshottest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/snapshot"
)

// What is mounted stays.
func mounted(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	for _, parent := range []string{"", "base"} {
		dir := w.prepare("work", parent)
		w.must(os.WriteFile(dir+"/new", []byte("new"), 0o644))
		w.is("remove what is mounted", w.s.Remove(ctx, "work"), errdefs.IsFailedPrecondition)
		w.content(dir+"/new", "new")
		if _, err := w.s.Stat(ctx, "work"); err != nil {
			w.Errorf("after a removal that was refused: %v", err)
		}
		w.unmount(dir)
		w.must(w.s.Remove(ctx, "work"))
	}
	// Not every driver can tell one view from another; but what is looked at is there until
	// nobody looks.
	dir := w.view("look", "base")
	if err := w.s.Remove(ctx, "look"); err == nil {
		w.must(w.s.Remove(ctx, "base"))
	} else {
		w.is("remove a view that is mounted", err, errdefs.IsFailedPrecondition)
	}
	_, err := w.s.Sweep(ctx)
	w.must(err)
	w.content(dir+"/file", "base")
	w.unmount(dir)
}

// A sweep removes what was left, and nothing else.
func sweep(w *world) {
	ctx := w.Context()
	w.commit("base", "", func(t *tree) { t.write("file", "base") })
	_, err := w.s.Prepare(ctx, "work", "base", nil)
	w.must(err)
	_, err = w.s.View(ctx, "look", "base", nil)
	w.must(err)
	if freed, err := w.s.Sweep(ctx); err != nil || freed != (snapshot.Usage{}) {
		w.Errorf("with nothing to sweep: freed %+v, error %v", freed, err)
	}
	f, err := w.s.NewFolder()
	w.must(err)
	w.must(os.WriteFile(f.Path+"/left", []byte(noise(1<<16)), 0o644))
	if freed, err := w.s.Sweep(ctx); err != nil || freed != (snapshot.Usage{}) {
		w.Errorf("while a folder is filled: freed %+v, error %v", freed, err)
	}
	if _, err := os.Stat(f.Path + "/left"); err != nil {
		w.Errorf("a folder that is locked was swept: %v", err)
	}
	w.must(f.Keep())
	freed, err := w.s.Sweep(ctx)
	w.must(err)
	if freed.Inodes == 0 || freed.Size == 0 {
		w.Errorf("of a folder that was left %+v was freed", freed)
	}
	if _, err := os.Stat(f.Path); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("a folder that was left: %v", err)
	}
	for _, key := range []string{"work", "look"} {
		mounts, err := w.s.Mounts(ctx, key)
		w.must(err)
		dir := w.mount(mounts)
		w.content(dir+"/file", "base")
		w.unmount(dir)
	}
}

// A folder that no row names, but that is mounted, is not swept from under whoever uses it; nor
// is that a reason not to sweep the others.
func sweepMounted(w *world) {
	ctx := w.Context()
	f, err := w.s.NewFolder()
	w.must(err)
	other, err := w.s.NewFolder()
	w.must(err)
	d := w.s.Driver()
	w.must(d.Prepare(ctx, f.Path, nil, snapshot.Active))
	mounts, err := d.Mounts(ctx, f.Path, nil, snapshot.Active)
	w.must(err)
	dir := w.mount(mounts)
	w.must(os.WriteFile(dir+"/file", []byte("in use"), 0o644))
	w.must(f.Keep())
	w.must(other.Keep())
	_, err = w.s.Sweep(ctx)
	w.must(err)
	w.content(dir+"/file", "in use")
	if _, err := os.Stat(other.Path); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("the folder beside it: %v", err)
	}
	w.unmount(dir)
	_, err = w.s.Sweep(ctx)
	w.must(err)
	if _, err := os.Stat(f.Path); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("the folder when nobody uses it any more: %v", err)
	}
}

// A member of a layer: a folder if its name ends so, a file with its own name in it else.
func layerOf(w *world, names ...string) []byte {
	w.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for i, name := range names {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(name)), ModTime: time.Unix(1_600_000_000+int64(i), 0)}
		if name[len(name)-1] == '/' {
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o750, 0
		}
		w.must(out.WriteHeader(&h))
		if h.Size > 0 {
			_, err := out.Write([]byte(name))
			w.must(err)
		}
	}
	w.must(out.Close())
	return b.Bytes()
}

// unpack makes a folder of a layer on a chain. It is removed at the end of the check.
func (w *world) unpack(chain []string, tar []byte) (folder string) {
	w.Helper()
	ctx := w.Context()
	f, err := w.s.NewFolder()
	w.must(err)
	w.Cleanup(func() { w.must(f.Discard()) })
	d := w.s.Driver()
	if d.Alone() {
		_, err = d.Unpack(ctx, f.Path, bytes.NewReader(tar), layer.Options{})
		w.must(err)
		_, err = d.Fit(ctx, f.Path, chain, true)
	} else {
		_, err = d.UnpackOn(ctx, f.Path, chain, bytes.NewReader(tar), layer.Options{})
	}
	w.must(err)
	return f.Path
}

// show describes a chain of folders: a view of it, and an active snapshot on it, mounted and not.
func (w *world) show(what string, want []string, chain []string) {
	w.Helper()
	ctx, d := w.Context(), w.s.Driver()
	w.must(d.Seal(ctx, chain))
	tree, err := d.Tree(ctx, chain)
	w.must(err)
	w.same(what+", unmounted,", want, w.describe(w.made(w.emptyTree(), nil, tree)))
	w.must(tree.Close())
	for _, kind := range []snapshot.Kind{snapshot.View, snapshot.Active} {
		f, err := w.s.NewFolder()
		w.must(err)
		w.must(d.Prepare(ctx, f.Path, chain, kind))
		mounts, err := d.Mounts(ctx, f.Path, chain, kind)
		w.must(err)
		dir := w.mount(mounts)
		w.same(what+", "+kind.String()+",", want, w.describe(dir))
		if kind == snapshot.Active {
			w.must(os.WriteFile(dir+"/can be written", nil, 0o644))
		}
		w.unmount(dir)
		w.must(d.Release(context.WithoutCancel(ctx), f.Path))
		w.must(f.Discard())
	}
}

// whole describes what layers make of a folder.
func (w *world) whole(layers ...[]byte) []string {
	w.Helper()
	dir := w.emptyTree()
	for _, tar := range layers {
		_, err := layer.Apply(w.Context(), bytes.NewReader(tar), dir, layer.Options{})
		w.must(err)
	}
	return w.describe(dir)
}

// The tree of no layers is [layer.Empty].
func noLayers(w *world) {
	ctx, d := w.Context(), w.s.Driver()
	w.must(d.Seal(ctx, nil))
	t, err := d.Tree(ctx, nil)
	w.must(err)
	got, err := t.Lookup(".")
	w.must(err)
	want, err := layer.Empty().Lookup(".")
	w.must(err)
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("the root of no layers differs (-want +got):\n%s", diff)
	}
	if list, err := t.List(got); err != nil || len(list) > 0 {
		w.Errorf("in the root of no layers are %v, error %v", list, err)
	}
	_, err = t.Lookup("file")
	w.is("look up what no layer has", err, errdefs.IsNotFound)
	_, err = t.Open(&layer.Node{Path: "file", Attr: layer.Attr{Mode: unix.S_IFREG}})
	w.is("open what no layer has", err, errdefs.IsNotFound)
	w.must(t.Close())
}

// A driver that is not alone says so, and touches nothing.
func notAlone(w *world) {
	ctx, d := w.Context(), w.s.Driver()
	if d.Alone() {
		return // the other checks have it unpack so
	}
	f, err := w.s.NewFolder()
	w.must(err)
	defer func() { w.must(f.Discard()) }()
	tar := bytes.NewReader(layerOf(w, "file"))
	size := tar.Len()
	_, err = d.Unpack(ctx, f.Path, tar, layer.Options{})
	w.is("unpack alone", err, errdefs.IsFailedPrecondition)
	_, err = d.Fit(ctx, f.Path, nil, true)
	w.is("fit what stands on a chain", err, errdefs.IsFailedPrecondition)
	if entries, err := os.ReadDir(f.Path); err != nil || len(entries) > 0 || tar.Len() != size {
		w.Errorf("of %d bytes %d are left, and made were %v, error %v", size, tar.Len(), entries, err)
	}
}

// One folder may stand in a chain twice, also next to itself.
func layerTwice(w *world) {
	a, b := layerOf(w, "a", "shared/", "shared/a"), layerOf(w, ".wh.a", "shared/", "shared/.wh.a", "shared/b", "b")
	if !w.s.Driver().Alone() {
		// Every folder is good for one chain alone.
		fa := w.unpack(nil, a)
		fb := w.unpack([]string{fa}, b)
		fc := w.unpack([]string{fa, fb}, a)
		w.show("a, b, a", w.whole(a, b, a), []string{fa, fb, fc})
		return
	}
	fa := w.unpack(nil, a)
	fb := w.unpack([]string{fa}, b)
	w.show("a, b, a", w.whole(a, b, a), []string{fa, fb, fa})
	w.show("a, a", w.whole(a, a), []string{fa, fa})
	w.show("a, b, a, b", w.whole(a, b, a, b), []string{fa, fb, fa, fb})
	w.show("a, a, b, b", w.whole(a, a, b, b), []string{fa, fa, fb, fb})
}

// The kernel's list of folders is a page long, unless it is given one by one; images have up to 128
// layers, and what is committed on top of them.
func manyLayers(w *world) {
	var chain []string
	var layers [][]byte
	for i := range 130 {
		names := []string{"folder/", fmt.Sprintf("folder/file %d", i), "every"}
		if i > 1 {
			names = append(names, fmt.Sprintf("folder/.wh.file %d", i-2))
		}
		layers = append(layers, layerOf(w, names...))
		chain = append(chain, w.unpack(chain, layers[i]))
	}
	w.show("130 layers", w.whole(layers...), chain)
}

// A layer whose root is opaque hides all below it, and takes the root's attributes from itself.
func opaqueRoot(w *world) {
	low := layerOf(w, "./", "low", "folder/", "folder/low")
	plain := layerOf(w, "folder/.wh.opaque", "folder/plain", "plain")
	opaque := layerOf(w, ".wh..wh..opq", "opaque", "folder/opaque")
	top := layerOf(w, "folder/", "folder/top")
	for _, layers := range [][][]byte{
		{low, opaque},
		{low, opaque, top},
		{low, opaque, plain, top},
		{opaque, low},
		{low, plain, opaque, low},
		{low, plain},
		{opaque},
	} {
		var chain []string
		for _, tar := range layers {
			chain = append(chain, w.unpack(chain, tar))
		}
		w.show("a chain", w.whole(layers...), chain)
	}
}

package stowage

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/containerd"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/snapshot/overlay"
	"github.com/stowage/stowage/internal/unpack"
)

// A loose layer is unpacked in the folder of a snapshot of a peer that has no parent yet, in the form in
// which overlay has it in a stack. It gets its parent when it is committed.
type loose struct {
	blob   Descriptor
	diffID Digest
	name   string // that it is to have
	key    string // of the active snapshot; empty: there is none, or no more
	dir    string
	res    layer.Result
}

// unpackLoose unpacks the layers of an image that are not there side by side, where the peer can give them
// their parents afterwards. They are then as in a store of ours, where the kernel, writing on a stack,
// would copy up what layers link to. It stops without an error at what does not lend itself to that; the
// rest is unpacked one on the other.
func (s *Store) unpackLoose(ctx context.Context, sn *containerd.Snapshotter, parts unpack.Image, chain []Digest) (err error) {
	there, err := firstMissing(ctx, sn, chain)
	if err != nil || there == len(chain) || sn.Name() != "overlayfs" {
		return err
	}
	if ok, err := sn.Rebases(ctx); !ok || err != nil {
		return err
	}
	base := &stackOn{sn: sn}
	if there > 0 {
		if ok, err := base.read(ctx, chain[there-1].String()); !ok || err != nil {
			return err
		}
	}
	var list []*loose
	for i := there; i < len(chain); i++ {
		list = append(list, &loose{blob: parts.Layers[i], diffID: parts.DiffIDs[i], name: chain[i].String()})
	}
	defer func() {
		for _, l := range list {
			if l.key != "" {
				err = errors.Join(err, sn.Remove(context.WithoutCancel(ctx), l.key))
			}
		}
	}()
	if err := par.Each(ctx, min(4, runtime.GOMAXPROCS(0)), list, func(ctx context.Context, l *loose) error { return s.loosen(ctx, sn, l, nil) }); err != nil {
		return err
	}
	for _, l := range list {
		ok := l.dir != ""
		if ok {
			ok, err = s.settle(ctx, base, l)
		}
		if !ok || err != nil {
			return err
		}
		s.warnOf(l.blob, l.res.Losses)
		s.log.Debug("a layer was unpacked beside those below it", "layer", l.blob.Digest, "snapshot", l.name)
	}
	return nil
}

// firstMissing counts the snapshots of a chain that are there, from the lowest on.
func firstMissing(ctx context.Context, sn *containerd.Snapshotter, chain []Digest) (int, error) {
	for i, name := range chain {
		if _, err := sn.Stat(ctx, name.String()); err != nil {
			if errdefs.IsNotFound(err) {
				return i, nil
			}
			return 0, err
		}
	}
	return len(chain), nil
}

// settle commits a layer on what is below it; if it does not fit there, unpacked anew for that. It answers
// false for one that has to be unpacked otherwise.
func (s *Store) settle(ctx context.Context, base *stackOn, l *loose) (bool, error) {
	err := base.fit(ctx, l)
	if !errdefs.IsFailedPrecondition(err) {
		if err != nil {
			return false, err
		}
		return base.put(ctx, l)
	}
	if err := base.sn.Remove(ctx, l.key); err != nil {
		return false, err
	}
	l.key, l.dir = "", ""
	below, err := base.tree()
	if err != nil {
		return false, err
	}
	err = errors.Join(s.loosen(ctx, base.sn, l, below), below.Close())
	if err != nil || l.dir == "" {
		return false, err
	}
	return base.put(ctx, l)
}

// loosen unpacks one layer, for a place in a stack if below is not nil. It has no folder afterwards if the
// snapshotter has it, or gives no folder.
func (s *Store) loosen(ctx context.Context, sn *containerd.Snapshotter, l *loose, below layer.Tree) error {
	key, labels := extraction(l.name)
	mounts, err := sn.Prepare(ctx, key, "", labels)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	l.key = key
	if len(mounts) != 1 || mounts[0].Type != "bind" || slices.Contains(mounts[0].Options, "ro") {
		return nil
	}
	dir := mounts[0].Source
	if err := layer.PlainRoot(dir); err != nil {
		return err
	}
	if l.res, err = s.extractor().Loose(ctx, l.blob, l.diffID, dir, below); err != nil {
		return err
	}
	l.dir = dir
	return nil
}

// A stackOn is what the next layer stands on.
type stackOn struct {
	sn     *containerd.Snapshotter
	parent string   // empty: nothing
	dirs   []string // the folders of the parent and of those below it, lowest first
	root   *layer.Node
}

// tree is what there is.
func (b *stackOn) tree() (layer.Tree, error) {
	if len(b.dirs) == 0 {
		return layer.Empty(), nil
	}
	return layer.OpenStack(layer.Overlay, b.dirs)
}

// fit makes a layer stand on what there is. One that cannot is an [errdefs.ErrFailedPrecondition].
func (b *stackOn) fit(ctx context.Context, l *loose) error {
	below, err := b.tree()
	if err != nil {
		return err
	}
	return errors.Join(overlay.FitTree(ctx, l.dir, l.res.Needs, below), below.Close())
}

// put commits a layer that fits. It answers false if another was quicker.
func (b *stackOn) put(ctx context.Context, l *loose) (bool, error) {
	root, err := rootOf(l.dir)
	if err == nil && l.res.Opaque {
		err = b.hide(l.dir)
	}
	if !l.res.Root && b.root != nil {
		root = b.root
	}
	if err == nil {
		err = setRoot(l.dir, root.Attr)
	}
	if err == nil {
		err = syncDisk(l.dir)
	}
	if err != nil {
		return false, err
	}
	_, labels := extraction(l.name)
	err = b.sn.CommitOn(ctx, l.name, l.key, b.parent, labels)
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	l.key = ""
	b.parent, b.dirs, b.root = l.name, append(b.dirs, l.dir), root
	return true, nil
}

// hide takes away, name by name, all that is below a root: the kernel does not heed the mark of a root that
// hides everything.
func (b *stackOn) hide(dir string) (err error) {
	below, err := b.tree()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	root, err := below.Lookup(".")
	if err != nil {
		return err
	}
	list, err := below.List(root)
	for _, n := range list {
		if err != nil {
			break
		}
		path := filepath.Join(dir, n.Path)
		var there unix.Stat_t
		switch err = unix.Lstat(path, &there); {
		case errors.Is(err, unix.ENOENT):
			err = unix.Mknod(path, unix.S_IFCHR, 0)
		case err == nil && there.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = unix.Lsetxattr(path, "trusted.overlay.opaque", []byte("y"), 0)
		}
		if err != nil {
			err = &os.PathError{Op: "hide what is below", Path: path, Err: err}
		}
	}
	return err
}

// read finds the folders of a chain that is there, as they are mounted for an active snapshot on it, and
// what its root is like, which is that of the topmost folder of a view. It answers false where it finds
// no folders.
func (b *stackOn) read(ctx context.Context, parent string) (ok bool, err error) {
	key := "stowage-look-" + rand.Text()
	mounts, err := b.sn.Prepare(ctx, key, parent, nil)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.sn.Remove(context.WithoutCancel(ctx), key)) }()
	shown, err := b.sn.View(ctx, key+"-view", parent, nil)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.sn.Remove(context.WithoutCancel(ctx), key+"-view")) }()
	if len(mounts) != 1 || mounts[0].Type != "overlay" || len(shown) != 1 {
		return false, nil
	}
	b.parent, b.dirs = parent, mounts[0].Dirs("lowerdir")
	slices.Reverse(b.dirs)
	top := shown[0].Source
	if list := shown[0].Dirs("lowerdir"); len(list) > 0 {
		top = list[0]
	}
	if len(b.dirs) == 0 || !filepath.IsAbs(top) {
		return false, nil
	}
	b.root, err = rootOf(top)
	return err == nil, err
}

func rootOf(dir string) (*layer.Node, error) {
	t, err := layer.OpenStack(layer.Whole, []string{dir})
	if err != nil {
		return nil, err
	}
	n, err := t.Lookup(".")
	return n, errors.Join(err, t.Close())
}

func setRoot(dir string, like layer.Attr) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(layer.SetAttr(f, like), f.Close())
}

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
)

// busyDir holds the locks of layers that are being unpacked.
const busyDir = "busy"

// Options tune [Open].
type Options struct {
	Namespace string
	// NoSync leaves it to the kernel when files reach the disk.
	NoSync bool
	// Writing is called before a folder is filled; nil: nothing is. What it fails with comes back.
	Writing func() error
	Log     *slog.Logger // nil: nobody is told
}

// A Store is one snapshotter in one namespace. Goroutines and processes may share its folder.
type Store struct {
	name   string
	dir    string
	driver Driver
	meta   *metadata.Store
	ns     string
	nosync bool

	writing func() error
	log     *slog.Logger
}

// Open opens the snapshotter called name, with its folders in dir, which is made if it is not
// there.
func Open(name, dir string, d Driver, meta *metadata.Store, o Options) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, busyDir), 0o711); err != nil {
		return nil, fmt.Errorf("open snapshotter %s: %w", name, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Writing == nil {
		o.Writing = func() error { return nil }
	}
	return &Store{name: name, dir: dir, driver: d, meta: meta, ns: o.Namespace, nosync: o.NoSync, writing: o.Writing, log: o.Log}, nil
}

// Name is what the snapshotter is called.
func (s *Store) Name() string { return s.name }

// Namespace is the one whose snapshots these are.
func (s *Store) Namespace() string { return s.ns }

// Driver keeps its trees.
func (s *Store) Driver() Driver { return s.driver }

// Sync makes all that was written into folders durable.
func (s *Store) Sync() error {
	if s.nosync {
		return nil
	}
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	if err != nil {
		err = fmt.Errorf("flush %s: %w", s.dir, err)
	}
	return errors.Join(err, f.Close())
}

// fewEntries is up to how many files and folders are synced one by one.
const fewEntries = 16

// syncFolder makes a new folder durable, by itself if there is little in it: what others are
// writing at the time is not waited for.
func (s *Store) syncFolder(path string) error {
	if s.nosync {
		return nil
	}
	names := []string{s.dir}
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			names = append(names, name)
		}
		if len(names) > fewEntries {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(names) > fewEntries {
		return s.Sync()
	}
	for _, name := range slices.Backward(names) { // what is in a folder before the folder
		f, err := os.Open(name)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Stat describes a snapshot. Errors: [errdefs.ErrNotFound].
func (s *Store) Stat(ctx context.Context, key string) (Snapshot, error) {
	chain, err := s.meta.SnapshotChain(ctx, s.ns, s.name, key)
	if err != nil {
		return Snapshot{}, err
	}
	if len(chain) == 0 {
		return Snapshot{}, fmt.Errorf("snapshot without a name: %w", errdefs.ErrInvalidArgument)
	}
	return chain[len(chain)-1], nil
}

// Walk lists the snapshots by key.
func (s *Store) Walk(ctx context.Context) ([]Snapshot, error) {
	return s.meta.Snapshots(ctx, s.ns, s.name)
}

// Label sets labels; an empty value removes one.
func (s *Store) Label(ctx context.Context, key string, labels map[string]string) (Snapshot, error) {
	return s.meta.LabelSnapshot(ctx, s.ns, s.name, key, labels)
}

// Usage says what a snapshot takes on the disk, without its parent.
func (s *Store) Usage(ctx context.Context, key string) (Usage, error) {
	row, err := s.Stat(ctx, key)
	if err != nil {
		return Usage{}, err
	}
	if row.Kind != Active {
		return Usage{row.Size, row.Inodes}, nil
	}
	return s.driver.Usage(ctx, s.Path(row.Folder))
}

// Prepare makes an active snapshot called key on a committed one, or on nothing. See [Store.Make].
func (s *Store) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.Make(ctx, Snapshot{Key: key, Parent: parent, Labels: labels, Kind: Active})
}

// View is [Store.Prepare] for looking only.
func (s *Store) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.Make(ctx, Snapshot{Key: key, Parent: parent, Labels: labels, Kind: View})
}

// Make makes an active snapshot or a view of which row says the key, the kind, the parent, the labels
// and how long it is kept for its own sake. Should it fail, nothing is left of it. Errors:
// [errdefs.ErrAlreadyExists]; [errdefs.ErrNotFound] for a parent that is not there;
// [errdefs.ErrFailedPrecondition] for one that is not committed.
func (s *Store) Make(ctx context.Context, row Snapshot) (mounts []mount.Mount, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s snapshot %s: %w", map[Kind]string{Active: "prepare", View: "view"}[row.Kind], row.Key, err)
		}
	}()
	if _, err := s.Stat(ctx, row.Key); err == nil {
		return nil, errdefs.ErrAlreadyExists
	} else if !errdefs.IsNotFound(err) {
		return nil, err
	}
	chain, err := s.committed(ctx, row.Parent)
	if err != nil {
		return nil, err
	}
	f, err := s.NewFolder()
	if err != nil {
		return nil, err
	}
	discard := func(err error) error {
		return errors.Join(err, s.driver.Release(ctx, f.Path), f.Discard())
	}
	if err := s.driver.Prepare(ctx, f.Path, chain, row.Kind); err != nil {
		return nil, discard(err)
	}
	if err := s.syncFolder(f.Path); err != nil {
		return nil, discard(err)
	}
	if mounts, err = s.driver.Mounts(ctx, f.Path, chain, row.Kind); err != nil {
		return nil, discard(err)
	}
	row.Folder = f.Name
	if err := s.meta.AddSnapshot(ctx, s.ns, s.name, row); err != nil {
		return nil, discard(err)
	}
	if err := f.Keep(); err != nil {
		_, removeErr := s.meta.RemoveSnapshot(context.WithoutCancel(ctx), s.ns, s.name, row.Key)
		return nil, errors.Join(err, removeErr)
	}
	return mounts, nil
}

// committed gives the folders of a committed snapshot's chain.
func (s *Store) committed(ctx context.Context, name string) ([]string, error) {
	rows, err := s.meta.SnapshotChain(ctx, s.ns, s.name, name)
	if err != nil {
		return nil, fmt.Errorf("parent %w", err)
	}
	for _, row := range rows {
		if row.Kind != Committed {
			return nil, fmt.Errorf("parent %s is %s: %w", row.Key, row.Kind, errdefs.ErrFailedPrecondition)
		}
		if !s.There(row) {
			return nil, fmt.Errorf("the folder of snapshot %s is gone: %w", row.Key, errdefs.ErrDataLoss)
		}
	}
	return s.paths(rows), nil
}

// parts gives the row of a snapshot, its folder, and the chain that it stands on.
func (s *Store) parts(ctx context.Context, key string) (row Snapshot, folder string, below []string, err error) {
	rows, err := s.meta.SnapshotChain(ctx, s.ns, s.name, key)
	if err != nil {
		return row, "", nil, err
	}
	if len(rows) == 0 {
		return row, "", nil, fmt.Errorf("snapshot without a name: %w", errdefs.ErrInvalidArgument)
	}
	row = rows[len(rows)-1]
	return row, s.Path(row.Folder), s.paths(rows[:len(rows)-1]), nil
}

// Mounts gives the mounts of an active snapshot or a view. Errors:
// [errdefs.ErrFailedPrecondition] for a committed one.
func (s *Store) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	row, folder, below, err := s.parts(ctx, key)
	if err != nil {
		return nil, err
	}
	if row.Kind == Committed {
		return nil, fmt.Errorf("mounts of snapshot %s: it is committed; view it, or prepare one on it: %w", key, errdefs.ErrFailedPrecondition)
	}
	return s.driver.Mounts(ctx, folder, below, row.Kind)
}

// Bind is [Store.Mounts] for other programs: it gives none that only this one can make, if the
// driver is a [Binder].
func (s *Store) Bind(ctx context.Context, key string) ([]mount.Mount, error) {
	row, folder, below, err := s.parts(ctx, key)
	driver, ok := s.driver.(Binder)
	if err != nil || !ok || row.Kind == Committed {
		return s.Mounts(ctx, key)
	}
	return driver.Bind(ctx, folder, below, row.Kind)
}

// Commit is [Store.CommitAs] for one that is kept until it is removed.
func (s *Store) Commit(ctx context.Context, name, key string, labels map[string]string) error {
	return s.CommitAs(ctx, key, Snapshot{Key: name, Labels: labels})
}

// Rebases tells whether [Store.CommitAs] gives parents to snapshots that others filled.
func (s *Store) Rebases() bool {
	r, ok := s.driver.(Rebaser)
	return ok && r.Rebases()
}

// CommitAs makes the active snapshot key into a committed one of which as says the name, the labels,
// with none of the active one's, how long it is kept for its own sake, and the parent, if it has none yet
// (see [Rebaser]). If it is called as the stack of the layer that was applied to it, it counts as that
// layer unpacked. Its files are durable when it returns. After an error it is still active. Errors:
// [errdefs.ErrAlreadyExists]; [errdefs.ErrFailedPrecondition] when key is not active, or is mounted;
// [errdefs.ErrInvalidArgument] for another parent than it has, and [errdefs.ErrNotImplemented] where there
// is none to be given.
func (s *Store) CommitAs(ctx context.Context, key string, as Snapshot) (err error) {
	lock, err := s.lockFilled(ctx, key)
	if err != nil {
		return fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	defer func() { err = errors.Join(err, release(lock)) }()
	row, folder, below, err := s.parts(ctx, key)
	free := row.Parent == ""
	if err == nil && row.Kind != Active {
		err = fmt.Errorf("it is %s, not active: %w", row.Kind, errdefs.ErrFailedPrecondition)
	}
	if err == nil && as.Parent != "" && as.Parent != row.Parent {
		if below, err = s.rebased(ctx, row, as.Parent); err == nil {
			row.Parent = as.Parent
		}
	}
	parent := row.Parent
	if err == nil {
		is := row
		is.Key, is.Labels = as.Key, as.Labels
		err = is.Check()
	}
	if err == nil {
		if _, statErr := s.Stat(ctx, as.Key); statErr == nil {
			err = fmt.Errorf("%s: %w", as.Key, errdefs.ErrAlreadyExists)
		} else if !errdefs.IsNotFound(statErr) {
			err = statErr
		}
	}
	if err == nil {
		err = s.driver.Release(ctx, folder)
	}
	if err == nil {
		err = s.writing()
	}
	if r, ok := s.driver.(Rebaser); ok && err == nil && free {
		err = r.Rebase(ctx, folder, below)
	}
	var usage Usage
	if err == nil {
		usage, err = s.driver.Commit(ctx, folder, below)
	}
	if err == nil {
		err = s.Sync()
	}
	if err == nil {
		err = s.meta.CommitSnapshot(ctx, s.ns, s.name, as.Key, key, func(row *Snapshot) {
			row.Parent, row.Labels, row.Expires = parent, as.Labels, as.Expires
			if !row.Stacked() {
				row.DiffID, row.Losses = "", nil
				row.Size, row.Inodes = usage.Size, usage.Inodes
			}
		})
	}
	if err != nil {
		return fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	if err := s.driver.Tidy(ctx, folder); err != nil { // it is committed all the same
		s.log.Warn("a committed snapshot takes more space than it needs", "snapshotter", s.name, "key", as.Key, "reason", err)
	}
	return nil
}

// rebased finds the chain of the parent that an active snapshot is to get.
func (s *Store) rebased(ctx context.Context, row Snapshot, parent string) (chain []string, err error) {
	if row.Parent != "" {
		return nil, fmt.Errorf("it stands on %s, and not on %s: %w", row.Parent, parent, errdefs.ErrInvalidArgument)
	}
	if !s.Rebases() {
		return nil, fmt.Errorf("snapshotter %s gives no parent to what has none: %w", s.name, errdefs.ErrNotImplemented)
	}
	rows, err := s.meta.SnapshotChain(ctx, s.ns, s.name, parent)
	if err == nil && rows[len(rows)-1].Kind != Committed { // before the folder is made to fit it
		err = fmt.Errorf("%s is not committed and cannot be a parent: %w", parent, errdefs.ErrFailedPrecondition)
	}
	return s.paths(rows), err
}

// Apply has f apply a layer to an active snapshot, by whatever mounts, and notes what that came to.
func (s *Store) Apply(ctx context.Context, key string, f func() (diffID digest.Digest, res layer.Result, err error)) (err error) {
	lock, err := s.lockFilled(ctx, key)
	if err == nil {
		defer func() { err = errors.Join(err, release(lock)) }()
		err = s.writing()
	}
	if err != nil {
		return fmt.Errorf("apply a layer to snapshot %s: %w", key, err)
	}
	diffID, res, err := f()
	if err != nil {
		return err
	}
	return s.meta.AppliedToSnapshot(ctx, s.ns, s.name, key, diffID, res)
}

// lockFilled locks the folder of an active snapshot, so that one at a time makes it a committed one, and
// nobody sweeps it meanwhile.
func (s *Store) lockFilled(ctx context.Context, key string) (*os.File, error) {
	_, folder, _, err := s.parts(ctx, key)
	if err != nil {
		return nil, err
	}
	f, err := flock.Open(ctx, flock.Exclusive, func() (*os.File, error) { return os.Open(folder) })
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("its folder is gone: %w", errdefs.ErrDataLoss)
	}
	return f, err
}

// Release takes away what was mounted on behalf of an active snapshot or a view, which its next
// use makes again. Errors: [errdefs.ErrFailedPrecondition] while it is mounted itself.
func (s *Store) Release(ctx context.Context, key string) error {
	_, folder, _, err := s.parts(ctx, key)
	if err != nil {
		return err
	}
	return s.driver.Release(ctx, folder)
}

// Remove takes a snapshot away: its row, and its folder if nothing else has it. Errors:
// [errdefs.ErrNotFound]; [errdefs.ErrFailedPrecondition] while others stand on it, or while it is
// mounted.
func (s *Store) Remove(ctx context.Context, key string) error {
	row, folder, _, err := s.parts(ctx, key)
	damaged := errdefs.IsDataLoss(err)
	if err != nil && !damaged {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if !damaged && row.Kind != Committed {
		if err := s.driver.Release(ctx, folder); err != nil {
			return fmt.Errorf("remove snapshot %s: %w", key, err)
		}
	}
	row, err = s.meta.RemoveSnapshot(ctx, s.ns, s.name, key)
	switch {
	case err != nil:
	case damaged:
		_, err = s.Sweep(ctx) // nobody knows which folder it had
	case row.Folder != "":
		_, err = s.Discard(ctx, row.Folder)
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return nil
}

// Tree reads a snapshot of any kind without mounting it; the caller closes it. An empty key is
// the empty tree, for which it is nil.
func (s *Store) Tree(ctx context.Context, key string) (layer.Tree, error) {
	if key == "" {
		return nil, nil
	}
	row, folder, below, err := s.parts(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case row.Kind == Committed:
		return s.driver.Tree(ctx, append(below, folder))
	case row.Kind == View && len(below) > 0:
		return s.driver.Tree(ctx, below)
	}
	return s.driver.ActiveTree(ctx, folder, below)
}

// Layer finds the folder of a layer that any stack may share. Errors: [errdefs.ErrNotFound].
func (s *Store) Layer(ctx context.Context, diffID digest.Digest) (metadata.UnpackedLayer, error) {
	l, err := s.meta.UnpackedLayer(ctx, s.name, diffID)
	if err != nil {
		return l, err
	}
	if !s.There(Snapshot{Folder: l.Folder}) {
		s.log.Warn("the folder of an unpacked layer is gone", "snapshotter", s.name, "diffID", diffID, "folder", l.Folder)
		return metadata.UnpackedLayer{}, fmt.Errorf("layer %s: %w", diffID, errdefs.ErrNotFound)
	}
	return l, nil
}

// Chain finds the rows of the stacks called names, each of one layer more than the one before, as
// far as they are there with their folders.
func (s *Store) Chain(ctx context.Context, names []digest.Digest) ([]Snapshot, error) {
	for n := len(names); n > 0; n-- {
		rows, err := s.meta.SnapshotChain(ctx, s.ns, s.name, names[n-1].String())
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(rows) != n { // somebody gave the name to something else
			continue
		}
		for i, row := range rows {
			if row.Key != names[i].String() || row.Kind != Committed || !row.Lazy && !s.There(row) {
				rows = rows[:i]
				break
			}
		}
		return rows, nil
	}
	return nil, nil
}

// Whole finds the row of a committed snapshot that is there with its folder and has the name, the
// parent and the layer that want says, whatever has become of what it stands on. Nil: there is none.
func (s *Store) Whole(ctx context.Context, want Snapshot) (*Snapshot, error) {
	row, err := s.meta.Snapshot(ctx, s.ns, s.name, want.Key)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil || row.Kind != Committed || row.Parent != want.Parent || row.DiffID != want.DiffID || !row.Lazy && !s.There(row) {
		return nil, err
	}
	return &row, nil
}

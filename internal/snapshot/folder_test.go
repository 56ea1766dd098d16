package snapshot_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/native"
)

// failing is a driver that cannot do some things.
type failing struct {
	*native.Driver
	prepare, mounts, commit, tidy error
}

func (d *failing) Prepare(ctx context.Context, folder string, chain []string, kind snapshot.Kind) error {
	return errors.Join(d.prepare, d.Driver.Prepare(ctx, folder, chain, kind))
}

func (d *failing) Mounts(ctx context.Context, folder string, chain []string, kind snapshot.Kind) ([]mount.Mount, error) {
	mounts, err := d.Driver.Mounts(ctx, folder, chain, kind)
	return mounts, errors.Join(d.mounts, err)
}

func (d *failing) Commit(ctx context.Context, folder string, chain []string) (snapshot.Usage, error) {
	u, err := d.Driver.Commit(ctx, folder, chain)
	return u, errors.Join(d.commit, err)
}

func (d *failing) Tidy(ctx context.Context, folder string) error { return d.tidy }

var _ snapshot.Driver = (*failing)(nil)

func open(t *testing.T, d snapshot.Driver) (*snapshot.Store, *metadata.Store) {
	t.Helper()
	meta := metadata.New(mem.New(), filepath.Join(t.TempDir(), "holders"))
	s, err := snapshot.Open("native", filepath.Join(t.TempDir(), "snapshots"), d, meta, snapshot.Options{Namespace: "default"})
	must(t, err)
	return s, meta
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// names lists what is in the folder of a snapshotter, with its locks.
func names(t *testing.T, s *snapshot.Store) (list []string) {
	t.Helper()
	for _, dir := range []string{"", "busy"} {
		entries, err := os.ReadDir(filepath.Join(s.Path("."), dir))
		must(t, err)
		for _, e := range entries {
			if e.Name() != "busy" {
				list = append(list, filepath.Join(dir, e.Name()))
			}
		}
	}
	return list
}

// One has the right to unpack a layer; the others wait for it, or are told.
func TestLockLayer(t *testing.T) {
	s, _ := open(t, native.New())
	ctx, layer := t.Context(), digest.FromString("layer")
	l, err := s.LockLayer(ctx, layer, false)
	must(t, err)
	if _, err := s.LockLayer(ctx, layer, false); !errdefs.IsUnavailable(err) {
		t.Errorf("a lock that another has: %v", err)
	}
	other, err := s.LockLayer(ctx, digest.FromString("another"), false)
	must(t, err)
	must(t, other.Unlock())
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := s.LockLayer(short, layer, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait that was cancelled: %v", err)
	}
	var inside, most atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 10 {
				l, err := s.LockLayer(ctx, layer, true)
				if err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), inside.Add(1)))
				inside.Add(-1)
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	if most.Load() > 0 {
		t.Error("somebody has a lock that was not given up")
	}
	must(t, l.Unlock())
	all.Wait()
	if most.Load() != 1 {
		t.Errorf("%d had the lock at once", most.Load())
	}
	if list := names(t, s); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

// Folders that are made while others are swept are not taken from those who fill them.
func TestSweepBeside(t *testing.T) {
	s, _ := open(t, native.New())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sweeps, all sync.WaitGroup
	for range 2 {
		sweeps.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Sweep(context.WithoutCancel(ctx)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		all.Go(func() {
			for range 100 {
				f, err := s.NewFolder()
				if err == nil {
					err = os.WriteFile(filepath.Join(f.Path, "file"), nil, 0o644)
				}
				if err == nil {
					_, err = os.Stat(filepath.Join(f.Path, "file"))
				}
				if err == nil {
					err = f.Discard()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	cancel()
	sweeps.Wait()
	_, err := s.Sweep(t.Context())
	must(t, err)
	if list := names(t, s); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

// A driver that fails leaves things as they were.
func TestFailingDriver(t *testing.T) {
	broken := errors.New("broken")
	d := &failing{Driver: native.New()}
	s, _ := open(t, d)
	ctx := t.Context()
	for _, errs := range [][2]error{{broken, nil}, {nil, broken}} {
		d.prepare, d.mounts = errs[0], errs[1]
		for _, f := range []func(context.Context, string, string, map[string]string) ([]mount.Mount, error){s.Prepare, s.View} {
			if _, err := f(ctx, "key", "", nil); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			if row, err := s.Stat(ctx, "key"); !errdefs.IsNotFound(err) {
				t.Errorf("what could not be made: %+v, error %v", row, err)
			}
		}
		if list := names(t, s); len(list) > 0 {
			t.Errorf("left: %q", list)
		}
	}
	d.mounts, d.commit = nil, broken
	_, err := s.Prepare(ctx, "key", "", nil)
	must(t, err)
	if err := s.Commit(ctx, "name", "key", nil); !errors.Is(err, broken) {
		t.Errorf("commit: %v", err)
	}
	if row, err := s.Stat(ctx, "key"); err != nil || row.Kind != snapshot.Active {
		t.Errorf("after a commit that failed: %+v, error %v", row, err)
	}
	// What could not be tidied up is committed all the same.
	d.commit, d.tidy = nil, broken
	must(t, s.Commit(ctx, "name", "key", nil))
	must(t, s.Remove(ctx, "name"))
	if list := names(t, s); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

// A folder that people removed is missed where it is needed, and is no reason not to remove its
// row.
func TestFolderGone(t *testing.T) {
	s, meta := open(t, native.New())
	ctx := t.Context()
	_, err := s.Prepare(ctx, "work", "", nil)
	must(t, err)
	must(t, s.Commit(ctx, "base", "work", nil))
	row, err := s.Stat(ctx, "base")
	must(t, err)
	must(t, os.RemoveAll(s.Path(row.Folder)))
	if _, err := s.Prepare(ctx, "child", "base", nil); !errdefs.IsDataLoss(err) {
		t.Errorf("prepare on what is gone: %v", err)
	}
	must(t, s.Remove(ctx, "base"))

	layer := metadata.UnpackedLayer{DiffID: digest.FromString("layer"), Folder: "gone"}
	_, err = meta.Apply(ctx, "default", metadata.Batch{Unpacked: []metadata.Unpacked{{Snapshotter: "native", Layers: []metadata.UnpackedLayer{layer}}}})
	must(t, err)
	if _, err := s.Layer(ctx, layer.DiffID); !errdefs.IsNotFound(err) {
		t.Errorf("a layer whose folder is gone: %v", err)
	}
	must(t, os.Mkdir(s.Path("gone"), 0o700))
	if l, err := s.Layer(ctx, layer.DiffID); err != nil || l.Folder != "gone" {
		t.Errorf("a layer whose folder is there: %+v, error %v", l, err)
	}
}

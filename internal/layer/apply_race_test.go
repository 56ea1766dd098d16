package layer_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

var swaps = flag.Int("swaps", 10_000, "how often folders are swapped for links while layers are applied")

// While layers are applied, someone swaps their folders for links to a folder outside, and back.
// That may make them fail, but nothing outside changes.
func TestSwappedFolders(t *testing.T) {
	place := t.TempDir()
	outside := filepath.Join(place, "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "a", "b", "c"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "a", "b", "c", "f"), []byte("outside"), 0o644))
	before := describe(t, outside)

	tar := swappedLayer()
	forms := []layer.Options{
		{ReportLosses: true},
		{Form: layer.Overlay, ReportLosses: true},
		{Form: layer.UserOverlay, ReportLosses: true},
	}
	var done, whole, failed int
	for deadline := time.Now().Add(time.Minute); done < *swaps && time.Now().Before(deadline); {
		root := filepath.Join(place, "root")
		must(t, os.MkdirAll(filepath.Join(root, "a", "b", "c"), 0o755))
		var stop atomic.Bool
		swapped := make(chan int)
		go func() { swapped <- swap(root, outside, &stop) }()
		_, err := layer.Apply(t.Context(), bytes.NewReader(tar), root, forms[(whole+failed)%len(forms)])
		if err == nil {
			whole++
		} else {
			failed++
		}
		stop.Store(true)
		done += <-swapped
		must(t, layer.RemoveAll(root))
	}
	if diff := cmp.Diff(before, describe(t, outside)); diff != "" {
		t.Errorf("outside changed (-want +got):\n%s", diff)
	}
	t.Logf("%d swaps, %d layers applied, %d failed", done, whole, failed)
	if done < *swaps {
		t.Errorf("only %d swaps", done)
	}
}

// swap exchanges folders and links to outside until it is stopped, and says how often. It does not
// follow such links itself.
func swap(root, outside string, stop *atomic.Bool) (n int) {
	place, err := unix.Open(filepath.Dir(root), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer func() { _ = unix.Close(place) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	for i := 0; !stop.Load(); i++ {
		path := []string{"a", "a/b", "a/b/c"}[i%3]
		dir, err := unix.Openat2(place, filepath.Dir(filepath.Join("root", path)), &how)
		if err != nil {
			continue
		}
		exchange := func() error {
			return unix.Renameat2(dir, filepath.Base(path), place, "aside", unix.RENAME_EXCHANGE)
		}
		_ = unix.Symlinkat(filepath.Join(outside, path), place, "aside")
		// Both are there all the time, one as the other.
		if exchange() == nil {
			n++
			time.Sleep(time.Duration(i%7) * 10 * time.Microsecond)
			_ = exchange()
		}
		_ = unix.Close(dir)
		_ = layer.RemoveAll(filepath.Join(filepath.Dir(root), "aside")) // whichever it is by now
	}
	return n
}

// swappedLayer has something of each kind in folders that are swapped.
func swappedLayer() []byte {
	var entries []entry
	for i := range 20 {
		dir := []string{"a", "a/b", "a/b/c"}[i%3]
		name := fmt.Sprintf("%s/%d", dir, i)
		entries = append(entries,
			entry{kind: '5', name: dir, mode: 0o700 + int64(i), mtime: int64(i)}.with("SCHILY.xattr.user.x", "y"),
			file(name, "new"),
			file(dir+"/f", "new"),
			symlink(name+".s", "f"),
			hardlink(name+".h", name),
			hardlink(name+".g", dir+"/f"),
			entry{kind: '6', name: name + ".p", mode: 0o4777, uid: 1, mtime: 5},
			device(name+".d", '3', 1, 3),
			file(dir+"/.wh.f", ""),
			file(fmt.Sprintf("%s/d%d/e/f", dir, i), "new"),
			file(fmt.Sprintf("%s/d%d/.wh..wh..opq", dir, i), ""),
		)
	}
	entries = append(entries, file("a/.wh.b", ""), file("a/b/c/last", "new"), file("a/b/.wh..wh..opq", ""), file("a/b", "a file"))
	return archive(entries...)
}

// A tree is removed while its folders are swapped: nothing outside is.
func TestRemoveAllSwapped(t *testing.T) {
	place := t.TempDir()
	outside := filepath.Join(place, "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "a", "b", "c"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "a", "b", "c", "f"), []byte("outside"), 0o644))
	before := describe(t, outside)
	for range 300 {
		root := filepath.Join(place, "root")
		for i := range 10 {
			must(t, os.MkdirAll(filepath.Join(root, "a", "b", "c", fmt.Sprint(i)), 0o755))
		}
		var stop atomic.Bool
		swapped := make(chan int)
		go func() { swapped <- swap(root, outside, &stop) }()
		_ = layer.RemoveAll(root) // what is swapped back too late stays
		stop.Store(true)
		<-swapped
		must(t, layer.RemoveAll(root))
	}
	if diff := cmp.Diff(before, describe(t, outside)); diff != "" {
		t.Errorf("outside changed (-want +got):\n%s", diff)
	}
}

// A context that ends stops it, and leaves nothing running or open.
func TestApplyCancelled(t *testing.T) {
	large := archive(file("a", string(make([]byte, 8<<20))), file("b", ""))
	ctx, cancel := context.WithCancel(t.Context())
	r := readerFunc(func(b []byte) (int, error) {
		n := copy(b, large)
		if large = large[n:]; len(large) < 4<<20 {
			cancel()
		}
		return n, nil
	})
	open := openFiles(t)
	_, err := layer.Apply(ctx, r, newRoot(t), layer.Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if got := openFiles(t); got != open {
		t.Errorf("%d files are open, before it was %d", got, open)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// Whatever bytes are applied, nothing outside the root changes.
func FuzzApply(f *testing.F) {
	for _, c := range hostiles("/outside") {
		for _, l := range c.layers {
			if len(l) < 100<<10 {
				f.Add(l)
			}
		}
	}
	f.Add(swappedLayer())
	f.Fuzz(func(t *testing.T, tar []byte) {
		place := t.TempDir()
		outside := filepath.Join(place, "outside")
		must(t, os.Mkdir(outside, 0o755))
		must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("outside"), 0o644))
		before := describe(t, place)[1:]
		lower := archive(file("a/b/f", "1"), symlink("l", outside), symlink("m", "../../outside"), folder("d"), hardlink("h", "a/b/f"))
		for _, form := range []layer.Form{layer.Whole, layer.Overlay, layer.UserOverlay} {
			root := filepath.Join(place, "root")
			must(t, os.Mkdir(root, 0o755))
			o := layer.Options{Form: form, ReportLosses: true, Limits: layer.Limits{Entries: 1000, Size: 1 << 20}}
			if form == layer.Whole {
				applyTo(t, lower, root, o)
			}
			_, err := layer.Apply(t.Context(), bytes.NewReader(tar), root, o)
			var pathError *fs.PathError
			if errors.As(err, &pathError) {
				t.Errorf("a path of the host in %v", err)
			}
			must(t, layer.RemoveAll(root))
		}
		if diff := cmp.Diff(before, describe(t, place)[1:]); diff != "" {
			t.Errorf("outside changed (-want +got):\n%s", diff)
		}
	})
}

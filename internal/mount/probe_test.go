package mount

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// filesystemOf mounts a filesystem that needs no device and returns where.
func filesystemOf(t *testing.T, typ string, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, typ, flags, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, dir)
	return dir
}

// overlayOf mounts a writable overlay and returns where.
func overlayOf(t *testing.T) string {
	t.Helper()
	base := folders(t, "lower/", "upper/", "work/")
	return mounts(t, route{}, Mount{Type: "overlay", Source: "overlay", Options: []string{
		Dirs("lowerdir", base+"/lower"), Dirs("upperdir", base+"/upper"), Dirs("workdir", base+"/work"),
	}})
}

// A signal that arrives while a folder is listed cuts that listing short. The runtime sends them
// to make its threads yield, so a busy process sees that now and then.
func TestProbeSignals(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done := unix.Gettid(), make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG) // the thread is there until done
			}
		}
	})
	defer sender.Wait()
	defer close(done)
	dir := t.TempDir()
	for range 40 {
		if _, err := ProbeOverlay(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProbeOverlay(t *testing.T) {
	want := Overlay{Options: []string{"index=off", "metacopy=off", "redirect_dir=off"}}
	deep := filepath.Join(t.TempDir(), strings.Repeat(`de\ep:,/`, 100))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"here": t.TempDir(), "tmpfs": filesystemOf(t, "tmpfs", 0), "long path": deep,
	} {
		t.Run(name, func(t *testing.T) {
			before, err := Beneath("/")
			if err != nil {
				t.Fatal(err)
			}
			got, err := ProbeOverlay(dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			wantList(t, dir)
			after, err := Beneath("/")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("mounts (-before +after):\n%s", diff)
			}
			// What the probe says works, works.
			base := folders(t, "lower/", "upper/", "work/")
			mounts(t, route{}, Mount{Type: "overlay", Source: "overlay", Options: append(got.Options,
				Dirs("lowerdir", base+"/lower"), Dirs("upperdir", base+"/upper"), Dirs("workdir", base+"/work"))})
		})
	}
}

func TestProbeOverlayFails(t *testing.T) {
	for _, test := range []struct {
		name, dir string
		is        func(error) bool
		says      string
	}{
		{"on overlay", overlayOf(t), errdefs.IsPermissionDenied, "(overlay): whiteouts (devices 0/0) cannot be made"},
		{"without xattrs", filesystemOf(t, "ramfs", 0), nil, "(ramfs): opaque folders (trusted.overlay.opaque) cannot be marked"},
		{"read-only", filesystemOf(t, "tmpfs", unix.MS_RDONLY), nil, "read-only file system"},
		{"missing", filepath.Join(t.TempDir(), "missing"), errdefs.IsNotFound, "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ProbeOverlay(test.dir)
			if err == nil || !strings.Contains(err.Error(), test.says) || test.is != nil && !test.is(err) {
				t.Errorf("got %v, error %v", got, err)
			}
			if test.name != "missing" {
				wantList(t, test.dir)
			}
		})
	}
}

func TestProbeErofs(t *testing.T) {
	here, tmpfs := t.TempDir(), filesystemOf(t, "tmpfs", 0)
	for _, test := range []struct {
		name  string
		route route
		dir   string
		want  bool
	}{
		{"file", route{}, here, true},
		{"loop", route{loops: true}, here, false},
		{"tmpfs", route{}, tmpfs, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.route.probeErofs(test.dir)
			if err != nil || got != test.want {
				t.Errorf("got %v, error %v", got, err)
			}
			wantList(t, test.dir)
		})
	}
	if _, err := ProbeErofs(filepath.Join(here, "missing")); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
}

func BenchmarkProbe(b *testing.B) {
	for name, probe := range map[string]func(string) error{
		"overlay":      func(dir string) error { _, err := ProbeOverlay(dir); return err },
		"erofs":        func(dir string) error { _, err := ProbeErofs(dir); return err },
		"erofs, loops": func(dir string) error { _, err := route{loops: true}.probeErofs(dir); return err },
	} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			for b.Loop() {
				if err := probe(dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package mount

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// erofsRoutes mount the files themselves, or loop devices on them.
var erofsRoutes = map[string]route{"files": {}, "loops": {loops: true}}

// writeImage makes an image with one file of 10,000 bytes, which are in the image, or, if data is
// not empty, in a file of that name.
func writeImage(t *testing.T, name, data string, blockSize int) (content []byte) {
	t.Helper()
	options := []erofs.CreateOpt{erofs.WithBlockSize(blockSize)}
	if data != "" {
		f, err := os.Create(data)
		if err != nil {
			t.Fatal(err)
		}
		defer release(f)
		options = append(options, erofs.WithDataFile(f))
	}
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := erofs.Create(out, options...)
	f, err := w.Create("/file")
	if err != nil {
		t.Fatal(err)
	}
	content = bytes.Repeat([]byte("0123456789"), 1000)
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close(), w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	return content
}

func TestErofs(t *testing.T) {
	for _, blockSize := range []int{512, 4096} {
		for _, external := range []bool{false, true} {
			for name, r := range erofsRoutes {
				t.Run(fmt.Sprintf("blocks of %d, external %v, %s", blockSize, external, name), func(t *testing.T) {
					dir := t.TempDir()
					image, data := filepath.Join(dir, "im,age"), ""
					options := []string{"nosuid"}
					if external {
						data = filepath.Join(dir, strings.Repeat("d/", 130), "da,ta")
						if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
							t.Fatal(err)
						}
						options = append(options, "device="+data)
					}
					content := writeImage(t, image, data, blockSize)
					target := mounts(t, r, Mount{Type: "erofs", Source: image, Options: options})
					wantFile(t, filepath.Join(target, "file"), string(content))
					if err := os.Mkdir(filepath.Join(target, "new"), 0o755); !errors.Is(err, unix.EROFS) {
						t.Errorf("mkdir: %v", err)
					}
					info, _, err := At(target)
					if err != nil || info.Type != "erofs" || info.Options[0] != "ro" {
						t.Errorf("got %+v, error %v", info, err)
					}
					if r.loops {
						wantDetached(t, info.Source, func() {
							if err := Unmount(target); err != nil {
								t.Error(err)
							}
						})
					} else if info.Source != image {
						t.Errorf("source is %s, want %s", info.Source, image)
					}
				})
			}
		}
	}
}

// wantDetached checks that a loop device is in use before unmount and not after.
func wantDetached(t *testing.T, device string, unmount func()) {
	t.Helper()
	backing := filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file")
	if _, err := os.Stat(backing); err != nil {
		t.Errorf("source %s is no loop device in use: %v", device, err)
	}
	unmount()
	for range 100 { // some kernels detach in the background
		if _, err := os.Stat(backing); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s is still in use", device)
}

// A kernel that mounts block devices only, or a filesystem whose files are not fit, such as tmpfs
// here, is answered with loop devices, without being told to.
func TestErofsFallsBack(t *testing.T) {
	tmpfs := t.TempDir()
	if err := unix.Mount("none", tmpfs, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, tmpfs)
	image, data := filepath.Join(tmpfs, "image"), filepath.Join(tmpfs, "data")
	content := writeImage(t, image, data, 512)
	target := mounts(t, route{}, Mount{Type: "erofs", Source: image, Options: []string{"device=" + data}})
	wantFile(t, filepath.Join(target, "file"), string(content))
	info, _, err := At(target)
	if err != nil || !strings.HasPrefix(info.Source, "/dev/loop") {
		t.Errorf("source is %s, error %v", info.Source, err)
	}
	wantDetached(t, info.Source, func() {
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	})
}

// Images are stacked by an overlay, as layers are.
func TestErofsBeneathOverlay(t *testing.T) {
	for name, r := range erofsRoutes {
		t.Run(name, func(t *testing.T) {
			dir := folders(t, "1/", "2/", "upper/", "work/", "target/")
			unmountLater(t, dir)
			content := writeImage(t, filepath.Join(dir, "image"), "", 512)
			err := r.all([]Mount{
				{Type: "erofs", Source: filepath.Join(dir, "image"), Target: "1"},
				{Type: "erofs", Source: filepath.Join(dir, "image"), Target: "2"},
				{Type: "overlay", Source: "overlay", Target: "target", Options: []string{
					Dirs("lowerdir", dir+"/1", dir+"/2"), Dirs("upperdir", dir+"/upper"), Dirs("workdir", dir+"/work"),
				}},
			}, dir)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "target/file")
			wantFile(t, file, string(content))
			if err := os.WriteFile(file, []byte("new"), 0o644); err != nil {
				t.Error(err)
			}
			wantFile(t, filepath.Join(dir, "upper/file"), "new")
		})
	}
}

// What cannot be mounted leaves no loop device behind.
func TestErofsErrors(t *testing.T) {
	for name, r := range erofsRoutes {
		t.Run(name, func(t *testing.T) {
			dir, target := t.TempDir(), t.TempDir()
			unmountLater(t, target)
			image, data := filepath.Join(dir, "image"), filepath.Join(dir, "data")
			writeImage(t, image, data, 512)
			for _, test := range []struct {
				source  string
				options []string
				is      func(error) bool
				says    string
			}{
				{image, []string{"device=" + data + "x"}, errdefs.IsNotFound, "datax"},
				{image, []string{"device=" + data, "flavour=on"}, errdefs.IsInvalidArgument, "flavour"},
				{data, nil, errdefs.IsInvalidArgument, "data"},
			} {
				err := r.all([]Mount{{Type: "erofs", Source: test.source, Options: test.options}}, target)
				if !test.is(err) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s %q: %v", test.source, test.options, err)
				}
			}
			wantNoMounts(t, target)
			backings, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
			if err != nil {
				t.Fatal(err)
			}
			for _, backing := range backings {
				name, err := os.ReadFile(backing)
				if err == nil && strings.HasPrefix(string(name), dir) {
					t.Errorf("%s holds %s", backing, name)
				}
			}
		})
	}
}

// Loop devices are asked for side by side without taking each other's.
func TestLoopRace(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, emptyErofs(), 0o644); err != nil {
		t.Fatal(err)
	}
	const n = 16
	devices, errs := make(chan *os.File, n), make(chan error, n)
	for range n {
		go func() {
			device, err := attachLoop(image)
			errs <- err
			devices <- device
		}()
	}
	names := map[string]bool{}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
		if device := <-devices; device != nil {
			defer release(device)
			names[device.Name()] = true
		}
	}
	if len(names) != n {
		t.Errorf("%d devices, want %d: %v", len(names), n, names)
	}
}

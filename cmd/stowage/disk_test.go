package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stowage/stowage/internal/imagetest"
)

// mount puts a filesystem of its own, of a size, at dir until the test ends. It needs root.
func mount(t *testing.T, dir, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		t.Fatalf("mount a tmpfs, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

func remount(t *testing.T, dir string, flags uintptr, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, options); err != nil {
		t.Fatalf("remount %s: %v", dir, err)
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// TestFullDisk fills the disk of the store. The pull says so, the store stays usable, and with
// more room the same pull goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("small", "1", 20_000)
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Plain, imagetest.Seeded(1, 24<<20), imagetest.Seeded(2, 10_000))}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Push(t.Context(), r.host, "big", "1", img); err != nil {
		t.Fatal(err)
	}
	small, big := r.host+"/small:1", r.host+"/big:1"
	mount(t, r.root, "20m")
	r.must("pull", "-q", small)
	r.fails(1, "^pull "+big+": (fetch|unpack) layer "+img.Manifest().Layers[0].Digest.String()+": .*no space left on device$", "pull", "-q", big)
	_, errs, _ := r.run("pull", "-q", big)
	if !strings.Contains(errs, "\nhint: the disk is full; ") {
		t.Errorf("got %q, want a hint about the disk", errs)
	}
	r.named(small)
	r.must("image", "check", "--verify", small)
	r.must("image", "info", small)
	r.must("content", "verify", "--all")
	r.must("content", "ingests")

	remount(t, r.root, 0, "size=64m")
	_, errs, status := r.run("pull", "--progress", "plain", big)
	if status != 0 || !strings.Contains(errs, "goes on from") {
		t.Errorf("status %d, want 0 and a pull that goes on: %s", status, errs)
	}
	r.named(big, small)
	r.must("image", "check", "--verify")
}

// TestFullDiskFreed makes room on a full disk with the command's own means.
func TestFullDiskFreed(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("first", "1", 3<<20)
	r.push("second", "1", 100_000, 4<<20)
	first, second := r.host+"/first:1", r.host+"/second:1"
	mount(t, r.root, "6m")
	r.must("pull", "-q", first)
	r.fails(1, "^pull "+second+": .*no space left on device$", "pull", "-q", second)
	r.must("rmi", "--gc", first)
	r.must("pull", "-q", second)
	r.must("image", "check", "--verify")
}

// TestExportToFullDisk sees that an export that does not fit leaves nothing behind.
func TestExportToFullDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("app", "1", 4<<20)
	name := r.host + "/app:1"
	r.must("pull", "-q", name)
	dir := filepath.Join(t.TempDir(), "full")
	mount(t, dir, "1m")
	for _, args := range [][]string{
		{"export", filepath.Join(dir, "app.tar"), name},
		{"save", "-o", filepath.Join(dir, "app.tar"), name},
		{"content", "export", filepath.Join(dir, "blobs.tar")},
	} {
		r.fails(1, "^(content )?export.*no space left on device$", append(args, "--progress", "none")...)
		_, errs, _ := r.run(append(args, "--progress", "none")...)
		if strings.Contains(errs, "hint: ") {
			t.Errorf("got %q; the store has nothing to do with it", errs)
		}
		if got := entries(t, dir); len(got) > 0 {
			t.Errorf("%s left %q", strings.Join(args, " "), got)
		}
	}
	// Standard output that is full is no success either.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }() // nothing was written
	for _, args := range [][]string{{"save", "--progress", "none", name}, {"images"}, {"image", "info", name}} {
		cmd := r.command(args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &errs
		_ = cmd.Run() // its status is compared below
		r.failed(cmd.ProcessState.ExitCode(), 1, errs.String(), "no space left on device$", args...)
	}
}

// TestReadOnlyRoot reads a store that cannot be written, and tries to write it.
func TestReadOnlyRoot(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	img := r.push("app", "1", 50_000, 20_000)
	r.push("other", "1", 10_000)
	name, other := r.host+"/app:1", r.host+"/other:1"
	mount(t, r.root, "16m")
	r.must("pull", "-q", name)
	file := filepath.Join(t.TempDir(), "app.tar")
	remount(t, r.root, syscall.MS_RDONLY, "")

	layer := img.Manifest().Layers[0].Digest.String()
	r.named(name)
	for _, args := range [][]string{
		{"images"},
		{"image", "info", name},
		{"image", "inspect", name},
		{"image", "check", "--verify"},
		{"content", "ls"},
		{"content", "info", layer},
		{"content", "get", layer},
		{"content", "verify", "--all"},
		{"content", "ingests"},
		{"content", "export", filepath.Join(t.TempDir(), "blobs.tar")},
		{"lease", "ls"},
		{"namespace", "ls"},
		{"pull", "--dry-run", other},
		{"export", file, name},
	} {
		r.must(args...)
	}
	if info, err := os.Stat(file); err != nil || info.Size() < 30_000 {
		t.Errorf("the export is not whole: %v", err)
	}
	for _, args := range [][]string{
		{"pull", "-q", other},
		{"content", "fetch", "--progress", "none", other},
		{"import", "-q", file},
		{"load", "-q", "-i", file},
		{"rmi", name},
		{"rmi", "--gc", name},
		{"tag", name, "base:1"},
		{"image", "label", name, "a=b"},
		{"content", "rm", "--force", layer},
		{"content", "label", layer, "a=b"},
		{"content", "prune"},
		{"content", "import", file},
		{"lease", "create"},
		{"namespace", "create", "team"},
		{"namespace", "label", "default", "a=b"},
	} {
		r.fails(1, "read-only file system$", args...)
	}
	r.named(name)
}

// TestUnwritableRoot runs the command as somebody who may not write the store.
func TestUnwritableRoot(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("app", "1", 50_000)
	name := r.host + "/app:1"
	// Others do not get through to the folders of the test.
	dir, err := os.MkdirTemp("", "stowage-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	bin := filepath.Join(dir, "stowage")
	if out, err := exec.CommandContext(t.Context(), "cp", r.bin, bin).CombinedOutput(); err != nil {
		t.Fatalf("copy the command: %v: %s", err, out)
	}
	for _, name := range []string{dir, bin} {
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.bin, r.root = bin, filepath.Join(dir, "store")
	stranger := func(status int, want string, args ...string) {
		t.Helper()
		cmd := r.command(args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		r.failed(cmd.ProcessState.ExitCode(), status, errs.String(), want, args...)
		if !strings.Contains(errs.String(), "\nhint: choose a store of your own ") {
			t.Errorf("got %q, want a hint", errs.String())
		}
	}
	stranger(1, "^open store "+r.root+": .*permission denied$", "pull", "-q", name)
	if got := entries(t, dir); len(got) != 1 {
		t.Errorf("there is %q, want the command alone", got)
	}
	r.must("pull", "-q", name)
	stranger(1, "permission denied$", "pull", "-q", name)
	stranger(1, "permission denied$", "images")
	stranger(1, "permission denied$", "rmi", name)
	r.named(name)
}

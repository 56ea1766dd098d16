package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// TestCopyDisk copies to disks that are full or read-only: the error calls the file by the name that it would
// have, and nothing has a name that is not whole.
func TestCopyDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("app", "1", 8<<20)
	from, dir := "docker://"+r.host+"/app:1", filepath.Join(t.TempDir(), "disk")
	mount(t, dir, "4m")
	r.fails(exitFailed, "write "+dir+"/a.tar: no space left on device$", "copy", "-q", from, "oci-archive:"+dir+"/a.tar")
	if left := entries(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	r.fails(exitFailed, "write "+dir+"/layout/blobs/sha256/[0-9a-f]+: no space left on device$", "copy", "-q", from, "oci:"+dir+"/layout")
	if left := entries(t, dir+"/layout"); slices.Contains(left, "index.json") {
		t.Errorf("in the folder: %v, want no index.json", left)
	}
	for _, name := range entries(t, dir+"/layout/blobs/sha256") {
		if strings.HasPrefix(name, ".") {
			t.Errorf("left behind: %s", name)
		}
	}
	remount(t, dir, syscall.MS_RDONLY, "")
	r.fails(exitFailed, dir+"/b.tar: read-only file system$", "copy", "-q", from, "oci-archive:"+dir+"/b.tar")
	r.fails(exitFailed, "read-only file system$", "copy", "-q", from, "oci:"+dir+"/other")
}

// TestInterruptedCopy presses Ctrl-C in the middle: no name, and no promise that is not kept.
func TestInterruptedCopy(t *testing.T) {
	t.Parallel()
	f, other := newFaultyRig(t), newFaultyRig(t)
	f.push("app", "1", 30_000, 40_000)
	dir := t.TempDir()
	for to, want := range map[string]string{
		"oci-archive:" + dir + "/a.tar":     "",
		"oci:" + dir + "/layout":            "hint: what is whole at the target is kept; the same command goes on from there\n",
		"docker://" + other.host + "/app:1": "hint: what is whole at the target is kept; the same command goes on from there\n",
	} {
		reached := make(chan struct{})
		f.spoil(registrytest.On("GET", "/app/blobs/", hangAfter(1, reached)))
		cmd := f.command("copy", "-q", "docker://"+f.host+"/app:1", to)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-reached
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // which its status tells
		line, hint, _ := strings.Cut(errs.String(), "\n")
		if got := cmd.ProcessState.ExitCode(); got != exitInterrupted || !strings.HasSuffix(line, "interrupted") || hint != want {
			t.Errorf("%s: status %d, %q, want %d and the hint %q", to, got, errs.String(), exitInterrupted, want)
		}
	}
	f.spoil()
	f.fails(exitNotFound, "404", "pull", "-q", other.host+"/app:1")
	if left := entries(t, dir); len(left) != 1 || slices.Contains(entries(t, dir+"/layout"), "index.json") {
		t.Errorf("left behind: %v, %v", left, entries(t, dir+"/layout"))
	}
}

// TestMissingHint tells how to get what is missing, where there is a way.
func TestMissingHint(t *testing.T) {
	t.Parallel()
	f, to := newFaultyRig(t), newFaultyRig(t)
	img := f.push("app", "1", 30_000)
	app, layer := f.host+"/app:1", img.Manifest().Layers[0].Digest
	f.must("pull", "-q", app)
	f.must("copy", "-q", "docker://"+app, "oci:"+f.root+"/layout")
	f.must("content", "rm", "--force", layer.String())
	if err := os.Remove(filepath.Join(f.root, "layout", "blobs", "sha256", layer.Encoded())); err != nil {
		t.Fatal(err)
	}
	target := to.host + "/app:1"
	for _, c := range []struct {
		args []string
		hint string
	}{
		{[]string{"push", "-q", app, target}, "hint: `stowage push --fetch-missing` gets what is missing from the registry that the name points to\n"},
		{[]string{"copy", "-q", "store:" + app, "docker://" + target}, "hint: `stowage export --fetch-missing` or `stowage pull " + app + "` gets what is missing\n"},
		{[]string{"copy", "-q", "oci:" + f.root + "/layout", "docker://" + target}, ""},
	} {
		_, errs, status := f.run(c.args...)
		f.failed(status, exitDamage, errs, layer.String(), c.args...)
		if _, hint, _ := strings.Cut(errs, "\n"); hint != c.hint {
			t.Errorf("%v: hint %q, want %q", c.args, hint, c.hint)
		}
	}
	f.must("push", "-q", "--fetch-missing", app, target)
}

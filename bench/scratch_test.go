package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What a run mounted and left goes with its filesystem.
func TestExt4(t *testing.T) {
	b := &bench{dir: t.TempDir() + "/a b"}
	if err := os.MkdirAll(b.work(), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, drop, err := b.ext4(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	mounts, err := mountsBeneath(b.work())
	if len(mounts) != 2 || mounts[0] != dir || mounts[1] != inner || err != nil {
		t.Errorf("mounts are %q, %v; want %q, %q", mounts, err, dir, inner)
	}
	if err := drop(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(b.work())
	if len(left) != 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

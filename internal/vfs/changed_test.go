package vfs_test

import (
	"testing"

	"github.com/stowage/stowage/internal/vfs"
)

func TestChangedAt(t *testing.T) {
	disk := openOS(t)
	write(t, disk, "f", "x")
	fi, err := disk.Lstat("f")
	must(t, err)
	if vfs.ChangedAt(fi).IsZero() {
		t.Error("a real disk does not tell")
	}
	mem := vfs.NewMem()
	write(t, mem, "f", "x")
	fi, err = mem.Lstat("f")
	must(t, err)
	if !vfs.ChangedAt(fi).IsZero() {
		t.Error("a memory disk tells")
	}
}

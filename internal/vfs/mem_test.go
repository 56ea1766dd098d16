package vfs_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stowage/stowage/internal/vfs"
)

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	mem := vfs.NewMem()
	must(t, mem.Mkdir("d", 0o755))
	must(t, mem.SyncDir("."))
	f := create(t, mem, "d/f")
	_, err := f.WriteAt([]byte("kept"), 0)
	must(t, err)
	must(t, f.Sync())
	must(t, mem.SyncDir("d"))
	for seed := range uint64(20) {
		if got := read(t, mem.AfterCrashSeed(seed), "d/f"); got != "kept" {
			t.Errorf("seed %d: got %q, want %q", seed, got, "kept")
		}
	}
}

func TestCrashKeepsWhatSyncAllSynced(t *testing.T) {
	mem := vfs.NewMem()
	must(t, mem.Mkdir("d", 0o755))
	write(t, mem, "d/f", "kept")
	must(t, mem.SyncAll())
	write(t, mem, "d/f", "lost")
	write(t, mem, "d/g", "lost")
	after := mem.AfterCrash()
	if got := read(t, after, "d/f"); got != "kept" {
		t.Errorf("got %q, want %q", got, "kept")
	}
	if _, err := after.Open("d/g"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that was not synced: got %v, want %v", err, fs.ErrNotExist)
	}
	if got := read(t, mem, "d/f"); got != "lost" {
		t.Errorf("the disk before the crash changed: got %q", got)
	}
}

func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	// A rename of a file that was not synced: the name may survive without the bytes.
	outcomes := map[string]bool{}
	for seed := range uint64(64) {
		mem := vfs.NewMem()
		write(t, mem, "f", "old")
		must(t, mem.SyncAll())
		write(t, mem, "tmp", strings.Repeat("new", 400))
		must(t, mem.Rename("tmp", "f"))
		after := mem.AfterCrashSeed(seed)
		got := read(t, after, "f")
		again := read(t, mem.AfterCrashSeed(seed), "f")
		if got != again {
			t.Fatalf("seed %d: got %q, then %q", seed, got, again)
		}
		switch {
		case got == "old":
			outcomes["old"] = true
		case got == "":
			outcomes["empty"] = true
		case strings.Trim(got, "\x00") == "":
			outcomes["zeros"] = true
		case strings.Contains(got, "\x00"):
			outcomes["torn"] = true
		case got == strings.Repeat("new", 400):
			outcomes["new"] = true
		default:
			t.Fatalf("seed %d: got %q, which was never written", seed, got)
		}
	}
	for _, want := range []string{"old", "empty", "zeros", "torn", "new"} {
		if !outcomes[want] {
			t.Errorf("no seed gives the outcome %q", want)
		}
	}
	mem := vfs.NewMem()
	write(t, mem, "f", "data")
	if got, want := read(t, mem.AfterCrashSeed(1), "f"), "\x00\x00\x00\x00"; got != want {
		t.Errorf("seed 1: got %q, want %q", got, want)
	}
}

func TestCrashBringsBackWhatWasRemoved(t *testing.T) {
	mem := vfs.NewMem()
	write(t, mem, "f", "back")
	must(t, mem.SyncAll())
	must(t, mem.Remove("f"))
	if got := read(t, mem.AfterCrash(), "f"); got != "back" {
		t.Errorf("got %q, want %q", got, "back")
	}
	must(t, mem.SyncDir("."))
	if got := list(t, mem.AfterCrash(), "."); len(got) != 0 {
		t.Errorf("after SyncDir: got %v, want nothing", got)
	}
}

func TestCrashDropsLocksAndChangesBoot(t *testing.T) {
	mem := vfs.NewMem()
	f := create(t, mem, "f")
	must(t, f.Lock(t.Context()))
	must(t, mem.SyncAll())
	after := mem.AfterCrash()
	if ok, err := create(t, after, "f").TryLock(); !ok || err != nil {
		t.Errorf("TryLock after a crash: got %v, %v, want true", ok, err)
	}
	if after.BootID() == mem.BootID() {
		t.Errorf("BootID: got %q before and after", mem.BootID())
	}
}

func TestFailNth(t *testing.T) {
	// The calls are: mkdir, create, write, sync, close.
	run := func(disk vfs.FS) (errs []error) {
		errs = append(errs, disk.Mkdir("d", 0o755))
		f, err := disk.Create("f", 0o600)
		if errs = append(errs, err); err != nil {
			return errs
		}
		_, err = f.WriteAt([]byte("data"), 0)
		return append(errs, err, f.Sync(), f.Close())
	}
	for n := range 7 {
		faulty := vfs.FailNth(vfs.NewMem(), n)
		errs := run(faulty)
		failed := slices.IndexFunc(errs, func(err error) bool { return err != nil })
		if n >= 5 {
			if faulty.Fired || failed >= 0 {
				t.Errorf("call %d: nothing should have failed, got %v", n, errs)
			}
			continue
		}
		if !faulty.Fired || failed != n || !errors.Is(errs[n], syscall.EIO) {
			t.Errorf("call %d: got %v, want EIO of that call", n, errs)
		}
	}
}

func TestFullNth(t *testing.T) {
	mem := vfs.NewMem()
	full := vfs.FullNth(mem, 1)
	f, err := full.Create("f", 0o600)
	must(t, err)
	n, err := f.WriteAt([]byte("four"), 0)
	if n != 2 || !errors.Is(err, syscall.ENOSPC) || !full.Fired {
		t.Errorf("write on a full disk: got %d, %v, want 2, ENOSPC", n, err)
	}
	if err := full.Mkdir("d", 0o700); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("mkdir on a full disk: got %v, want ENOSPC", err)
	}
	must(t, f.Sync())
	must(t, f.Close())
	if got := read(t, mem, "f"); got != "fo" {
		t.Errorf("got %q, want %q", got, "fo")
	}
}

func TestNoSync(t *testing.T) {
	mem := vfs.NewMem()
	disk := vfs.NoSync(mem)
	f := create(t, disk, "f")
	_, err := f.WriteAt([]byte("data"), 0)
	must(t, err)
	must(t, f.Sync())
	must(t, disk.SyncDir("."))
	must(t, disk.SyncAll())
	if got := list(t, mem.AfterCrash(), "."); len(got) != 0 {
		t.Errorf("something was synced: %v", got)
	}
	if vfs.Syncs(disk) || !vfs.Syncs(mem) {
		t.Error("Syncs does not tell them apart")
	}
}

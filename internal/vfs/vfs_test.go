package vfs_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/vfs"
)

// disks are all that must keep the contract of [vfs.FS]: the disks, and what wraps them.
func disks() map[string]func(t *testing.T) vfs.FS {
	return map[string]func(t *testing.T) vfs.FS{
		"os":     openOS,
		"mem":    func(*testing.T) vfs.FS { return vfs.NewMem() },
		"nosync": func(t *testing.T) vfs.FS { return vfs.NoSync(openOS(t)) },
		"faulty": func(*testing.T) vfs.FS { return vfs.FailNth(vfs.NewMem(), -1) },
		"crash":  func(*testing.T) vfs.FS { return vfs.NewMem().AfterCrash() },
	}
}

func openOS(t *testing.T) vfs.FS {
	t.Helper()
	disk, err := vfs.OS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

func TestContract(t *testing.T) {
	checks := map[string]func(t *testing.T, disk vfs.FS){
		"data": testData, "names": testNames, "kinds": testKinds, "identity": testIdentity,
		"lock": testLock, "invalid names": testInvalid, "removed file": testRemoved,
	}
	for name, open := range disks() {
		for what, check := range checks {
			t.Run(name+"/"+what, func(t *testing.T) { check(t, open(t)) })
		}
	}
}

func testData(t *testing.T, disk vfs.FS) {
	f := create(t, disk, "f")
	if n, err := f.WriteAt([]byte("hello"), 3); n != 5 || err != nil {
		t.Fatalf("WriteAt: got %d, %v, want 5, nil", n, err)
	}
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 0); n != 8 || err != io.EOF || string(p[:n]) != "\x00\x00\x00hello" {
		t.Errorf("ReadAt past the end: got %d, %v, %q", n, err, p[:n])
	}
	if n, err := f.ReadAt(p[:2], 4); n != 2 || err != nil || string(p[:2]) != "el" {
		t.Errorf("ReadAt: got %d, %v, %q", n, err, p[:2])
	}
	must(t, f.Truncate(4))
	must(t, f.Truncate(6))
	if got, want := read(t, disk, "f"), "\x00\x00\x00h\x00\x00"; got != want {
		t.Errorf("after Truncate: got %q, want %q", got, want)
	}
	must(t, f.Sync())
	again := create(t, disk, "f")
	if fi, err := again.Stat(); err != nil || fi.Size() != 6 || fi.Mode() != 0o640 {
		t.Errorf("Create of what is there: got %v, %v, want it unchanged", fi, err)
	}
	ro, err := disk.Open("f")
	must(t, err)
	defer closed(t, ro)
	if _, err := ro.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a file opened for reading was written")
	}
}

func testNames(t *testing.T, disk vfs.FS) {
	must(t, disk.Mkdir("d", 0o755))
	must(t, disk.Mkdir("e", 0o755))
	write(t, disk, "d/b", "one")
	write(t, disk, "d/a", "two")
	write(t, disk, "e/c", "three")
	must(t, disk.Rename("d/b", "e/c"))
	if got := read(t, disk, "e/c"); got != "one" {
		t.Errorf("after Rename: got %q, want %q", got, "one")
	}
	must(t, disk.Rename("d/a", "d/z"))
	write(t, disk, "d/a", "four")
	must(t, disk.Mkdir("d/m", 0o755))
	if got, want := list(t, disk, "d"), []string{"a", "m/", "z"}; !slices.Equal(got, want) {
		t.Errorf("ReadDir: got %v, want %v", got, want)
	}
	must(t, disk.Chmod("d/a", 0o444))
	fi, err := disk.Lstat("d/a")
	if err != nil || fi.Mode() != 0o444 || fi.Size() != 4 || fi.Name() != "a" {
		t.Errorf("Lstat: got %v, %v", fi, err)
	}
	if age := time.Since(fi.ModTime()); age < -time.Minute || age > time.Minute {
		t.Errorf("ModTime: got %v", fi.ModTime())
	}
	must(t, disk.Remove("d/m"))
	must(t, disk.Remove("d/a"))
	must(t, disk.Remove("d/z"))
	must(t, disk.Remove("d"))
	must(t, disk.SyncDir("."))
	must(t, disk.SyncAll())
	if got, want := list(t, disk, "."), []string{"e/"}; !slices.Equal(got, want) {
		t.Errorf("ReadDir: got %v, want %v", got, want)
	}
	if boot := disk.BootID(); boot == "" || disk.BootID() != boot {
		t.Errorf("BootID: got %q, then %q", boot, disk.BootID())
	}
}

func testKinds(t *testing.T, disk vfs.FS) {
	must(t, disk.Mkdir("d", 0o755))
	must(t, disk.Mkdir("e", 0o755))
	write(t, disk, "d/f", "")
	_, openErr := disk.Open("x")
	_, openDirErr := disk.Open("d")
	_, createErr := disk.Create("x/f", 0o600)
	_, createDirErr := disk.Create("d", 0o600)
	_, lstatErr := disk.Lstat("d/x")
	_, throughErr := disk.Lstat("d/f/x")
	_, readDirErr := disk.ReadDir("x")
	for _, c := range []struct {
		name      string
		got, want error
	}{
		{"open what is not there", openErr, fs.ErrNotExist},
		{"open a directory", openDirErr, syscall.EISDIR},
		{"create without parent", createErr, fs.ErrNotExist},
		{"create a directory", createDirErr, syscall.EISDIR},
		{"lstat what is not there", lstatErr, fs.ErrNotExist},
		{"walk through a file", throughErr, syscall.ENOTDIR},
		{"list what is not there", readDirErr, fs.ErrNotExist},
		{"make a directory twice", disk.Mkdir("d", 0o755), fs.ErrExist},
		{"make a directory over a file", disk.Mkdir("d/f", 0o755), fs.ErrExist},
		{"make a directory without parent", disk.Mkdir("x/y", 0o755), fs.ErrNotExist},
		{"remove what is not there", disk.Remove("x"), fs.ErrNotExist},
		{"remove a full directory", disk.Remove("d"), syscall.ENOTEMPTY},
		{"rename what is not there", disk.Rename("x", "y"), fs.ErrNotExist},
		{"rename over a directory", disk.Rename("d/f", "e"), syscall.EISDIR},
		{"chmod what is not there", disk.Chmod("x", 0o600), fs.ErrNotExist},
	} {
		var path *fs.PathError
		if !errors.Is(c.got, c.want) || !errors.As(c.got, &path) {
			t.Errorf("%s: got %v, want a PathError with %v", c.name, c.got, c.want)
		}
	}
}

func testIdentity(t *testing.T, disk vfs.FS) {
	write(t, disk, "b", "")
	f := create(t, disk, "a")
	open, err := f.Stat()
	must(t, err)
	same := func(name string) bool {
		fi, err := disk.Lstat(name)
		must(t, err)
		return vfs.SameFile(open, fi)
	}
	if !same("a") || same("b") {
		t.Error("SameFile takes one file for another")
	}
	must(t, disk.Rename("a", "b"))
	if !same("b") {
		t.Error("a renamed file is another")
	}
	if vfs.SameFile(open, nil) {
		t.Error("a file is the same as none")
	}
}

func testRemoved(t *testing.T, disk vfs.FS) {
	write(t, disk, "f", "still here")
	f, err := disk.Open("f")
	must(t, err)
	must(t, disk.Remove("f"))
	p := make([]byte, 10)
	if _, err := f.ReadAt(p, 0); err != nil || string(p) != "still here" {
		t.Errorf("read after remove: got %q, %v", p, err)
	}
	must(t, f.Close())
	if _, err := f.ReadAt(p, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after Close: got %v, want %v", err, fs.ErrClosed)
	}
}

func testLock(t *testing.T, disk vfs.FS) {
	a, b := create(t, disk, "f"), create(t, disk, "f")
	try := func(f vfs.File, want bool) {
		t.Helper()
		if ok, err := f.TryLock(); ok != want || err != nil {
			t.Fatalf("TryLock: got %v, %v, want %v", ok, err, want)
		}
	}
	try(a, true)
	try(b, false)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := b.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Lock until a deadline: got %v, want %v", err, context.DeadlineExceeded)
	}
	must(t, disk.Rename("f", "g")) // the lock is on the file, not on its name
	try(b, false)
	locked := make(chan error)
	go func() { locked <- b.Lock(t.Context()) }()
	must(t, a.Close())
	must(t, <-locked)
	other, err := disk.Open("g") // reading is enough to look for a lock
	must(t, err)
	defer closed(t, other)
	try(other, false)
	must(t, b.Close())
	try(other, true)
}

func testInvalid(t *testing.T, disk vfs.FS) {
	write(t, disk, "f", "")
	for _, name := range []string{"", "/f", "../f", "./f", "f/", "d/../f"} {
		_, createErr := disk.Create(name, 0o600)
		_, openErr := disk.Open(name)
		_, lstatErr := disk.Lstat(name)
		_, readDirErr := disk.ReadDir(name)
		for op, err := range map[string]error{
			"create": createErr, "open": openErr, "lstat": lstatErr, "readdir": readDirErr,
			"mkdir": disk.Mkdir(name, 0o700), "remove": disk.Remove(name), "chmod": disk.Chmod(name, 0o600),
			"rename from": disk.Rename(name, "g"), "rename to": disk.Rename("f", name),
		} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s %q: got %v, want %v", op, name, err, fs.ErrInvalid)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closed(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// create opens name for writing until the test ends.
func create(t *testing.T, disk vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := disk.Create(name, 0o640)
	must(t, err)
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

func write(t *testing.T, disk vfs.FS, name, data string) {
	t.Helper()
	f, err := disk.Create(name, 0o640)
	must(t, err)
	_, err = f.WriteAt([]byte(data), 0)
	must(t, err)
	must(t, f.Close())
}

func read(t *testing.T, disk vfs.FS, name string) string {
	t.Helper()
	f, err := disk.Open(name)
	must(t, err)
	defer closed(t, f)
	fi, err := f.Stat()
	must(t, err)
	p := make([]byte, fi.Size())
	if len(p) > 0 {
		_, err = f.ReadAt(p, 0)
		must(t, err)
	}
	return string(p)
}

func list(t *testing.T, disk vfs.FS, name string) (names []string) {
	t.Helper()
	entries, err := disk.ReadDir(name)
	must(t, err)
	for _, e := range entries {
		fi, err := e.Info()
		must(t, err)
		if fi.IsDir() != e.IsDir() {
			t.Errorf("%s: its Info is of another kind", e.Name())
		}
		if e.IsDir() {
			names = append(names, e.Name()+"/")
		} else {
			names = append(names, e.Name())
		}
	}
	return names
}

package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// What the root and the process are like has no effect on what is in the layer.
func TestApplyToOddRoot(t *testing.T) {
	tar := archive(
		folder("/"), folder("d"), file("d/a", "1"), entry{kind: '0', name: "b", mode: 0o666}, entry{kind: '5', name: "e", mode: 0o2777, gid: 5},
		entry{kind: '0', name: "e/f", mode: 0o600}, entry{kind: '6', name: "p", mode: 0o622}, file("i/j/k", ""), symlink("s", "x"),
	)
	plain := newRoot(t)
	applyTo(t, tar, plain, layer.Options{Form: layer.Overlay})

	odd := newRoot(t)
	must(t, os.Chown(odd, 7, 8))
	must(t, unix.Chmod(odd, 0o2700))
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x05\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	must(t, unix.Setxattr(odd, "system.posix_acl_default", []byte(acl), 0))
	must(t, unix.Setxattr(odd, "user.x", []byte("y"), 0))
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	applyTo(t, tar, odd, layer.Options{Form: layer.Overlay})
	alike(t, "a folder of a stack", plain, odd)
}

// What is immutable gives way, and so does what is in an immutable folder.
func TestApplyOverImmutable(t *testing.T) {
	root := newRoot(t)
	applyTo(t, archive(file("a", "1"), file("d/b", "2"), file("d/e/c", "3"), file("f", "4"), file("g", "5"), file("d/h", "")), root, layer.Options{})
	for _, name := range []string{"a", "d/b", "d/e/c", "f", "d/e", "d", "g"} {
		setFlags(t, filepath.Join(root, name), 0x10)
	}
	setFlags(t, filepath.Join(root, "g"), 0x20) // append only
	applyTo(t, archive(file("a", "new"), file("d/b", "new"), file("d/new", "new"), file("d/e", "a file"), file(".wh.f", ""), hardlink("i", "g"), hardlink("d/h", "g")), root, layer.Options{})
	want := []string{"a new", "d/", "d/b new", "d/e a file", "d/h 5", "d/new new", "g 5", "i 5"}
	if diff := cmp.Diff(want, list(t, root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func setFlags(t testing.TB, name string, flags int) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
	must(t, f.Close())
}

// A filesystem without room is an error that names the file.
func TestApplyToFullFilesystem(t *testing.T) {
	place := t.TempDir()
	must(t, unix.Mount("none", place, "tmpfs", 0, "size=1m"))
	defer func() { must(t, unix.Unmount(place, unix.MNT_DETACH)) }()
	for _, size := range []int{100 << 10, 4 << 20} {
		root := filepath.Join(place, "root")
		must(t, os.Mkdir(root, 0o755))
		var entries []entry
		for i := range 30 {
			entries = append(entries, file(fmt.Sprint("file", i), strings.Repeat("x", size)))
		}
		open := openFiles(t)
		_, err := layer.Apply(t.Context(), bytes.NewReader(archive(entries...)), root, layer.Options{})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "write \"file") {
			t.Errorf("got %v, want no space for some file", err)
		}
		if got := openFiles(t); got != open {
			t.Errorf("%d files are open, before it was %d", got, open)
		}
		must(t, layer.RemoveAll(root))
	}
}

// A file that is copied up for a link is whole, or an error: the kernel writes what there is room for
// and says so only by the number.
func TestCopyUpToFullFilesystem(t *testing.T) {
	stack := applyStack(t, layer.Overlay, [][]byte{archive(file("low", strings.Repeat("x", 200<<10)))})
	below, err := layer.OpenStack(layer.Overlay, stack)
	must(t, err)
	defer func() { must(t, below.Close()) }()
	place := t.TempDir()
	must(t, unix.Mount("none", place, "tmpfs", 0, "size=100k"))
	defer func() { must(t, unix.Unmount(place, unix.MNT_DETACH)) }()
	_, err = layer.Apply(t.Context(), bytes.NewReader(archive(hardlink("name", "low"))), place, layer.Options{Form: layer.Overlay, Below: below})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `copy up "low"`) {
		t.Errorf("got %v, want no space for the copy", err)
	}
}

// Errors come from the earliest entry, whoever finds them.
func TestApplyEarliestError(t *testing.T) {
	var entries []entry
	for i := range 200 {
		entries = append(entries, file(fmt.Sprint("file", i), "").with("SCHILY.xattr.none.x", "1"))
	}
	for range 20 {
		_, err := layer.Apply(t.Context(), bytes.NewReader(archive(append(entries, file("..", ""))...)), newRoot(t), layer.Options{})
		var lost *layer.LossError
		if !errors.As(err, &lost) || lost.Loss.Path != "file0" {
			t.Fatalf("got %v, want the loss of file0", err)
		}
	}
}

// Everything is read, beyond the end of the tar and of entries that mean nothing.
func TestApplyReadsAll(t *testing.T) {
	tar := append(archive(file("a", "1"), file(".wh..wh.plnk/1", strings.Repeat("x", 1000))), bytes.Repeat([]byte("behind"), 100_000)...)
	r := bytes.NewReader(tar)
	_, err := layer.Apply(t.Context(), io.MultiReader(r), newRoot(t), layer.Options{})
	must(t, err)
	if r.Len() != 0 {
		t.Errorf("%d bytes were not read", r.Len())
	}
}

// Zeros become holes, and holes cost nothing.
func TestApplyHoles(t *testing.T) {
	const piece = 64 << 10
	zeros, x := strings.Repeat("\x00", piece), strings.Repeat("x", piece)
	content := map[string]string{
		"all":      strings.Repeat(zeros, 20),
		"middle":   x + zeros + zeros + x,
		"end":      x + strings.Repeat(zeros, 9) + "\x00",
		"odd":      "x" + zeros + zeros + "x",
		"few":      zeros[1:],
		"one":      zeros,
		"far":      strings.Repeat(x, 10) + zeros + strings.Repeat(x, 10),
		"nearly":   zeros[1:] + "x",
		"nothing":  "",
		"odd size": strings.Repeat(zeros, 5)[1:],
	}
	blocks := map[string]int64{ // of 64 KiB, rounded up
		"all": 0, "middle": 2, "end": 2, "odd": 2, "few": 1, "one": 0, "far": 20, "nearly": 1, "nothing": 0, "odd size": 1,
	}
	var entries []entry
	for name := range content {
		entries = append(entries, file(name, content[name]))
	}
	root := newRoot(t)
	result := applyTo(t, archive(entries...), root, layer.Options{})
	var stored int64
	for name := range content {
		b, err := os.ReadFile(filepath.Join(root, name))
		must(t, err)
		if string(b) != content[name] {
			t.Errorf("%s has another content", name)
		}
		info, err := os.Stat(filepath.Join(root, name))
		must(t, err)
		if got := (info.Sys().(*syscall.Stat_t).Blocks*512 + piece - 1) / piece; got != blocks[name] {
			t.Errorf("%s has %d blocks of 64 KiB, want %d", name, got, blocks[name])
		}
		stored += blocks[name]
	}
	if got := (result.Size + piece - 1) / piece; got > stored || got < stored-5 {
		t.Errorf("the size is %d, want about %d", result.Size, stored*piece)
	}
}

// More folders than are kept open, visited in turn.
func TestApplyManyFolders(t *testing.T) {
	var entries []entry
	var want []string
	for i := range 300 {
		for j := range 3 {
			name := fmt.Sprintf("d%d/e/f%d", (i*7+j)%300, i*3+j)
			entries = append(entries, file(name, "x"))
			want = append(want, name+" x")
		}
	}
	root := newRoot(t)
	open := openFiles(t)
	result := applyTo(t, archive(entries...), root, layer.Options{})
	if got := openFiles(t); got != open {
		t.Errorf("%d files are open, before it was %d", got, open)
	}
	got := 0
	for _, line := range list(t, root) {
		if strings.HasSuffix(line, " x") {
			got++
		}
	}
	if got != len(want) || result.Inodes != 900+600 {
		t.Errorf("%d files and %d inodes, want 900 and 1500", got, result.Inodes)
	}
}

// A tree that is removed may be deeper than paths are long and descriptors are many, and locked.
func TestRemoveAll(t *testing.T) {
	place := t.TempDir()
	top := filepath.Join(place, "tree")
	must(t, os.Mkdir(top, 0o755))
	at, err := unix.Open(top, unix.O_PATH, 0)
	must(t, err)
	for i := range 3000 {
		must(t, unix.Mkdirat(at, "deeper", 0o700))
		if i%500 == 0 {
			must(t, unix.Mkdirat(at, "lifted.1", 0))
		}
		next, err := unix.Openat(at, "deeper", unix.O_PATH, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(top, fmt.Sprint("file", i)), nil, 0))
	}
	setFlags(t, filepath.Join(top, "file7"), 0x10)
	setFlags(t, filepath.Join(top, "deeper", "deeper"), 0x10)
	must(t, os.Symlink(place, filepath.Join(top, "link")))
	must(t, os.WriteFile(filepath.Join(place, "beside"), nil, 0o644))

	must(t, layer.RemoveAll(top))
	must(t, layer.RemoveAll(top)) // there is nothing
	must(t, layer.RemoveAll(filepath.Join(top, "no", "such")))
	if got := list(t, place); len(got) != 1 {
		t.Errorf("%q is left, want one file beside", got)
	}
}

// What is mounted is not removed.
func TestRemoveAllMounted(t *testing.T) {
	place := t.TempDir()
	outside := filepath.Join(place, "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "d", "f"), nil, 0o644))
	mount := filepath.Join(place, "tree", "a", "mount")
	must(t, os.MkdirAll(mount, 0o755))
	must(t, unix.Mount(outside, mount, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(mount, unix.MNT_DETACH)) }()
	if err := layer.RemoveAll(filepath.Join(place, "tree")); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want EBUSY", err)
	}
	if _, err := os.Stat(filepath.Join(outside, "d", "f")); err != nil {
		t.Error(err)
	}
}

// A file is removed as well.
func TestRemoveAllOfFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, nil, 0o644))
	must(t, layer.RemoveAll(name))
	if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

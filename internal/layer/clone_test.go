package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// A copy of any tree is like it.
func TestClone(t *testing.T) {
	base := treeTemp(t)
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(base, "")
		treeMust(t, err)
		defer func() { treeMust(t, os.RemoveAll(root)) }()
		spec := treeChange(t, treeGen(t, "files", ""))
		from, to := treeNew(t, root, "from", spec), filepath.Join(root, "to")
		result, err := Clone(t.Context(), from, to, Options{})
		treeMust(t, err)
		treesAlike(t, Whole, []string{from}, Whole, []string{to})
		_, inodes, err := Usage(from)
		treeMust(t, err)
		if result.Inodes != inodes-1 || len(result.Losses) > 0 {
			t.Fatalf("got %+v of %d inodes", result, inodes)
		}
	})
}

// All that a file can have, on a real disk.
func TestCloneAttributes(t *testing.T) {
	base := t.TempDir()
	at := time.Unix(-1, 1)
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe9\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	spec := treeSpec{
		".":         {Attr: Attr{Mode: unix.S_IFDIR | 0o1777, GID: 7, ModTime: at}},
		"dir":       {Attr: Attr{Mode: unix.S_IFDIR | 0o2550, UID: 9, ModTime: at}},
		"dir/caps":  {Attr: Attr{Mode: unix.S_IFREG | 0o4711, UID: 1 << 31, ModTime: at, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, content: "text"},
		"dir/other": {Attr: Attr{Mode: unix.S_IFREG}, link: "dir/caps"},
		"large":     {Attr: Attr{Mode: unix.S_IFREG | 0o600, ModTime: at}, content: strings.Repeat("0123456789", 100_000)},
		"link":      {Attr: Attr{Mode: unix.S_IFLNK | 0o777, ModTime: at, UID: 3, Target: "/etc/passwd", Xattrs: map[string]string{"trusted.y": "z"}}},
		"null":      {Attr: Attr{Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3, ModTime: at}},
		"whiteout":  {Attr: Attr{Mode: unix.S_IFCHR, ModTime: at}},
		"disk":      {Attr: Attr{Mode: unix.S_IFBLK | 0o600, Major: 7, Minor: 262143, ModTime: at}},
		"socket":    {Attr: Attr{Mode: unix.S_IFSOCK | 0o755, ModTime: at}},
	}
	from := treeNew(t, base, "from", spec)
	for name, key := range map[string]string{"dir": defaultACL, "large": accessACL} {
		treeMust(t, unix.Setxattr(filepath.Join(from, name), key, []byte(acl), 0))
	}
	to := filepath.Join(base, "to")
	_, err := Clone(t.Context(), from, to, Options{})
	treeMust(t, err)
	treesAlike(t, Whole, []string{from}, Whole, []string{to})

	if _, err := Clone(t.Context(), from, to, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("into a folder that has something: got %v", err)
	}
	deep := t.TempDir()
	treeDeep(t, deep)
	_, err = Clone(t.Context(), deep, filepath.Join(base, "deep"), Options{})
	treeMust(t, err)
	treesAlike(t, Whole, []string{deep}, Whole, []string{filepath.Join(base, "deep")})

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Clone(ctx, from, filepath.Join(base, "cancelled"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

// Holes stay holes, and what is between them is copied.
func TestCloneHoles(t *testing.T) {
	base := t.TempDir()
	from, to := treeNew(t, base, "from", treeSpec{}), filepath.Join(base, "to")
	f, err := os.Create(from + "/f")
	treeMust(t, err)
	for _, off := range []int64{0, 5 << 20, 9<<20 + 1} {
		_, err := f.WriteAt([]byte("data"), off)
		treeMust(t, err)
	}
	treeMust(t, f.Truncate(20<<20))
	treeMust(t, f.Close())
	treeMust(t, exec.Command("sync", "-f", from).Run())
	result, err := Clone(t.Context(), from, to, Options{})
	treeMust(t, err)
	treesAlike(t, Whole, []string{from}, Whole, []string{to})
	treeMust(t, exec.Command("sync", "-f", to).Run())
	want, _, err := Usage(from)
	treeMust(t, err)
	got, _, err := Usage(to)
	treeMust(t, err)
	if got > want || result.Size > 1<<20 { // some filesystems keep room behind what is written
		t.Errorf("the copy takes %d bytes of disk, and has %d; want at most %d", got, result.Size, want)
	}
}

// What a user namespace cannot have is refused, or told.
func TestCloneLosses(t *testing.T) {
	const inside = "STOWAGE_TEST_CLONE"
	spec := treeSpec{
		"a": {Attr: Attr{Mode: unix.S_IFREG | 0o4755, UID: 5, GID: 5, ModTime: unnamed.mtime}},
		"c": {Attr: Attr{Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3, ModTime: unnamed.mtime}},
		"d": {Attr: Attr{Mode: unix.S_IFCHR | 0o666}, link: "c"},
	}
	if base := os.Getenv(inside); base != "" {
		from := filepath.Join(base, "from")
		var lost *LossError
		if _, err := Clone(t.Context(), from, filepath.Join(base, "refused"), Options{}); !errors.As(err, &lost) {
			t.Errorf("got %v, want a loss", err)
		}
		result, err := Clone(t.Context(), from, filepath.Join(base, "to"), Options{ReportLosses: true})
		treeMust(t, err)
		want := []Loss{
			{LostMode, "a", "4000", 1},
			{LostOwner, "a", "65534:65534", 1},
			{LostDevice, "c", "c 1:3", 2},
		}
		if diff := cmp.Diff(want, result.Losses); diff != "" {
			t.Error(diff)
		}
		return
	}
	base := t.TempDir()
	treeNew(t, base, "from", spec)
	program, err := os.Executable()
	treeMust(t, err)
	c := exec.Command(program, "-test.run=^TestCloneLosses$")
	c.Env = append(os.Environ(), inside+"="+base)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{Size: 1}},
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// What du says.
func TestUsage(t *testing.T) {
	root := treeNew(t, t.TempDir(), "tree", treeSpec{
		"a":   {Attr: Attr{Mode: unix.S_IFREG}, content: strings.Repeat("x", 100_000)},
		"b":   {Attr: Attr{Mode: unix.S_IFREG}, link: "a"},
		"d":   {Attr: Attr{Mode: unix.S_IFDIR | 0o755}},
		"d/l": {Attr: Attr{Mode: unix.S_IFLNK, Target: "/etc"}},
		"m":   {Attr: Attr{Mode: unix.S_IFDIR | 0o755}},
	})
	treeMust(t, unix.Mount("tmpfs", root+"/m", "tmpfs", 0, ""))
	defer func() { treeMust(t, unix.Unmount(root+"/m", 0)) }()
	treeMust(t, os.WriteFile(root+"/m/not", []byte("counted"), 0o644))
	treeMust(t, unix.Mount(root+"/d", root+"/d", "", unix.MS_BIND, ""))
	unmounted := false
	unmount := func() {
		if !unmounted {
			treeMust(t, unix.Unmount(root+"/d", 0))
			unmounted = true
		}
	}
	defer unmount()
	_, bound, err := Usage(root)
	treeMust(t, err)
	unmount()
	size, inodes, err := Usage(root)
	treeMust(t, err)
	out, err := exec.Command("sh", "-c", `du -xsB1 "$1"; du -xs --inodes "$1"`, "sh", root).Output()
	treeMust(t, err)
	var duSize, duInodes int64
	var name string
	if _, err := fmt.Sscan(string(out), &duSize, &name, &duInodes); err != nil {
		t.Fatal(err)
	}
	if size != duSize || inodes != duInodes || bound != inodes-1 {
		t.Errorf("got %d bytes in %d inodes, %d of them under a mount; du says %d and %d", size, inodes, inodes-bound, duSize, duInodes)
	}
	if _, _, err := Usage(root + "/nothing"); err == nil {
		t.Error("a folder that is not there has a usage")
	}
}

func BenchmarkClone(b *testing.B) {
	base := b.TempDir()
	from := treeNew(b, base, "from", nil)
	treeMany(b, from)
	run := func(name string, copy func(to string) error) {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				to := filepath.Join(base, fmt.Sprint(name, i))
				treeMust(b, copy(to))
				b.StopTimer()
				treeMust(b, os.RemoveAll(to))
				b.StartTimer()
			}
		})
	}
	run("ours", func(to string) error {
		_, err := Clone(b.Context(), from, to, Options{})
		return err
	})
	run("cp", func(to string) error { return exec.Command("cp", "-a", from, to).Run() })
}

package snapshottest

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A tree is a folder that is changed in steps. Every step dates what it touched, so that two
// trees with the same steps are alike to the nanosecond.
type tree struct {
	w     *world
	dir   string
	steps int
}

func (t *tree) path(name string) string { return filepath.Join(t.dir, name) }

// done dates a name, if it is still there, and the folder that it is in.
func (t *tree) done(name string, err error) {
	t.w.Helper()
	t.w.must(err)
	t.steps++
	t.date(name, t.steps)
	if name != "." {
		t.date(path.Dir(name), t.steps)
	}
}

// date says when a name was changed: long ago, and in the middle of a second.
func (t *tree) date(name string, step int) {
	t.w.Helper()
	at := time.Unix(0, 0)
	if step > 0 {
		at = time.Unix(1_600_000_000+int64(step), 123_456_789)
	}
	ts, err := unix.TimeToTimespec(at)
	t.w.must(err)
	err = unix.UtimesNanoAt(unix.AT_FDCWD, t.path(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.ENOENT {
		t.w.must(err)
	}
}

func (t *tree) write(name, content string) {
	t.w.Helper()
	t.done(name, os.WriteFile(t.path(name), []byte(content), 0o644))
}

func (t *tree) mkdir(name string, mode os.FileMode) {
	t.w.Helper()
	t.w.must(os.Mkdir(t.path(name), 0o700))
	t.done(name, os.Chmod(t.path(name), mode))
}

func (t *tree) remove(name string) {
	t.w.Helper()
	_, err := os.Lstat(t.path(name))
	t.w.must(err)
	t.done(name, os.RemoveAll(t.path(name)))
}

// move is what people do: where the kernel refuses to rename a folder, it is copied.
func (t *tree) move(from, to string) {
	t.w.Helper()
	out, err := exec.Command("mv", "-T", t.path(from), t.path(to)).CombinedOutput()
	if err != nil {
		t.w.Fatalf("mv: %s", out)
	}
	t.done(from, nil)
	t.date(path.Dir(to), t.steps)
}

func (t *tree) symlink(target, name string) {
	t.w.Helper()
	t.done(name, os.Symlink(target, t.path(name)))
}

func (t *tree) link(from, name string) {
	t.w.Helper()
	t.done(name, os.Link(t.path(from), t.path(name)))
}

func (t *tree) fifo(name string) {
	t.w.Helper()
	t.done(name, unix.Mkfifo(t.path(name), 0o640))
}

// chmod takes permissions as the kernel does, setuid and the like included.
func (t *tree) chmod(name string, mode uint32) {
	t.w.Helper()
	t.done(name, unix.Chmod(t.path(name), mode))
}

func (t *tree) chown(name string, uid, gid int) {
	t.w.Helper()
	t.done(name, os.Lchown(t.path(name), uid, gid))
}

func (t *tree) xattr(name, key, value string) {
	t.w.Helper()
	t.done(name, unix.Lsetxattr(t.path(name), key, []byte(value), 0))
}

func (t *tree) dropXattr(name, key string) {
	t.w.Helper()
	t.done(name, unix.Lremovexattr(t.path(name), key))
}

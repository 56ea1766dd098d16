package vfs_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/vfs"
)

// holder names the environment variable that makes the test binary a second process: it locks
// the file "f" of the folder named there, says so, and waits to be killed.
const holder = "VFS_TEST_HOLD"

func TestMain(m *testing.M) {
	if root := os.Getenv(holder); root != "" {
		hold(root)
	}
	os.Exit(m.Run())
}

func hold(root string) {
	disk, err := vfs.OS(root)
	if err != nil {
		panic(err)
	}
	f, err := disk.Create("f", 0o600)
	if err != nil {
		panic(err)
	}
	if ok, err := f.TryLock(); !ok || err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("locked\n")
	_, _ = io.Copy(io.Discard, os.Stdin) // returns when the test goes away
	os.Exit(1)
}

func TestLockDiesWithItsProcess(t *testing.T) {
	root := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holder+"="+root)
	_, err := cmd.StdinPipe() // closed by Wait, or with this process
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("second process: got %q, %v", line, err)
	}
	disk, err := vfs.OS(root)
	must(t, err)
	f := create(t, disk, "f")
	if ok, err := f.TryLock(); ok || err != nil {
		t.Errorf("TryLock while another process has it: got %v, %v, want false", ok, err)
	}
	must(t, cmd.Process.Kill())
	must(t, f.Lock(t.Context()))
	_ = cmd.Wait() // it was killed, and says so
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	root := t.TempDir()
	disk, err := vfs.OS(root)
	must(t, err)
	write(t, disk, "f", "secret")
	must(t, os.Symlink("f", filepath.Join(root, "link")))
	must(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	if _, err := disk.Open("link"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("open a symlink: got %v, want %v", err, syscall.ELOOP)
	}
	if _, err := disk.Create("link", 0o600); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("create over a symlink: got %v, want %v", err, syscall.ELOOP)
	}
	if _, err := disk.Open("fifo"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("open a fifo: got %v, want %v", err, syscall.EINVAL)
	}
	for name, want := range map[string]os.FileMode{"link": os.ModeSymlink, "fifo": os.ModeNamedPipe} {
		if fi, err := disk.Lstat(name); err != nil || fi.Mode().Type() != want {
			t.Errorf("lstat %s: got %v, %v, want %v", name, fi, err, want)
		}
	}
}

func TestOSNeedsAFolder(t *testing.T) {
	if _, err := vfs.OS(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

func TestBootIDStaysInOneBoot(t *testing.T) {
	a, b := openOS(t), openOS(t)
	if a.BootID() != b.BootID() || vfs.NoSync(a).BootID() != a.BootID() {
		t.Error("two views of one boot differ")
	}
}

func TestWriteback(t *testing.T) {
	disk := openOS(t)
	for _, disk := range []vfs.FS{disk, vfs.NoSync(disk), vfs.NewMem()} {
		f := create(t, disk, "f")
		_, err := f.WriteAt(make([]byte, 1<<16), 0)
		must(t, err)
		vfs.Writeback(f, 0, 1<<16)
		must(t, f.Sync())
	}
}

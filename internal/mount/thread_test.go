package mount

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Whoever is in a folder is there alone: no thread of the process is left in it.
func TestInFolder(t *testing.T) {
	home, err := unix.Getcwd(make([]byte, unix.PathMax))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 50 {
		dir := t.TempDir()
		all.Go(func() {
			err := inFolder(dir, func() error {
				buf := make([]byte, unix.PathMax)
				n, err := unix.Getcwd(buf)
				if got := string(buf[:max(n, 1)-1]); got != dir {
					t.Errorf("in %s, want %s", got, dir)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if got, err := unix.Getcwd(make([]byte, unix.PathMax)); got != home || err != nil {
				t.Errorf("working directory of %d bytes, want %d, error %v", got, home, err)
			}
		})
	}
	all.Wait()
	if err := inFolder(filepath.Join(t.TempDir(), "missing"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		// A thread can end while it is looked at.
		if got, err := os.Readlink(task); err == nil && got != want && got != "/" {
			t.Errorf("%s is %s, want %s", task, got, want)
		}
	}
}

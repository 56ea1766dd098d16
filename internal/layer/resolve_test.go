package layer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What old kernels need opens the same folders as one call does, and neither follows links.
func TestOpenBeneath(t *testing.T) {
	place := t.TempDir()
	for _, dir := range []string{"root/a/b/c", "outside"} {
		if err := os.MkdirAll(filepath.Join(place, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"root/l": "../outside", "root/a/m": "b", "root/f": ""} {
		var err error
		if target == "" {
			err = os.WriteFile(filepath.Join(place, name), nil, 0o644)
		} else {
			err = os.Symlink(target, filepath.Join(place, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(filepath.Join(place, "root"), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(root) }()
	for path, want := range map[string]error{
		"a": nil, "a/b/c": nil, "a/none": unix.ENOENT, "none/a": unix.ENOENT, "l": unix.ENOTDIR,
		"a/m": unix.ENOTDIR, "a/m/c": unix.ENOTDIR, "f": unix.ENOTDIR, "f/a": unix.ENOTDIR,
	} {
		for way, open := range map[string]func(int, string) (int, error){"at once": openBeneath, "stepwise": openStepwise} {
			fd, err := open(root, path)
			if err == nil {
				err = errors.Join(sameFile(fd, filepath.Join(place, "root", path)), unix.Close(fd))
			}
			if errors.Is(err, unix.ELOOP) { // what openat2 says of links
				err = unix.ENOTDIR
			}
			if !errors.Is(err, want) {
				t.Errorf("%s %s: got %v, want %v", way, path, err, want)
			}
		}
	}
}

func sameFile(fd int, path string) error {
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &a), unix.Lstat(path, &b)); err != nil {
		return err
	}
	if a.Ino != b.Ino || a.Dev != b.Dev {
		return errors.New("another file")
	}
	return nil
}

package stowage

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/mount"
)

// What a killed process left goes, with its mounts; what is used, and what is another's, stays.
func TestScratch(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	used, err := newScratch()
	if err != nil {
		t.Fatal(err)
	}
	left, err := newScratch()
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(left.dir, "layer1")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := mount.All([]mount.Mount{{Type: "bind", Source: t.TempDir(), Options: []string{"rbind", "ro"}}}, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := left.lock.Close(); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(os.TempDir(), scratchPrefix+"open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	next, err := newScratch()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{used.dir: true, left.dir: false, open: true, next.dir: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want that it is there: %v", dir, err, want)
		}
	}
	for _, s := range []*scratch{used, next} {
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.dir); err == nil {
			t.Errorf("%s is still there", s.dir)
		}
	}
}

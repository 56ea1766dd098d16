package mount

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// Mounts that are opened are seen through their file alone, and can be written while it is open.
func TestOpen(t *testing.T) {
	lower, upper, work := folders(t, "a/", "file"), t.TempDir(), t.TempDir()
	inner, dir := folders(t, "inner"), t.TempDir()
	root, err := Open([]Mount{
		{Type: "overlay", Source: "overlay", Options: []string{Dirs("lowerdir", lower), Dirs("upperdir", upper), Dirs("workdir", work)}},
		{Type: "bind", Source: inner, Target: "a", Options: []string{"rbind", "ro"}},
	}, dir)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(Path(root), "file"), "file")
	wantFile(t, filepath.Join(Path(root), "a/inner"), "inner")
	if err := os.WriteFile(filepath.Join(Path(root), "new"), []byte("new"), 0o644); err != nil {
		t.Error(err)
	}
	wantNoMounts(t, dir)
	wantList(t, dir)
	if err := root.Close(); err != nil {
		t.Error(err)
	}
	wantFile(t, filepath.Join(upper, "new"), "new")
	if _, err := Open([]Mount{{Type: "bind", Source: filepath.Join(lower, "none"), Options: []string{"rbind"}}}, dir); !errdefs.IsNotFound(err) {
		t.Errorf("open what is not there: %v", err)
	}
	wantList(t, dir)
}

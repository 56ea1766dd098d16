package dir_test

import (
	"testing"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

func TestStore(t *testing.T) {
	for name, disk := range map[string]func(t *testing.T) vfs.FS{
		"os":     func(t *testing.T) vfs.FS { return openOS(t, t.TempDir()) },
		"nosync": func(t *testing.T) vfs.FS { return vfs.NoSync(openOS(t, t.TempDir())) },
		"mem":    func(*testing.T) vfs.FS { return vfs.NewMem() },
	} {
		t.Run(name, func(t *testing.T) {
			contenttest.Run(t, func(t *testing.T) content.Store { return open(t, disk(t)) })
		})
	}
}

func openOS(t testing.TB, root string) vfs.FS {
	t.Helper()
	disk, err := vfs.OS(root)
	must(t, err)
	return disk
}

func open(t testing.TB, disk vfs.FS) *dir.Store {
	t.Helper()
	s, err := dir.Open(disk)
	must(t, err)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

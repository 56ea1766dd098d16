package erofs_test

import (
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/erofs"
	"github.com/stowage/stowage/internal/snapshot/snapshottest"
)

func open(t *testing.T) *snapshot.Store {
	t.Helper()
	dir := t.TempDir()
	d, err := erofs.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	meta := metadata.New(mem.New(), filepath.Join(t.TempDir(), "holders"))
	s, err := snapshot.Open("erofs", dir, d, meta, snapshot.Options{Namespace: "default", NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSnapshots(t *testing.T) { snapshottest.Run(t, open) }

package native_test

import (
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/native"
	"github.com/stowage/stowage/internal/snapshot/snapshottest"
)

func open(t *testing.T) *snapshot.Store {
	t.Helper()
	dir := t.TempDir()
	meta := metadata.New(mem.New(), filepath.Join(t.TempDir(), "holders"))
	s, err := snapshot.Open("native", dir, native.New(), meta, snapshot.Options{Namespace: "default", NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSnapshots(t *testing.T) { snapshottest.Run(t, open) }

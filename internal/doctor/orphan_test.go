package doctor

import (
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/mem"
	kvmem "github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

// What a running pull has brought, and has no rows for yet, is nobody's fault. Once the pull is gone
// it is an orphan.
func TestHeldBlobsAreNoOrphans(t *testing.T) {
	ctx := t.Context()
	e := &Exam{Namespace: "default", Content: mem.New(), Meta: metadata.New(kvmem.New(), filepath.Join(t.TempDir(), "holders"))}
	body := []byte("a layer")
	d := digest.FromBytes(body)
	hold, err := e.Meta.Hold(ctx, e.Namespace, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := content.Put(ctx, e.Content, d, body); err != nil {
		t.Fatal(err)
	}
	look := func() int {
		found, err := e.run(ctx, []kind{{"orphan-blob", (*Exam).orphanBlobs}})
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if n := look(); n != 0 {
		t.Errorf("%d findings while the blob is held", n)
	}
	if err := hold.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if n := look(); n != 1 {
		t.Errorf("%d findings when nobody holds the blob", n)
	}
}

package dir_test

import (
	"bytes"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

// What was put into quarantine is there after a power loss, and nowhere else. When a call fails
// on the way, the bytes are in one of the two places.
func TestQuarantineOutlivesPower(t *testing.T) {
	d := digest.FromBytes(small)
	for n, fired := 0, true; fired; n++ {
		mem := vfs.NewMem()
		if err := content.Put(t.Context(), open(t, mem), d, small); err != nil {
			t.Fatal(err)
		}
		faulty, name := vfs.FailNth(mem, n), ""
		s, err := dir.Open(faulty)
		if err == nil {
			name, err = s.Quarantine(t.Context(), d)
		}
		fired = faulty.Fired
		if err != nil {
			if _, err := open(t, mem).Quarantine(t.Context(), d); err != nil && !errdefs.IsNotFound(err) {
				t.Errorf("call %d failed, and again: %v", n, err)
			}
			continue
		}
		after := mem.AfterCrash()
		f, err := after.Open(name)
		if err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		got := make([]byte, len(small))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, small) {
			t.Errorf("call %d: the bytes are not those that were there: %v", n, err)
		}
		if _, err := open(t, after).Info(t.Context(), d); !errdefs.IsNotFound(err) {
			t.Errorf("call %d: the blob is back: %v", n, err)
		}
	}
}

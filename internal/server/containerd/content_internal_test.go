package containerd

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/mem"
	"github.com/stowage/stowage/internal/metadata"
)

// What is being written, and what was left unfinished by this process or another, is bounded.
func TestWritesBound(t *testing.T) { synctest.Test(t, testWritesBound) }

func testWritesBound(t *testing.T) {
	s, ctx := mem.New(), t.Context()
	key := func(ref string) string {
		key, err := metadata.IngestKey("ns", ref)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	leave := func(ref string) {
		in, err := s.Begin(ctx, key(ref), content.Want{Size: -1})
		if err == nil {
			_, err = in.WriteAt([]byte("some"), 0)
		}
		if err == nil {
			err = in.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	leave("earlier")
	w := newWrites(s, 3)
	begin := func(ref string) *written {
		t.Helper()
		at, err := w.begin(ctx, key(ref))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	refused := func(when string) {
		t.Helper()
		if _, err := w.begin(ctx, key("more")); !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: got %v, want %v", when, err, errdefs.ErrResourceExhausted)
		}
	}
	one, two := begin("one"), begin("two")
	refused("two are written and one was left")
	w.end(key("earlier"), begin("earlier"), true)
	leave("one")
	w.end(key("one"), one, true)
	refused("one is written and two were left")
	if err := s.Abort(ctx, key("earlier")); err != nil { // as a collection of another process does
		t.Fatal(err)
	}
	refused("that is found out after a second")
	time.Sleep(2 * time.Second)
	three := begin("three")
	refused("one was thrown away, and one began")
	w.end(key("three"), three, false)
	w.end(key("two"), two, false)
	begin("more")
}

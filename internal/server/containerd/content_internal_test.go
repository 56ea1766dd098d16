package containerd

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

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

// A tracked reader is one of those that are counted until they are closed.
type tracked struct {
	content.Reader
	open *atomic.Int64
}

func (r tracked) Close() error {
	r.open.Add(-1)
	return nil
}

// A blob stays open for a while for who reads it piece by piece, and no longer.
func TestReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int64
		r := &readers{idle: map[blobIn]*idleReader{}}
		blob := func(i int) blobIn { return blobIn{"ns", digest.FromString(fmt.Sprint(i))} }
		keep := func(of blobIn) content.Reader {
			t.Helper()
			open.Add(1)
			reader := &tracked{open: &open}
			if err := r.keep(of, reader); err != nil {
				t.Fatal(err)
			}
			return reader
		}
		want := func(when string, n int64) {
			t.Helper()
			synctest.Wait()
			if got := open.Load(); got != n {
				t.Errorf("%s: %d readers are open, want %d", when, got, n)
			}
		}
		first := keep(blob(0))
		keep(blob(0))
		want("two were kept of one blob", 1)
		time.Sleep(idleTime / 2)
		if got := r.take(blob(0)); got != first {
			t.Errorf("took %v", got)
		}
		if got := r.take(blob(0)); got != nil {
			t.Errorf("took %v, which somebody has", got)
		}
		if got := r.take(blobIn{"other", blob(0).digest}); got != nil {
			t.Errorf("took %v, which is of another namespace", got)
		}
		time.Sleep(2 * idleTime)
		want("one was taken", 1)
		if err := r.keep(blob(0), first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(idleTime / 2)
		want("it was kept again", 1)
		time.Sleep(idleTime)
		want("nobody came for it", 0)

		for i := range maxIdle + 10 {
			keep(blob(i))
		}
		want("too many were kept", maxIdle)
		if err := r.forget(blob(1)); err != nil {
			t.Fatal(err)
		}
		want("one was forgotten", maxIdle-1)
		time.Sleep(2 * idleTime)
		want("at the end", 0)
	})
}

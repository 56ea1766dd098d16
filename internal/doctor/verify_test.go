package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/mem"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
)

// A readings store knows which blobs were opened, and has some that the disk cannot read.
type readings struct {
	content.Store
	bad map[image.Digest]bool

	mu     sync.Mutex
	opened []image.Digest
}

func (s *readings) Open(ctx context.Context, d image.Digest) (content.Reader, error) {
	s.mu.Lock()
	s.opened = append(s.opened, d)
	s.mu.Unlock()
	r, err := s.Store.Open(ctx, d)
	if err == nil && s.bad[d] {
		r = unreadable{r}
	}
	return r, err
}

// take returns what was opened since the last take, sorted.
func (s *readings) take() []image.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.opened
	s.opened = nil
	slices.Sort(list)
	return list
}

type unreadable struct{ content.Reader }

func (unreadable) ReadAt([]byte, int64) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: "blob", Err: syscall.EIO}
}

// sized fills a store with blobs of these sizes.
func sized(t *testing.T, sizes ...int) (*readings, []content.Info) {
	t.Helper()
	s := &readings{Store: mem.New(), bad: map[image.Digest]bool{}}
	var list []content.Info
	for i, size := range sizes {
		p := contenttest.Bytes(uint64(i), size)
		d := digest.FromBytes(p)
		if i%2 == 1 {
			d = digest.SHA512.FromBytes(p)
		}
		if err := content.Put(t.Context(), s, d, p); err != nil {
			t.Fatal(err)
		}
		list = append(list, content.Info{Digest: d, Size: int64(size)})
	}
	return s, list
}

func TestVerifyBlobs(t *testing.T) {
	s, list := sized(t, 10, 2<<20, 0, 700<<10, 11)
	broken, unread, gone := list[1].Digest, list[3].Digest, list[4].Digest
	s.bad[unread] = true
	if err := s.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	got := map[image.Digest]Verdict{}
	var order []int64
	var last progress.Event
	o := VerifyOptions{
		begun:    func(b content.Info) { order = append(order, b.Size) },
		Progress: progress.Serial(func(e progress.Event) { last = e }),
	}
	if err := VerifyBlobs(t.Context(), spoilt{s, broken}, list, o, func(f BlobFinding) { got[f.Digest] = f.Verdict }); err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		want := OK
		switch b.Digest {
		case broken, unread:
			want = Corrupt
		case gone:
			want = Missing
		}
		if got[b.Digest] != want {
			t.Errorf("%s: got %s, want %s", b.Digest, got[b.Digest], want)
		}
	}
	if want := []int64{2 << 20, 700 << 10, 11, 10, 0}; !slices.Equal(order, want) {
		t.Errorf("read in the order %d, want %d", order, want)
	}
	if want := (progress.Event{Kind: progress.Done, What: verifying, Total: 2<<20 + 700<<10 + 21}); last != want {
		t.Errorf("the last event is %+v, want %+v", last, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := VerifyBlobs(ctx, s, list, VerifyOptions{}, func(BlobFinding) {}); err == nil || errdefs.IsDataLoss(err) {
		t.Errorf("cancelled: got %v", err)
	}
}

// All blobs together keep to the rate, in an even flow.
func TestVerifyRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 100_000
		s, list := sized(t, 500_000, 1_500_000, 0, 1000, 999_000)
		begun := time.Now()
		o := VerifyOptions{Rate: rate, Progress: progress.Serial(func(e progress.Event) {
			due := int64(time.Since(begun).Seconds() * rate)
			if ahead := e.Offset - due; e.Kind == progress.Advanced && ahead > rate {
				t.Errorf("%d bytes are read when %d are due", e.Offset, due)
			}
		})}
		if err := VerifyBlobs(t.Context(), s, list, o, func(BlobFinding) {}); err != nil {
			t.Fatal(err)
		}
		if took, want := time.Since(begun), 30*time.Second; took < want || took > want+time.Second {
			t.Errorf("3,000,000 bytes took %s, want %s", took, want)
		}
	})
}

// A failure that says nothing of a blob's bytes ends the run.
func TestVerifyFails(t *testing.T) {
	s, list := sized(t, 1, 2, 3)
	list = append(list, content.Info{Digest: "sha256:short"})
	if err := VerifyBlobs(t.Context(), s, list, VerifyOptions{}, func(BlobFinding) {}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want %v", err, fmt.Errorf("…: %w", errdefs.ErrInvalidArgument))
	}
}

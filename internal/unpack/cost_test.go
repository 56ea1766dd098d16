package unpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/unpack"
)

// cancelling is a content store whose blobs end a context when so much of them was read.
type cancelling struct {
	content.Store
	cancel context.CancelFunc
	after  int64
}

func (c *cancelling) Open(ctx context.Context, d digest.Digest) (content.Reader, error) {
	r, err := c.Store.Open(ctx, d)
	return &cancellingReader{Reader: r, c: c}, err
}

type cancellingReader struct {
	content.Reader
	c    *cancelling
	read atomic.Int64
}

func (r *cancellingReader) ReadAt(p []byte, off int64) (int, error) {
	p = p[:min(len(p), 100)]
	n, err := r.Reader.ReadAt(p, off)
	if r.read.Add(int64(n)) > r.c.after {
		r.c.cancel()
	}
	return n, err
}

// bomb is a layer of one file with so many zeros.
func bomb(t testing.TB, zeros int64) []byte {
	t.Helper()
	const size = 64 << 20
	pack := func(p []byte) []byte {
		var b bytes.Buffer
		w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		must(t, err)
		_, err = w.Write(p)
		must(t, err)
		must(t, w.Close())
		return b.Bytes()
	}
	var head bytes.Buffer
	must(t, tar.NewWriter(&head).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: zeros}))
	piece := pack(make([]byte, size))
	blob := pack(head.Bytes())
	for range zeros / size {
		blob = append(blob, piece...)
	}
	return append(blob, pack(make([]byte, 1024))...)
}

// A bomb is stopped soon after its first GiB, and costs no memory.
func TestBomb(t *testing.T) {
	blob := bomb(t, 16<<30)
	if len(blob) > 20<<20 {
		t.Fatalf("16 GiB in %d bytes is no bomb", len(blob))
	}
	w := newWorld(t, "overlay")
	d := w.store(blob)
	img := unpack.Image{Layers: []image.Descriptor{d}, DiffIDs: []image.Digest{digest.FromString("unknown")}, Manifest: d.Digest}
	peak, stop := watchMemory()
	r := w.Begin()
	if err := r.Add(t.Context(), img); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a bomb from the store: %v", err)
	}
	s, err := r.Stream(t.Context(), d.Digest, "")
	must(t, err)
	taken := 0
	for taken < len(blob) && err == nil {
		var n int
		n, err = s.Write(blob[taken:min(taken+1<<16, len(blob))])
		taken += n
	}
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("a bomb as it arrives: %v", err)
	}
	must(t, s.Abort())
	if taken > len(blob)/8 { // a sixteenth makes the first GiB
		t.Errorf("of a bomb of %d bytes %d were taken", len(blob), taken)
	}
	stop()
	if *peak > 64<<20 {
		t.Errorf("two bombs took %d MiB", *peak>>20)
	}
	must(t, r.Close(t.Context()))
	w.empty()
}

// A layer may be as large as the ratio allows.
func TestRatio(t *testing.T) {
	w := newWorld(t, "overlay")
	w.Ratio = 2000
	blob := bomb(t, 1<<30+1<<26)
	r := w.Begin()
	s, err := r.Stream(t.Context(), digest.FromBytes(blob), "")
	must(t, err)
	must(t, send(t, s, blob, 1<<20))
	must(t, r.Close(t.Context()))
	w.empty()
}

// watchMemory measures the largest heap, beyond what there is, until it is stopped.
func watchMemory() (peak *uint64, stop func()) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	base := m.HeapAlloc
	peak = new(uint64)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
				runtime.ReadMemStats(&m)
				*peak = max(*peak, m.HeapAlloc-min(base, m.HeapAlloc))
			}
		}
	}()
	return peak, func() { close(end); <-ended }
}

package content_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
)

// vouching is a reader in memory whose store vouches for it, or not. It may be shorter than it says.
type vouching struct {
	*bytes.Reader
	size    int64
	vouched bool
	reads   int
}

func (r *vouching) Size() int64   { return r.size }
func (r *vouching) Vouched() bool { return r.vouched }
func (r *vouching) Close() error  { return nil }

func (r *vouching) ReadAt(p []byte, off int64) (int, error) {
	r.reads++
	return r.Reader.ReadAt(p, off)
}

func TestSend(t *testing.T) {
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 5<<20 + 7} {
		p := contenttest.Bytes(1, size)
		var b bytes.Buffer
		r := &vouching{Reader: bytes.NewReader(p), size: int64(size), vouched: true}
		n, err := content.Send(t.Context(), &b, r, digest.FromBytes(p))
		if err != nil || n != int64(size) || !bytes.Equal(b.Bytes(), p) {
			t.Errorf("%d bytes: got %d, %v, the same: %v", size, n, err, bytes.Equal(b.Bytes(), p))
		}
	}
}

func TestSendHashesWhatNobodyVouchesFor(t *testing.T) {
	p := contenttest.Bytes(1, 3<<20)
	other := digest.FromString("something else")
	for _, vouched := range []bool{true, false} {
		r := &vouching{Reader: bytes.NewReader(p), size: int64(len(p)), vouched: vouched}
		_, err := content.Send(t.Context(), io.Discard, r, other)
		var mismatch *content.MismatchError
		if got := errors.As(err, &mismatch); got == vouched {
			t.Errorf("vouched for: %v: got %v", vouched, err)
		}
	}
}

// full is a disk with room for n bytes.
type full struct{ n int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.n)
	f.n -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

func TestSendStops(t *testing.T) {
	p := contenttest.Bytes(1, 64<<20)
	d := digest.FromBytes(p)
	r := &vouching{Reader: bytes.NewReader(p), size: int64(len(p)), vouched: true}
	if n, err := content.Send(t.Context(), &full{1<<20 + 5}, r, d); n != 1<<20+5 || !errors.Is(err, errFull) {
		t.Errorf("a full disk: got %d, %v", n, err)
	}
	if r.reads > 8 {
		t.Errorf("it read on: %d chunks", r.reads)
	}
	for _, size := range []int{100, 3 << 20} {
		r := &vouching{Reader: bytes.NewReader(p[:size]), size: int64(size) + 9, vouched: true}
		if n, err := content.Send(t.Context(), io.Discard, r, d); n != int64(size) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a blob that became shorter: got %d, %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, size := range []int64{100, 3 << 20} {
		r := &vouching{Reader: bytes.NewReader(p), size: size, vouched: true}
		if n, err := content.Send(ctx, io.Discard, r, d); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %d, %v", n, err)
		}
	}
}

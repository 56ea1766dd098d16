package layer

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// packed compresses random bytes, looking back as far as window.
func packed(t *testing.T, size, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, size)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(plain) // it does not fail
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// whole compresses random bytes that are known beforehand, so that they are their own window.
func whole(t *testing.T, size int) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, size)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(plain) // it does not fail
	return z.EncodeAll(plain, nil)
}

// TestZstdWindow reads how far frames look back.
func TestZstdWindow(t *testing.T) {
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "abc"...)
	for name, tt := range map[string]struct {
		frame []byte
		want  uint64
	}{
		"small":     {packed(t, 40<<20, 1<<20), 1 << 20},
		"large":     {packed(t, 40<<20, 32<<20), 32 << 20},
		"skippable": {append(skippable, packed(t, 40<<20, 32<<20)...), 32 << 20},
		"short":     {[]byte{0x28, 0xb5, 0x2f, 0xfd}, 0},
		"single":    {whole(t, 300_000), 300_000},
		"tiny":      {whole(t, 300), 300},
	} {
		if got := zstdWindow(tt.frame[:min(len(tt.frame), tarBlock)]); got != tt.want {
			t.Errorf("%s: window %d, want %d", name, got, tt.want)
		}
	}
}

// TestLargeOneByOne sees that of two layers that look back far one waits for the other, and that
// who waits can be stopped.
func TestLargeOneByOne(t *testing.T) {
	frame := packed(t, 40<<20, 32<<20)
	o := DecompressOptions{Large: make(chan struct{}, 1)}
	first, err := Decompress(t.Context(), bytes.NewReader(frame), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Decompress(ctx, bytes.NewReader(frame), o); err == nil {
		t.Error("a second one began while the first was at it")
	}
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Decompress(t.Context(), bytes.NewReader(frame), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

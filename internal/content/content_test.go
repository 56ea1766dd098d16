package content_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/mem"
)

// A reader serves p and claims size bytes.
type reader struct {
	p    []byte
	size int64
	err  error // instead of the bytes past the middle
}

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	if r.err != nil && off+int64(len(p)) > int64(len(r.p)/2) {
		return 0, r.err
	}
	return bytes.NewReader(r.p).ReadAt(p, off)
}

func (r reader) Close() error { return nil }
func (r reader) Size() int64  { return r.size }

func whole(p []byte) reader { return reader{p: p, size: int64(len(p))} }

// sizes are around those at which a copy changes its ways.
var sizes = []int{0, 1, 512<<10 - 1, 512 << 10, 512<<10 + 1, 5<<20 + 7}

func TestCopy(t *testing.T) {
	for _, size := range sizes {
		for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			p := contenttest.Bytes(1, size)
			var w bytes.Buffer
			n, err := content.Copy(t.Context(), &w, whole(p), a.FromBytes(p))
			if n != int64(size) || err != nil || !bytes.Equal(w.Bytes(), p) {
				t.Errorf("%d bytes: got %d, %v, same: %v", size, n, err, bytes.Equal(w.Bytes(), p))
			}
		}
	}
}

func TestCopyFindsDamage(t *testing.T) {
	for _, size := range sizes[1:] {
		p := contenttest.Bytes(1, size)
		d := digest.FromBytes(p)
		changed := bytes.Clone(p)
		changed[size-1] ^= 1
		for name, r := range map[string]reader{
			"a bit":                whole(changed),
			"shorter":              whole(p[:size-1]),
			"shorter than it says": {p: p[:size-1], size: int64(size)},
			"longer":               whole(append(bytes.Clone(p), 0)),
		} {
			_, err := content.Copy(t.Context(), io.Discard, r, d)
			var mismatch *content.MismatchError
			if !errors.As(err, &mismatch) || mismatch.Want != d || !errors.Is(err, errdefs.ErrDataLoss) {
				t.Errorf("%d bytes, %s: got %v, want a MismatchError", size, name, err)
			}
		}
	}
	var w bytes.Buffer
	if _, err := content.Copy(t.Context(), &w, whole([]byte("x")), digest.FromString("y")); err == nil || w.Len() > 0 {
		t.Errorf("a small blob that is wrong: got %v and %d bytes", err, w.Len())
	}
}

type failing struct{ n int }

func (w *failing) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

func TestCopyStops(t *testing.T) {
	for _, size := range []int{1000, 5 << 20} {
		p := contenttest.Bytes(1, size)
		d := digest.FromBytes(p)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, ctxErr := content.Copy(cancelled, io.Discard, whole(p), d)
		_, readErr := content.Copy(t.Context(), io.Discard, reader{p, int64(size), io.ErrNoProgress}, d)
		_, writeErr := content.Copy(t.Context(), &failing{size / 2}, whole(p), d)
		_, shortErr := content.Copy(t.Context(), short{}, whole(p), d)
		_, digestErr := content.Copy(t.Context(), io.Discard, whole(p), "md5:x")
		for _, c := range []struct{ got, want error }{
			{ctxErr, context.Canceled},
			{readErr, io.ErrNoProgress},
			{writeErr, io.ErrClosedPipe},
			{shortErr, io.ErrShortWrite},
			{digestErr, errdefs.ErrInvalidArgument},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%d bytes: got %v, want %v", size, c.got, c.want)
			}
		}
	}
}

func TestCopyNeedsLittleMemory(t *testing.T) {
	p := contenttest.Bytes(1, 64<<20)
	d := digest.FromBytes(p)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := content.Copy(b.Context(), io.Discard, whole(p), d); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if limit := int64(4 << 20); got > limit {
		t.Errorf("got %d bytes for a blob of 64 MiB, want at most %d", got, limit)
	}
}

func TestValidate(t *testing.T) {
	for _, d := range []digest.Digest{digest.SHA256.FromString(""), digest.SHA512.FromString("")} {
		if err := content.Validate(d); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	hex := digest.SHA256.FromString("").Encoded()
	for _, d := range []digest.Digest{
		"", "sha256", "sha256:", ":" + digest.Digest(hex), digest.Digest(hex),
		digest.Digest("sha256:" + hex[1:]), digest.Digest("sha256:" + hex + "0"),
		digest.Digest("sha256:" + strings.ToUpper(hex)), digest.Digest("SHA256:" + hex),
		digest.Digest("sha512:" + hex), digest.SHA384.FromString(""),
		digest.Digest("sha256:" + hex + "\n"), digest.Digest("sha256:../" + hex[3:]),
	} {
		if err := content.Validate(d); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: got %v, want %v", d, err, errdefs.ErrInvalidArgument)
		}
	}
}

func TestReadBlob(t *testing.T) {
	s := mem.New()
	p := []byte("some bytes")
	d := digest.FromBytes(p)
	if err := content.Put(t.Context(), s, d, p); err != nil {
		t.Fatal(err)
	}
	if got, err := content.ReadBlob(t.Context(), s, d, 10); err != nil || !bytes.Equal(got, p) {
		t.Errorf("got %q, %v, want %q", got, err, p)
	}
	_, overErr := content.ReadBlob(t.Context(), s, d, 9)
	_, absentErr := content.ReadBlob(t.Context(), s, digest.FromString("absent"), 9)
	_, damagedErr := content.ReadBlob(t.Context(), damaged{s}, d, 10)
	for _, c := range []struct{ got, want error }{
		{overErr, errdefs.ErrResourceExhausted},
		{absentErr, errdefs.ErrNotFound},
		{damagedErr, errdefs.ErrDataLoss},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// damaged is a store whose disk has lost a blob's last byte.
type damaged struct{ content.Store }

func (damaged) Open(context.Context, digest.Digest) (content.Reader, error) {
	return whole([]byte("some byte")), nil
}

// BenchmarkCopy is what a check and an export have to do with each byte. Beside it is the speed
// of the hash alone, which it should come near.
func BenchmarkCopy(b *testing.B) {
	p := contenttest.Bytes(1, 64<<20)
	d := digest.FromBytes(p)
	b.Run("hash", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			digest.FromBytes(p)
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		w := pages{make([]byte, 1<<20)}
		for b.Loop() {
			if _, err := content.Copy(b.Context(), w, whole(p), d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// pages costs what writing to a page cache costs at least: a copy.
type pages struct{ page []byte }

func (w pages) Write(p []byte) (int, error) { return copy(w.page, p), nil }

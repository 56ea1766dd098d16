package layer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

// sampleTar is n bytes that compress about as layers do. It begins as a tar does.
func sampleTar(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+512)
	b = append(b, "usr/bin/program"...)
	b = append(b, make([]byte, tarMagic-len(b))...)
	b = append(b, "ustar"...)
	for len(b) < n {
		if at := rng.IntN(len(b)); rng.IntN(3) > 0 {
			b = append(b, b[at:min(len(b), at+rng.IntN(100))]...)
		} else {
			for range rng.IntN(20) {
				b = append(b, byte(rng.Uint32()))
			}
		}
	}
	return b[:n]
}

func gzipped(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func zstded(tb testing.TB, plain []byte, args ...string) []byte {
	tb.Helper()
	c := exec.Command("zstd", append([]string{"-q", "-c"}, args...)...)
	c.Stdin = bytes.NewReader(plain)
	out, err := c.Output()
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// decompressed is what Read and WriteTo give, which have to agree; what a filter gives before an
// error depends on when it is stopped.
func decompressed(tb testing.TB, r func() io.Reader, o DecompressOptions) ([]byte, error) {
	tb.Helper()
	read := func(all func(io.Reader) ([]byte, error)) ([]byte, error) {
		z, err := Decompress(tb.Context(), r(), o)
		if err != nil {
			return nil, err
		}
		b, err := all(z)
		return b, errors.Join(err, z.Close())
	}
	got, err := read(io.ReadAll)
	got2, err2 := read(func(z io.Reader) ([]byte, error) {
		var b bytes.Buffer
		_, err := z.(io.WriterTo).WriteTo(&b)
		return b.Bytes(), err
	})
	if !bytes.Equal(got, got2) && (err == nil || o.Filter == Filter{}) || (err == nil) != (err2 == nil) {
		tb.Errorf("Read gives %d bytes and error %v, WriteTo %d and %v", len(got), err, len(got2), err2)
	}
	return got, err
}

func TestDecompress(t *testing.T) {
	plain := sampleTar(300_000)
	a, b := gzipped(t, plain[:100_000]), gzipped(t, plain[100_000:])
	za, zb := zstded(t, plain[:100_000]), zstded(t, plain[100_000:], "-19")
	skippable := []byte("\x5a\x2a\x4d\x18\x03\x00\x00\x00abc")
	named := func(name string) []byte {
		b := bytes.Clone(plain)
		copy(b, name)
		return b
	}
	for _, c := range []struct {
		name   string
		stream []byte
		want   []byte
		err    error
	}{
		{name: "none", stream: plain, want: plain},
		{name: "nothing"},
		{name: "one byte", stream: []byte("x"), want: []byte("x")},
		{name: "half a magic", stream: []byte("\x1f\x8b"), want: []byte("\x1f\x8b")},
		{name: "gzip", stream: gzipped(t, plain), want: plain},
		{name: "gzip, members", stream: concat(a, b), want: plain},
		{name: "gzip, padded", stream: concat(a, b, make([]byte, 1000)), want: plain},
		{name: "gzip, of nothing", stream: gzipped(t, nil)},
		{name: "gzip, garbage", stream: concat(a, b, []byte("garbage")), want: plain, err: errdefs.ErrDataLoss},
		{name: "gzip, truncated", stream: a[:10], err: io.ErrUnexpectedEOF},
		{name: "zstd", stream: zstded(t, plain), want: plain},
		{name: "zstd, frames", stream: concat(za, zb), want: plain},
		{name: "zstd, skippable frames", stream: concat(skippable, za, skippable, zb, skippable), want: plain},
		{name: "zstd, no checksum, long distance", stream: zstded(t, plain, "--no-check", "--long=27"), want: plain},
		{name: "zstd, too long a distance", stream: zstded(t, plain, "--long=28", "--no-content-size"), err: errdefs.ErrNotImplemented},
		{name: "zstd, garbage", stream: concat(zstded(t, plain), []byte("garbage")), want: plain, err: errdefs.ErrDataLoss},
		{name: "zstd, truncated", stream: za[:100], err: io.ErrUnexpectedEOF},
		{name: "zstd, truncated magic", stream: concat(za, zb[:3]), want: plain[:100_000], err: io.ErrUnexpectedEOF},
		{name: "bzip2", stream: []byte("BZh91AY&SY"), err: errdefs.ErrNotImplemented},
		{name: "xz", stream: []byte("\xfd7zXZ\x00\x00\x04"), err: errdefs.ErrNotImplemented},
		{name: "lz4", stream: []byte("\x04\x22\x4d\x18\x64\x40\xa7"), err: errdefs.ErrNotImplemented},
		{name: "lzip", stream: []byte("LZIP\x01\x0c"), err: errdefs.ErrNotImplemented},
		{name: "lzma", stream: []byte("\x5d\x00\x00\x80\x00\xff\xff"), err: errdefs.ErrNotImplemented},
		{name: "tar named BZh9", stream: named("BZh91AY&SY"), want: named("BZh91AY&SY")},
		{name: "tar named LZIP", stream: named("LZIP"), want: named("LZIP")},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, r := range map[string]func() io.Reader{
				"at once":      func() io.Reader { return bytes.NewReader(c.stream) },
				"byte by byte": func() io.Reader { return iotest.OneByteReader(bytes.NewReader(c.stream)) },
			} {
				got, err := decompressed(t, r, DecompressOptions{})
				if !errors.Is(err, c.err) {
					t.Errorf("%s: got error %v, want %v", how, err, c.err)
				}
				if !bytes.Equal(got, c.want) && (c.err == nil || !bytes.HasPrefix(c.want, got) && !bytes.HasPrefix(plain, got)) {
					t.Errorf("%s: got %d bytes, want %d", how, len(got), len(c.want))
				}
			}
		})
	}
}

// What no layer should be packed with is refused by name.
func TestDecompressNamesOthers(t *testing.T) {
	_, err := Decompress(t.Context(), strings.NewReader("BZh91AY&SY"), DecompressOptions{})
	if !errdefs.IsNotImplemented(err) || !strings.HasPrefix(err.Error(), "decompress layer: compression bzip2:") {
		t.Errorf("got error %v", err)
	}
}

// The error of the layer's reader, and that of its context, come out as they are.
func TestDecompressSourceErrors(t *testing.T) {
	plain := sampleTar(3 << 20)
	for name, stream := range map[string][]byte{"none": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		for filterName, o := range map[string]DecompressOptions{"": {}, " with a filter": {Filter: realFilter(t)}} {
			for _, n := range []int{0, 3, 100, 1000, 600_000, len(stream)} {
				broken := errors.New("broken")
				got, err := decompressed(t, func() io.Reader {
					return io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken))
				}, o)
				if !errors.Is(err, broken) || errors.Is(err, errdefs.ErrDataLoss) || !bytes.HasPrefix(plain, got) {
					t.Errorf("%s%s, after %d bytes: got %d bytes and error %v", name, filterName, n, len(got), err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			z, err := Decompress(ctx, bytes.NewReader(stream), o)
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, err := io.Copy(io.Discard, z); !errors.Is(err, context.Canceled) {
				t.Errorf("%s%s, context ended: got error %v", name, filterName, err)
			}
			if err := z.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A zstd layer takes about its window in memory, and starts no goroutines.
func TestZstdMemory(t *testing.T) {
	plain := bytes.Repeat(sampleTar(4<<20), 35)
	for _, c := range []struct {
		args []string
		max  uint64 // MiB
	}{
		{[]string{"-3"}, 8},
		{[]string{"-9"}, 16},
		{[]string{"-1", "--long=27"}, 140},
	} {
		stream := zstded(t, plain, c.args...)
		goroutines := runtime.NumGoroutine()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		z, err := Decompress(t.Context(), bytes.NewReader(stream), DecompressOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, z)
		if err != nil || n != int64(len(plain)) {
			t.Fatalf("%v: got %d bytes and error %v", c.args, n, err)
		}
		runtime.ReadMemStats(&after)
		if got := runtime.NumGoroutine(); got > goroutines {
			t.Errorf("%v: %d goroutines more", c.args, got-goroutines)
		}
		if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > c.max {
			t.Errorf("%v: %d MiB were allocated, want %d at most", c.args, got, c.max)
		} else {
			t.Logf("%v: %d MiB were allocated", c.args, got)
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	}
}

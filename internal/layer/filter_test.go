package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
)

// realFilter is igzip, which the tests need: Debian's package isal.
func realFilter(tb testing.TB) Filter {
	tb.Helper()
	f := FindFilter()
	if f == (Filter{}) {
		tb.Fatal("no igzip on the PATH")
	}
	return f
}

// scriptFilter is a filter that runs a shell script.
func scriptFilter(tb testing.TB, script string) Filter {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "filter")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		tb.Fatal(err)
	}
	return Filter{path: path}
}

func TestFindFilter(t *testing.T) {
	if f := realFilter(t); filepath.Base(f.String()) != "igzip" {
		t.Errorf("got %q", f)
	}
	t.Setenv("PATH", t.TempDir())
	if f := FindFilter(); f != (Filter{}) {
		t.Errorf("got %q where there is none", f)
	}
}

// With igzip the bytes are the same, and so is the verdict on what is no good layer.
func TestFilterAgrees(t *testing.T) {
	plain := sampleTar(3 << 20)
	half := len(plain) / 2
	whole := gzipped(t, plain)
	a, b := gzipped(t, plain[:half]), gzipped(t, plain[half:])
	small := gzipped(t, []byte("small"))
	flip := func(stream []byte, at int) []byte {
		bad := bytes.Clone(stream)
		bad[at] ^= 0x10
		return bad
	}
	zeros := func(n int) []byte { return make([]byte, n) }
	cases := map[string][]byte{
		"one member":             whole,
		"two members":            concat(a, b),
		"small members":          concat(a, small, small, gzipped(t, nil), b, small),
		"empty member last":      concat(a, b, gzipped(t, nil)),
		"smaller than a process": small,
		"one zero":               concat(whole, zeros(1)),
		"padding":                concat(whole, zeros(10_000)),
		"much padding":           concat(whole, zeros(5<<20)),
		"garbage":                concat(whole, []byte("garbage")),
		"garbage with zeros":     concat(whole, []byte("garbage"), zeros(100)),
		"much garbage":           concat(whole, bytes.Repeat([]byte("garbage"), 1<<20)),
		"garbage behind padding": concat(whole, zeros(1000), []byte("garbage")),
		"member behind padding":  concat(whole, zeros(1000), small),
		"half a header":          concat(whole, small[:7]),
		"magic alone":            concat(whole, small[:2]),
		"half a member":          concat(a, b[:len(b)/2]),
		"wrong header":           flip(whole, 0+2),
		"reserved flag":          concat([]byte("\x1f\x8b\x08\x80"), whole[4:]),
		"wrong second header":    flip(concat(a, b), len(a)),
		"wrong checksum":         flip(whole, len(whole)-8),
		"wrong length":           flip(whole, len(whole)-1),
		"wrong first checksum":   flip(concat(a, b), len(a)-8),
	}
	for _, n := range []int{len(whole) - 1, len(whole) - 4, len(whole) - 8, len(whole) - 9, len(whole) - 20, len(whole) - 100_000, filterMin + 1, filterMin, 1000, 20} {
		cases[fmt.Sprintf("first %d bytes", n)] = whole[:n]
	}
	for i := range 20 {
		at := 20 + i*(len(whole)-30)/20
		cases[fmt.Sprintf("damage at %d", at)] = flip(whole, at)
	}
	for name, stream := range cases {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]func() io.Reader{
				"at once":   func() io.Reader { return bytes.NewReader(stream) },
				"in halves": func() io.Reader { return iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(stream))) },
			} {
				want, wantErr := decompressed(t, r, DecompressOptions{})
				got, err := decompressed(t, r, DecompressOptions{Filter: realFilter(t)})
				if (err == nil) != (wantErr == nil) {
					t.Errorf("%s: got error %v, want %v", how, err, wantErr)
				}
				if err == nil && !bytes.Equal(got, want) {
					t.Errorf("%s: got %d bytes, want %d", how, len(got), len(want))
				}
				if err != nil && !errors.Is(err, errdefs.ErrDataLoss) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s: error %v has no kind", how, err)
				}
			}
		})
	}
}

// Zeros between members, which end the stream for igzip, are no padding for us, and zeros that
// end several members are refused with a filter: what it did not look at may be anything.
func TestFilterPaddedMembers(t *testing.T) {
	plain := sampleTar(4 << 20)
	stream := concat(gzipped(t, plain[:1<<20]), gzipped(t, plain[1<<20:]), make([]byte, 512))
	if _, err := decompressed(t, func() io.Reader { return bytes.NewReader(stream) }, DecompressOptions{Filter: realFilter(t)}); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("got error %v", err)
	}
}

// However the program fails, it is an error, and never the end of the layer.
func TestFilterFails(t *testing.T) {
	stream := gzipped(t, sampleTar(4<<20))
	for _, c := range []struct {
		name, script, want string
		err                error
	}{
		{name: "exit status", script: "igzip -d -c; echo it went wrong >&2; exit 3", want: "it went wrong", err: errdefs.ErrDataLoss},
		{name: "no output", script: "exit 1", err: errdefs.ErrDataLoss},
		{name: "no output, all well", script: "exit 0", err: errdefs.ErrDataLoss},
		{name: "half the output", script: "igzip -d -c | head -c 1000000", err: errdefs.ErrDataLoss},
		{name: "closed output", script: "exec >&-; cat >/dev/null", err: errdefs.ErrDataLoss},
		{name: "killed", script: "igzip -d -c | head -c 1000000; kill -9 $$", want: "killed", err: errdefs.ErrUnavailable},
		{name: "much to say", script: "head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1", want: strings.Repeat("x", maxComplaint) + ": data loss", err: errdefs.ErrDataLoss},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := DecompressOptions{Filter: scriptFilter(t, c.script)}
			_, err := decompressed(t, func() io.Reader { return bytes.NewReader(stream) }, o)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %v with %q", err, c.err, c.want)
			}
		})
	}
	_, err := Decompress(t.Context(), bytes.NewReader(stream), DecompressOptions{Filter: Filter{path: filepath.Join(t.TempDir(), "gone")}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("program that is gone: got error %v", err)
	}
}

// A layer that is given up early leaves no process and no goroutine, also when the program hangs.
func TestFilterClose(t *testing.T) {
	stream := gzipped(t, sampleTar(8<<20))
	goroutines := runtime.NumGoroutine()
	for name, f := range map[string]Filter{"igzip": realFilter(t), "hangs": scriptFilter(t, "exec sleep 1000")} {
		for _, read := range []int64{0, 1000, 1 << 20} {
			if name == "hangs" && read > 0 {
				continue
			}
			z, err := Decompress(t.Context(), bytes.NewReader(stream), DecompressOptions{Filter: f})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, z, read); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Error(err)
			}
			if _, err := z.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("%s: read after close: got error %v", name, err)
			}
			if state := z.(*filtered).cmd.ProcessState; state == nil {
				t.Errorf("%s: the process was not waited for", name)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	z, err := Decompress(ctx, bytes.NewReader(stream), DecompressOptions{Filter: scriptFilter(t, "exec sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, z); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("program that hangs: got error %v", err)
	}
	if err := z.Close(); err != nil {
		t.Error(err)
	}
	for range 100 {
		if runtime.NumGoroutine() <= goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left", runtime.NumGoroutine()-goroutines)
}

func TestTail(t *testing.T) {
	for _, c := range []struct {
		pieces string // separated by |
		size   uint32
		want   bool
	}{
		{"....\x01\x02\x03\x04", 0x04030201, false},
		{"....\x01\x02\x03\x04\x00", 0x04030201, true},
		{"....\x01\x02\x03\x04|\x00\x00", 0x04030201, true},
		{"....\x01\x02\x03\x00", 0x030201, false},
		{"....\x01\x02\x03\x00\x00", 0x030201, true},
		{"....\x01\x00\x00|\x00\x00", 0x01, true},
		{"....\x01|\x00\x00|\x04\x00\x00\x00", 0x04000001, true},
		{"....\x01|\x00|\x00\x04\x00\x00\x00", 0x04000001, true},
		{"....\x01|\x02|\x03|\x04|\x00", 0x04030201, true},
		{"....\x01\x02\x03\x05\x00", 0x04030201, false},
		{"....\x01\x02\x03\x04garbage\x00", 0x04030201, false},
		{"....\x00\x00\x00\x01\x00", 0x01000000, true},
	} {
		var got tail
		for _, p := range strings.Split(c.pieces, "|") {
			got.add([]byte(p))
		}
		if got.pads(c.size) != c.want {
			t.Errorf("%q: got %v for a size of %#x", c.pieces, !c.want, c.size)
		}
	}
}

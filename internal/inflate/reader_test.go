package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	kgzip "github.com/klauspost/compress/gzip"
)

var every = flag.Bool("every", false, "corrupt each byte in all 255 ways and not in 8; takes half a minute")

// member packs a deflate stream whose output is plain.
func member(deflated, plain []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflated...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(plain))
	return binary.LittleEndian.AppendUint32(b, uint32(len(plain)))
}

func pack(tb testing.TB, plain []byte, level int) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func unpack(r io.Reader) ([]byte, error) {
	z, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = z.WriteTo(&b)
	return b.Bytes(), err
}

// stdUnpack is what compress/gzip makes of it.
func stdUnpack(r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func TestDeflate(t *testing.T) {
	for _, c := range []struct {
		name, deflated, want string
		bad                  string // what the error says; "": none
	}{
		{name: "stored, empty", deflated: "01 0000 ffff"},
		{name: "stored", deflated: "01 0300 fcff 616263", want: "abc"},
		{name: "two stored", deflated: "00 0100 feff 61 01 0100 feff 62", want: "ab"},
		{name: "stored, wrong complement", deflated: "01 0300 fcfe 616263", bad: "stored length"},
		{name: "fixed, empty", deflated: "03 00"},
		{name: "fixed, literal", deflated: "4b 04 00", want: "a"},
		{name: "fixed, run", deflated: "4b 04 02 00", want: "aaaa"},
		{name: "fixed, distance before the start", deflated: "4b 04 42 00", bad: "distance", want: "a"},
		{name: "fixed, length symbol 286", deflated: "1b 03 00", bad: "symbol"},
		{name: "fixed, distance symbol 30", deflated: "4b 04 3e 00", bad: "distance symbol", want: "a"},
		{name: "reserved block type", deflated: "07", bad: "block type"},
		{name: "287 codes of lengths", deflated: "f5 00 00", bad: "number of codes"},
		{name: "31 codes of distances", deflated: "05 1e 00", bad: "number of codes"},
		{name: "code of code lengths, none", deflated: "05 00 00 00 00 00", bad: "code length"},
		{name: "code of code lengths, too many", deflated: "05 e0 ff ff ff ff ff ff ff ff", bad: "code of code lengths"},
		{name: "code of code lengths, too few", deflated: "05 00 24 00 00 00 00 00 00", bad: "code of code lengths"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream := member(unhex(c.deflated), []byte(c.want))
			got, err := unpack(bytes.NewReader(stream))
			if string(got) != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.bad == "" && err != nil {
				t.Errorf("got error %v, want none", err)
			}
			if c.bad != "" && (!errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), "wrong "+c.bad+" near")) {
				t.Errorf("got error %v, want one of a wrong %s", err, c.bad)
			}
			if _, stdErr := io.ReadAll(flate.NewReader(bytes.NewReader(stream[10:]))); (stdErr == nil) != (err == nil) {
				t.Errorf("got error %v, compress/flate %v", err, stdErr)
			}
		})
	}
}

// writeBits writes fields of value and width, the first lowest, as deflate has them.
type bitWriter struct {
	b []byte
	n uint
}

func (w *bitWriter) write(v uint, n uint) {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
}

// dynamicBlock writes the header of a last block whose codes have these lengths.
func dynamicBlock(lit [257]uint8, dist []uint8) *bitWriter {
	w := new(bitWriter)
	w.write(1, 1)
	w.write(2, 2)
	w.write(0, 5)
	w.write(uint(len(dist)-1), 5)
	w.write(15, 4)
	// All code lengths from 0 to 15 have a code of 4 bits, so it is their number, reversed.
	for _, c := range []byte(order) {
		w.write(map[bool]uint{true: 4}[c < 16], 3)
	}
	for _, l := range append(lit[:], dist...) {
		for i := range uint(4) {
			w.write(uint(l)>>(3-i), 1)
		}
	}
	return w
}

// The codes that RFC 1951 allows although they leave bits without a meaning, and those that it
// does not.
func TestIncompleteCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		lit  map[int]uint8
		dist []uint8
		body string // bits, the first first
		want string
		bad  string
	}{
		{name: "only an end", lit: map[int]uint8{256: 1}, dist: []uint8{0}, body: "0"},
		{name: "only an end, unused bit", lit: map[int]uint8{256: 1}, dist: []uint8{0}, body: "1", bad: "symbol"},
		{name: "only an end, of two bits", lit: map[int]uint8{256: 2}, dist: []uint8{0}, body: "00", bad: "code of literals and lengths"},
		{name: "no end", lit: map[int]uint8{65: 1, 66: 1}, dist: []uint8{0}, body: "00", bad: "code without an end"},
		{name: "no distances", lit: map[int]uint8{65: 1, 256: 1}, dist: []uint8{0}, body: "01", want: "A"},
		{name: "one distance", lit: map[int]uint8{65: 1, 256: 1}, dist: []uint8{1}, body: "01", want: "A"},
		{name: "one distance of two bits", lit: map[int]uint8{65: 1, 256: 1}, dist: []uint8{2}, body: "01", bad: "code of distances"},
		{name: "too few distances", lit: map[int]uint8{65: 1, 256: 1}, dist: []uint8{2, 2}, body: "01", bad: "code of distances"},
		{name: "too many distances", lit: map[int]uint8{65: 1, 256: 1}, dist: []uint8{1, 1, 1}, body: "01", bad: "code of distances"},
		{name: "too many literals", lit: map[int]uint8{65: 1, 66: 1, 256: 1}, dist: []uint8{0}, body: "01", bad: "code of literals and lengths"},
		{name: "too few literals", lit: map[int]uint8{65: 1, 256: 2}, dist: []uint8{0}, body: "01", bad: "code of literals and lengths"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lit [257]uint8
			for i, l := range c.lit {
				lit[i] = l
			}
			w := dynamicBlock(lit, c.dist)
			for _, bit := range c.body {
				w.write(uint(bit-'0'), 1)
			}
			got, err := unpack(bytes.NewReader(member(w.b, []byte(c.want))))
			if string(got) != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.Contains(err.Error(), "wrong "+c.bad+" near")) {
				t.Errorf("got error %v, want of %q", err, c.bad)
			}
		})
	}
}

// Codes of up to 15 bits, which lead through every size of subtable.
func TestLongCodes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		// A complete code from splitting leaves at random, the deep ones rather.
		depths := []uint8{1, 1}
		for want := 2 + rng.IntN(255); len(depths) < want; {
			i := len(depths) - 1 - int(rng.ExpFloat64()*3)
			if i < 0 || depths[i] == maxCode {
				i = rng.IntN(len(depths))
			}
			if depths[i] < maxCode {
				depths[i]++
				depths = append(depths, depths[i])
			}
		}
		var lit [257]uint8
		lit[256] = depths[0]
		for i, at := range rng.Perm(256)[:len(depths)-1] {
			lit[at] = depths[i+1]
		}
		w := dynamicBlock(lit, []uint8{0})
		codes := canonical(lit[:])
		var want []byte
		for range 2000 {
			if b := byte(rng.IntN(256)); lit[b] > 0 {
				want = append(want, b)
				w.write(codes[b], uint(lit[b]))
			}
		}
		w.write(codes[256], uint(lit[256]))
		got, err := unpack(bytes.NewReader(member(w.b, want)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("lengths %v: got %d bytes and error %v, want %d", lit, len(got), err, len(want))
		}
	}
}

// canonical gives the codes of RFC 1951, 3.2.2, with their bits reversed.
func canonical(lens []uint8) []uint {
	codes := make([]uint, len(lens))
	code := uint(0)
	for l := uint8(1); l <= maxCode; l++ {
		for i := range lens {
			if lens[i] != l {
				continue
			}
			for bit := range l {
				codes[i] |= code >> bit & 1 << (l - 1 - bit)
			}
			code++
		}
		code <<= 1
	}
	return codes
}

// samples are contents of several kinds, the longest of which takes the output through many
// turns of its buffer.
func samples(tb testing.TB) map[string][]byte {
	tb.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		tb.Fatal(err)
	}
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	// Repeats of all distances and lengths.
	repeats := bytes.Clone(random[:1000])
	for len(repeats) < 1_000_000 {
		distance := 1 + rng.IntN(min(len(repeats), 1<<(1+rng.IntN(15))))
		for range 3 + rng.IntN(1<<(1+rng.IntN(9))) {
			repeats = append(repeats, repeats[len(repeats)-distance])
		}
		repeats = append(repeats, random[rng.IntN(len(random)):][:1]...)
	}
	return map[string][]byte{
		"empty":   nil,
		"byte":    {7},
		"zeros":   make([]byte, 1_000_000),
		"random":  random,
		"repeats": repeats,
		"program": program[:min(len(program), 3<<20)],
		"text":    []byte(strings.Repeat("The quick brown fox jumps over the lazy dog. ", 20_000)),
	}
}

func TestRoundTrip(t *testing.T) {
	for name, plain := range samples(t) {
		for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
			var ks bytes.Buffer
			w, err := kgzip.NewWriterLevel(&ks, level)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(plain); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for by, stream := range map[string][]byte{"std": pack(t, plain, level), "klauspost": ks.Bytes()} {
				got, err := unpack(bytes.NewReader(stream))
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s by %s at level %d: got %d bytes and error %v, want %d bytes", name, by, level, len(got), err, len(plain))
				}
			}
		}
	}
}

// However the input comes and the output is fetched, it is the same.
func TestPieces(t *testing.T) {
	for name, plain := range samples(t) {
		stream := pack(t, plain, 6)
		for by, r := range map[string]io.Reader{
			"byte by byte":   iotest.OneByteReader(bytes.NewReader(stream)),
			"halves":         iotest.HalfReader(bytes.NewReader(stream)),
			"data and error": iotest.DataErrReader(bytes.NewReader(stream)),
		} {
			z, err := NewReader(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(iotest.HalfReader(struct{ io.Reader }{z}))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %s: got %d bytes and error %v, want %d bytes", name, by, len(got), err, len(plain))
			}
		}
	}
}

func TestMembers(t *testing.T) {
	a, b := pack(t, []byte("hello "), 6), pack(t, []byte("world"), 6)
	full := &bytes.Buffer{}
	w := gzip.NewWriter(full)
	w.Name, w.Comment, w.Extra = "a name", "a comment", []byte("extra")
	if _, err := w.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	header := func(flags byte, rest string) []byte {
		return append([]byte{0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255}, rest...)
	}
	// A header of 0x1f 0x8b 8 2 and zeros, with the low half of its checksum.
	checked := header(2, "")
	checked = binary.LittleEndian.AppendUint16(checked, uint16(crc32.ChecksumIEEE(checked)))
	body := a[10:]

	for _, c := range []struct {
		name   string
		stream []byte
		want   string
		err    error
	}{
		{name: "two", stream: bytes.Join([][]byte{a, b}, nil), want: "hello world"},
		{name: "empty ones between", stream: bytes.Join([][]byte{a, pack(t, nil, 6), pack(t, nil, 0), b, pack(t, nil, 6)}, nil), want: "hello world"},
		{name: "all fields", stream: bytes.Join([][]byte{a, full.Bytes()}, nil), want: "hello !"},
		{name: "header checksum", stream: append(bytes.Clone(checked), body...), want: "hello "},
		{name: "wrong header checksum", stream: append(header(2, "ab"), body...), err: errdefs.ErrDataLoss},
		{name: "long name", stream: append(header(8, strings.Repeat("n", maxText)+"\x00"), body...), want: "hello "},
		{name: "too long a name", stream: append(header(8, strings.Repeat("n", maxText+1)+"\x00"), body...), err: errdefs.ErrDataLoss},
		{name: "too long a comment", stream: append(header(16, strings.Repeat("n", maxText+1)+"\x00"), body...), err: errdefs.ErrDataLoss},
		{name: "reserved flag", stream: append(header(0x20, ""), body...), err: errdefs.ErrDataLoss},
		{name: "not deflate", stream: append([]byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 255}, body...), err: errdefs.ErrDataLoss},
		{name: "not gzip", stream: []byte("a tar, perhaps"), err: errdefs.ErrDataLoss},
		{name: "padding", stream: append(bytes.Clone(a), make([]byte, 100_000)...), want: "hello "},
		{name: "one zero", stream: append(bytes.Clone(a), 0), want: "hello "},
		{name: "garbage", stream: append(bytes.Clone(a), "garbage"...), want: "hello ", err: errdefs.ErrDataLoss},
		{name: "garbage in the padding", stream: append(bytes.Clone(a), "\x00\x00\x00\x1f"...), want: "hello ", err: errdefs.ErrDataLoss},
		{name: "a member after padding", stream: bytes.Join([][]byte{a, {0}, b}, nil), want: "hello ", err: errdefs.ErrDataLoss},
		{name: "half a header", stream: append(bytes.Clone(a), b[:5]...), want: "hello ", err: io.ErrUnexpectedEOF},
		{name: "window of another member", stream: append(bytes.Clone(a), member(unhex("03 02 00"), nil)...), want: "hello ", err: errdefs.ErrDataLoss},
		{name: "nothing", err: io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := unpack(bytes.NewReader(c.stream))
			if string(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %q and error %v, want %q and %v", got, err, c.want, c.err)
			}
		})
	}
}

// A wrong checksum and a wrong length are told, after the bytes.
func TestTrailer(t *testing.T) {
	plain := []byte("some bytes")
	for i := 1; i <= 8; i++ {
		stream := pack(t, plain, 6)
		stream[len(stream)-i] ^= 1
		got, err := unpack(bytes.NewReader(stream))
		if !errors.Is(err, errdefs.ErrDataLoss) || !bytes.Equal(got, plain) {
			t.Errorf("byte %d from the end: got %q and error %v", i, got, err)
		}
	}
}

// small is a stream of three members, one for each type of block, that exercises the edges.
func small(t *testing.T) (stream, plain []byte) {
	text := []byte(strings.Repeat("abcabcd", 9) + "The quick brown fox jumps over the lazy dog, and a quick dog jumps back.")
	for _, part := range []struct {
		level int
		plain []byte
	}{{9, text}, {0, text[:20]}, {9, text[:5]}, {gzip.HuffmanOnly, append(bytes.Repeat(text, 2), samples(t)["random"][:40]...)}} {
		stream = append(stream, pack(t, part.plain, part.level)...)
		plain = append(plain, part.plain...)
	}
	return stream, plain
}

func TestTruncation(t *testing.T) {
	stream, plain := small(t)
	for n := range len(stream) {
		got, err := unpack(bytes.NewReader(stream[:n]))
		want, wantErr := stdUnpack(bytes.NewReader(stream[:n]))
		if err != wantErr || !sameBytes(got, want, err) || !bytes.HasPrefix(plain, got) {
			t.Errorf("%d of %d bytes: got %d bytes and error %v, want %d and %v", n, len(stream), len(got), err, len(want), wantErr)
		}
		// An error of the source is passed on, and not taken for the end.
		broken := errors.New("broken")
		if got, err := unpack(io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken))); !errors.Is(err, broken) || !bytes.HasPrefix(plain, got) {
			t.Errorf("%d bytes and then an error: got %d bytes and error %v", n, len(got), err)
		}
	}
}

func TestCorruption(t *testing.T) {
	stream, _ := small(t)
	for i := range stream {
		for x := 1; x < 256; x++ {
			if !*every && x&(x-1) != 0 {
				continue // more than one bit
			}
			bad := bytes.Clone(stream)
			bad[i] ^= byte(x)
			if bad[i] == 0 && i > 0 && isStart(stream[i:]) || isStart(stream[max(0, i-3):]) && bad[i]&0xe0 != 0 {
				continue // padding and reserved flags: see the package comment
			}
			if err := compare(bad); err != nil {
				t.Fatalf("byte %d ^ %#x: %v", i, x, err)
			}
		}
	}
}

func isStart(b []byte) bool { return bytes.HasPrefix(b, []byte{0x1f, 0x8b, 8}) }

// compare decompresses with compress/gzip as well: the verdict has to be the same, and the bytes.
func compare(stream []byte) error {
	got, err := unpack(bytes.NewReader(stream))
	want, wantErr := stdUnpack(bytes.NewReader(stream))
	if (err == nil) != (wantErr == nil) {
		return fmt.Errorf("got error %v, compress/gzip %v", err, wantErr)
	}
	if !sameBytes(got, want, err) {
		return fmt.Errorf("got %d bytes and error %v, compress/gzip %d and %v", len(got), err, len(want), wantErr)
	}
	return nil
}

// sameBytes tells whether got, which ended with err, is as much as compress/flate wants it to be.
func sameBytes(got, want []byte, err error) bool {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		// It wants as many bits as the end of the block has before it looks at them.
		return bytes.HasPrefix(got, want)
	case err != nil && strings.Contains(err.Error(), "code without an end"):
		// It decodes with such a code as long as that goes.
		return bytes.HasPrefix(want, got)
	}
	return bytes.Equal(got, want)
}

// FuzzInflate packs arbitrary bytes as the deflate stream of a member, and compares with
// compress/flate.
func FuzzInflate(f *testing.F) {
	for _, plain := range samples(f) {
		for _, level := range []int{gzip.HuffmanOnly, 0, 1, 9} {
			f.Add(pack(f, plain[:min(len(plain), 2000)], level)[10:])
		}
	}
	f.Fuzz(func(t *testing.T, deflated []byte) {
		r := bytes.NewReader(deflated)
		want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(r), 32<<20))
		if len(want) == 32<<20 {
			return
		}
		stream := deflated
		if wantErr == nil {
			stream = deflated[:len(deflated)-r.Len()]
		}
		stream = member(stream, want)
		if wantErr != nil {
			stream = stream[:len(stream)-8]
		}
		got, err := unpack(bytes.NewReader(stream))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("got error %v, compress/flate %v", err, wantErr)
		}
		if !sameBytes(got, want, err) {
			t.Fatalf("got %d bytes and error %v, compress/flate %d and %v", len(got), err, len(want), wantErr)
		}
	})
}

package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/ulikunitz/xz"
)

// packXZ packs b in blocks of the given size.
func packXZ(t *testing.T, b []byte, blockSize int64, check byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := xz.WriterConfig{BlockSize: blockSize, CheckSum: check}.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// ask changes the dictionary that the block whose header is at b asks for.
func ask(b []byte, code byte) {
	size := (int(b[0]) + 1) * 4
	i := bytes.Index(b[:size], []byte{0x21, 1})
	b[i+2] = code
	binary.LittleEndian.PutUint32(b[size-4:], crc32.ChecksumIEEE(b[:size-4]))
}

func TestXZGuard(t *testing.T) {
	// Half of it packs well and half does not, so that there are chunks of every kind.
	plain := make([]byte, 90<<10)
	random := rand.NewChaCha8([32]byte{})
	if _, err := random.Read(plain[10<<10 : 80<<10]); err != nil {
		t.Fatal(err)
	}
	for _, check := range []byte{xz.None, xz.CRC64, xz.SHA256} {
		for _, blockSize := range []int64{1 << 30, 100<<10 + 1} {
			packed := packXZ(t, plain, blockSize, check)
			for cut := range 8 {
				b := packed[:len(packed)-cut*1000]
				got, err := io.ReadAll(newXZGuard(bytes.NewReader(b)))
				if err != nil || !bytes.Equal(got, b) {
					t.Fatalf("check %d, blocks of %d: passed on %d of %d bytes, %v", check, blockSize, len(got), len(b), err)
				}
			}
			// Every block is looked at: find each by its header, and change it.
			blocks := 0
			for i := 12; i+12 < len(packed); i += 4 {
				header := packed[i:]
				size := (int(header[0]) + 1) * 4
				if header[0] == 0 || size > len(header) || size > 32 || binary.LittleEndian.Uint32(header[size-4:]) != crc32.ChecksumIEEE(header[:size-4]) {
					continue
				}
				blocks++
				for code, want := range map[byte]error{maxXZDict: nil, maxXZDict + 1: errdefs.ErrNotImplemented, 40: errdefs.ErrNotImplemented} {
					b := slices.Clone(packed)
					ask(b[i:], code)
					_, err := io.Copy(io.Discard, newXZGuard(bytes.NewReader(b)))
					if !errors.Is(err, want) {
						t.Errorf("check %d: a dictionary of code %d at %d: got %v, want %v", check, code, i, err, want)
					}
				}
			}
			if want := int((int64(len(plain)) + blockSize - 1) / blockSize); blocks != want {
				t.Errorf("found %d blocks, want %d", blocks, want)
			}
		}
	}
}

// An archive by xz itself, in several blocks, each with its sizes in its header.
func TestReadXZ(t *testing.T) {
	b, err := os.ReadFile("testdata/docker.tar.xz")
	if err != nil {
		t.Fatal(err)
	}
	_, c, err := read(t, b)
	if err != nil || len(c.Images) != 2 {
		t.Fatalf("got %+v, %v", c, err)
	}
	ask(b[12:], 40)
	if _, _, err := read(t, b); !errdefs.IsNotImplemented(err) {
		t.Errorf("a dictionary of 4 GiB: got %v", err)
	}
}

func FuzzXZGuard(f *testing.F) {
	b, err := os.ReadFile("testdata/docker.tar.xz")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := io.ReadAll(newXZGuard(bytes.NewReader(b)))
		if err == nil && !bytes.Equal(got, b) || err != nil && !errdefs.IsNotImplemented(err) {
			t.Errorf("passed on %d of %d bytes, %v", len(got), len(b), err)
		}
	})
}

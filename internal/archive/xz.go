package archive

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// An xzGuard passes an xz stream on and looks at the dictionary size of each of its blocks. The
// decoder would take whatever memory a block asks for, up to 4 GiB; the guard refuses more than
// xz -9 uses. What is no xz it passes on too: the decoder says what is wrong.
type xzGuard struct {
	r     *bufio.Reader
	next  func(*xzGuard) (int64, error) // says how much to pass on before it is asked again
	left  int64                         // bytes to pass on
	check int64                         // bytes of the checksum behind a block
	data  int64                         // bytes of the block's compressed data so far
}

const (
	// maxXZDict is the code, in a block's header, of a dictionary of 64 MiB.
	maxXZDict = 28
	// untilEnd passes on all that is left.
	untilEnd = 1 << 62
)

func newXZGuard(r io.Reader) *xzGuard {
	return &xzGuard{r: bufio.NewReaderSize(r, 64<<10), next: (*xzGuard).streamHeader}
}

func (g *xzGuard) Read(p []byte) (int, error) {
	for g.left == 0 {
		n, err := g.next(g)
		if errors.Is(err, io.EOF) {
			n, err = untilEnd, nil // cut short: the decoder will notice
		}
		if err != nil {
			return 0, err
		}
		g.left = n
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.left)])
	g.left -= int64(n)
	return n, err
}

func (g *xzGuard) streamHeader() (int64, error) {
	b, err := g.r.Peek(12)
	if err != nil {
		return 0, err
	}
	g.check = map[byte]int64{1: 4, 4: 8, 10: 32}[b[7]&0xf]
	g.next = (*xzGuard).blockHeader
	return 12, nil
}

func (g *xzGuard) blockHeader() (int64, error) {
	b, err := g.r.Peek(1)
	if err != nil {
		return 0, err
	}
	if b[0] == 0 {
		return untilEnd, nil // no further block, but the index of them
	}
	size := (int(b[0]) + 1) * 4
	if b, err = g.r.Peek(size); err != nil {
		return 0, err
	}
	flags, rest := b[1], b[2:]
	for _, sizes := range []byte{0x40, 0x80} { // of the block, packed and unpacked; each may be left out
		if flags&sizes != 0 {
			_, n := binary.Uvarint(rest)
			rest = rest[max(n, 0):]
		}
	}
	// One filter, LZMA2, with its one byte of properties, is all that the decoder knows.
	if flags&3 == 0 && len(rest) >= 3 && rest[0] == 0x21 && rest[1] == 1 && rest[2] <= maxXZDict {
		g.data, g.next = 0, (*xzGuard).chunk
		return int64(size), nil
	}
	return 0, fmt.Errorf("an xz block with a dictionary of more than 64 MiB, or of an unknown filter: %w", errdefs.ErrNotImplemented)
}

// chunk steps over one piece of LZMA2 data, which begins with its length.
func (g *xzGuard) chunk() (int64, error) {
	b, err := g.r.Peek(1)
	if err != nil {
		return 0, err
	}
	control, size := b[0], int64(0)
	switch {
	case control == 0:
		size = 1
		g.next = (*xzGuard).blockHeader
		pad := -(g.data + size) & 3
		return size + pad + g.check, nil
	case control <= 2:
		if b, err = g.r.Peek(3); err == nil {
			size = 3 + int64(binary.BigEndian.Uint16(b[1:])) + 1
		}
	case control >= 0x80:
		if b, err = g.r.Peek(5); err == nil {
			size = 5 + int64(binary.BigEndian.Uint16(b[3:])) + 1
			if control >= 0xc0 {
				size++
			}
		}
	default:
		return untilEnd, nil // the decoder refuses it
	}
	g.data += size
	return size, err
}

package erofs

import (
	"bytes"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/tarstream"
)

// holeSize is what becomes a hole when it is zeros, as when the layer is applied to a folder.
const holeSize = layer.HoleSize

// zeroes are compared with.
var zeroes [4 << 10]byte

// A zeroFinder sees a file pass and finds the content between holes.
type zeroFinder struct {
	content []tarstream.Run
	start   int64 // of the content that is not in the list yet
	off     int64 // of what comes next
	zero    bool  // the piece so far, of which nothing is missing
}

// begin starts a run of what is stored.
func (z *zeroFinder) begin(off int64) {
	z.start, z.off = off, off
	z.zero = off%holeSize == 0
}

// write takes the next bytes of the run.
func (z *zeroFinder) write(p []byte) {
	for len(p) > 0 {
		n := min(holeSize-int(z.off%holeSize), len(p))
		z.zero = z.zero && isZero(p[:n])
		p = p[n:]
		if z.off += int64(n); z.off%holeSize != 0 {
			return
		}
		if z.zero {
			z.add(z.off - holeSize)
			z.start = z.off
		}
		z.zero = true
	}
}

// end ends the run.
func (z *zeroFinder) end() { z.add(z.off) }

// add puts the content up to end on the list.
func (z *zeroFinder) add(end int64) {
	if end > z.start {
		z.content = append(z.content, tarstream.Run{Offset: z.start, Length: end - z.start})
	}
}

func isZero(p []byte) bool {
	for ; len(p) > len(zeroes); p = p[len(zeroes):] {
		if !bytes.Equal(p[:len(zeroes)], zeroes[:]) {
			return false
		}
	}
	return bytes.Equal(p, zeroes[:len(p)])
}

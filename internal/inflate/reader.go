// Package inflate decompresses gzip streams (RFC 1952), made for the large ones that layers are.
//
// It gives what compress/gzip gives, except that, as with gzip(1), zeros behind the last member
// are padding, and that a header is refused if it has flags that RFC 1952 reserves; names and
// comments in it may be longer.
package inflate

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/containerd/errdefs"
)

const (
	window = 32 << 10 // how far back a distance reaches

	inSize = 64 << 10 // the most input that is read at once
	margin = 16       // the input that decodeFast wants: a round reads 8 bytes twice, at most 7 apart

	// Output is decoded until there is outLimit of it with the window. A round begins before and
	// goes beyond by 2 literals, the longest match, and what is copied behind that in strides.
	outLimit = window + 128<<10
	overrun  = 2 + 258 + 32
	outSize  = outLimit + overrun
)

// A Reader decompresses one gzip stream of any number of members. It takes 256 KiB of memory,
// whatever the stream is. Not for concurrent use.
type Reader struct {
	src   io.Reader
	inErr error // what src said at last
	err   error // what the Reader says when the output is read

	ip, inEnd int   // the input not yet taken is in[ip:inEnd]
	inAt      int64 // where in begins in the stream

	bits uint64 // the next bits of the input, the first lowest; zeros behind n
	n    uint

	step    func(*Reader) // decodes what comes next
	last    bool          // the block is the member's last
	stored  int           // bytes left of a stored block
	isFixed bool          // the tables are those of the fixed codes

	rp, op int // decoded and not yet read is out[rp:op]
	base   int // where the member begins in out, if it still does
	summed int // out[summed:op] is not in crc yet
	crc    uint32
	size   uint32 // of the member, without out[summed:op]

	lit  [litSize]entry
	dist [distSize]entry
	pre  [preSize]entry
	lens [320]uint8

	in  [inSize]byte
	out [outSize]byte
}

// NewReader reads the header of the first member. It returns [io.EOF] if there is nothing in r.
//
// The Reader reads r in large pieces, to its end; no byte of it is ignored. Errors:
// [io.ErrUnexpectedEOF] where r ends too early, [errdefs.ErrDataLoss] where it is not as the format
// demands or does not match its checksum, and those of r. All that was decompressed before an
// error is read before it.
func NewReader(r io.Reader) (*Reader, error) {
	z := &Reader{src: r, step: (*Reader).header}
	z.more()
	if z.inEnd == 0 {
		return nil, z.inErr
	}
	z.memberHeader()
	if z.err != nil {
		return nil, z.err
	}
	return z, nil
}

// Read is io.Reader's. It copies; WriteTo does not.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if z.rp == z.op {
		z.fill()
	}
	if z.rp == z.op {
		return 0, z.err
	}
	n := copy(p, z.out[z.rp:z.op])
	z.rp += n
	return n, nil
}

// WriteTo writes all that is left, in large pieces.
func (z *Reader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		if z.rp == z.op {
			z.fill()
		}
		if z.rp == z.op {
			if z.err == io.EOF {
				return written, nil
			}
			return written, z.err
		}
		n, err := w.Write(z.out[z.rp:z.op])
		z.rp += n
		written += int64(n)
		if err == nil && z.rp < z.op {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// fill decodes until the output is full or the stream ends. All output was read.
func (z *Reader) fill() {
	if z.op >= outLimit {
		shift := z.op - window
		copy(z.out[:], z.out[shift:z.op])
		z.base = max(0, z.base-shift)
		z.rp, z.op, z.summed = window, window, window
	}
	for z.err == nil && z.op < outLimit {
		z.step(z)
	}
	z.sum()
}

// sum brings the checksum up to the output.
func (z *Reader) sum() {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[z.summed:z.op])
	z.size += uint32(z.op - z.summed)
	z.summed = z.op
}

// endBlock goes on with the next block, or with what follows the member's last.
func (z *Reader) endBlock() {
	z.step = (*Reader).header
	if z.last {
		z.step = (*Reader).trailer
	}
}

// trailer compares the member with its checksum and goes on with the next member.
func (z *Reader) trailer() {
	z.sum()
	z.take(z.n & 7)
	crc := z.take(16)
	crc |= z.take(16) << 16
	size := z.take(16)
	size |= z.take(16) << 16
	switch {
	case z.err != nil:
		return
	case crc != z.crc:
		z.corrupt("checksum")
		return
	case size != z.size:
		z.corrupt("length")
		return
	}
	z.crc, z.size, z.base = 0, 0, z.op
	z.step = (*Reader).header
	if z.refill(); z.n == 0 {
		z.fail(z.inErr)
		return
	}
	if z.bits&0xff == 0 {
		z.padding()
		return
	}
	z.memberHeader()
}

// padding passes over zeros up to the end of the stream.
func (z *Reader) padding() {
	for {
		if z.refill(); z.n == 0 {
			z.fail(z.inErr)
			return
		}
		if z.take(8) != 0 {
			z.corrupt("byte in the padding")
			return
		}
	}
}

// maxText is how long a name and a comment may be, each, in bytes.
const maxText = 64 << 10

// memberHeader reads the header of a member (RFC 1952, 2.3).
func (z *Reader) memberHeader() {
	var sum uint32
	next := func() byte {
		b := byte(z.take(8))
		sum = crc32.Update(sum, crc32.IEEETable, []byte{b})
		return b
	}
	if next() != 0x1f || next() != 0x8b {
		z.corruptHeader("magic number")
		return
	}
	if next() != 8 {
		z.corruptHeader("compression method")
		return
	}
	flags := next()
	if flags&0xe0 != 0 {
		z.corruptHeader("reserved flag")
	}
	for range 6 { // time, extra flags, operating system
		next()
	}
	if flags&4 != 0 {
		n := int(next()) | int(next())<<8
		for ; n > 0 && z.err == nil; n-- {
			next()
		}
	}
	for _, flag := range []byte{8, 16} { // name, comment
		if flags&flag == 0 {
			continue
		}
		for n := 0; next() != 0; n++ {
			if n == maxText {
				z.corruptHeader("length of a text")
				return
			}
		}
	}
	if flags&2 != 0 {
		want := sum & 0xffff
		if got := z.take(16); z.err == nil && got != want {
			z.corrupt("header checksum")
		}
	}
}

func (z *Reader) corruptHeader(what string) {
	if z.err == nil {
		z.corrupt("header: " + what)
	}
}

// corrupt ends decoding at a part of the stream that is not as it has to be.
func (z *Reader) corrupt(what string) {
	at := z.inAt + int64(z.ip) - int64(z.n/8)
	z.fail(fmt.Errorf("gzip stream: wrong %s near byte %d: %w", what, at, errdefs.ErrDataLoss))
}

// endErr is what to say where the input ends within the stream.
func (z *Reader) endErr() error {
	if z.inErr == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return z.inErr
}

func (z *Reader) fail(err error) {
	if z.err == nil {
		z.err = err
	}
}

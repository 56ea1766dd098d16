package inflate

import (
	"encoding/binary"
	"io"
)

// lengthsAndLiterals and distances describe the symbols of the two codes of a block (RFC 1951,
// 3.2.5), as their entries without the lengths of their codes; plainSymbols are just numbers.
var lengthsAndLiterals, distances, plainSymbols = describe()

func describe() (lit, dist, plain [288]entry) {
	for i := range plain {
		plain[i] = entry(i) << 16
	}
	for i := range 256 {
		lit[i] = flagLiteral | entry(i)<<16
	}
	lit[256] = flagSpecial | flagEnd
	base := 3
	for i := 257; i < 285; i++ {
		extra := max(0, (i-261)/4)
		lit[i] = entry((1<<extra-1)<<9|base)<<16 | entry(extra)
		base += 1 << extra
	}
	lit[285] = 258 << 16
	lit[286], lit[287] = flagSpecial, flagSpecial
	base = 1
	for i := range 30 {
		extra := max(0, i/2-1)
		dist[i] = entry(base)<<16 | entry(extra)
		base += 1 << extra
	}
	dist[30], dist[31] = flagSpecial, flagSpecial
	return lit, dist, plain
}

// more reads until the input that is not decoded yet is at least margin bytes or the stream's
// last. It keeps the error that ended the input.
func (z *Reader) more() {
	if z.inErr != nil || z.inEnd-z.ip >= margin {
		return
	}
	z.inEnd = copy(z.in[:], z.in[z.ip:z.inEnd])
	z.inAt += int64(z.ip)
	z.ip = 0
	for idle := 0; z.inEnd < margin && z.inErr == nil; {
		var n int
		n, z.inErr = z.src.Read(z.in[z.inEnd:inSize])
		z.inEnd += n
		if n > 0 {
			idle = 0
		} else if idle++; idle == 100 && z.inErr == nil {
			z.inErr = io.ErrNoProgress
		}
	}
}

// refill takes as many whole bytes of the input as z.bits has room for: to 56 bits or more, if
// the stream does not end before.
func (z *Reader) refill() {
	if z.inEnd-z.ip < 8 {
		z.more()
	}
	if z.inEnd-z.ip >= 8 {
		z.bits |= binary.LittleEndian.Uint64(z.in[z.ip:]) << (z.n & 63)
		z.ip += int(63-z.n) >> 3
		z.n |= 56
		z.bits &= 1<<z.n - 1
		return
	}
	for z.n <= 56 && z.ip < z.inEnd {
		z.bits |= uint64(z.in[z.ip]) << z.n
		z.ip++
		z.n += 8
	}
}

// take removes n bits of those in z.bits, 32 at most, where there have to be so many.
func (z *Reader) take(n uint) uint32 {
	if z.n < n {
		z.refill()
		if z.n < n {
			z.fail(z.endErr())
			return 0
		}
	}
	v := uint32(z.bits & (1<<n - 1))
	z.bits >>= n
	z.n -= n
	return v
}

// header reads the header of a block.
func (z *Reader) header() {
	z.last = z.take(1) == 1
	kind := z.take(2)
	if z.err != nil {
		return
	}
	switch kind {
	case 0:
		z.take(z.n & 7)
		length := z.take(16)
		if check := z.take(16); z.err == nil && length != ^check&0xffff {
			z.corrupt("stored length")
		}
		z.stored = int(length)
		z.step = (*Reader).copyStored
	case 1:
		z.fixed()
		z.step = (*Reader).decode
	case 2:
		z.dynamic()
		z.step = (*Reader).decode
	default:
		z.corrupt("block type")
	}
}

// fixed makes the tables of the fixed codes (RFC 1951, 3.2.6), if they are not those of the
// block before.
func (z *Reader) fixed() {
	if z.isFixed {
		return
	}
	for i := range z.lens[:288] {
		switch {
		case i < 144:
			z.lens[i] = 8
		case i < 256:
			z.lens[i] = 9
		case i < 280:
			z.lens[i] = 7
		default:
			z.lens[i] = 8
		}
	}
	build(z.lit[:], litBits, z.lens[:288], &lengthsAndLiterals)
	for i := range z.lens[:32] {
		z.lens[i] = 5
	}
	build(z.dist[:], distBits, z.lens[:32], &distances)
	z.isFixed = true
}

// order is that in which the lengths of the codes for lengths are sent (RFC 1951, 3.2.7).
const order = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// dynamic reads the lengths of the codes of a block and makes their tables.
func (z *Reader) dynamic() {
	z.isFixed = false
	nlit, ndist, npre := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if z.err == nil && (nlit > 286 || ndist > 30) {
		z.corrupt("number of codes")
	}
	clear(z.lens[:19])
	for i := range npre {
		z.lens[order[i]] = uint8(z.take(3))
	}
	if z.err != nil {
		return
	}
	if !build(z.pre[:], preBits, z.lens[:19], &plainSymbols) {
		z.corrupt("code of code lengths")
		return
	}
	for i := 0; i < nlit+ndist; {
		if z.n < preBits+7 {
			z.refill()
		}
		e := z.pre[z.bits&(preSize-1)]
		if uint(e&0xff) > z.n {
			z.fail(z.endErr())
			return
		}
		if e&flagSpecial != 0 {
			z.corrupt("code length")
			return
		}
		z.take(uint(e & 0xff))
		sym := uint8(e >> 16)
		if sym < 16 {
			z.lens[i] = sym
			i++
			continue
		}
		var again int
		var l uint8
		switch sym {
		case 16:
			if again = 3 + int(z.take(2)); i > 0 {
				l = z.lens[i-1]
			} else if z.err == nil {
				z.corrupt("repeated code length")
			}
		case 17:
			again = 3 + int(z.take(3))
		default:
			again = 11 + int(z.take(7))
		}
		if z.err == nil && again > nlit+ndist-i {
			z.corrupt("repeated code length")
		}
		if z.err != nil {
			return
		}
		for range again {
			z.lens[i] = l
			i++
		}
	}
	if z.lens[256] == 0 {
		z.corrupt("code without an end")
		return
	}
	if !build(z.lit[:], litBits, z.lens[:nlit], &lengthsAndLiterals) {
		z.corrupt("code of literals and lengths")
		return
	}
	if !build(z.dist[:], distBits, z.lens[nlit:nlit+ndist], &distances) {
		z.corrupt("code of distances")
		return
	}
}

// copyStored hands on a block that is not compressed.
func (z *Reader) copyStored() {
	// The bit buffer holds the first bytes: whole ones, for its block began at one.
	for z.stored > 0 && z.n > 0 && z.op < outLimit {
		z.out[z.op] = byte(z.take(8))
		z.op++
		z.stored--
	}
	for z.stored > 0 && z.op < outLimit {
		if z.ip == z.inEnd {
			if z.more(); z.ip == z.inEnd {
				z.fail(z.endErr())
				return
			}
		}
		n := copy(z.out[z.op:min(z.op+z.stored, outLimit)], z.in[z.ip:z.inEnd])
		z.op += n
		z.ip += n
		z.stored -= n
	}
	if z.stored == 0 {
		z.endBlock()
	}
}

// decode decodes the symbols of a block up to its end or until the output is full.
func (z *Reader) decode() {
	for z.op < outLimit {
		if z.inEnd-z.ip < margin {
			z.more()
		}
		var done bool
		if z.inEnd-z.ip >= margin {
			done = z.decodeFast()
		} else {
			done = z.decodeOne()
		}
		if z.err != nil {
			return
		}
		if done {
			z.endBlock()
			return
		}
	}
}

// decodeOne decodes the next symbol, watching where the input ends, and tells whether it was the
// end of the block.
func (z *Reader) decodeOne() (end bool) {
	z.refill()
	have := z.n // the bits behind them are zeros
	e, ok := z.code(z.lit[:], litBits, &have)
	if !ok {
		return false
	}
	n := uint(e & 0xff)
	if e.literal() {
		z.take(n)
		z.out[z.op] = byte(e >> 16)
		z.op++
		return false
	}
	if e&flagSpecial != 0 {
		z.take(n)
		if e&flagEnd == 0 {
			z.corrupt("symbol")
		}
		return e&flagEnd != 0
	}
	length := int(e>>16&0x1ff) + int(uint32(z.bits>>(e>>8&15))&uint32(e>>25))
	z.take(n)
	have -= n

	if e, ok = z.code(z.dist[:], distBits, &have); !ok {
		return false
	}
	n = uint(e & 0xff)
	if e&flagSpecial != 0 {
		z.corrupt("distance symbol")
		return false
	}
	distance := int(e>>16) + int(z.bits&(1<<n-1)>>(e>>8&15))
	z.take(n)
	if distance > z.op-z.base {
		z.corrupt("distance")
		return false
	}
	for range length {
		z.out[z.op] = z.out[z.op-distance]
		z.op++
	}
	return false
}

// code finds the entry of the next code in a table whose primary part is for so many bits, which it
// takes if the entry is in another part. It fails if the input ends, after have bits, within the code.
func (z *Reader) code(table []entry, primary uint, have *uint) (e entry, ok bool) {
	e = table[z.bits&(1<<primary-1)]
	if e&flagSubtable != 0 && *have >= primary {
		z.take(primary)
		*have -= primary
		e = table[(int(e>>16)+int(z.bits&(1<<(e>>8&15)-1)))&(len(table)-1)]
	}
	if uint(e&0xff) > *have { // with a flagSubtable still: they are the primary bits
		z.fail(z.endErr())
		return 0, false
	}
	return e, true
}

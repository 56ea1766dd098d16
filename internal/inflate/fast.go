package inflate

import "encoding/binary"

// decodeFast decodes as long as margin bytes of input are there and the output is not full, and
// tells whether it came to the end of the block.
//
// Nearly all the time is spent here, so everything is in local variables, and written out where a
// function would not be inlined. Unsigned positions that are compared with constants, and arrays
// of constant size, let the compiler leave out most checks of bounds; what unsafe could still
// save was measured as 2 %.
func (z *Reader) decodeFast() (end bool) {
	in, out := &z.in, &z.out
	lit, dist := &z.lit, &z.dist
	ip, op, base := uint(z.ip), uint(z.op), uint(z.base)
	inLimit := min(uint(z.inEnd), inSize) - margin

	// The bit buffer: the lowest n mod 64 of bits are counted. Those above are what the input has
	// there, or zeros, so a refill may put the same ones there again.
	bits, n := z.bits, z.n

	wrong := ""
	for ip <= inLimit && op < outLimit {
		// Refill to 56 bits or more: whole bytes, as many as there is room for.
		bits |= binary.LittleEndian.Uint64(in[ip:ip+8]) << (n & 63)
		ip += (63 - n) >> 3 & 7
		n |= 56

		// Up to three literals: their codes are in the primary table, so at most 33 bits. These
		// steps and the refills are written out again and again for speed.
		e := lit[bits&(1<<litBits-1)]
		if e.literal() {
			out[op] = byte(e >> 16)
			op++
			bits >>= e & 63
			n -= uint(e)
			e = lit[bits&(1<<litBits-1)]
			if e.literal() {
				out[op] = byte(e >> 16)
				op++
				bits >>= e & 63
				n -= uint(e)
				e = lit[bits&(1<<litBits-1)]
				if e.literal() {
					out[op] = byte(e >> 16)
					op++
					bits >>= e & 63
					n -= uint(e)
					continue
				}
			}
			// A length takes at most 20 bits and a distance 28.
			bits |= binary.LittleEndian.Uint64(in[ip:ip+8]) << (n & 63)
			ip += (63 - n) >> 3 & 7
			n |= 56
		}

		if e&flagSpecial != 0 {
			if e&flagSubtable != 0 {
				bits >>= litBits
				n -= litBits
				e = lit[(uint64(e>>16)+bits&(1<<(e>>8&15)-1))&(litSize-1)]
				if e.literal() {
					out[op] = byte(e >> 16)
					op++
					bits >>= e & 63
					n -= uint(e)
					continue
				}
			}
			if e&flagSpecial != 0 {
				bits >>= e & 63
				n -= uint(e)
				if end = e&flagEnd != 0; !end {
					wrong = "symbol"
				}
				break
			}
		}
		length := uint(e>>16&0x1ff) + uint(uint32(bits>>(e>>8&63))&uint32(e>>25))
		bits >>= e & 63
		n -= uint(e)

		e = dist[bits&(1<<distBits-1)]
		if e&flagSpecial != 0 {
			if e&flagSubtable != 0 {
				bits >>= distBits
				n -= distBits
				e = dist[(uint64(e>>16)+bits&(1<<(e>>8&15)-1))&(distSize-1)]
			}
			if e&flagSpecial != 0 {
				wrong = "distance symbol"
				break
			}
		}
		distance := uint(e>>16) + uint(bits&(1<<(e&63)-1)>>(e>>8&63))
		bits >>= e & 63
		n -= uint(e)
		if distance > op-base {
			wrong = "distance"
			break
		}

		// Copying in strides goes on to behind the match, where nothing is yet. A stride is at most
		// the distance, so that what it reads was written before.
		to, from := op, op-distance
		op += length
		switch {
		case distance >= 16:
			// 32 bytes at once: 19 of 20 matches are not longer, so the branch is foreseen.
			for {
				d, s := (*[32]byte)(out[to:to+32]), (*[32]byte)(out[from:from+32])
				*(*[16]byte)(d[:16]) = *(*[16]byte)(s[:16])
				*(*[16]byte)(d[16:]) = *(*[16]byte)(s[16:])
				if length <= 32 {
					break
				}
				length -= 32
				to += 32
				from += 32
			}
		case distance >= 8:
			for {
				binary.LittleEndian.PutUint64(out[to:to+8], binary.LittleEndian.Uint64(out[from:from+8]))
				to += 8
				from += 8
				if to >= op {
					break
				}
			}
		case distance == 1: // runs of one byte, which are long
			v := uint64(out[from]) * 0x0101010101010101
			for {
				binary.LittleEndian.PutUint64(out[to:to+8], v)
				to += 8
				if to >= op {
					break
				}
			}
		default: // seldom, and mostly short
			for to < op {
				out[to] = out[from]
				to++
				from++
			}
		}
	}
	n &= 63
	z.ip, z.op = int(ip), int(op)
	z.bits, z.n = bits&(1<<n-1), n
	if wrong != "" {
		z.corrupt(wrong)
	}
	return end
}

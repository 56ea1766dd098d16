package inflate

import "math/bits"

// An entry is what a decoding table says of the next bits of the stream. It holds all that
// decoding needs:
//
//	            31…16                  15…8                          7…0
//	literal     literal | the byte     bits of the code              bits taken
//	length      extra mask<<9 | base   bits of the code              bits taken
//	distance    base                   bits of the code              bits taken
//	code length the length's symbol    bits of the code              bits taken
//	subtable    where it starts        special | subtable | its bits primary bits
//	end         0                      special | end | bits taken    bits taken
//	invalid     0                      special | bits taken          bits taken
//
// Bits taken are those of the code and of the extra bits that follow it, so that where the next
// code begins is known before the value is.
type entry uint32

const (
	flagLiteral  entry = 1 << 31
	flagSpecial  entry = 1 << 14
	flagSubtable entry = 1 << 13
	flagEnd      entry = 1 << 12

	// oneBit is what a bit of a code's length adds to an entry.
	oneBit entry = 1<<8 | 1

	// invalid stands for bits that mean nothing.
	invalid = flagSpecial + oneBit
)

// literal tells whether e has flagLiteral. As a sign it is tested faster than as a bit, by 3 % of
// the whole.
func (e entry) literal() bool { return int32(e) < 0 }

// A table is indexed by the next bits of the stream. Its first part answers for every code of up
// to its primary bits; a longer code leads from there to a subtable behind it, which is indexed
// by the bits that follow. The primary bits are what was fastest on tars of programs and of text:
// more make tables that take longer to fill, fewer send more codes through subtables.
//
// A subtable of b bits holds a part of a complete code that is b bits deep, so at least b+1
// symbols. That bounds the tables: 288 symbols behind 11 bits need at most 288*16/5 more
// entries, and 32 behind 9 bits at most 32*64/7. Their sizes are powers of two, by which the
// compiler sees that a masked index is inside.
const (
	litBits  = 11 // primary bits of the table of literals and lengths
	litSize  = 1 << 12
	distBits = 9 // of the table of distances
	distSize = 1 << 10
	preBits  = 7 // of the table of the code lengths of the other two; no code is longer
	preSize  = 1 << preBits

	maxCode = 15 // bits in the longest code
)

// build fills t for the code in which symbol i has lens[i] bits, 0 if it does not occur, and is
// described by symbols[i]. It tells whether there is such a code: one that gives no bits two
// meanings and leaves none without, except that there may be no symbol at all, or a single one
// of one bit.
func build(t []entry, primary int, lens []uint8, symbols *[288]entry) bool {
	var count [maxCode + 1]int
	for _, l := range lens {
		count[l&maxCode]++
	}
	used := len(lens) - count[0]
	free, longest := 1, 0
	var next [maxCode + 1]int
	for l, sum := 1, 0; l <= maxCode; l++ {
		next[l] = sum
		sum += count[l]
		if free = free<<1 - count[l]; free < 0 {
			return false
		}
		if count[l] > 0 {
			longest = l
		}
	}
	if free > 0 && (used > 1 || longest > 1) {
		return false
	}

	// The symbols in the order of their codes, with what the length adds to their entries.
	var sorted [288]entry
	for i, l := range lens {
		if l != 0 {
			sorted[next[l&maxCode]] = symbols[i] + entry(l)*oneBit
			next[l&maxCode]++
		}
	}
	if free > 0 {
		for i := range t[:1<<primary] {
			t[i] = invalid
			if used == 1 && i&1 == 0 {
				t[i] = sorted[0]
			}
		}
		return true
	}

	// Codes are read from their highest bit while the stream gives the lowest first, so here they
	// count in reversed bits. The entries of one length fill what those of shorter ones left of
	// 1<<l entries, which are then repeated for the bit that the next length adds.
	code, at := 0, 0
	for l := 1; l <= primary; l++ {
		for range count[l] {
			t[code] = sorted[at]
			at++
			code = following(code, l)
		}
		if l < primary {
			copy(t[1<<l:2<<l], t[:1<<l])
		}
	}
	end := 1 << primary
	prefix, start, width := -1, 0, 0
	for l := primary + 1; l <= longest; l++ {
		for left := count[l]; left > 0; left-- {
			if p := code & (1<<primary - 1); p != prefix {
				// The subtable is as deep as what begins with this prefix.
				prefix, start, width = p, end, l-primary
				for room := left; room < 1<<width; {
					width++
					room = room<<1 + count[primary+width]
				}
				end += 1 << width
				t[p] = flagSpecial | flagSubtable | entry(start)<<16 | entry(width)<<8 | entry(primary)
			}
			e := sorted[at] - entry(primary)*oneBit
			for i := code >> primary; i < 1<<width; i += 1 << (l - primary) {
				t[start+i] = e
			}
			at++
			code = following(code, l)
		}
	}
	return true
}

// following counts one up in a code of l bits with its bits reversed. What follows the last code
// is 0.
func following(code, l int) int {
	top := bits.Len(uint(code ^ (1<<l - 1)))
	if top == 0 {
		return 0
	}
	bit := 1 << (top - 1)
	return code&(bit-1) | bit
}

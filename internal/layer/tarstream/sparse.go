package tarstream

import (
	"bytes"
	"io"
	"math"
)

// paxMap is what the GNU.sparse records of an extended header say. There were three forms: 0.0
// with two records a run, 0.1 with all runs in one, 1.0 with the map before the content.
type paxMap struct {
	used         bool
	major, minor int64
	blocks       int64 // how many runs there are in 0.x; -1: not said
	size         int64 // of the file; -1: not said
	name         string
	runs         []int64 // offsets and lengths in turn, in 0.x
	listed       bool    // they come from 0.1's record
}

// record takes in one record and says what is wrong with it.
func (m *paxMap) record(key string, value []byte) string {
	switch key {
	case "major":
		return setNumber(&m.major, value, math.MaxInt64)
	case "minor":
		return setNumber(&m.minor, value, math.MaxInt64)
	case "size", "realsize":
		return setNumber(&m.size, value, math.MaxInt64)
	case "numblocks":
		return setNumber(&m.blocks, value, maxRuns)
	case "name":
		return setName(&m.name, value)
	case "offset", "numbytes":
		n, ok := decimal(value)
		if !ok || m.listed || (key == "offset") != (len(m.runs)%2 == 0) {
			return "the sparse map is malformed"
		}
		m.runs = append(m.runs, n)
	case "map":
		m.listed, m.runs = true, m.runs[:0]
		for len(value) > 0 {
			var field []byte
			field, value, _ = bytes.Cut(value, []byte(","))
			n, ok := decimal(field)
			if !ok {
				return "the sparse map is malformed"
			}
			m.runs = append(m.runs, n)
		}
	}
	return ""
}

// finish tells the form.
func (m *paxMap) finish() string {
	inHeader := m.blocks >= 0 || len(m.runs) > 0 || m.listed
	switch {
	case m.major == 1 && m.minor == 0:
		if m.used = true; inHeader || m.size < 0 {
			return "the sparse map is malformed"
		}
	case m.major > 0 || m.minor > 1:
		return "a sparse map of an unknown version"
	case inHeader:
		if m.used = true; m.size < 0 || int64(len(m.runs)) != 2*m.blocks {
			return "the sparse map is malformed"
		}
	}
	return ""
}

// inContent tells that the map comes before the content.
func (m *paxMap) inContent() bool { return m.major == 1 }

// paxSparse readies a file with a map of one of the pax forms.
func (r *Reader) paxSparse(at int64) error {
	m := &r.ext.sparse
	b := mapBuilder{entry: &r.entry, size: m.size}
	if m.inContent() {
		if err := r.readMap(&b, at); err != nil {
			return err
		}
	} else {
		for i := 0; i < len(m.runs); i += 2 {
			b.add(m.runs[i], m.runs[i+1])
		}
	}
	return b.finish(r.left, at)
}

// readMap reads the map of form 1.0: decimal numbers, one a line, first how many runs there are.
// The content follows at the next block.
func (r *Reader) readMap(b *mapBuilder, at int64) error {
	var block []byte
	next := func() (int64, error) {
		n, digits := int64(0), 0
		for {
			if len(block) == 0 {
				if r.left < blockSize {
					return 0, malformed(at, "the sparse map of %q does not end", r.entry.Name)
				}
				var err error
				if block, err = r.block(); err != nil {
					return 0, r.cut(err, "a sparse map")
				}
				r.left -= blockSize
			}
			c := block[0]
			block = block[1:]
			switch {
			case c == '\n' && digits > 0:
				return n, nil
			case c < '0' || c > '9' || digits == 18:
				return 0, malformed(at, "the sparse map of %q is malformed", r.entry.Name)
			}
			n = n*10 + int64(c-'0')
			digits++
		}
	}
	count, err := next()
	if err != nil {
		return err
	}
	if count > maxRuns {
		return malformed(at, "the sparse map of %q has more than %d runs", r.entry.Name, maxRuns)
	}
	for range count {
		offset, err := next()
		if err != nil {
			return err
		}
		length, err := next()
		if err != nil {
			return err
		}
		b.add(offset, length)
	}
	return nil
}

// oldSparse readies a file with GNU's own map: four runs in the header, and blocks with 21 more
// each behind it, which its size does not count.
func (r *Reader) oldSparse(h []byte, at int64) error {
	size, ok := number(h[483:495])
	if !ok {
		return malformed(at, "the size of %q is malformed", r.entry.Name)
	}
	b := mapBuilder{entry: &r.entry, size: size}
	b.addFields(h[386:482])
	for more := h[482] != 0; more; {
		block, err := r.block()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return r.cut(err, "a sparse map")
		}
		b.addFields(block[:504])
		more = block[504] != 0
		if b.blocks++; b.blocks > maxRuns/21 || b.lies {
			break
		}
	}
	if b.blocks > maxRuns/21 {
		return malformed(at, "the sparse map of %q has more than %d runs", r.entry.Name, maxRuns)
	}
	return b.finish(r.left, at)
}

// A mapBuilder puts together the runs of a file, in the order in which a map has them.
type mapBuilder struct {
	entry  *Entry
	size   int64 // of the file
	end    int64 // of the runs so far
	sum    int64 // of their lengths
	blocks int   // of GNU's own map
	lies   bool  // the map contradicts itself
}

// add appends a run. Those that touch become one, and empty ones, which mark where a file ends,
// nothing.
func (b *mapBuilder) add(offset, length int64) {
	if b.lies = b.lies || offset < b.end || length < 0 || length > b.size-offset; b.lies {
		return
	}
	data := b.entry.Data
	switch {
	case length == 0:
	case b.touches(offset):
		data[len(data)-1].Length += length
	default:
		b.entry.Data = append(data, Run{offset, length})
	}
	b.end = offset + length
	b.sum += length
}

// touches tells whether the last run ends at offset.
func (b *mapBuilder) touches(offset int64) bool {
	data := b.entry.Data
	return len(data) > 0 && data[len(data)-1].Offset+data[len(data)-1].Length == offset
}

// addFields appends runs as GNU's own map has them, up to the first one that is unused.
func (b *mapBuilder) addFields(fields []byte) {
	for ; len(fields) >= 24 && fields[0] != 0; fields = fields[24:] {
		offset, ok := number(fields[:12])
		length, lengthOK := number(fields[12:24])
		b.lies = b.lies || !ok || !lengthOK
		b.add(offset, length)
	}
}

// finish checks the map against the bytes that are stored.
func (b *mapBuilder) finish(stored, at int64) error {
	if b.lies || b.sum != stored || b.size < 0 {
		return malformed(at, "the sparse map of %q contradicts itself", b.entry.Name)
	}
	b.entry.Size = b.size
	return nil
}

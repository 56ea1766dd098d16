package metadata

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/stowage/stowage/internal/image"
)

// errShort says that a value is not as its row is written.
var errShort = errors.New("it ends too early, goes on too long, or has a number that cannot be")

// parts reads the parts of a short form. When one cannot be read, it and all that follow are
// zero, and end says so.
type parts struct {
	b    []byte
	bad  bool
	text string // ends as b does; empty until the first string is asked for
}

// took passes n bytes, or none and notes that it could not if n is not of what there is.
func (p *parts) took(n int) []byte {
	if p.bad || n <= 0 || n > len(p.b) {
		p.b, p.bad = nil, true
		return nil
	}
	part := p.b[:n]
	p.b = p.b[n:]
	return part
}

func (p *parts) uvarint() uint64 {
	n, length := binary.Uvarint(p.b)
	if p.took(length) == nil {
		return 0
	}
	return n
}

func (p *parts) varint() int64 {
	n, length := binary.Varint(p.b)
	if p.took(length) == nil {
		return 0
	}
	return n
}

// size is a number of bytes of a blob.
func (p *parts) size() int64 {
	n := p.uvarint()
	if n > math.MaxInt64 {
		p.b, p.bad = nil, true
		return 0
	}
	return int64(n)
}

// sized is a part behind its length.
func (p *parts) sized() []byte {
	n := p.uvarint()
	switch {
	case n == 0:
		return nil
	case n > uint64(len(p.b)):
		n = 0
	}
	return p.took(int(n))
}

// string is a part behind its length. All strings of a row share one copy of it.
func (p *parts) string() string {
	part := p.sized()
	if len(part) == 0 {
		return ""
	}
	if p.text == "" {
		p.text = string(part[:len(part)+len(p.b)])
	}
	end := len(p.text) - len(p.b)
	return p.text[end-len(part) : end]
}

// count is how many parts of a kind follow, each at least a byte long.
func (p *parts) count() int {
	n := p.uvarint()
	if n > uint64(len(p.b)) {
		p.b, p.bad = nil, true
		return 0
	}
	return int(n)
}

func (p *parts) time() time.Time {
	seconds := p.varint()
	nanos := p.uvarint()
	if nanos >= uint64(time.Second) {
		p.b, p.bad = nil, true
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanos)).UTC()
}

// appendTime appends a time in seconds since 1970, and the nanoseconds behind them: what is zero stays so.
func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

func (p *parts) labels() map[string]string {
	n := p.count()
	if n == 0 {
		return nil
	}
	labels := make(map[string]string, n)
	for range n {
		key := p.string()
		labels[key] = p.string()
	}
	return labels
}

// appendLabels appends how many labels there are, and each behind its key, in the order of these.
func appendLabels(b []byte, labels map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(labels)))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		b = appendSized(appendSized(b, key), labels[key])
	}
	return b
}

// appendSized appends part behind its length.
func appendSized[P string | []byte](b []byte, part P) []byte {
	return append(binary.AppendUvarint(b, uint64(len(part))), part...)
}

func (p *parts) digest() image.Digest {
	d, rest, ok := cutDigest(p.b)
	if !ok || p.bad {
		p.b, p.bad = nil, true
		return ""
	}
	p.b = rest
	return d
}

// rest is what is left.
func (p *parts) rest() []byte {
	b := p.b
	p.b = nil
	return b
}

// end tells whether all parts were there, and nothing more.
func (p *parts) end() error {
	if p.bad || len(p.b) > 0 {
		return errShort
	}
	return nil
}

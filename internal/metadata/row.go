package metadata

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// decode reads a value: the kinds of rows of which there are many have a short form of their
// own, and the others are JSON.
func decode(key, value []byte, row any) (err error) {
	if r, ok := row.(encoding.BinaryUnmarshaler); ok {
		err = r.UnmarshalBinary(value)
	} else {
		err = json.Unmarshal(value, row)
	}
	if err != nil {
		return fmt.Errorf("row %q: %w: %w", key, err, errdefs.ErrDataLoss)
	}
	return nil
}

// encode is the inverse of decode.
func encode(row any) ([]byte, error) {
	if r, ok := row.(encoding.BinaryAppender); ok {
		return r.AppendBinary(nil)
	}
	return json.Marshal(row)
}

// A blobRow says of a blob whose bytes are here how many they are.
type blobRow struct{ Size int64 }

// AppendBinary writes the size.
func (row blobRow) AppendBinary(b []byte) ([]byte, error) {
	return binary.AppendUvarint(b, uint64(row.Size)), nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *blobRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	row.Size = p.size()
	return p.end()
}

// A doomedRow is a blob whose bytes are not believed: they are being deleted, or are to be.
type doomedRow struct {
	Size  int64
	Round string // the lock file of the round that deletes them; empty: none has begun
}

// AppendBinary writes the size, and the round if there is one.
func (row doomedRow) AppendBinary(b []byte) ([]byte, error) {
	return append(binary.AppendUvarint(b, uint64(row.Size)), row.Round...), nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *doomedRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	row.Size = p.size()
	row.Round = string(p.rest())
	return p.end()
}

// A knownRow is a blob as one namespace knows it.
type knownRow struct {
	Size      int64
	CreatedAt time.Time
	UpdatedAt time.Time
	Labels    map[string]string
}

// AppendBinary writes the size, the times, and the labels if there are any.
func (row knownRow) AppendBinary(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(row.Size))
	b = binary.AppendVarint(b, row.CreatedAt.UnixNano())
	b = binary.AppendVarint(b, row.UpdatedAt.UnixNano()-row.CreatedAt.UnixNano())
	if len(row.Labels) == 0 {
		return b, nil
	}
	labels, err := json.Marshal(row.Labels)
	return append(b, labels...), err
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *knownRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	row.Size = p.size()
	created := p.varint()
	row.CreatedAt = time.Unix(0, created).UTC()
	row.UpdatedAt = time.Unix(0, created+p.varint()).UTC()
	row.Labels = nil
	if labels := p.rest(); len(labels) > 0 {
		return errors.Join(p.end(), json.Unmarshal(labels, &row.Labels))
	}
	return p.end()
}

// A place is where in a document its child stands, as one number: 0 for the subject, 1 for the
// config, then a layer's and a manifest's index in turns.
type place uint64

const (
	placeSubject place = iota
	placeConfig
	placeLayers    // and 2 more for each
	placeManifests // likewise
)

func placeOf(c image.Child) place {
	switch c.Place {
	case image.PlaceLayer:
		return placeLayers + 2*place(c.Index)
	case image.PlaceManifest:
		return placeManifests + 2*place(c.Index)
	default:
		return placeConfig
	}
}

func (p place) String() string {
	switch {
	case p == placeSubject:
		return "subject"
	case p == placeConfig:
		return string(image.PlaceConfig)
	case p%2 == placeLayers%2:
		return string(image.PlaceLayer) + " " + strconv.FormatUint(uint64(p-placeLayers)/2, 10)
	default:
		return string(image.PlaceManifest) + " " + strconv.FormatUint(uint64(p-placeManifests)/2, 10)
	}
}

// A parentRow is the places of a child in its parent.
type parentRow []place

// AppendBinary writes one after the other.
func (row parentRow) AppendBinary(b []byte) ([]byte, error) {
	for _, p := range row {
		b = binary.AppendUvarint(b, uint64(p))
	}
	return b, nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *parentRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	for *row = nil; len(p.b) > 0; {
		*row = append(*row, place(p.uvarint()))
	}
	return p.end()
}

// errShort says that a value is not as its row is written.
var errShort = errors.New("it ends too early, goes on too long, or has a number that cannot be")

// parts reads the parts of a short form. When one cannot be read, it and all that follow are
// zero, and end says so.
type parts struct {
	b   []byte
	bad bool
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

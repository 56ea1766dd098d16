package metadata

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"fmt"
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

// AppendBinary writes the size, the times and the labels.
func (row knownRow) AppendBinary(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(row.Size))
	b = appendTime(appendTime(b, row.CreatedAt), row.UpdatedAt)
	return appendLabels(b, row.Labels), nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *knownRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	*row = knownRow{Size: p.size(), CreatedAt: p.time(), UpdatedAt: p.time(), Labels: p.labels()}
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

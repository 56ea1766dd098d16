package metadata

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// usedEvery is how old a note of use gets before it is renewed: a mount or an export should not cost
// a write each time.
const usedEvery = time.Minute

// A usedRow notes when an image was used last.
type usedRow struct{ At time.Time }

// AppendBinary writes the time.
func (row usedRow) AppendBinary(b []byte) ([]byte, error) {
	return binary.AppendVarint(b, row.At.UnixNano()), nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *usedRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	row.At = time.Unix(0, p.varint()).UTC()
	return p.end()
}

func usedKey(ns string, target image.Digest) []byte {
	return appendDigest(key(usedRows, ns, ""), target)
}

// parseUsedKey is the inverse of usedKey.
func parseUsedKey(key []byte) (ns string, target image.Digest, err error) {
	before, after, _ := bytes.Cut(key[len(usedRows):], []byte{0})
	d, rest, ok := cutDigest(after)
	if !ok || len(rest) > 0 {
		return "", "", badKey(key)
	}
	return string(before), d, nil
}

// used tells when the image of a target was used last; zero if nobody noted it.
func (v view) used(ns string, target image.Digest) (time.Time, error) {
	var row usedRow
	err := v.get(usedKey(ns, target), &row)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) { // it orders what goes first, and no more
		return time.Time{}, nil
	}
	return row.At, err
}

// touch notes that the image of a target is used now.
func (c change) touch(ns string, target image.Digest, now time.Time) error {
	at, err := c.used(ns, target)
	if err != nil || now.Sub(at).Abs() < usedEvery {
		return err
	}
	return c.put(usedKey(ns, target), usedRow{now})
}

// Touch notes that the image of a target is used now: what was used longest ago is the first to go
// when space is needed. It writes at most once a minute, and applying an image notes it as well.
func (s *Store) Touch(ctx context.Context, ns string, target image.Digest) error {
	if err := checkDigests(target); err != nil {
		return err
	}
	now := time.Now().UTC()
	var at time.Time
	err := s.view(ctx, func(v view) (err error) {
		at, err = v.used(ns, target)
		return err
	})
	if err != nil || now.Sub(at).Abs() < usedEvery {
		return err
	}
	return s.update(ctx, func(c change) error { return c.touch(ns, target, now) })
}

// named tells whether an image of a namespace has this target.
func (v view) named(ns string, target image.Digest) (named bool, err error) {
	err = v.imagesOf(target, func(in, _ string) { named = named || in == ns })
	return named, err
}

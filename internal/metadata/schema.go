package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
)

// A migration changes the rows of one version into those of the next.
type migration func(kv.Writer) error

// migrations lists them; the first leads from version 1 to 2.
func migrations() []migration { return []migration{addIndexes, shortenRows} }

// addIndexes writes the index rows that version 2 has. Rows that are damaged get none.
func addIndexes(w kv.Writer) error {
	var list []kv.Entry
	for kind, decoded := range map[string]func(value []byte) (indexed, error){
		imageRows:    fromJSON[imageRow],
		knownRows:    knownRow2,
		snapshotRows: fromJSON[Snapshot],
		layerRows:    fromJSON[UnpackedLayer],
	} {
		for e, err := range w.Scan([]byte(kind)) {
			if err != nil && e.Key == nil {
				return err
			}
			if err != nil {
				continue
			}
			if row, err := decoded(e.Value); err == nil {
				list = append(list, row.index(bytes.Clone(e.Key))...)
			}
		}
	}
	for _, e := range list {
		if err := w.Put(e.Key, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// shortenRows gives images, names that were removed, and labels of blobs the short forms that version 3
// has. Rows that are damaged stay as they are.
func shortenRows(w kv.Writer) error {
	var list []kv.Entry
	for kind, decoded := range map[string]func(value []byte) (indexed, error){
		imageRows:   fromJSON[imageRow],
		removedRows: fromJSON[removedRow],
		knownRows:   knownRow2,
	} {
		for e, err := range w.Scan([]byte(kind)) {
			if err != nil && e.Key == nil {
				return err
			}
			if err != nil {
				continue
			}
			var value []byte
			row, err := decoded(e.Value)
			if err == nil {
				value, err = encode(row)
			}
			if err != nil {
				continue
			}
			list = append(list, kv.Entry{Key: bytes.Clone(e.Key), Value: value})
		}
	}
	for _, e := range list {
		if err := w.Put(e.Key, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// fromJSON reads a row as versions had it that kept it in JSON.
func fromJSON[R indexed](value []byte) (indexed, error) {
	var row R
	err := json.Unmarshal(value, &row)
	return row, err
}

// knownRow2 reads a row c as versions 1 and 2 had it: size, times in nanoseconds, and labels in JSON.
func knownRow2(value []byte) (indexed, error) {
	p := parts{b: value}
	row := knownRow{Size: p.size()}
	created := p.varint()
	row.CreatedAt = time.Unix(0, created).UTC()
	row.UpdatedAt = time.Unix(0, created+p.varint()).UTC()
	if labels := p.rest(); len(labels) > 0 {
		return row, errors.Join(p.end(), json.Unmarshal(labels, &row.Labels))
	}
	return row, p.end()
}

var versionKey = []byte("version")

// errOld says that a database must be migrated before it is read.
var errOld = errors.New("the database is of an older version")

// version is the version of the rows; 0 if there are none.
func version(r kv.Reader) (n int, err error) {
	b, err := r.Get(versionKey)
	if errdefs.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if n, err = strconv.Atoi(string(b)); err != nil || n < 1 {
		return 0, fmt.Errorf("version %.20q of the database: %w", b, errdefs.ErrDataLoss)
	}
	return n, nil
}

// checkVersion tells whether the rows can be read as they are.
func (s *Store) checkVersion(r kv.Reader) error {
	n, err := version(r)
	current := len(s.migrations) + 1
	switch {
	case err != nil:
		return err
	case n == 0:
		return s.journal.checkEmpty()
	case n > current:
		return fmt.Errorf("the database is of version %d, and this program knows versions up to %d: %w", n, current, errdefs.ErrFailedPrecondition)
	case n < current:
		return errOld
	}
	return nil
}

// migrate brings the rows to the current version.
func (s *Store) migrate(w kv.Writer) error {
	err := s.checkVersion(w)
	if err != nil && !errors.Is(err, errOld) {
		return err
	}
	n, err := version(w)
	if err != nil {
		return err
	}
	current := len(s.migrations) + 1
	if n == current {
		return nil
	}
	if n > 0 {
		for ; n < current; n++ {
			if err := s.migrations[n-1](w); err != nil {
				return fmt.Errorf("migrate the database from version %d: %w", n, err)
			}
		}
	}
	return w.Put(versionKey, fmt.Append(nil, current))
}

package metadata

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
)

// A migration changes the rows of one version into those of the next.
type migration func(kv.Writer) error

// migrations lists them; the first leads from version 1 to 2. There is only version 1 so far.
func migrations() []migration { return nil }

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
	if err := json.Unmarshal(b, &n); err != nil || n < 1 {
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

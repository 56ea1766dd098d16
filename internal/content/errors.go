package content

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// A MismatchError reports bytes that do not hash to the digest they were expected under, or are
// kept under.
type MismatchError struct{ Want, Got digest.Digest }

func (e *MismatchError) Error() string {
	return fmt.Sprintf("bytes of %s hash to %s", e.Want, e.Got)
}

// Unwrap makes a MismatchError an [errdefs.ErrDataLoss].
func (e *MismatchError) Unwrap() error { return errdefs.ErrDataLoss }

// A SizeError reports more or fewer bytes than were expected.
type SizeError struct {
	Digest    digest.Digest // may be empty
	Want, Got int64         // bytes; Got is at least this many when more came than were read
}

func (e *SizeError) Error() string {
	if e.Digest == "" {
		return fmt.Sprintf("%d bytes where %d were expected", e.Got, e.Want)
	}
	return fmt.Sprintf("%s has %d bytes where %d were expected", e.Digest, e.Got, e.Want)
}

// Unwrap makes too many bytes an [errdefs.ErrDataLoss] and too few an [errdefs.ErrOutOfRange],
// which another try may mend.
func (e *SizeError) Unwrap() error {
	if e.Got > e.Want {
		return errdefs.ErrDataLoss
	}
	return errdefs.ErrOutOfRange
}

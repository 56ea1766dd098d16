package content

import (
	"fmt"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// ValidateIngest tells whether an ingest can be begun so. Errors: [errdefs.ErrInvalidArgument].
func ValidateIngest(key string, want Want) error {
	if key == "" || len(key) > MaxKey || !utf8.ValidString(key) {
		return fmt.Errorf("key %.80q is not 1 to %d bytes of UTF-8: %w", key, MaxKey, errdefs.ErrInvalidArgument)
	}
	if want.Digest == "" {
		return nil
	}
	return Validate(want.Digest)
}

// Algorithm is what the bytes are hashed with.
func (w Want) Algorithm() digest.Algorithm {
	if w.Digest == "" {
		return digest.SHA256
	}
	return w.Digest.Algorithm()
}

// Same tells whether both expect the same bytes.
func (w Want) Same(o Want) bool {
	return w.Digest == o.Digest && (w.Size == o.Size || w.Size < 0 && o.Size < 0)
}

// Room tells whether n bytes may be written at off when there are have already: see
// [Ingest].WriteAt.
func (w Want) Room(have, off int64, n int) error {
	if off != have {
		return fmt.Errorf("write at %d where %d comes next: %w", off, have, errdefs.ErrOutOfRange)
	}
	if end := off + int64(n); w.Size >= 0 && end > w.Size {
		return &SizeError{Digest: w.Digest, Want: w.Size, Got: end}
	}
	return nil
}

// Check tells whether size bytes with the digest got are what is expected: see [Store].Commit.
func (w Want) Check(size int64, got digest.Digest) error {
	if w.Size >= 0 && size != w.Size {
		return &SizeError{Digest: w.Digest, Want: w.Size, Got: size}
	}
	if w.Digest != "" && got != w.Digest {
		return &MismatchError{Want: w.Digest, Got: got}
	}
	return nil
}

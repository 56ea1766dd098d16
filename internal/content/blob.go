package content

import (
	"bytes"
	"context"

	// The algorithms that Validate lets pass.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Validate tells whether d is a digest that stores keep blobs under: sha256 or sha512, in
// lower-case hex. Errors: [errdefs.ErrInvalidArgument].
func Validate(d digest.Digest) error {
	if valid(string(d)) { // digest.Validate, with its regular expressions, was a tenth of reading small blobs
		return nil
	}
	err := d.Validate()
	if err == nil {
		err = digest.ErrDigestUnsupported
	}
	return fmt.Errorf("digest %.80q: %w: %w", d, err, errdefs.ErrInvalidArgument)
}

// valid tells whether text is a digest that Validate lets pass.
func valid(text string) bool {
	algorithm, hex, _ := strings.Cut(text, ":")
	switch digest.Algorithm(algorithm) {
	case digest.SHA256, digest.SHA512:
	default:
		return false
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(hex) == digest.Algorithm(algorithm).Size()*2
}

// ReadBlob returns the bytes of a small blob, which are verified. Errors:
// [errdefs.ErrNotFound]; [errdefs.ErrResourceExhausted] when it has more than limit bytes; a
// *[MismatchError].
func ReadBlob(ctx context.Context, s Store, d digest.Digest, limit int64) (p []byte, err error) {
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() > limit {
		return nil, fmt.Errorf("read blob %s: %d bytes are over the limit of %d: %w", d, r.Size(), limit, errdefs.ErrResourceExhausted)
	}
	var buf bytes.Buffer
	buf.Grow(int(r.Size()))
	if _, err := Copy(ctx, &buf, r, d); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Put stores a small blob whose digest is d; that it is stored already is success. It waits for
// another writer of the same blob.
func Put(ctx context.Context, s Store, d digest.Digest, p []byte) error {
	in, err := s.Begin(ctx, d.String(), Want{Digest: d, Size: int64(len(p)), Wait: true})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if in.Offset() > 0 { // what another left may be wrong, and p is at hand
		if err := in.Reset(); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	if _, err := in.WriteAt(p, 0); err != nil {
		return errors.Join(err, in.Close())
	}
	return s.Commit(ctx, in)
}

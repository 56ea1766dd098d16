package transfer

import (
	"context"
	"hash"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
)

// A rereader gives the bytes of one blob to a target, from wherever the target asks, and verifies
// them: the last of them are held back unless all of them match the digest. It tells how far it is.
// It is used by one goroutine at a time.
type rereader struct {
	from    opener
	need    need
	sink    progress.Sink
	onFault func(error)

	hash   hash.Hash
	hashed int64 // bytes from the beginning that went into hash
	told   time.Time
}

// An opener is what of a [source] reads blobs.
type opener interface {
	open(ctx context.Context, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error)
}

func (r *rereader) open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	body, err := r.from.open(ctx, r.need.Descriptor, offset, r.onFault)
	if err != nil {
		return nil, err
	}
	if r.hash == nil {
		r.hash = r.need.Digest.Algorithm().Hash()
	}
	v, ok := body.(interface{ Vouched() bool })
	r.tell(progress.Started, offset)
	return &reread{ReadCloser: body, r: r, at: offset, vouched: ok && v.Vouched()}, nil
}

func (r *rereader) tell(kind progress.Kind, offset int64) {
	r.told = time.Now()
	r.sink.Send(progress.Event{Kind: kind, Digest: r.need.Digest.String(), What: r.need.what, Offset: offset, Total: r.need.Size})
}

// reread is one reading of the blob.
type reread struct {
	io.ReadCloser
	r       *rereader
	at      int64
	vouched bool
}

func (b *reread) Read(p []byte) (int, error) {
	r, size := b.r, b.r.need.Size
	if b.at == size {
		if r.hashed == size && !b.vouched && !r.verified() {
			return 0, r.mismatch()
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), size-b.at)]
	n, err := b.ReadCloser.Read(p)
	if !b.vouched {
		// What was sent before, and is sent again, is in the hash already.
		if from := r.hashed - b.at; from >= 0 && from < int64(n) {
			r.hash.Write(p[from:n])
			r.hashed += int64(n) - from
		}
		if r.hashed == size && !r.verified() {
			return 0, r.mismatch()
		}
	}
	b.at += int64(n)
	if atEnd(err) && b.at < size {
		return n, &content.SizeError{Digest: r.need.Digest, Want: size, Got: b.at}
	}
	if time.Since(r.told) >= tellEvery {
		r.tell(progress.Advanced, b.at)
	}
	return n, err
}

func (r *rereader) verified() bool {
	return digest.NewDigest(r.need.Digest.Algorithm(), r.hash) == r.need.Digest
}

func (r *rereader) mismatch() error {
	return &content.MismatchError{Want: r.need.Digest, Got: digest.NewDigest(r.need.Digest.Algorithm(), r.hash)}
}

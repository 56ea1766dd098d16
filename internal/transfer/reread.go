package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
)

// A rereader gives the bytes of one blob to a target, from wherever the target asks, and verifies
// them: the last of them are held back unless all of them match the digest. When they do not, whoever gave
// them is blamed; if somebody else can be asked, the error is an [againError], after which the blob is read
// from its beginning. It tells how far it is. It is used by one goroutine at a time.
type rereader struct {
	from    opener
	need    need
	sink    progress.Sink
	onFault func(error)

	hash   hash.Hash
	hashed int64 // bytes from the beginning that went into hash
	opened int   // readings since hash was empty
	unsure bool  // wrong bytes of several readings were met, of which nothing tells the wrong one
	told   time.Time
}

// An opener is what of a [source] reads blobs.
type opener interface {
	open(ctx context.Context, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error)
}

// An againError is met by who reads wrong bytes of a blob that others may have right.
type againError struct{ error }

func (e *againError) Unwrap() error { return e.error }

func (r *rereader) open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	body, err := r.from.open(ctx, r.need.Descriptor, offset, r.onFault)
	if err != nil {
		return nil, err
	}
	if r.hash == nil {
		r.hash = r.need.Digest.Algorithm().Hash()
	}
	r.opened++
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
	bad     error // the bytes are wrong
}

func (b *reread) Read(p []byte) (int, error) {
	r, size := b.r, b.r.need.Size
	if b.bad != nil {
		return 0, b.bad
	}
	if b.at == size {
		if r.hashed == size && !b.vouched {
			b.bad = r.verify(b)
		}
		return 0, cmp.Or(b.bad, io.EOF)
	}
	p = p[:min(int64(len(p)), size-b.at)]
	n, err := b.ReadCloser.Read(p)
	if !b.vouched {
		// What was sent before, and is sent again, is in the hash already.
		if from := r.hashed - b.at; from >= 0 && from < int64(n) {
			r.hash.Write(p[from:n])
			r.hashed += int64(n) - from
		}
		if r.hashed == size {
			if b.bad = r.verify(b); b.bad != nil {
				return 0, b.bad
			}
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

// verify is asked when all bytes were read, the last of them from b.
func (r *rereader) verify(b *reread) error {
	got := digest.NewDigest(r.need.Digest.Algorithm(), r.hash)
	if got == r.need.Digest {
		return nil
	}
	err := error(&content.MismatchError{Want: r.need.Digest, Got: got})
	again := r.opened > 1 && !r.unsure
	if again {
		r.unsure = true // one try from the start decides it
	} else {
		err, again = blamerOf(b.ReadCloser)(err)
	}
	r.hash.Reset()
	r.hashed, r.opened = 0, 0
	if again {
		return &againError{err}
	}
	return err
}

// untilRight moves a blob, or what holds it, and does so again as long as its bytes are wrong and somebody
// else can be asked for them.
func untilRight(onFault func(error), move func() error) error {
	for {
		err := move()
		var again *againError
		if !errors.As(err, &again) {
			return err
		}
		onFault(err)
	}
}

// readConfig reads and verifies a config.
func readConfig(ctx context.Context, d image.Descriptor, sink progress.Sink, from opener) ([]byte, error) {
	if d.Size > image.MaxConfig {
		return nil, fmt.Errorf("config %s has %d bytes where at most %d are read: %w", d.Digest, d.Size, image.MaxConfig, errdefs.ErrInvalidArgument)
	}
	n := need{Descriptor: d, what: "config"}
	onFault := retrying(sink, n)
	r := &rereader{from: from, need: n, onFault: onFault}
	var b []byte
	err := untilRight(onFault, func() error {
		body, err := r.open(ctx, 0)
		if err != nil {
			return err
		}
		b, err = io.ReadAll(body)
		return errors.Join(err, body.Close())
	})
	return b, err
}

// retrying tells of a blob that is to be moved once more.
func retrying(sink progress.Sink, n need) func(error) {
	return func(err error) {
		sink.Send(progress.Event{Kind: progress.Retrying, Digest: n.Digest.String(), What: n.what, Message: err.Error()})
	}
}

package unpack

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

const (
	// piece is how much is decompressed, hashed and handed on at a time.
	piece = 256 << 10
	// pieces is how many of them are under way in one layer.
	pieces = 4
	// defaultRatio is how many times as large as its blob a layer may be. Deflate cannot do
	// more than 1032; what people make stays below 50, but for files full of zeros.
	defaultRatio = 200
	// ratioFrom is the size in bytes from which the ratio matters.
	ratioFrom = 1 << 30
)

// An applier makes of a layer's plain bytes what they stand for.
type applier func(ctx context.Context, plain io.Reader) (layer.Result, error)

// options for whoever applies a layer.
func (u *Unpacker) options() layer.Options {
	return layer.Options{Limits: u.Limits, ReportLosses: u.ReportLosses}
}

// Plain hands the uncompressed tar of a layer, whose blob is stored, to use, and checks its diffID
// when use has read it to its end.
func (u *Unpacker) Plain(ctx context.Context, d image.Descriptor, diffID image.Digest, use func(context.Context, io.Reader) error) error {
	_, err := u.fromStore(ctx, d, diffID, func(ctx context.Context, plain io.Reader) (layer.Result, error) {
		return layer.Result{}, use(ctx, plain)
	})
	return err
}

// fromStore unpacks a layer whose blob is stored.
func (u *Unpacker) fromStore(ctx context.Context, d image.Descriptor, diffID image.Digest, apply applier) (res layer.Result, err error) {
	blob, err := u.Content.Open(ctx, d.Digest)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	res, _, err = u.pass(ctx, io.NewSectionReader(blob, 0, blob.Size()), diffID, apply)
	return res, err
}

// pass unpacks one layer from its compressed bytes: they are decompressed, hashed and applied,
// each step in a goroutine of its own. It reads in to its end, and checks the diffID if there is
// one to check; it returns the one that the bytes have.
func (u *Unpacker) pass(ctx context.Context, in io.Reader, want image.Digest, apply applier) (res layer.Result, got image.Digest, err error) {
	counted := &counter{r: in}
	plain, err := layer.Decompress(ctx, counted, layer.DecompressOptions{Filter: u.Filter, Large: u.Large})
	if err != nil {
		return layer.Result{}, "", err
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &pipe{ctx: inner, full: make(chan *chunk, pieces), hashed: make(chan *chunk, pieces), free: make(chan *chunk, pieces)}
	for range pieces {
		p.free <- &chunk{data: make([]byte, piece)}
	}
	algorithm := digest.SHA256
	if want != "" {
		algorithm = want.Algorithm()
	}
	sum := newHash(algorithm)
	var steps sync.WaitGroup
	steps.Go(func() {
		for c := range p.hashed {
			sum.Write(c.data[:c.n])
			p.put(c)
		}
	})
	var readErr error
	steps.Go(func() {
		readErr = p.fill(plain, func(total int64) error { return u.proportion(counted.n.Load(), total) })
	})
	res, err = apply(inner, p)
	if err == nil {
		// What the driver left is hashed all the same.
		_, err = io.Copy(io.Discard, p)
	}
	cancel(err)
	steps.Wait()
	closeErr := plain.Close()
	switch {
	case readErr != nil && !errors.Is(readErr, errEnded):
		// The source's own words are better than those of who could not read on.
		return layer.Result{}, "", readErr
	case err != nil && ctx.Err() != nil:
		return layer.Result{}, "", context.Cause(ctx)
	case err != nil:
		return layer.Result{}, "", err
	case closeErr != nil:
		return layer.Result{}, "", closeErr
	}
	// Whoever hands in the bytes wants to be rid of them all.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return layer.Result{}, "", err
	}
	got = digest.NewDigest(algorithm, sum)
	if want != "" && got != want {
		return layer.Result{}, "", fmt.Errorf("diffID: %w", &content.MismatchError{Want: want, Got: got})
	}
	return res, got, nil
}

func newHash(a digest.Algorithm) hash.Hash {
	if a == digest.SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// proportion stops a layer that is out of all proportion to its blob.
func (u *Unpacker) proportion(packed, plain int64) error {
	ratio := cmp.Or(u.Ratio, defaultRatio)
	if plain > ratioFrom && plain/ratio > packed {
		return fmt.Errorf("the layer is more than %d times as large as its %d bytes so far: %w", ratio, packed, errdefs.ErrResourceExhausted)
	}
	return nil
}

// errEnded is the end of a pipe whose reader has given up.
var errEnded = errors.New("nobody reads on")

// A chunk is a piece of a layer, which two read.
type chunk struct {
	data []byte
	n    int
	left atomic.Int32 // readers that are not done with it
}

// A pipe hands the pieces of a layer to the hash and to whoever reads the pipe.
type pipe struct {
	ctx                context.Context
	full, hashed, free chan *chunk
	err                error  // why full ended, once it is closed
	now                *chunk // being read; nil: the next one of full
	at                 int    // in now
}

// put gives a chunk back when both have read it.
func (p *pipe) put(c *chunk) {
	if c.left.Add(-1) == 0 {
		p.free <- c // there is room for all
	}
}

// fill reads r to its end, piece by piece, unless check objects to how much it is.
func (p *pipe) fill(r io.Reader, check func(total int64) error) (err error) {
	defer func() {
		p.err = err
		close(p.full)
		close(p.hashed)
	}()
	var total int64
	for {
		var c *chunk
		select {
		case c = <-p.free:
		case <-p.ctx.Done():
			return errEnded
		}
		n, err := io.ReadFull(r, c.data)
		total += int64(n)
		if n > 0 {
			c.n = n
			c.left.Store(2)
			p.hashed <- c
			p.full <- c
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF { // only ReadFull's own, of an end that is clean
			return nil
		}
		if err == nil {
			err = check(total)
		}
		if err != nil {
			return err
		}
	}
}

// Read implements [io.Reader] for the one who applies the layer.
func (p *pipe) Read(b []byte) (int, error) {
	if p.now == nil {
		c, ok := <-p.full
		if !ok {
			if p.err != nil {
				return 0, p.err
			}
			return 0, io.EOF
		}
		p.now, p.at = c, 0
	}
	n := copy(b, p.now.data[p.at:p.now.n])
	if p.at += n; p.at == p.now.n {
		p.put(p.now)
		p.now = nil
	}
	return n, nil
}

// A counter counts what is read through it.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

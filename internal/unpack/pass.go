package unpack

import (
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
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/snapshot"
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

// pass unpacks one layer from its compressed bytes: they are decompressed, hashed and applied,
// each step in a goroutine of its own. It reads r to its end, and checks the diffID if there is
// one; it returns the one that the bytes have.
func (r *Run) pass(ctx context.Context, in io.Reader, want image.Digest, apply func(context.Context, io.Reader) (layer.Result, error)) (res layer.Result, got image.Digest, err error) {
	counted := &counter{r: in}
	plain, err := layer.Decompress(ctx, counted, layer.DecompressOptions{Filter: r.u.Filter, Large: r.u.Large})
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
		readErr = p.fill(plain, func(total int64) error { return r.bound(counted.n.Load(), total) })
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

// bound stops a layer that is out of all proportion to its blob.
func (r *Run) bound(packed, plain int64) error {
	ratio := r.u.Ratio
	if ratio == 0 {
		ratio = defaultRatio
	}
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
	err                error // why full ended, once it is closed
	now                *chunk
	at                 int
}

// put gives a chunk back when both have read it.
func (p *pipe) put(c *chunk) {
	if c.left.Add(-1) == 0 {
		p.free <- c // there is room for all
	}
}

// fill reads r to its end, piece by piece.
func (p *pipe) fill(r io.Reader, bound func(total int64) error) (err error) {
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
			err = bound(total)
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

// fromStore unpacks a layer whose blob is stored, into the folder of j.
func (r *Run) fromStore(ctx context.Context, d image.Descriptor, j *job, apply func(context.Context, io.Reader) (layer.Result, error)) (err error) {
	blob, err := r.u.Content.Open(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	j.res, _, err = r.pass(ctx, io.NewSectionReader(blob, 0, blob.Size()), j.diffID, apply)
	if err == nil {
		r.measure(j)
	}
	return err
}

// measure notes what came of a layer, and tells what it lost.
func (r *Run) measure(j *job) {
	j.usage = snapshot.Usage{Size: j.res.Size, Inodes: j.res.Inodes}
	for _, l := range j.res.Losses {
		r.u.Progress.Send(progress.Event{Kind: progress.Warning, Digest: j.diffID.String(), What: "layer", Message: "unpacked without the " + l.String()})
	}
}

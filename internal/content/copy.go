package content

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	// copyChunk is read, hashed and written at a time. Measured where the hash alone does 1.7
	// GB/s: copies do 1.1 with 32 KiB, 1.2 with 128 KiB and 1.4 with 512 KiB.
	copyChunk = 512 << 10
	// copyAhead bounds the chunks under way in one copy: one written, one hashed, one between.
	copyAhead = 3
)

// chunks spares the copying of many small blobs a large allocation each.
var chunks = sync.Pool{New: func() any { return new([copyChunk]byte) }}

// Copy writes the blob r to w and checks on the way that its bytes hash to d; [io.Discard] as w
// makes it a check and nothing else. It returns the number of bytes written. What was read last
// is hashed while it is written, so that a copy takes as long as the slower of the two, and it
// needs a fixed amount of memory.
//
// Errors: a *[MismatchError] when the bytes, too few of them included, do not hash to d. By then
// all of a large blob has been written to w; of one that fits in half a MiB, nothing.
func Copy(ctx context.Context, w io.Writer, r Reader, d digest.Digest) (int64, error) {
	n, err := copyBlob(ctx, w, r, d)
	if err != nil {
		return n, fmt.Errorf("copy blob %s: %w", d, err)
	}
	return n, nil
}

func copyBlob(ctx context.Context, w io.Writer, r Reader, d digest.Digest) (int64, error) {
	if err := Validate(d); err != nil {
		return 0, err
	}
	h := d.Algorithm().Hash()
	if r.Size() <= copyChunk {
		return copySmall(ctx, w, r, d, h)
	}
	if s, ok := r.(Streamer); ok {
		s.ReadAhead()
	}
	hashed := hashing(h)
	written, err := pour(ctx, w, r, hashed)
	hashed.wait()
	if err != nil {
		return written, err
	}
	return written, compare(d, h)
}

// copyTiny is up to where blobs are read to memory of their size: a thousand may be read at once.
const copyTiny = 32 << 10

func copySmall(ctx context.Context, w io.Writer, r Reader, d digest.Digest, h hash.Hash) (int64, error) {
	var to []byte
	if r.Size() <= copyTiny {
		to = make([]byte, r.Size())
	} else {
		buf := chunks.Get().(*[copyChunk]byte)
		defer chunks.Put(buf)
		to = buf[:r.Size()]
	}
	p, err := readChunk(ctx, r, to, 0)
	if err != nil {
		return 0, err
	}
	h.Write(p)
	if err := compare(d, h); err != nil {
		return 0, err
	}
	return write(w, p)
}

func write(w io.Writer, p []byte) (int64, error) {
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return int64(n), err
}

// pour copies r to w and gives each chunk to be hashed before it writes it.
func pour(ctx context.Context, w io.Writer, r Reader, hashed *hasher) (written int64, err error) {
	for written < r.Size() {
		buf := <-hashed.free
		want := min(copyChunk, r.Size()-written)
		p, err := readChunk(ctx, r, buf[:want], written)
		hashed.full <- filled{buf, len(p)}
		if err != nil {
			return written, err
		}
		n, err := write(w, p)
		written += n
		if err != nil || n < want { // the file is shorter than it was: its hash will tell
			return written, err
		}
	}
	return written, nil
}

// readChunk fills p from off, or less of it at the end of the blob.
func readChunk(ctx context.Context, r Reader, p []byte, off int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := r.ReadAt(p, off)
	if err == io.EOF { // one that wraps it is a failure, as that of a lost connection
		err = nil
	}
	return p[:n], err
}

func compare(d digest.Digest, h hash.Hash) error {
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return &MismatchError{Want: d, Got: got}
	}
	return nil
}

// A hasher hashes chunks in a goroutine of its own and gives the buffers back. A buffer that
// comes out of free has been written too, since the writer takes one after the other.
type hasher struct {
	free chan *[copyChunk]byte
	full chan filled
	done chan struct{}
}

type filled struct {
	buf *[copyChunk]byte
	n   int
}

func hashing(h hash.Hash) *hasher {
	s := &hasher{
		free: make(chan *[copyChunk]byte, copyAhead), full: make(chan filled, copyAhead), done: make(chan struct{}),
	}
	for range copyAhead {
		s.free <- chunks.Get().(*[copyChunk]byte)
	}
	go func() {
		defer close(s.done)
		for c := range s.full {
			h.Write(c.buf[:c.n])
			s.free <- c.buf
		}
	}()
	return s
}

// wait ends the hashing, when all that was given is hashed.
func (s *hasher) wait() {
	close(s.full)
	<-s.done
	for range copyAhead {
		chunks.Put(<-s.free)
	}
}

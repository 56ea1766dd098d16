package tarstream

import (
	"fmt"
	"io"
)

const (
	blockSize  = 512
	bufferSize = 256 << 10
	// direct is from which size on Read leaves out the buffer.
	direct = 64 << 10
)

// A Reader reads the entries of a tar. It is not for concurrent use.
//
// Errors are a [FormatError] where the stream is no tar, wrap [io.ErrUnexpectedEOF] where it ends
// too early, or those of the stream. After an error other than [io.EOF] from Read or Chunk,
// everything but Drain repeats it.
type Reader struct {
	src    io.Reader
	srcErr error // what src ended with; told when the buffer is used up
	buf    []byte
	lo, hi int   // buf[lo:hi] is not used yet
	off    int64 // of buf[lo] in the stream

	err   error
	left  int64 // stored bytes of the entry still to read
	pad   int64 // bytes behind them
	entry Entry
	ext   extended
}

// NewReader reads the tar that r streams, in large pieces: usually beyond the end of the archive.
func NewReader(r io.Reader) *Reader {
	return &Reader{src: r, buf: make([]byte, bufferSize)}
}

// Next leaves the entry and returns the next one. At the end of the archive, which is two blocks
// of zeros or the end of the stream, it returns [io.EOF].
func (r *Reader) Next() (*Entry, error) {
	if r.err == nil {
		r.err = r.next()
	}
	if r.err != nil {
		return nil, r.err
	}
	return &r.entry, nil
}

// Read reads what is stored of the entry: the content of a file without its holes.
func (r *Reader) Read(p []byte) (int, error) {
	n := int(min(int64(len(p)), r.left))
	if r.err == nil && r.lo == r.hi && r.srcErr == nil && n >= direct {
		n, r.srcErr = r.src.Read(p[:n])
		r.off += int64(n)
		r.left -= int64(n)
		if n > 0 {
			return n, nil
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	chunk, err := r.chunk(len(p))
	return copy(p, chunk), err
}

// Chunk is Read without a copy: it returns the next bytes out of the reader's own buffer, at
// least one and as many as it has. They are valid until the next call of any method.
func (r *Reader) Chunk() ([]byte, error) { return r.chunk(bufferSize) }

func (r *Reader) chunk(limit int) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	if r.left == 0 {
		return nil, io.EOF
	}
	if err := r.fill(1); err != nil {
		r.err = r.cut(err, "an entry")
		return nil, r.err
	}
	n := int(min(r.left, int64(limit), int64(r.hi-r.lo)))
	r.left -= int64(n)
	return r.take(n), nil
}

// Drain reads the stream to its end, whatever follows the archive; a digest of the stream covers
// that too. There is no entry afterwards.
func (r *Reader) Drain() error {
	for {
		r.take(r.hi - r.lo)
		switch err := r.fill(1); {
		case err == nil:
			continue
		case err != io.EOF:
			return r.cut(err, "")
		case r.err == nil:
			r.err, r.left = io.EOF, 0
		}
		return nil
	}
}

// next reads headers up to the one of the next entry.
func (r *Reader) next() error {
	if err := r.leave(); err != nil {
		return err
	}
	r.ext.clear()
	spare := int64(maxExtended)
	for {
		at := r.off
		h, err := r.header(at)
		if err != nil {
			return err
		}
		kind := h[156]
		if !isExtended(kind) {
			return r.parse(h, at)
		}
		size, ok := number(h[124:136])
		if !ok || size < 0 {
			return malformed(at, "the size of an extended header is malformed")
		}
		// Its header counts too, so that there is an end to empty ones.
		if spare -= size + blockSize; size > maxExtended || spare < 0 {
			return malformed(at, "more than %d bytes of extended headers", maxExtended)
		}
		body, err := r.body(int(size))
		if err != nil {
			return err
		}
		if err := r.ext.add(kind, body, at); err != nil {
			return err
		}
		r.left, r.pad = 0, padding(size)
		if err := r.leave(); err != nil {
			return err
		}
	}
}

// header takes the next header, whose checksum is right. It returns io.EOF at the end of the
// archive. The slice is valid until the buffer is filled.
func (r *Reader) header(at int64) ([]byte, error) {
	h, err := r.block()
	switch {
	case err == io.EOF && r.ext.pending:
		return nil, r.cut(err, "an entry")
	case err == io.EOF:
		return nil, err
	case err != nil:
		return nil, r.cut(err, "a header")
	}
	sum := sumBytes(h)
	if sum != 0 {
		if !checksum(h, sum) {
			return nil, malformed(at, "the checksum is wrong")
		}
		return h, nil
	}
	if r.ext.pending {
		return nil, malformed(at, "an extended header without an entry")
	}
	switch h, err = r.block(); {
	case err == io.EOF:
		return nil, err
	case err != nil:
		return nil, r.cut(err, "a header")
	case sumBytes(h) != 0:
		return nil, malformed(at, "a block of zeros, but not the end")
	}
	return nil, io.EOF
}

// block takes the next block. The error is io.EOF when the stream ends before it.
func (r *Reader) block() ([]byte, error) {
	if err := r.fill(blockSize); err != nil {
		return nil, err
	}
	return r.take(blockSize), nil
}

// body takes what belongs to an extended header. The slice is valid until the buffer is filled.
func (r *Reader) body(size int) ([]byte, error) {
	if size <= len(r.buf) {
		if err := r.fill(size); err != nil {
			return nil, r.cut(err, "an extended header")
		}
		return r.take(size), nil
	}
	b := make([]byte, 0, size)
	for len(b) < size {
		if err := r.fill(1); err != nil {
			return nil, r.cut(err, "an extended header")
		}
		b = append(b, r.take(min(size-len(b), r.hi-r.lo))...)
	}
	return b, nil
}

// leave skips what is left of an entry. The padding of the last one may be missing, as some
// writers end without.
func (r *Reader) leave() error {
	for r.left > 0 {
		if _, err := r.chunk(bufferSize); err != nil {
			return err
		}
	}
	for r.pad > 0 {
		switch err := r.fill(1); {
		case err == io.EOF:
			r.pad = 0
		case err != nil:
			return r.cut(err, "")
		}
		n := min(r.pad, int64(r.hi-r.lo))
		r.pad -= n
		r.take(int(n))
	}
	return nil
}

// take uses up n bytes of the buffer.
func (r *Reader) take(n int) []byte {
	b := r.buf[r.lo : r.lo+n]
	r.lo += n
	r.off += int64(n)
	return b
}

// fill reads until there are n bytes in the buffer. The error is io.EOF when the stream ends
// before the first of them, io.ErrUnexpectedEOF before the last.
func (r *Reader) fill(n int) error {
	if r.hi-r.lo >= n {
		return nil
	}
	r.hi = copy(r.buf, r.buf[r.lo:r.hi])
	r.lo = 0
	for empty := 0; r.hi < n && r.srcErr == nil; {
		var m int
		m, r.srcErr = r.src.Read(r.buf[r.hi:])
		r.hi += m
		if m > 0 {
			empty = 0
		} else if empty++; empty == 100 && r.srcErr == nil {
			r.srcErr = io.ErrNoProgress
		}
	}
	switch {
	case r.hi >= n:
		return nil
	case r.srcErr == io.EOF && r.hi > 0:
		return io.ErrUnexpectedEOF
	}
	return r.srcErr
}

// cut tells where the stream ended, or broke, within what.
func (r *Reader) cut(err error, what string) error {
	at := r.off + int64(r.hi-r.lo)
	if err == io.EOF || err == io.ErrUnexpectedEOF && r.srcErr == io.EOF {
		return fmt.Errorf("tar ends at byte %d within %s: %w", at, what, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read tar at byte %d: %w", at, err)
}

func malformed(at int64, format string, args ...any) error {
	return &FormatError{Offset: at, Reason: fmt.Sprintf(format, args...)}
}

// padding is how far it is from size to the end of a block.
func padding(size int64) int64 { return -size & (blockSize - 1) }

package archive

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/stowage/stowage/internal/image"
)

// A watched reader remembers how its source failed, so that an error that comes out of the far
// end of decompression and tar can be told from damage.
type watched struct {
	ctx context.Context
	r   io.Reader
	err error // what the last Read returned, if that was an error
}

func (w *watched) Read(p []byte) (int, error) {
	if w.err = w.ctx.Err(); w.err != nil {
		return 0, w.err
	}
	n, err := w.r.Read(p)
	w.err = err
	return n, err
}

// failed is the error of the source, if it was one.
func (w *watched) failed() error {
	if errors.Is(w.err, io.EOF) {
		return nil
	}
	return w.err
}

// A stream is a tar as it arrives: read from in, and decompressed if it has to be.
type stream struct {
	in     *watched
	plain  *watched // the tar's bytes
	tar    *tar.Reader
	packed image.Compression
	close  func()
}

// openStream finds out how r is packed. The caller closes the stream.
func openStream(ctx context.Context, r io.Reader) (*stream, error) {
	s := &stream{in: &watched{ctx: ctx, r: r}, close: func() {}}
	buffered := bufio.NewReaderSize(s.in, 64<<10)
	head, err := buffered.Peek(image.SniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(head) == 0 {
		return nil, fmt.Errorf("the archive is empty: %w", errdefs.ErrInvalidArgument)
	}
	s.packed = image.Sniff(head)
	plain, err := s.unpacked(buffered)
	if err != nil {
		return nil, s.explain(err)
	}
	s.plain = &watched{ctx: ctx, r: plain}
	s.tar = tar.NewReader(s.plain)
	return s, nil
}

// openPlain is openStream for a tar that is not packed: what is not wanted of it is not read.
func openPlain(ctx context.Context, r io.ReadSeeker) *stream {
	in := &watched{ctx: ctx, r: r}
	return &stream{in: in, plain: in, tar: tar.NewReader(seekable{in, r}), packed: image.Uncompressed, close: func() {}}
}

type seekable struct {
	*watched
	io.Seeker
}

func (s *stream) unpacked(r *bufio.Reader) (io.Reader, error) {
	switch s.packed {
	case image.Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		return bufio.NewReaderSize(z, 64<<10), nil
	case image.Zstd:
		// The window is what --long=27 takes, the most that zstd itself reads unasked.
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		s.close = z.Close
		return bufio.NewReaderSize(z, 64<<10), nil
	case image.Bzip2:
		return bufio.NewReaderSize(bzip2.NewReader(r), 64<<10), nil
	case image.XZ:
		z, err := xz.ReaderConfig{SingleStream: true}.NewReader(newXZGuard(r))
		if err != nil {
			return nil, err
		}
		return bufio.NewReaderSize(z, 64<<10), nil
	}
	return r, nil
}

// next goes to the next entry; at the end of the tar it returns io.EOF.
func (s *stream) next() (*tar.Header, error) {
	h, err := s.tar.Next()
	switch {
	case err == nil:
		return h, nil
	case errors.Is(err, io.EOF) && errors.Is(s.plain.err, io.EOF):
		// A whole tar ends in zeros; here the bytes ended before them.
		return nil, s.explain(io.ErrUnexpectedEOF)
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	}
	return nil, s.explain(err)
}

// drain reads what follows the end of the tar, so that the checksums of the compression are
// looked at. It tells whether there was anything but zeros.
func (s *stream) drain() (clean bool, err error) {
	clean = true
	buf := make([]byte, 32<<10)
	for total := 0; total < maxTrailer; {
		n, err := s.plain.Read(buf)
		total += n
		for _, b := range buf[:n] {
			clean = clean && b == 0
		}
		if errors.Is(err, io.EOF) {
			return clean, nil
		}
		if err != nil {
			return clean, s.explain(err)
		}
	}
	return clean, fmt.Errorf("more than %d bytes follow the end of the tar: %w", maxTrailer, errdefs.ErrInvalidArgument)
}

// explain says what an error of reading means: a source that failed, an archive that was cut
// short, or one that is damaged or none at all.
func (s *stream) explain(err error) error {
	switch {
	case s.in.ctx.Err() != nil:
		return s.in.ctx.Err()
	case s.in.failed() != nil:
		return s.in.failed()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the archive is truncated: %w", errdefs.ErrDataLoss)
	case errors.Is(err, tar.ErrHeader) && s.packed == image.Uncompressed:
		return fmt.Errorf("not a tar, or of an unknown compression: %w", errdefs.ErrInvalidArgument)
	case errdefs.IsNotImplemented(err):
		return err
	case s.packed != image.Uncompressed:
		return fmt.Errorf("unpack %s: %w: %w", s.packed, err, errdefs.ErrDataLoss)
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
}

package layer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/inflate"
)

// maxZstdWindow is the most that a zstd frame may ask to look back, in bytes: what --long=27 takes,
// which is as far as zstd itself goes unasked.
const maxZstdWindow = 128 << 20

// DecompressOptions tunes [Decompress]. The zero value runs no other program.
type DecompressOptions struct {
	Filter Filter // inflates gzip in its own process; zero: we do
	// Large has room for one, and is held by the one layer that looks back further than 16 MiB
	// while it is decompressed, so that several of them take the memory of one. Nil: all at once.
	Large chan struct{}
}

// Decompress gives the tar of a layer: r itself, or what it is when its gzip members or its zstd
// frames are decompressed. How it is packed is told by its first bytes, for media types err. An
// empty r is an empty tar.
//
// What it takes in memory is 256 KiB for gzip, 2 MiB with a filter, and for zstd the frame's
// window, which may be 128 MiB and is 8 MiB or less unless long-distance matching was asked for,
// and 1 MiB. The result is an [io.WriterTo], and that way its bytes are not copied.
//
// Errors: [errdefs.ErrNotImplemented] for other compressions and a larger window,
// [errdefs.ErrDataLoss] where r is not as the format demands, [io.ErrUnexpectedEOF] where it ends
// too early, and those of r and ctx. All of r is read before the result ends. The caller closes
// the result, and r may be used again only after that; Close waits for a Read of r to return.
func Decompress(ctx context.Context, r io.Reader, o DecompressOptions) (io.ReadCloser, error) {
	src := &source{ctx: ctx, r: r}
	head := make([]byte, tarBlock)
	n, _ := io.ReadFull(src, head) // src has the error
	if src.err != nil && src.err != io.EOF {
		return nil, fmt.Errorf("decompress layer: %w", src.err)
	}
	head = head[:n]
	packed, err := sniff(head)
	if err != nil {
		return nil, fmt.Errorf("decompress layer: %w", err)
	}
	whole := io.MultiReader(bytes.NewReader(head), src)
	switch packed {
	case image.Gzip:
		if o.Filter != (Filter{}) {
			return o.Filter.run(ctx, whole, src)
		}
		return gunzip(whole)
	case image.Zstd:
		large := zstdWindow(head) > largeWindow && o.Large != nil
		if large {
			select {
			case o.Large <- struct{}{}:
			case <-ctx.Done():
				return nil, fmt.Errorf("decompress layer: %w", context.Cause(ctx))
			}
		}
		z, err := unzstd(whole, src)
		if !large {
			return z, err
		}
		if err != nil {
			<-o.Large
			return nil, err
		}
		z.large = o.Large
		return z, nil
	}
	return io.NopCloser(whole), nil
}

func gunzip(r io.Reader) (io.ReadCloser, error) {
	z, err := inflate.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("decompress layer: %w", err)
	}
	return io.NopCloser(z), nil
}

// tarMagic is where the first block of all but the oldest tars says that it is one.
const tarMagic = 257

// refused are the beginnings of what no layer should be packed with.
var refused = []struct{ magic, name string }{
	{"BZh", "bzip2"},
	{"\xfd7zXZ\x00", "xz"},
	{"\x04\x22\x4d\x18", "lz4"},
	{"\x02\x21\x4c\x18", "lz4"},
	{"LZIP", "lzip"},
	{"\x5d\x00\x00", "lzma"},
	{"\x89LZO\x00", "lzop"},
	{"\x1f\x9d", "compress"},
	{"PK\x03\x04", "zip"},
}

// sniff tells how a layer that begins with head is packed.
func sniff(head []byte) (image.Compression, error) {
	packed := image.Sniff(head)
	if packed == image.Gzip || packed == image.Zstd {
		return packed, nil
	}
	// A tar begins with a name, and that may well be BZhang or LZIP.
	if len(head) == tarBlock && bytes.HasPrefix(head[tarMagic:], []byte("ustar")) {
		return image.Uncompressed, nil
	}
	for _, r := range refused {
		if bytes.HasPrefix(head, []byte(r.magic)) {
			return "", fmt.Errorf("compression %s: %w", r.name, errdefs.ErrNotImplemented)
		}
	}
	return image.Uncompressed, nil
}

// A source reads the layer until ctx ends, and remembers its error: what a decompressor makes of
// that may not be told from one of its own.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.err = context.Cause(s.ctx); s.err != nil {
		return 0, s.err
	}
	var n int
	n, s.err = s.r.Read(p)
	return n, s.err
}

// unzstd decompresses frames, in the goroutine that reads.
func unzstd(r io.Reader, src *source) (*zstdReader, error) {
	z, err := zstd.NewReader(r,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, fmt.Errorf("decompress layer: %w", zstdErr(err, src))
	}
	return &zstdReader{z: z, src: src}, nil
}

// A zstdReader gives the errors of z their kinds.
type zstdReader struct {
	z     *zstd.Decoder
	src   *source
	large chan struct{} // held until Close; nil: not
}

func (r *zstdReader) Read(p []byte) (int, error) {
	n, err := r.z.Read(p)
	return n, zstdErr(err, r.src)
}

func (r *zstdReader) WriteTo(w io.Writer) (int64, error) {
	out := &sink{w: w}
	n, err := r.z.WriteTo(out)
	if out.err != nil {
		return n, out.err
	}
	return n, zstdErr(err, r.src)
}

func (r *zstdReader) Close() error {
	r.z.Close()
	if r.large != nil {
		<-r.large
		r.large = nil
	}
	return nil
}

// largeWindow is from where a zstd frame is large: twice what its highest level takes unasked.
const largeWindow = 16 << 20

// zstdWindow is how far the first frame looks back, in bytes, as its header in head says (RFC 8878,
// section 3.1.1.1); 0 if head does not say.
func zstdWindow(head []byte) uint64 {
	for len(head) > 8 && head[0]&0xf0 == 0x50 { // a skippable frame
		size := uint64(binary.LittleEndian.Uint32(head[4:]))
		if size > uint64(len(head)-8) {
			return 0
		}
		head = head[8+size:]
	}
	if len(head) < 18 { // the longest header
		return 0
	}
	const single = 1 << 5 // the whole content is the window
	flags := head[4]
	if flags&single == 0 {
		base := uint64(1) << (10 + head[5]>>3)
		return base + base/8*uint64(head[5]&7)
	}
	size := head[5+[]int{0, 1, 2, 4}[flags&3]:]
	switch flags >> 6 {
	case 0:
		return uint64(size[0])
	case 1:
		return uint64(binary.LittleEndian.Uint16(size)) + 256
	case 2:
		return uint64(binary.LittleEndian.Uint32(size))
	default:
		return binary.LittleEndian.Uint64(size)
	}
}

// A sink remembers the error of w.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	var n int
	n, s.err = s.w.Write(p)
	return n, s.err
}

func zstdErr(err error, src *source) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case src.err != nil && src.err != io.EOF:
		return src.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrUnknownDictionary):
		return fmt.Errorf("zstd stream: %w: %w", err, errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("zstd stream: %w: %w", err, errdefs.ErrDataLoss)
}

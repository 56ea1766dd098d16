package imagetest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
)

// A Blob is bytes with their descriptor.
type Blob struct {
	image.Descriptor

	path string // where its bytes are; empty: in body
	body []byte
}

// NewBlob makes a blob of bytes in memory.
func NewBlob(mediaType string, body []byte) Blob {
	return Blob{
		Descriptor: image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))},
		body:       body,
	}
}

// Open reads the blob; the caller closes it.
func (b Blob) Open() (io.ReadCloser, error) {
	if b.path == "" {
		return io.NopCloser(bytes.NewReader(b.body)), nil
	}
	return os.Open(b.path)
}

// Bytes returns the whole blob.
func (b Blob) Bytes() ([]byte, error) {
	if b.path == "" {
		return b.body, nil
	}
	return os.ReadFile(b.path)
}

// A Compression says how a layer is kept.
type Compression string

// The compressions of layers. Gzip and GzipFast hold the same bytes under different digests.
const (
	Plain    Compression = ""
	Gzip     Compression = "gzip"
	GzipFast Compression = "gzip-fast"
	Zstd     Compression = "zstd"
)

// compress runs t once, into dir or, if that is empty, memory. It returns the compressed blob,
// without a media type, and the digest of the tar.
func compress(dir string, t Tar, how Compression) (Blob, digest.Digest, error) {
	packed, err := newSink(dir)
	if err != nil {
		return Blob{}, "", err
	}
	defer packed.discard()
	encoder, err := encoderFor(how, packed)
	if err != nil {
		return Blob{}, "", err
	}
	plain := digest.Canonical.Digester()
	if err := t(io.MultiWriter(encoder, plain.Hash())); err != nil {
		return Blob{}, "", err
	}
	if err := encoder.Close(); err != nil {
		return Blob{}, "", err
	}
	blob, err := packed.blob()
	return blob, plain.Digest(), err
}

func encoderFor(how Compression, w io.Writer) (io.WriteCloser, error) {
	switch how {
	case Plain:
		return nopCloser{w}, nil
	case Gzip:
		return gzip.NewWriter(w), nil
	case GzipFast:
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case Zstd:
		// One goroutine: the frames must not depend on the number of processors.
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	return nil, fmt.Errorf("unknown compression %q", how)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// A sink takes a blob's bytes and finds their digest on the way.
type sink struct {
	digester digest.Digester
	size     int64
	memory   bytes.Buffer
	file     *os.File // nil: memory
}

func newSink(dir string) (*sink, error) {
	s := &sink{digester: digest.Canonical.Digester()}
	if dir == "" {
		return s, nil
	}
	var err error
	s.file, err = os.CreateTemp(dir, "blob-*")
	return s, err
}

func (s *sink) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	_, _ = s.digester.Hash().Write(p) // a hash takes everything
	if s.file == nil {
		return s.memory.Write(p)
	}
	return s.file.Write(p)
}

// blob ends the sink. On disk, the file is named after the digest.
func (s *sink) blob() (Blob, error) {
	d := s.digester.Digest()
	b := Blob{Descriptor: image.Descriptor{Digest: d, Size: s.size}}
	if s.file == nil {
		b.body = s.memory.Bytes()
		return b, nil
	}
	b.path = filepath.Join(filepath.Dir(s.file.Name()), d.Encoded())
	if err := s.file.Close(); err != nil {
		return Blob{}, err
	}
	return b, os.Rename(s.file.Name(), b.path)
}

// discard removes what blob did not name.
func (s *sink) discard() {
	if s.file != nil {
		_ = s.file.Close()           // closed already when all went well
		_ = os.Remove(s.file.Name()) // renamed already when all went well
	}
}

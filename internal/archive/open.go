package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// An Archive is an archive, or the folder of an OCI layout, whose blobs can be read in any order.
// Goroutines may share it.
type Archive struct {
	Contents
	open  func(d image.Digest) (content.Reader, error)
	close func() error
}

// Open opens a blob for reading; the caller closes it. Its bytes are as the archive has them:
// whoever reads them verifies them. Errors: [errdefs.ErrNotFound].
func (a *Archive) Open(d image.Digest) (content.Reader, error) {
	if err := image.CheckDigest(d); err != nil {
		return nil, err
	}
	return a.open(d)
}

// Close ends the use of the archive. Blobs that are open must not be read after it.
func (a *Archive) Close() error { return a.close() }

// OpenDir opens the folder of an OCI layout. Nothing outside of dir is read, wherever links in it
// point to.
func OpenDir(dir string) (*Archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open layout: %w", err)
	}
	a := newReader(nil)
	if err := a.folderLists(root); err != nil {
		return nil, errors.Join(fmt.Errorf("open layout %s: %w", dir, err), root.Close())
	}
	open := func(d image.Digest) (content.Reader, error) {
		f, size, err := openRegular(root, blobPath(d))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		return blobFile{f, size}, nil
	}
	return &Archive{Contents: a.Contents, open: open, close: root.Close}, nil
}

// blobFile is a blob in a file of its own.
type blobFile struct {
	*os.File
	size int64
}

func (f blobFile) Size() int64 { return f.size }

// OpenFile opens an archive that is a plain tar in a regular file, and reads through its headers.
// Of docker's own form, which does not say the digests of layers, it reads everything, once.
//
// Errors: those of [Read], and [errdefs.ErrFailedPrecondition] for what cannot be read in any
// order: a compressed archive, or a pipe.
func OpenFile(ctx context.Context, name string) (*Archive, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	x := &tarIndex{file: f, spans: map[image.Digest]span{}, built: map[image.Digest][]byte{}}
	found, err := x.read(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open archive %s: %w", name, err), f.Close())
	}
	return &Archive{Contents: *found, open: x.open, close: f.Close}, nil
}

// A tarIndex knows where in a tar the blobs are.
type tarIndex struct {
	file  *os.File
	begin int64 // where the body of the entry under way begins; negative when the tar is at its end
	spans map[image.Digest]span
	built map[image.Digest][]byte // documents that the archive does not have itself
}

type span struct{ begin, size int64 }

func (x *tarIndex) read(ctx context.Context) (*Contents, error) {
	info, err := x.file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file, of which parts could be read in any order; put it into one first: %w", errdefs.ErrFailedPrecondition)
	}
	head := make([]byte, image.SniffLen)
	n, err := x.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if packed := image.Sniff(head[:n]); packed != image.Uncompressed {
		return nil, fmt.Errorf("compressed with %s, so that its parts cannot be read in any order; decompress it first: %w", packed, errdefs.ErrFailedPrecondition)
	}
	a := newReader(x)
	a.begin = func() (err error) {
		x.begin, err = x.file.Seek(0, io.SeekCurrent)
		return err
	}
	if err := a.takeAll(ctx, openPlain(ctx, x.file)); err != nil {
		return nil, err
	}
	x.begin = -1
	if err := a.list(ctx); err != nil {
		return nil, err
	}
	return &a.Contents, nil
}

// Blob implements [Sink]: it takes note of where the blob is.
func (x *tarIndex) Blob(_ context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	if x.begin < 0 {
		b, err := io.ReadAll(r)
		x.built[want] = b
		return image.Descriptor{Digest: want, Size: int64(len(b))}, err
	}
	if want == "" {
		h := digest.Canonical.Digester()
		if _, err := io.Copy(h.Hash(), r); err != nil {
			return image.Descriptor{}, err
		}
		want = h.Digest()
	}
	x.spans[want] = span{x.begin, size}
	return image.Descriptor{Digest: want, Size: size}, nil
}

func (x *tarIndex) open(d image.Digest) (content.Reader, error) {
	if b, ok := x.built[d]; ok {
		return memoryBlob(b), nil
	}
	s, ok := x.spans[d]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	return section{io.NewSectionReader(x.file, s.begin, s.size)}, nil
}

// section is a blob within a file that stays open.
type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

func memoryBlob(b []byte) content.Reader {
	return section{io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))}
}

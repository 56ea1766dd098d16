package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// A Layout is what is to be written: images, and all the blobs that they need.
type Layout struct {
	Images []ExportImage
	Blobs  []image.Descriptor
}

// An ExportImage is one entry of the lists of images.
type ExportImage struct {
	Name   string // in normal form, or empty
	Tag    string // what the layout calls an image without a name; may be empty
	Target image.Descriptor
	Docker *DockerEntry // nil: not for docker's lists
}

// A DockerEntry is an image as docker's manifest.json lists it: of one platform.
type DockerEntry struct {
	Config image.Digest
	Layers []image.Digest // lowest first
}

// An Opener opens a blob for reading; the archive closes it.
type Opener func(ctx context.Context, d image.Descriptor) (content.Reader, error)

// Write writes an OCI layout as a tar to w, with docker's lists beside it, so that every
// program that reads one of the two reads it. The same layout always gives the same bytes: the
// lists come first, then each blob once, in the order of their digests.
//
// Each blob that its store does not vouch for is verified on its way. After an error, what was written is worthless. Errors:
// [errdefs.ErrInvalidArgument] for a list that names what is not among the blobs,
// [errdefs.ErrDataLoss] for a blob that is not what its descriptor says, and those of open and w.
func Write(ctx context.Context, w io.Writer, layout Layout, open Opener) error {
	if err := write(ctx, w, layout, open); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func write(ctx context.Context, w io.Writer, layout Layout, open Opener) error {
	blobs, err := sortBlobs(layout.Blobs)
	if err != nil {
		return err
	}
	lists, err := layout.lists(blobs)
	if err != nil {
		return err
	}
	t := &tarWriter{w: w}
	if err := t.folders(blobs); err != nil {
		return err
	}
	for _, l := range lists {
		if err := t.file(l.name, l.body); err != nil {
			return err
		}
	}
	return t.blobs(ctx, blobs, open)
}

// WriteBlobs writes blobs as the blobs folder of an OCI layout, like [Write] without lists.
func WriteBlobs(ctx context.Context, w io.Writer, blobs []image.Descriptor, open Opener) error {
	blobs, err := sortBlobs(blobs)
	if err == nil {
		t := &tarWriter{w: w}
		if err = t.folders(blobs); err == nil {
			err = t.blobs(ctx, blobs, open)
		}
	}
	if err != nil {
		return fmt.Errorf("write blobs: %w", err)
	}
	return nil
}

// sortBlobs puts blobs into the order of their digests, each once.
func sortBlobs(blobs []image.Descriptor) ([]image.Descriptor, error) {
	blobs = slices.Clone(blobs)
	slices.SortStableFunc(blobs, func(a, b image.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	for i, d := range blobs {
		if err := image.CheckDescriptor(d); err != nil {
			return nil, err
		}
		if i > 0 && blobs[i-1].Digest == d.Digest && blobs[i-1].Size != d.Size {
			return nil, fmt.Errorf("blob %s is said to have %d and %d bytes: %w", d.Digest, blobs[i-1].Size, d.Size, errdefs.ErrInvalidArgument)
		}
	}
	return slices.CompactFunc(blobs, func(a, b image.Descriptor) bool { return a.Digest == b.Digest }), nil
}

// A tarWriter writes a tar whose bodies pass through untouched, in writes as large as they come.
type tarWriter struct {
	w       io.Writer
	pending bytes.Buffer // padding of the last body, and the next header
}

const block = 512

// header begins the entry called name.
func (t *tarWriter) header(h tar.Header) error {
	h.ModTime = time.Unix(0, 0)
	return tar.NewWriter(&t.pending).WriteHeader(&h)
}

// pad ends a body of size bytes.
func (t *tarWriter) pad(size int64) {
	if rest := size % block; rest != 0 {
		t.pending.Write(make([]byte, block-rest))
	}
}

func (t *tarWriter) flush() error {
	_, err := t.pending.WriteTo(t.w)
	return err
}

func (t *tarWriter) folder(name string) error {
	return t.header(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})
}

// folders writes the folders that blobs are in.
func (t *tarWriter) folders(blobs []image.Descriptor) error {
	err := t.folder("blobs/")
	last := ""
	for _, d := range blobs {
		if a := d.Digest.Algorithm().String(); a != last {
			last = a
			err = errors.Join(err, t.folder("blobs/"+a+"/"))
		}
	}
	return err
}

func (t *tarWriter) file(name string, body []byte) error {
	size := int64(len(body))
	if err := t.header(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	t.pending.Write(body)
	t.pad(size)
	return nil
}

// blobs writes all blobs, and the end of the tar.
func (t *tarWriter) blobs(ctx context.Context, blobs []image.Descriptor, open Opener) error {
	for _, d := range blobs {
		if err := t.blob(ctx, d, open); err != nil {
			return err
		}
	}
	t.pending.Write(make([]byte, 2*block))
	return t.flush()
}

func (t *tarWriter) blob(ctx context.Context, d image.Descriptor, open Opener) (err error) {
	r, err := open(ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() != d.Size {
		return fmt.Errorf("blob %s has %d bytes where %d were expected: %w", d.Digest, r.Size(), d.Size, errdefs.ErrDataLoss)
	}
	if err := t.header(tar.Header{Typeflag: tar.TypeReg, Name: blobPath(d.Digest), Mode: 0o644, Size: d.Size}); err != nil {
		return err
	}
	if err := t.flush(); err != nil {
		return err
	}
	n, err := content.Send(ctx, t.w, r, d.Digest)
	if err == nil && n != d.Size {
		err = fmt.Errorf("%d bytes of blob %s came where %d were expected: %w", n, d.Digest, d.Size, errdefs.ErrDataLoss)
	}
	t.pad(d.Size)
	return err
}

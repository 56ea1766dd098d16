package transfer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/unpack"
)

// UnpackOptions say whether a transfer also unpacks what it brings.
type UnpackOptions struct {
	Snapshotter string // empty: the best one that works here
	NoUnpack    bool
	// Only are the platforms to unpack, of those that a transfer is about; empty: it decides.
	Only []image.Platform
}

// unpacking is the unpacking of one transfer.
type unpacking struct {
	unpacker *unpack.Unpacker
	run      *unpack.Run
	images   []unpack.Image
	diffIDs  map[image.Digest]image.Digest // of the layers that are wanted, by their blobs
}

// beginUnpacking is nil if nothing is to be unpacked.
func (s Store) beginUnpacking(o UnpackOptions, sink progress.Sink) (*unpacking, error) {
	if o.NoUnpack || s.Unpacker == nil {
		return nil, nil
	}
	u, err := s.Unpacker(o.Snapshotter)
	if err != nil {
		return nil, err
	}
	tuned := *u
	tuned.Progress = sink
	return &unpacking{unpacker: &tuned, run: tuned.Begin(), diffIDs: map[image.Digest]image.Digest{}}, nil
}

// add notes that an image is to be unpacked, unless it has nothing that could be: it is no
// image, or one of another operating system.
func (u *unpacking) add(manifest image.Digest, doc *image.Document, c *image.Config) error {
	if !doc.IsImage() || c.Platform.OS != "linux" {
		return nil
	}
	for _, l := range doc.Layers {
		if image.NonDistributable(l) {
			return nil
		}
	}
	img, err := unpack.ImageOf(manifest, doc, c)
	if err != nil {
		return err
	}
	u.images = append(u.images, img)
	for i, l := range img.Layers {
		u.diffIDs[l.Digest] = img.DiffIDs[i]
	}
	return nil
}

// digests lists what has to be held.
func (u *unpacking) digests() []image.Digest {
	if u == nil {
		return nil
	}
	var list []image.Digest
	for _, img := range u.images {
		list = append(list, img.Digests()...)
	}
	return list
}

// done tells whether all of it is unpacked already.
func (u *unpacking) done(ctx context.Context) (bool, error) {
	if u == nil {
		return true, nil
	}
	for _, img := range u.images {
		if ok, err := u.unpacker.Done(ctx, img); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// looksLikeLayer tells from the first bytes of a blob, as many as layerSniff, whether it may be a
// layer. What it overlooks is unpacked from the store.
func looksLikeLayer(b []byte) bool {
	switch image.Sniff(b) {
	case image.Gzip, image.Zstd:
		return true
	case image.Uncompressed:
		return len(b) == layerSniff && string(b[257:262]) == "ustar"
	default:
		return false
	}
}

// layerSniff is the length of a tar's first header.
const layerSniff = 512

// claim finds out which blobs need not be fetched, because a remote snapshotter has their layers.
func (u *unpacking) claim(ctx context.Context, name string) (map[image.Digest]bool, error) {
	lazy := map[image.Digest]bool{}
	if u == nil {
		return lazy, nil
	}
	for _, img := range u.images {
		claimed, err := u.run.Claim(ctx, img, name)
		if err != nil {
			return nil, err
		}
		for d := range claimed {
			lazy[d] = true
		}
	}
	return lazy, nil
}

// stream begins to unpack a layer whose blob is about to come, or is nil.
func (u *unpacking) stream(ctx context.Context, b need) (*unpack.Stream, error) {
	if u == nil || b.what != "layer" {
		return nil, nil
	}
	diffID := u.diffIDs[b.Digest]
	if diffID == "" {
		return nil, nil
	}
	return u.run.Stream(ctx, b.Digest, diffID)
}

// finish unpacks what did not come as a stream, and adds the rows of all of it to a batch.
func (u *unpacking) finish(ctx context.Context, batch *metadata.Batch) error {
	if u == nil {
		return nil
	}
	for _, img := range u.images {
		if err := u.run.Add(ctx, img); err != nil {
			return err
		}
	}
	return u.rows(batch)
}

// rows adds the rows of what was unpacked to a batch.
func (u *unpacking) rows(batch *metadata.Batch) error {
	if u == nil {
		return nil
	}
	rows, err := u.run.Rows()
	batch.Unpacked = append(batch.Unpacked, rows)
	return err
}

// A guess unpacks a blob that may be a layer. That it is none, or that it cannot be unpacked, is
// found out again, and said, when an image needs it; until then it is no error.
type guess struct {
	stream *unpack.Stream // nil: it is not tried, or not any more
}

// guess begins to unpack a blob of which nothing is known. The reader that it returns takes the
// place of r.
func (u *unpacking) guess(ctx context.Context, r io.Reader) (*guess, io.Reader, error) {
	g := &guess{}
	if u == nil {
		return g, r, nil
	}
	head := make([]byte, layerSniff)
	n, err := io.ReadFull(r, head)
	all := io.MultiReader(bytes.NewReader(head[:n]), r)
	if err != nil && !atEnd(err) {
		return g, all, err
	}
	if looksLikeLayer(head[:n]) {
		// Any name will do: who else has the layer will be seen when it is known which it is.
		g.stream, err = u.run.Stream(ctx, digest.FromString(rand.Text()), "")
	} else {
		err = nil
	}
	return g, all, err
}

// Write implements [io.Writer].
func (g *guess) Write(p []byte) (int, error) {
	if g.stream != nil {
		if _, err := g.stream.Write(p); err != nil {
			g.end(err)
		}
	}
	return len(p), nil
}

// end keeps what was unpacked if all went well.
func (g *guess) end(err error) {
	_ = endStream(g.stream, err)
	g.stream = nil
}

// endStream ends the unpacking of one layer, whose bytes came to an end with err.
func endStream(s *unpack.Stream, err error) error {
	switch {
	case s == nil:
		return err
	case err == nil:
		return s.Close()
	default:
		return errors.Join(err, s.Abort())
	}
}

// close ends the unpacking, whatever came of it.
func (u *unpacking) close(ctx context.Context) error {
	if u == nil {
		return nil
	}
	return u.run.Close(ctx)
}

// isBad tells whether an error says that a layer itself is wrong, so that its bytes are of no use
// to another try.
func isBad(err error) bool {
	var layer *unpack.LayerError
	if !errors.As(err, &layer) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var number syscall.Errno // of the disk or of the machine
	return !errors.As(err, &number) && !errdefs.IsFailedPrecondition(err)
}

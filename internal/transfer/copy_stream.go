package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// maxStreamed bounds the manifests that are kept of an archive while it goes past, in bytes.
const maxStreamed = 32 << 20

// fromStream copies out of an archive that can be read only once: it is compressed, or comes down a
// pipe. All of its blobs go to the target as they come, and then the documents of the image that is meant.
func (c *copying) fromStream(ctx context.Context, from Endpoint, r io.Reader) (*PushResult, error) {
	sink := &streamSink{documents: map[image.Digest][]byte{}, sizes: map[image.Digest]int64{}, sent: map[image.Digest]bool{}}
	var to ref.Reference
	var folder *dirTarget
	var err error
	switch c.to.Transport {
	case DockerTransport:
		sink.to, to, err = c.registry()
	case LayoutTransport:
		folder, err = c.folder("")
		sink.to = folder
	default:
		err = fmt.Errorf("an archive that comes compressed or down a pipe can be copied to docker:// and oci: alone: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	sink.mover = c.mover(nil, sink.to, from.String())
	found, err := archive.Read(ctx, r, sink)
	if err != nil {
		return nil, err
	}
	s := &archiveSource{Contents: *found, blob: sink.blob}
	name, err := s.choose(ctx, from)
	if err != nil {
		return nil, err
	}
	if folder != nil && c.to.Ref == "" {
		folder.name = name
	}
	m := c.mover(s, sink.to, name)
	m.sent = sink.sent
	l, err := m.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if folder != nil {
		return &m.res, m.carry(ctx, l)
	}
	return &m.res, m.send(ctx, l, to)
}

// A streamSink brings the blobs of an archive to a target as they go past.
type streamSink struct {
	to        target
	mover     *mover
	documents map[image.Digest][]byte
	kept      int64
	sizes     map[image.Digest]int64 // of the blobs that are at the target
	sent      map[image.Digest]bool  // those of them that were not there before
}

// Blob implements [archive.Sink].
func (k *streamSink) Blob(ctx context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	d := image.Descriptor{Digest: want, Size: size}
	if want == "" {
		return d, fmt.Errorf("the archive does not name its blobs by their digests, and cannot be read twice; decompress it into a file first: %w", errdefs.ErrFailedPrecondition)
	}
	if size <= image.MaxDocument {
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return d, err
		}
		if _, err := image.ParseDocument(b); err == nil {
			if k.kept += size; k.kept > maxStreamed {
				return d, fmt.Errorf("more than %d bytes of manifests in one archive: %w", maxStreamed, errdefs.ErrInvalidArgument)
			}
			k.documents[want] = b
			return d, image.Verify(d, b)
		}
		r = bytes.NewReader(b)
	}
	n := need{Descriptor: d, what: "blob"}
	from := &rereader{from: &once{r}, need: n, sink: k.mover.o.Progress, onFault: func(error) {}}
	out, err := k.to.putBlob(ctx, d, registry.BlobSource{Open: from.open}, func(error) {})
	if err != nil {
		return d, err
	}
	k.mover.tally(n, out)
	k.sizes[want] = size
	k.sent[want] = k.sent[want] || out.How == registry.Uploaded
	return d, nil
}

// blob gives the documents; of what is at the target by now it only tells that it is there.
func (k *streamSink) blob(d image.Digest) (content.Reader, error) {
	if b, ok := k.documents[d]; ok {
		return inOrder{io.NopCloser(bytes.NewReader(b)), &position{size: int64(len(b))}}, nil
	}
	if size, ok := k.sizes[d]; ok {
		return inOrder{io.NopCloser(bytes.NewReader(nil)), &position{size: size}}, nil
	}
	return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
}

// once is a blob that can be read once.
type once struct{ r io.Reader }

func (o *once) open(_ context.Context, _ image.Descriptor, _ int64, _ func(error)) (io.ReadCloser, error) {
	if o.r == nil {
		return nil, fmt.Errorf("the upload broke off, and the archive cannot be read again: %w", errdefs.ErrUnavailable)
	}
	r := o.r
	o.r = nil
	return io.NopCloser(r), nil
}

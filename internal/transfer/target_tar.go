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
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/registry"
)

// nowhere is a target that has nothing yet: a tar, whose blobs are written in an order of its own.
type nowhere struct{}

func (nowhere) hasDocument(context.Context, image.Descriptor) (bool, error) { return false, nil }

func (nowhere) hasBlob(context.Context, image.Descriptor) (bool, error) { return false, nil }

func (nowhere) putBlob(context.Context, image.Descriptor, registry.BlobSource, func(error)) (registry.PushOutcome, error) {
	return registry.PushOutcome{}, errAbsent
}

func (nowhere) putDocument(context.Context, image.Descriptor, []byte) error { return errAbsent }

func (nowhere) finish(context.Context, image.Descriptor, []byte, []image.Descriptor) error {
	return errAbsent
}

func (nowhere) origins(context.Context, source, image.Descriptor) ([]string, error) { return nil, nil }

func (nowhere) gaps() bool { return true }

// pack writes a load to w as a tar that is an OCI layout, and lists for docker one of its
// platforms. img says what it is called.
func (m *mover) pack(ctx context.Context, w io.Writer, l *load, img archive.ExportImage) error {
	img.Target, img.Docker = l.main.root, dockerEntry(l.main.tree, l.main.images())
	layout := archive.Layout{Images: []archive.ExportImage{img}}
	needs := map[image.Digest]need{}
	var total int64
	add := func(n need) {
		if _, ok := needs[n.Digest]; !ok {
			needs[n.Digest] = n
			layout.Blobs = append(layout.Blobs, n.Descriptor)
			total += n.Size
		}
	}
	bodies := map[image.Digest][]byte{}
	for i, c := range append([]*cargo{l.main}, l.referrers...) {
		if i > 0 {
			layout.Images = append(layout.Images, archive.ExportImage{Target: c.root})
		}
		for _, d := range c.documents() {
			bodies[d.Digest] = c.bodies[d.Digest]
			add(need{Descriptor: d, what: "manifest"})
		}
		for _, n := range c.blobs() {
			add(n)
		}
	}
	m.o.Progress.Send(progress.Event{Kind: progress.Planned, Name: m.name, Count: len(layout.Blobs), Total: total})
	return archive.Write(ctx, w, layout, func(ctx context.Context, d image.Descriptor) (content.Reader, error) {
		if b := bodies[d.Digest]; b != nil {
			m.count(&m.res.Pushed, d.Size)
			return inOrder{io.NopCloser(bytes.NewReader(b)), &position{size: d.Size}}, nil
		}
		n := needs[d.Digest]
		r := &rereader{from: m.from, need: n, sink: m.o.Progress, onFault: retrying(m.o.Progress, n)}
		body, err := r.open(ctx, 0)
		if err != nil {
			return nil, err
		}
		return inOrder{body, &position{size: d.Size, done: func() { m.tally(n, registry.PushOutcome{How: registry.Uploaded}) }}}, nil
	})
}

// images lists the manifests of a cargo that are images for a platform.
func (c *cargo) images() []image.Descriptor {
	var list []image.Descriptor
	for _, p := range c.parts {
		if p.doc != nil && p.doc.IsImage() && !image.IsAttestation(p.Descriptor) {
			list = append(list, p.Descriptor)
		}
	}
	return list
}

// inOrder is a blob that can only be read from its beginning to its end. It was verified on the
// way, by the [rereader] that gives it.
type inOrder struct {
	io.ReadCloser
	*position
}

type position struct {
	at, size int64
	done     func() // may be nil
}

func (r inOrder) Size() int64 { return r.size }

func (inOrder) Vouched() bool { return true }

func (r inOrder) ReadAt(p []byte, off int64) (int, error) {
	if off != r.at {
		return 0, fmt.Errorf("read at %d of a blob that is at %d: %w", off, r.at, errdefs.ErrOutOfRange)
	}
	n, err := io.ReadFull(r.ReadCloser, p)
	r.at += int64(n)
	if r.at == r.size && r.done != nil {
		r.done()
		r.done = nil
	}
	if atEnd(err) {
		err = io.EOF
	}
	return n, err
}

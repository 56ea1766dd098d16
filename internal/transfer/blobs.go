package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
)

// FetchBlob brings one blob of the image that r names into the store, without naming the image.
// A digest that is nowhere in the image is [errdefs.ErrNotFound].
func FetchBlob(ctx context.Context, s Store, reg Registry, r ref.Reference, d image.Digest, sink progress.Sink) (image.Descriptor, error) {
	fail := func(err error) (image.Descriptor, error) {
		return image.Descriptor{}, fmt.Errorf("fetch %s of %s: %w", d, r, err)
	}
	found, err := reg.Resolve(ctx, r)
	if err != nil {
		return fail(err)
	}
	p := newPull(s, reg, r, PullOptions{Choice: Choice{All: true}, Progress: sink})
	_, t, err := p.selection(ctx, found.Descriptor)
	if err != nil {
		return fail(err)
	}
	sel, err := selectBlobs(t, present(t))
	if err != nil {
		return fail(err)
	}
	for _, n := range sel.all() {
		if n.Digest != d {
			continue
		}
		n.optional = false
		if err := p.bring(ctx, nil, []need{n}, &PullResult{}, func() (metadata.Batch, error) { return metadata.Batch{}, nil }); err != nil {
			return fail(err)
		}
		return n.Descriptor, nil
	}
	return fail(errdefs.ErrNotFound)
}

// Ingest stores what r gives as a blob under no name. want may be empty, and size negative,
// where they are not known.
func Ingest(ctx context.Context, s Store, key string, r io.Reader, want image.Digest, size int64) (d image.Descriptor, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ingest %s: %w", key, err)
		}
	}()
	hold, err := s.Meta.Hold(ctx, s.Namespace)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	in, err := s.Content.Begin(ctx, key, content.Want{Digest: want, Size: size})
	if errdefs.IsAlreadyExists(err) {
		info, err := s.Content.Info(ctx, want)
		if err != nil {
			return d, err
		}
		return s.record(ctx, info.Digest, info.Size)
	}
	if err != nil {
		return d, err
	}
	if _, err = io.CopyN(io.Discard, r, in.Offset()); err == nil {
		err = pump(ctx, in, nil, r, size, func(int64) {})
	}
	if err != nil {
		return d, errors.Join(err, in.Close())
	}
	digest, n := in.Digest(), in.Offset()
	if want != "" && digest != want {
		return d, errors.Join(&content.MismatchError{Want: want, Got: digest}, in.Abort())
	}
	if err := s.Content.Commit(ctx, in); err != nil {
		return d, err
	}
	return s.record(ctx, digest, n)
}

// record makes a blob known to the namespace.
func (s Store) record(ctx context.Context, d image.Digest, size int64) (image.Descriptor, error) {
	_, err := s.Meta.Apply(ctx, s.Namespace, metadata.Batch{Blobs: []metadata.Blob{{Digest: d, Size: size}}})
	return image.Descriptor{Digest: d, Size: size}, err
}

// ExportBlobs writes blobs to w as the blobs folder of an OCI layout, in a tar.
func ExportBlobs(ctx context.Context, s Store, w io.Writer, blobs []image.Descriptor) (err error) {
	digests := make([]image.Digest, len(blobs))
	for i, d := range blobs {
		digests[i] = d.Digest
	}
	release, err := s.hold(ctx, digests)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer joinRelease(release, &err)
	err = archive.WriteBlobs(ctx, w, blobs, func(ctx context.Context, d image.Descriptor) (content.Reader, error) {
		return s.Content.Open(ctx, d.Digest)
	})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// ImportBlobs stores the blobs of a tar, each verified, under no name.
func ImportBlobs(ctx context.Context, s Store, r io.Reader) (res *ImportResult, err error) {
	hold, err := s.Meta.Hold(ctx, s.Namespace)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	var batch metadata.Batch
	sink := &importSink{content: s.Content}
	err = archive.ReadBlobs(ctx, r, recording{sink, &batch})
	if err == nil {
		err = sink.flush(ctx)
	}
	if err == nil {
		_, err = s.Meta.Apply(ctx, s.Namespace, batch)
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", errors.Join(err, sink.close()))
	}
	return &ImportResult{Fetched: sink.fetched, Reused: sink.reused}, nil
}

// recording is a sink that also notes what came.
type recording struct {
	*importSink
	batch *metadata.Batch
}

func (r recording) Blob(ctx context.Context, want image.Digest, size int64, from io.Reader) (image.Descriptor, error) {
	d, err := r.importSink.Blob(ctx, want, size, from)
	if err == nil {
		r.batch.Blobs = append(r.batch.Blobs, metadata.Blob{Digest: d.Digest, Size: d.Size})
	}
	return d, err
}

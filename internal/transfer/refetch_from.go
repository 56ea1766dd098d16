package transfer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/ref"
)

// fromEndpoint asks one endpoint for all that is open.
func (r *refetch) fromEndpoint(ctx context.Context, e Endpoint, open []*wanted) (err error) {
	each := func(o outlet) error {
		return par.Each(ctx, r.o.Streams, open, func(ctx context.Context, w *wanted) error { return r.try(ctx, w, o) })
	}
	switch e.Transport {
	case DockerTransport:
		at, err := ref.Parse(e.Ref)
		if err != nil {
			return err
		}
		return each(registryOutlet(r.reg, at))
	case LayoutTransport, ArchiveTransport, DockerArchiveTransport:
	default:
		return fmt.Errorf("blobs are not fetched from there: %w", errdefs.ErrInvalidArgument)
	}
	a, err := openArchive(ctx, e)
	if errdefs.IsFailedPrecondition(err) {
		return r.fromStream(ctx, e, open)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	return each(outlet{name: e.String(), from: blobsOf{a}})
}

// blobsOf lets a fetcher read an archive.
type blobsOf struct{ *archive.Archive }

func (a blobsOf) Blob(_ context.Context, _ ref.Reference, d image.Descriptor, offset int64, _ func(error)) (io.ReadCloser, error) {
	r, err := a.Open(d.Digest)
	if err != nil {
		return nil, err
	}
	return readFrom(r, d, offset)
}

// documentsOf lets a fetcher read manifests and indexes, which registries keep apart.
type documentsOf struct{ Registry }

func (m documentsOf) Blob(ctx context.Context, r ref.Reference, d image.Descriptor, offset int64, _ func(error)) (io.ReadCloser, error) {
	if d.Size > image.MaxDocument {
		return nil, fmt.Errorf("manifest %s has %d bytes where at most %d are read: %w", d.Digest, d.Size, image.MaxDocument, errdefs.ErrInvalidArgument)
	}
	b, err := m.Manifest(ctx, r, d)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b[min(offset, int64(len(b))):])), nil
}

// fromStream takes what is open out of an archive that can be read only once.
func (r *refetch) fromStream(ctx context.Context, e Endpoint, open []*wanted) (err error) {
	f, err := os.Open(e.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	k := &picker{refetch: r, name: e.String(), sizes: map[int64]bool{}}
	for _, w := range open {
		k.sizes[w.Size] = true
	}
	if _, err := archive.Read(ctx, f, k); err != nil {
		return err
	}
	for _, w := range open {
		if !w.here {
			w.tried = append(w.tried, fmt.Errorf("%s: %w", e, errdefs.ErrNotFound))
		}
	}
	return nil
}

// A picker takes from an archive the blobs that are wanted, as they go past.
type picker struct {
	*refetch
	name  string
	sizes map[int64]bool // of the wanted ones
}

// Blob implements [archive.Sink].
func (k *picker) Blob(ctx context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	d := image.Descriptor{Digest: want, Size: size}
	w := k.wants[want]
	switch {
	case want != "" && (w == nil || w.here || w.Size != size):
		return d, nil
	case want == "" && !k.sizes[size]:
		h := digest.Canonical.Digester()
		_, err := io.Copy(h.Hash(), r)
		d.Digest = h.Digest()
		return d, err
	}
	key := want.String()
	if want == "" {
		key = "refetch-" + rand.Text() // it may be any
	}
	in, err := begin(ctx, k.Content, key, content.Want{Digest: want, Size: size, Wait: true})
	if errdefs.IsAlreadyExists(err) {
		w.here = true // somebody else was quicker
		return d, nil
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
	d.Digest = in.Digest()
	switch {
	case want != "" && want != d.Digest:
		return d, errors.Join(&content.MismatchError{Want: want, Got: d.Digest}, in.Abort())
	case k.wants[d.Digest] == nil || k.wants[d.Digest].here:
		return d, in.Abort()
	}
	if err := k.Content.Commit(ctx, in); err != nil {
		return d, err
	}
	k.came(k.wants[d.Digest], k.name, nil)
	return d, nil
}

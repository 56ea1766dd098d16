package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// A source is where an image is taken from. Goroutines may share it.
type source interface {
	// root is what is to be taken.
	root() image.Descriptor
	// document reads a manifest or an index. Errors: [errdefs.ErrNotFound].
	document(ctx context.Context, d image.Descriptor) ([]byte, error)
	// has tells whether a blob of the image is here.
	has(ctx context.Context, d image.Descriptor) (bool, error)
	// open reads a blob from offset to its end. Whoever reads it verifies it, unless it is a
	// [content.Voucher] that vouches. Errors: [errdefs.ErrNotFound].
	open(ctx context.Context, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error)
	// referrers lists the manifests whose subject is d.
	referrers(ctx context.Context, d image.Descriptor) ([]image.Descriptor, error)
	// origins lists repositories of a registry that the blob is known to have come from, the latest first.
	origins(ctx context.Context, d image.Descriptor, registry string) ([]string, error)
}

// storeSource takes an image, which is held, from a store.
type storeSource struct {
	*demand
	name   string
	target image.Descriptor
}

func (s storeSource) root() image.Descriptor { return s.target }

func (s storeSource) document(ctx context.Context, d image.Descriptor) ([]byte, error) {
	return content.ReadBlob(ctx, s.Content, d.Digest, image.MaxDocument)
}

func (s storeSource) open(ctx context.Context, d image.Descriptor, offset int64, _ func(error)) (io.ReadCloser, error) {
	r, err := s.demand.open(ctx, d)
	if err != nil {
		return nil, err
	}
	return readFrom(r, d, offset)
}

// readFrom reads what is left of a blob.
func readFrom(r content.Reader, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	if r.Size() != d.Size {
		err := &content.SizeError{Digest: d.Digest, Want: d.Size, Got: r.Size()}
		return nil, errors.Join(err, r.Close())
	}
	return &rest{r, io.NewSectionReader(r, offset, d.Size-offset)}, nil
}

// rest is a blob from some offset on.
type rest struct {
	content.Reader
	section *io.SectionReader
}

func (r *rest) Read(p []byte) (int, error) { return r.section.Read(p) }

// Vouched tells whether the store vouches for the bytes.
func (r *rest) Vouched() bool {
	v, ok := r.Reader.(content.Voucher)
	return ok && v.Vouched()
}

func (s storeSource) referrers(ctx context.Context, d image.Descriptor) ([]image.Descriptor, error) {
	edges, err := s.Meta.ReferencedBy(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	var parents []image.Digest
	for _, e := range edges {
		if e.Place == "subject" {
			parents = append(parents, e.Parent)
		}
	}
	docs, err := s.Meta.Documents(ctx, parents...)
	if err != nil {
		return nil, err
	}
	var list []image.Descriptor
	for _, doc := range docs {
		found := image.Descriptor{MediaType: doc.MediaType, Digest: doc.Digest, Size: doc.Size, ArtifactType: doc.ArtifactType}
		ok, err := s.have(ctx, found)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, found)
		}
	}
	return list, nil
}

// origins reads what a pull noted on the blob, and on the root for those blobs that never came.
func (s storeSource) origins(ctx context.Context, d image.Descriptor, registry string) ([]string, error) {
	var list []string
	for _, from := range []image.Digest{d.Digest, s.target.Digest} {
		b, err := s.Meta.Blob(ctx, s.Namespace, from)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		repos := strings.Split(b.Labels[metadata.SourceLabel+registry], ",")
		for _, repo := range slices.Backward(repos) {
			if repo != "" && !slices.Contains(list, repo) {
				list = append(list, repo)
			}
		}
	}
	return list, nil
}

// tagged implements [tagged]: what is stored under the tag, if it is.
func (s storeSource) tagged(ctx context.Context, tag string) (image.Descriptor, error) {
	r, err := ref.Parse(s.name)
	if err != nil {
		return image.Descriptor{}, fmt.Errorf("%s is in no repository: %w", s.name, errdefs.ErrNotFound)
	}
	if r, err = r.WithoutDigest().WithTag(tag); err != nil {
		return image.Descriptor{}, err
	}
	img, err := s.Meta.Image(ctx, s.Namespace, r.String())
	return img.Target, err
}

// registrySource takes an image from a registry.
type registrySource struct {
	reg   Pusher
	r     ref.Reference
	found registry.Resolved
}

func newRegistrySource(ctx context.Context, reg Pusher, r ref.Reference) (*registrySource, error) {
	found, err := reg.Resolve(ctx, r)
	return &registrySource{reg, r, found}, err
}

func (s *registrySource) root() image.Descriptor { return s.found.Descriptor }

func (s *registrySource) document(ctx context.Context, d image.Descriptor) ([]byte, error) {
	if d.Digest == s.found.Digest && s.found.Body != nil {
		return s.found.Body, nil
	}
	return s.reg.Manifest(ctx, s.r, d)
}

// has trusts the registry, which took the manifest only with all that it lists.
func (s *registrySource) has(context.Context, image.Descriptor) (bool, error) { return true, nil }

func (s *registrySource) open(ctx context.Context, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	return s.reg.Blob(ctx, s.r, d, offset, onFault)
}

func (s *registrySource) referrers(ctx context.Context, d image.Descriptor) ([]image.Descriptor, error) {
	return s.reg.Referrers(ctx, s.r, d.Digest)
}

// tagged implements [tagged].
func (s *registrySource) tagged(ctx context.Context, tag string) (image.Descriptor, error) {
	r, err := s.r.WithoutDigest().WithTag(tag)
	if err != nil {
		return image.Descriptor{}, err
	}
	found, err := s.reg.Resolve(ctx, r)
	return found.Descriptor, err
}

func (s *registrySource) origins(_ context.Context, _ image.Descriptor, registry string) ([]string, error) {
	if registry != s.r.Registry() {
		return nil, nil
	}
	return []string{s.r.Repository()}, nil
}

// maxListed bounds how many entries without a name of a layout's index.json are looked into for referrers.
const maxListed = 4096

// archiveSource takes an image from an archive.
type archiveSource struct {
	archive.Contents
	blob   func(image.Digest) (content.Reader, error) // opens one; [errdefs.ErrNotFound]
	target image.Descriptor

	referrersOnce sync.Once
	bySubject     map[image.Digest][]image.Descriptor
	referrersErr  error
}

func (s *archiveSource) root() image.Descriptor { return s.target }

func (s *archiveSource) document(ctx context.Context, d image.Descriptor) ([]byte, error) {
	if d.Size > image.MaxDocument {
		return nil, fmt.Errorf("manifest %s has %d bytes where at most %d are read: %w", d.Digest, d.Size, image.MaxDocument, errdefs.ErrInvalidArgument)
	}
	r, err := s.open(ctx, d, 0, nil)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return b, image.Verify(d, b)
}

func (s *archiveSource) has(_ context.Context, d image.Descriptor) (bool, error) {
	r, err := s.blob(d.Digest)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, r.Close()
}

func (s *archiveSource) open(_ context.Context, d image.Descriptor, offset int64, _ func(error)) (io.ReadCloser, error) {
	r, err := s.blob(d.Digest)
	if err != nil {
		return nil, err
	}
	return readFrom(r, d, offset)
}

// referrers finds them among the images that the archive lists without a name.
func (s *archiveSource) referrers(ctx context.Context, d image.Descriptor) ([]image.Descriptor, error) {
	s.referrersOnce.Do(func() { s.bySubject, s.referrersErr = s.listReferrers(ctx) })
	return s.bySubject[d.Digest], s.referrersErr
}

func (s *archiveSource) listReferrers(ctx context.Context) (map[image.Digest][]image.Descriptor, error) {
	found := map[image.Digest][]image.Descriptor{}
	looked := 0
	for _, e := range s.Images {
		if e.Name != "" || e.Tag != "" {
			continue
		}
		if looked++; looked > maxListed {
			return nil, fmt.Errorf("more than %d images without a name in one archive: %w", maxListed, errdefs.ErrInvalidArgument)
		}
		b, err := s.document(ctx, e.Target)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		doc, err := image.ParseDocument(b)
		if err != nil {
			return nil, err
		}
		if doc.Subject != nil {
			e.Target.ArtifactType = doc.ArtifactType
			found[doc.Subject.Digest] = append(found[doc.Subject.Digest], e.Target)
		}
	}
	return found, nil
}

func (s *archiveSource) origins(context.Context, image.Descriptor, string) ([]string, error) {
	return nil, nil
}

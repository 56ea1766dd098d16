package stowage

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/doctor"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/transfer"
)

// BlobInfo describes a blob and what refers to it.
type BlobInfo struct {
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"`
	CreatedAt    time.Time         `json:"createdAt"`
	UpdatedAt    time.Time         `json:"updatedAt"`
	Labels       map[string]string `json:"labels"`
	ReferencedBy []Edge            `json:"referencedBy"`
}

// Blobs lists the blobs of the namespace.
func (s *Store) Blobs(ctx context.Context) ([]Blob, error) { return s.meta.Blobs(ctx, s.ns) }

// Blob finds a blob by its digest or a unique prefix of it, in whatever namespace its bytes came.
func (s *Store) Blob(ctx context.Context, digest string) (*BlobInfo, error) {
	d, err := s.digestOf(ctx, digest)
	if err != nil {
		return nil, err
	}
	b, err := s.meta.Blob(ctx, s.ns, d)
	if err != nil {
		return nil, err
	}
	if _, err := s.content.Info(ctx, d); err != nil {
		return nil, err
	}
	info := &BlobInfo{Digest: b.Digest, Size: b.Size, CreatedAt: b.CreatedAt, UpdatedAt: b.UpdatedAt, Labels: b.Labels, ReferencedBy: []Edge{}}
	if info.Labels == nil {
		info.Labels = map[string]string{}
	}
	edges, err := s.meta.ReferencedBy(ctx, d)
	if err != nil {
		return nil, err
	}
	info.ReferencedBy = append(info.ReferencedBy, edges...)
	return info, nil
}

// Fetch is [Store.Pull] that leaves the layers packed. A reference that ends in the digest of a
// layer or a config of the image brings that blob alone, under no name. It returns NAME@DIGEST
// of what it brought.
func (s *Store) Fetch(ctx context.Context, reference string, o PullOptions) (string, error) {
	defer s.writing()()
	r, err := ref.Parse(reference)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", reference, err)
	}
	res, err := transfer.Pull(ctx, s.place(), s.reg, r, o)
	if err == nil {
		s.makeRoom(ctx, res.Name)
		return res.Name + "@" + res.Digest.String(), nil
	}
	whole := r.WithoutDigest()
	if r.Digest() == "" || !errdefs.IsNotFound(err) {
		return "", err
	}
	// No manifest has that digest; a blob of the image may.
	d, blobErr := transfer.FetchBlob(ctx, s.place(), s.reg, whole, r.Digest(), o.Progress)
	if blobErr != nil {
		return "", blobErr
	}
	return whole.String() + "@" + d.Digest.String(), nil
}

// Verify reads blobs and compares their digests; report gets one finding at a time.
func (s *Store) Verify(ctx context.Context, digests []string, o VerifyOptions, report func(BlobFinding)) error {
	var list []content.Info
	for _, text := range digests {
		d, err := s.digestOf(ctx, text)
		if err != nil {
			return err
		}
		b, err := s.content.Info(ctx, d)
		if errdefs.IsNotFound(err) {
			b.Digest, err = d, nil // which is for the report to say
		}
		if err != nil {
			return err
		}
		list = append(list, b)
	}
	return doctor.VerifyBlobs(ctx, s.content, list, o, report)
}

// VerifyAll is [Store.Verify] for every blob in the store, whatever its namespace. With resume it
// goes on where the last run was interrupted; what was damaged then, and what was touched since,
// is read again.
func (s *Store) VerifyAll(ctx context.Context, resume bool, o VerifyOptions, report func(BlobFinding)) error {
	return doctor.VerifyAll(ctx, s.content, filepath.Join(s.root, "metadata", "verify"), resume, o, report)
}

// RemoveBlob removes a blob. One that an image or a lease needs is [errdefs.ErrFailedPrecondition]
// unless forced; the images that needed it are then no longer complete.
func (s *Store) RemoveBlob(ctx context.Context, digest string, force bool) (Digest, error) {
	d, err := s.digestOf(ctx, digest)
	if err != nil {
		return "", err
	}
	if err := s.meta.RemoveBlob(ctx, s.ns, d, force); err != nil {
		return "", err
	}
	if _, err := gc.Sweep(ctx, s.collected()); err != nil {
		return "", err
	}
	return d, nil
}

// LabelBlob sets labels of a blob; an empty value removes one.
func (s *Store) LabelBlob(ctx context.Context, digest string, labels map[string]string) error {
	d, err := s.digestOf(ctx, digest)
	if err != nil {
		return err
	}
	_, err = s.meta.LabelBlob(ctx, s.ns, d, labels)
	return err
}

// Ingests lists what is being written or was left unfinished.
func (s *Store) Ingests(ctx context.Context) ([]IngestStatus, error) { return s.content.Ingests(ctx) }

// AbortIngest throws away what was kept of an unfinished blob.
func (s *Store) AbortIngest(ctx context.Context, key string) error { return s.content.Abort(ctx, key) }

// Ingest stores what r gives as a blob. want and size, where they are known (not empty, not
// negative), must be right. Nothing refers to the blob; a lease keeps it from collection.
func (s *Store) Ingest(ctx context.Context, key string, r io.Reader, want Digest, size int64) (Descriptor, error) {
	defer s.writing()()
	return transfer.Ingest(ctx, s.place(), key, r, want, size)
}

// ExportBlobs writes blobs as a tar of an OCI layout's blobs folder; no digest means all of the
// namespace.
func (s *Store) ExportBlobs(ctx context.Context, w io.Writer, digests []string) error {
	var list []Descriptor
	for _, text := range digests {
		b, err := s.Blob(ctx, text)
		if err != nil {
			return err
		}
		list = append(list, Descriptor{Digest: b.Digest, Size: b.Size})
	}
	if len(digests) == 0 {
		blobs, err := s.Blobs(ctx)
		if err != nil {
			return err
		}
		for _, b := range blobs {
			list = append(list, Descriptor{Digest: b.Digest, Size: b.Size})
		}
	}
	return transfer.ExportBlobs(ctx, s.place(), w, list)
}

// ExportBlobsFile is [Store.ExportBlobs] to a file, which gets its name only when it is complete.
func (s *Store) ExportBlobsFile(ctx context.Context, file string, digests []string) error {
	return transfer.WriteFile(file, s.nosync, func(w io.Writer) error { return s.ExportBlobs(ctx, w, digests) })
}

// ImportBlobs stores the blobs of a tar as [Store.ExportBlobs] writes it, each verified.
func (s *Store) ImportBlobs(ctx context.Context, r io.Reader) (*ImportResult, error) {
	defer s.writing()()
	return transfer.ImportBlobs(ctx, s.place(), r)
}

// Leases lists the leases of the namespace, those of running operations included.
func (s *Store) Leases(ctx context.Context) ([]Lease, error) { return s.meta.Leases(ctx, s.ns) }

// CreateLease makes a lease; with no ID it gets one.
func (s *Store) CreateLease(ctx context.Context, l Lease) (Lease, error) {
	return s.meta.CreateLease(ctx, s.ns, l)
}

// DeleteLease removes a lease. That of a running operation is [errdefs.ErrFailedPrecondition].
func (s *Store) DeleteLease(ctx context.Context, id string) error {
	return s.meta.DeleteLease(ctx, s.ns, id)
}

// Namespaces lists the namespaces with their labels.
func (s *Store) Namespaces(ctx context.Context) ([]metadata.Namespace, error) {
	return s.meta.Namespaces(ctx)
}

// CreateNamespace makes a namespace; one is also made by the first use of its name.
func (s *Store) CreateNamespace(ctx context.Context, name string, labels map[string]string) error {
	return s.meta.CreateNamespace(ctx, name, labels)
}

// DeleteNamespace removes a namespace with nothing in it.
func (s *Store) DeleteNamespace(ctx context.Context, name string) error {
	return s.meta.DeleteNamespace(ctx, name)
}

// LabelNamespace sets labels of a namespace; an empty value removes one.
func (s *Store) LabelNamespace(ctx context.Context, name string, labels map[string]string) error {
	return s.meta.LabelNamespace(ctx, name, labels)
}

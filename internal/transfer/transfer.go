// Package transfer moves images: from a registry into the store (pull) and back (push), from the
// store into an archive (export) and back (import), and past the store from any place to any other (copy).
//
// A push is a copy whose source is the store. A copy reads the documents of a source into a cargo,
// leaves of it what was asked for, settles what is missing with the target, and then carries blobs,
// manifests, indexes and the name, in this order.
//
// It owns the order of things. Bytes go through once, hashed and written as they arrive, and are
// never read back: layers are unpacked in the same pass. What is whole is made durable with one
// flush; only then are the rows written, in one transaction that checks that the bytes are there. A hold keeps the collector away from
// all that a running transfer counts on.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/unpack"
)

// A Store is where images are kept: bytes, rows, and the namespace to work in.
type Store struct {
	Content   content.Store
	Meta      *metadata.Store
	Namespace string
	// Unpacker gives what unpacks into the snapshotter called so; an empty name is the best one
	// that works here.
	Unpacker func(snapshotter string) (*unpack.Unpacker, error)
}

// A MissingError reports blobs of an image that are not in the store.
type MissingError struct {
	Name    string // of the image
	Missing []image.Descriptor
}

func (e *MissingError) Error() string {
	list := make([]string, len(e.Missing))
	for i, d := range e.Missing {
		list[i] = d.Digest.String()
	}
	noun := "blobs are"
	if len(list) == 1 {
		noun = "blob is"
	}
	return fmt.Sprintf("%s is not complete: %d %s missing: %s", e.Name, len(list), noun, strings.Join(list, " "))
}

// Unwrap makes a MissingError an [errdefs.ErrNotFound].
func (e *MissingError) Unwrap() error { return errdefs.ErrNotFound }

// tree reads the documents below root that the store has; the others are left absent.
func (s Store) tree(ctx context.Context, root image.Descriptor) (*image.Tree, error) {
	return image.ReadTree(ctx, root, func(ctx context.Context, d image.Descriptor) ([]byte, error) {
		return content.ReadBlob(ctx, s.Content, d.Digest, image.MaxDocument)
	})
}

// have tells whether the bytes of d are in the store. Those of another size are as good as absent
// if they are damaged, and otherwise not what d says.
func (s Store) have(ctx context.Context, d image.Descriptor) (bool, error) {
	_, ok, err := s.find(ctx, d)
	return ok, err
}

// find is have, with what the store says of the blob.
func (s Store) find(ctx context.Context, d image.Descriptor) (info content.Info, ok bool, err error) {
	info, err = s.Content.Info(ctx, d.Digest)
	switch {
	case errdefs.IsNotFound(err):
		return info, false, nil
	case err != nil:
		return info, false, err
	case info.Size == d.Size:
		return info, true, nil
	}
	damaged, err := isDamaged(ctx, s.Content, d.Digest)
	if err == nil && !damaged {
		err = &content.SizeError{Digest: d.Digest, Want: d.Size, Got: info.Size}
	}
	return info, false, err
}

// haveDurably is have for a blob that is to be counted on. It may have come from elsewhere, in a
// commit that did not get to its end or that was not synced: beginning to write it settles that.
func (s Store) haveDurably(ctx context.Context, d image.Descriptor) (bool, error) {
	if ok, err := s.have(ctx, d); !ok || err != nil {
		return false, err
	}
	in, err := begin(ctx, s.Content, d.Digest.String(), content.Want{Digest: d.Digest, Size: d.Size, Wait: true})
	if errdefs.IsAlreadyExists(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, in.Close() // it was not whole
}

// isDamaged reads a blob to find out.
func isDamaged(ctx context.Context, store content.Store, d image.Digest) (damaged bool, err error) {
	r, err := store.Open(ctx, d)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var mismatch *content.MismatchError
	if _, err = content.Copy(ctx, io.Discard, r, d); errors.As(err, &mismatch) {
		return true, nil
	}
	return false, err
}

// begin is [content.Store.Begin] that first puts away a blob that is not whole: a disk can lose
// the end of a file.
func begin(ctx context.Context, store content.Store, key string, want content.Want) (content.Ingest, error) {
	in, err := store.Begin(ctx, key, want)
	if !errdefs.IsAlreadyExists(err) || want.Size < 0 {
		return in, err
	}
	info, infoErr := store.Info(ctx, want.Digest)
	if infoErr != nil || info.Size == want.Size {
		return nil, errors.Join(err, infoErr)
	}
	damaged, readErr := isDamaged(ctx, store, want.Digest)
	switch {
	case readErr != nil:
		return nil, readErr
	case !damaged:
		return nil, &content.SizeError{Digest: want.Digest, Want: want.Size, Got: info.Size}
	}
	if err := store.Delete(ctx, want.Digest); err != nil {
		return nil, err
	}
	return store.Begin(ctx, key, want)
}

// missing lists those of descriptors whose bytes are not in the store.
func (s Store) missing(ctx context.Context, descriptors []image.Descriptor) ([]image.Descriptor, error) {
	var gone []image.Descriptor
	for _, d := range descriptors {
		ok, err := s.have(ctx, d)
		if err != nil {
			return nil, err
		}
		if !ok {
			gone = append(gone, d)
		}
	}
	return gone, nil
}

// hold keeps digests from collection until release. A store that cannot be written is one that
// nobody collects: there it holds nothing.
func (s Store) hold(ctx context.Context, digests []image.Digest) (release func() error, err error) {
	h, err := s.Meta.Hold(ctx, s.Namespace, digests...)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	return func() error { return h.Release(context.WithoutCancel(ctx)) }, nil
}

// joinRelease ends a hold and joins its failure to that of the work.
func joinRelease(release func() error, err *error) {
	*err = errors.Join(*err, release())
}

// Package dir keeps blobs in a folder of a disk. It owns everything beneath content/ there:
//
//	content/blobs/<algorithm>/<hex>  finished blobs, mode 0444
//	content/quarantine/<algorithm>-<hex>[-<n>]  blobs that were moved aside
//	content/ingest/<id>              the bytes of an ingest; <id> is the sha256 of its key
//	content/ingest/<id>.state        what is needed to go on with it; see doc/formats/content.md
//
// What holds it together:
//   - The writer of an ingest holds the lock of its data file. That very file is renamed to be
//     the blob, so whoever waited for the lock looks again whether the name still leads to it.
//   - A blob's name comes after its bytes are on stable storage, and mode 0444 after its name is.
//     A blob of mode 0400 is thus a commit that is not at its end, or did not get there, and one
//     of mode 0440 was never synced. Whoever wants to count on one makes it durable first.
//   - A state is believed while the machine is up, or for ever if it was synced after the bytes
//     it vouches for; those bytes are never overwritten before it is gone for good.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

const (
	blobsDir   = "content/blobs"
	ingestsDir = "content/ingest"
)

var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// A Store is a [content.Store] in a folder. It keeps nothing open and nothing in memory between
// calls; any number of them, in any number of processes, may share the folder.
type Store struct{ disk vfs.FS }

var _ content.Store = (*Store)(nil)

// Open opens the store on disk and makes its folders if need be. On a disk that cannot be
// written the blobs that are there can be read.
func Open(disk vfs.FS) (*Store, error) {
	s := &Store{disk: disk}
	fi, err := disk.Lstat(ingestsDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode().Perm() == volatile {
		err = s.makeFolders()
	}
	if err != nil && !unwritable(err) {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	return s, nil
}

// volatile is the mode of the ingest folder until the folders above it are durable.
const volatile = 0o700

func (s *Store) makeFolders() error {
	folders := []string{"content", blobsDir}
	for _, a := range algorithms {
		folders = append(folders, algorithmDir(a))
	}
	for _, name := range folders {
		if err := s.mkdir(name, 0o755); err != nil {
			return err
		}
	}
	if err := s.mkdir(ingestsDir, volatile); err != nil || !vfs.Syncs(s.disk) {
		return err
	}
	for _, name := range []string{blobsDir, "content", "."} {
		if err := s.disk.SyncDir(name); err != nil {
			return err
		}
	}
	return s.disk.Chmod(ingestsDir, 0o755)
}

// mkdir makes a folder if it is not there.
func (s *Store) mkdir(name string, perm fs.FileMode) error {
	if err := s.disk.Mkdir(name, perm); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func unwritable(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

func algorithmDir(a digest.Algorithm) string { return blobsDir + "/" + a.String() }

func blobPath(d digest.Digest) string { return algorithmDir(d.Algorithm()) + "/" + d.Encoded() }

// Info implements [content.Store].
func (s *Store) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	err := content.Validate(d)
	if err == nil {
		var fi fs.FileInfo
		if fi, err = s.disk.Lstat(blobPath(d)); err == nil {
			return s.describe(d, fi), nil
		}
	}
	return content.Info{}, fmt.Errorf("look up blob %s: %w", d, absent(err))
}

// Open implements [content.Store].
func (s *Store) Open(_ context.Context, d digest.Digest) (content.Reader, error) {
	err := content.Validate(d)
	if err == nil {
		var r *reader
		if r, err = s.open(d); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("open blob %s: %w", d, absent(err))
}

func (s *Store) open(d digest.Digest) (*reader, error) {
	f, err := s.disk.Open(blobPath(d))
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Whoever writes to a file changes both of its times to the same; a commit changes its mode
	// and name later than its bytes.
	untouched := fi.Mode().Perm() == finished && fi.ModTime().Before(vfs.ChangedAt(fi))
	return &reader{f, fi.Size(), untouched}, nil
}

type reader struct {
	vfs.File
	size      int64
	untouched bool // since its commit, on a disk that was synced
}

// Vouched implements [content.Voucher].
func (r *reader) Vouched() bool { return r.untouched }

func (r *reader) Size() int64 { return r.size }

// ReadAhead implements [content.Streamer].
func (r *reader) ReadAhead() { vfs.Sequential(r.File) }

// Delete implements [content.Store]. A power loss may bring the blob back, which is garbage and
// not harm.
func (s *Store) Delete(_ context.Context, d digest.Digest) error {
	err := content.Validate(d)
	if err == nil {
		err = s.disk.Remove(blobPath(d))
	}
	if err != nil {
		return fmt.Errorf("delete blob %s: %w", d, absent(err))
	}
	return nil
}

// absent gives an error of the disk the kind that callers ask for.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errdefs.ErrNotFound
	}
	return err
}

// Blobs implements [content.Store].
func (s *Store) Blobs(ctx context.Context) iter.Seq2[content.Info, error] {
	return func(yield func(content.Info, error) bool) {
		for e, err := range s.entries(ctx) {
			var fi fs.FileInfo
			if err == nil {
				fi, err = e.Info()
			}
			switch {
			case errors.Is(err, fs.ErrNotExist): // it went meanwhile
			case err != nil:
				yield(content.Info{}, fmt.Errorf("list blobs: %w", err))
				return
			case !yield(s.describe(e.digest, fi), nil):
				return
			}
		}
	}
}

// Digests implements [content.Store].
func (s *Store) Digests(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for e, err := range s.entries(ctx) {
			if err != nil {
				err = fmt.Errorf("list blobs: %w", err)
			}
			if !yield(e.digest, err) || err != nil {
				return
			}
		}
	}
}

// An entry is one of a folder of blobs.
type entry struct {
	fs.DirEntry
	digest digest.Digest
}

// entries yields those that are blobs, and ends with the first error.
func (s *Store) entries(ctx context.Context) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for _, a := range algorithms {
			list, err := s.disk.ReadDir(algorithmDir(a))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				yield(entry{}, err)
				return
			}
			for _, e := range list {
				d := digest.NewDigestFromEncoded(a, e.Name())
				if !e.Type().IsRegular() || content.Validate(d) != nil {
					continue
				}
				if err := ctx.Err(); !yield(entry{e, d}, err) || err != nil {
					return
				}
			}
		}
	}
}

func (s *Store) describe(d digest.Digest, fi fs.FileInfo) content.Info {
	return content.Info{
		Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), ChangedAt: vfs.ChangedAt(fi), Settled: s.isSettled(fi),
	}
}

// isSettled tells whether a blob's name and bytes are as durable as this store makes them.
func (s *Store) isSettled(fi fs.FileInfo) bool {
	_, done := s.modes()
	return fi.Mode().Perm() == finished || fi.Mode().Perm() == done
}

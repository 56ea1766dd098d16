package stowage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/doctor"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/transfer"
)

// Pull brings an image from its registry into the store, whole, under the name that reference
// stands for. See [transfer.Pull].
func (s *Store) Pull(ctx context.Context, reference string, o PullOptions) (*PullResult, error) {
	defer s.writing()()
	began := time.Now()
	r, err := ref.Parse(reference)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference, err)
	}
	o.LeaveEvicted = s.gc.DiscardUnpacked
	reg := s.reg
	if !o.IsZero() {
		reg = reg.With(o.Manner)
		defer reg.Close()
	}
	res, err := transfer.Pull(ctx, s.place(), reg, r, o)
	if o.OnlyPlan {
		return res, err
	}
	if err == nil {
		res.Unpacked, err = s.unpackAfter(ctx, res.Unpacked, o.UnpackOptions, res.Name)
	}
	a := Act{Kind: PullAct, Err: err}
	if err == nil {
		a.Moved, a.Reused = res.Fetched, res.Reused
		s.brought(ctx, res.Name)
	}
	s.ended(began, a)
	return res, err
}

// ExportOptions tunes [Store.Export]. The zero value exports the platforms that each image was
// pulled or imported for.
type ExportOptions struct {
	Choice
	Verify       bool // hash every blob again, also those that nothing touched since they were stored
	NoDocker     bool // leave out the lists that docker reads
	FetchMissing bool // get what is missing from the registry that the image's name points to
	Progress     ProgressSink
}

// Export writes images to w as an OCI layout tar that docker reads too. The same images give
// the same bytes every time. Images whose blobs are not all there are a *[MissingError].
func (s *Store) Export(ctx context.Context, w io.Writer, names []string, o ExportOptions) error {
	inner := transfer.ExportOptions{
		Choice: o.Choice, Verify: o.Verify, FetchMissing: o.FetchMissing, Registry: s.reg, NoDocker: o.NoDocker, Progress: o.Progress,
	}
	began := time.Now()
	full := make([]string, 0, len(names))
	for _, n := range names {
		img, err := s.find(ctx, n)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		s.touch(ctx, img)
		full = append(full, img.Name)
	}
	err := transfer.Export(ctx, s.place(), w, full, inner)
	s.ended(began, Act{Kind: ExportAct, Err: err})
	return err
}

// ExportFile is [Store.Export] to a file, which gets its name only when it is complete.
func (s *Store) ExportFile(ctx context.Context, file string, names []string, o ExportOptions) error {
	return transfer.WriteFile(file, s.nosync, func(w io.Writer) error { return s.Export(ctx, w, names, o) })
}

// Import reads images from an archive. See [transfer.Import].
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (*ImportResult, error) {
	defer s.writing()()
	began := time.Now()
	res, err := transfer.Import(ctx, s.place(), r, o)
	return s.imported(ctx, began, o, res, err)
}

// imported ends an import.
func (s *Store) imported(ctx context.Context, began time.Time, o ImportOptions, res *ImportResult, err error) (*ImportResult, error) {
	var names []string
	if err == nil {
		for _, img := range res.Images {
			names = append(names, img.Name)
		}
		_, err = s.unpackAfter(ctx, false, o.UnpackOptions, names...)
	}
	a := Act{Kind: ImportAct, Err: err}
	if err == nil {
		a.Moved, a.Reused = res.Fetched, res.Reused
		s.brought(ctx, names...)
	}
	s.ended(began, a)
	return res, err
}

// brought does what the policies say of images that have just come.
func (s *Store) brought(ctx context.Context, names ...string) {
	s.discardUnpacked(ctx, names...)
	s.makeRoom(ctx, names...)
}

// ImportFile is [Store.Import] from a file, or from the folder of an OCI layout.
func (s *Store) ImportFile(ctx context.Context, file string, o ImportOptions) (res *ImportResult, err error) {
	defer s.writing()()
	began := time.Now()
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if info.IsDir() {
		res, err := transfer.ImportDir(ctx, s.place(), file, o)
		return s.imported(ctx, began, o, res, err)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return s.Import(ctx, f, o)
}

// Images lists the images of the namespace by name.
func (s *Store) Images(ctx context.Context) ([]Image, error) { return s.meta.Images(ctx, s.ns) }

// Image finds an image by reference, by the digest of its root descriptor, or by a unique prefix
// of that of at least 6 digits.
func (s *Store) Image(ctx context.Context, name string) (Image, error) { return s.find(ctx, name) }

// Tag gives the image src a further name. A name that stands for another image is moved only
// with force, and otherwise [errdefs.ErrAlreadyExists].
func (s *Store) Tag(ctx context.Context, src, dst string, force bool) error {
	img, err := s.find(ctx, src)
	if err != nil {
		return fmt.Errorf("tag %s: %w", src, err)
	}
	r, err := ref.Parse(dst)
	if err != nil {
		return fmt.Errorf("tag %s: %w", dst, err)
	}
	if _, err := s.meta.Tag(ctx, s.ns, img.Name, r.String(), force); err != nil {
		return fmt.Errorf("tag %s: %w", r, err)
	}
	return nil
}

// RemoveOptions tunes [Store.RemoveImages].
type RemoveOptions struct {
	Collect bool // delete what only the images kept before returning, whatever the store's options say
}

// RemoveReport is what [Store.RemoveImages] took away.
type RemoveReport struct {
	Names []string // of images
	Freed PruneReport
}

// RemoveImages takes names away. Content goes at the next collection, which may be at once: see
// [GCOptions]. Until then [Store.RestoreImage] brings names back. The report is nil if no name went.
func (s *Store) RemoveImages(ctx context.Context, names []string, o RemoveOptions) (*RemoveReport, error) {
	report := &RemoveReport{}
	var targets []Digest
	for _, n := range names {
		img, err := s.find(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("remove %s: %w", n, err)
		}
		report.Names = append(report.Names, img.Name)
		targets = append(targets, img.Target.Digest)
	}
	if _, err := s.meta.RemoveImages(ctx, s.ns, report.Names...); err != nil {
		return nil, fmt.Errorf("remove %s: %w", strings.Join(names, " "), err)
	}
	if !o.Collect && !s.gc.OnRemoval {
		return report, nil
	}
	freed, err := s.Prune(ctx, PruneOptions{Below: targets})
	report.Freed = *freed
	return report, err
}

// LabelImage sets labels of an image; an empty value removes one.
func (s *Store) LabelImage(ctx context.Context, name string, labels map[string]string) error {
	img, err := s.find(ctx, name)
	if err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	if _, err := s.meta.LabelImage(ctx, s.ns, img.Name, labels); err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	return nil
}

// CheckImages looks for every blob that images need, on the disk; with verify, which may be nil, it
// also reads them and compares their digests.
func (s *Store) CheckImages(ctx context.Context, images []Image, verify *VerifyOptions) ([]ImageFinding, error) {
	return doctor.CheckImages(ctx, s.content, s.meta, s.ns, images, verify)
}

// find looks an image up by what a person types: a reference, or the digest of its root
// descriptor or a unique prefix of it.
func (s *Store) find(ctx context.Context, name string) (metadata.Image, error) {
	// A whole name goes first: a repository may be called like a prefix of a digest. Clients of the
	// daemon give images names that are no references, such as the digest of their config.
	if img, err := s.meta.Image(ctx, s.ns, name); err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	r, refErr := ref.Parse(name)
	if refErr == nil {
		img, err := s.meta.Image(ctx, s.ns, r.String())
		if err == nil || !errdefs.IsNotFound(err) {
			return img, err
		}
	}
	algorithm, hex, ok := ref.ParseDigestPrefix(name)
	if !ok {
		if refErr != nil {
			return metadata.Image{}, refErr
		}
		return metadata.Image{}, fmt.Errorf("image %s: %w", r, errdefs.ErrNotFound)
	}
	found, err := s.meta.ImagesByPrefix(ctx, s.ns, algorithm+":"+hex)
	if err != nil {
		return metadata.Image{}, err
	}
	digests := map[Digest]bool{}
	for _, img := range found {
		digests[img.Target.Digest] = true
	}
	switch {
	case len(found) == 0:
		return metadata.Image{}, fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	case len(digests) > 1:
		return metadata.Image{}, fmt.Errorf("image %s: %d images begin so; give more digits: %w", name, len(digests), errdefs.ErrInvalidArgument)
	}
	return found[0], nil
}

// CheckReference tells whether s can be the name of an image. Errors:
// [errdefs.ErrInvalidArgument], with the reason.
func CheckReference(s string) error {
	_, err := ref.Parse(s)
	return err
}

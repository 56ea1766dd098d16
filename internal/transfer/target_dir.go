package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/registry"
)

// maxIndex bounds the index.json of a layout that an image is added to, in bytes.
const maxIndex = image.MaxDocument

// dirTarget brings an image into the folder of an OCI layout. A blob gets its name when it is
// whole, and index.json lists the image last; what it listed before stays.
type dirTarget struct {
	dir       string
	name, tag string // at most one of them; see [archive.ExportImage]
	nosync    bool
}

// openDirTarget makes the folder, unless it is a layout already. Another folder that is not empty
// is [errdefs.ErrInvalidArgument].
func openDirTarget(dir, name, tag string, nosync bool) (*dirTarget, error) {
	t := &dirTarget{dir, name, tag, nosync}
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	name, body := archive.LayoutFile()
	_, err = os.Stat(filepath.Join(dir, name))
	switch {
	case err == nil:
		return t, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case len(list) > 0:
		return nil, fmt.Errorf("%s is neither empty nor an OCI layout: %w", dir, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return t, t.write(name, body)
}

func (t *dirTarget) write(name string, body []byte) error {
	return t.fill(name, func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	})
}

// fill writes a file of the layout, which gets its name when it is whole.
func (t *dirTarget) fill(name string, f func(io.Writer) error) error {
	file := filepath.Join(t.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return WriteFile(file, t.nosync, f)
}

func (t *dirTarget) hasDocument(_ context.Context, d image.Descriptor) (bool, error) {
	info, err := os.Lstat(filepath.Join(t.dir, archive.BlobFile(d.Digest)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular() && info.Size() == d.Size, err
}

func (t *dirTarget) hasBlob(ctx context.Context, d image.Descriptor) (bool, error) {
	return t.hasDocument(ctx, d)
}

func (t *dirTarget) putBlob(ctx context.Context, d image.Descriptor, from registry.BlobSource, _ func(error)) (out registry.PushOutcome, err error) {
	if there, err := t.hasBlob(ctx, d); there || err != nil {
		return registry.PushOutcome{How: registry.Present}, err
	}
	r, err := from.Open(ctx, 0)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = t.fill(archive.BlobFile(d.Digest), func(w io.Writer) error {
		_, err := io.CopyBuffer(w, r, make([]byte, chunk))
		return err
	})
	return registry.PushOutcome{How: registry.Uploaded, Sent: d.Size}, err
}

func (t *dirTarget) putDocument(_ context.Context, d image.Descriptor, body []byte) error {
	return t.write(archive.BlobFile(d.Digest), body)
}

func (t *dirTarget) finish(ctx context.Context, root image.Descriptor, body []byte, referrers []image.Descriptor) (err error) {
	if err := t.putDocument(ctx, root, body); err != nil {
		return err
	}
	// Who else adds an image to the same list waits for this one.
	lock, err := flock.Open(ctx, flock.Exclusive, func() (*os.File, error) { return os.Open(t.dir) })
	if err != nil {
		return fmt.Errorf("lock %s: %w", t.dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	old, err := readSmall(filepath.Join(t.dir, archive.IndexFile))
	if err != nil {
		return err
	}
	index, err := archive.UpdateIndex(old, archive.ExportImage{Name: t.name, Tag: t.tag, Target: root}, referrers)
	if err != nil {
		return fmt.Errorf("%s: %w", t.dir, err)
	}
	return t.write(archive.IndexFile, index)
}

// readSmall reads a file that may be absent: nil.
func readSmall(name string) (b []byte, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, maxIndex+1)); err == nil && len(b) > maxIndex {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, maxIndex, errdefs.ErrInvalidArgument)
	}
	return b, err
}

func (*dirTarget) origins(context.Context, source, image.Descriptor) ([]string, error) {
	return nil, nil
}

func (*dirTarget) gaps() bool { return true }

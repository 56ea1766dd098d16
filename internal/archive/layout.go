package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
)

// layoutVersion is the one version of OCI layouts.
const layoutVersion = "1.0.0"

// listLayout lists the images of an OCI layout. An index counts as one image; what it holds is
// for the caller to read.
func (a *reader) listLayout() error {
	if b := a.kept[layoutName]; b == nil {
		a.warn("the file %s is missing", layoutName)
	} else {
		var layout struct {
			Version string `json:"imageLayoutVersion"`
		}
		if err := image.DecodeStrict(b, maxList, &layout); err != nil {
			return fmt.Errorf("%s: %w", layoutName, err)
		}
		if layout.Version != layoutVersion {
			return fmt.Errorf("OCI layout of version %.100q: %w", layout.Version, errdefs.ErrNotImplemented)
		}
	}
	doc, err := image.ParseDocument(a.kept[indexName])
	if err != nil {
		return fmt.Errorf("%s: %w", indexName, err)
	}
	if !doc.Index {
		return fmt.Errorf("%s is not an index: %w", indexName, errdefs.ErrInvalidArgument)
	}
	for _, d := range doc.Manifests {
		if image.IsAttestation(d) {
			continue // it belongs to an image, and is none
		}
		e := Entry{Name: a.entryName(d), Target: image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
		if e.Name == "" {
			e.Tag = d.Annotations[annotationRef]
		}
		a.Images = append(a.Images, e)
	}
	return nil
}

// entryName finds the name of an image in its annotations. A writer that knows the whole name
// puts it into the first; into the second go whole names and bare tags alike.
func (a *reader) entryName(d image.Descriptor) string {
	if name := d.Annotations[annotationName]; name != "" {
		return a.normal(name)
	}
	name := d.Annotations[annotationRef]
	if name == "" {
		return ""
	}
	if !strings.ContainsAny(name, "/:@") {
		a.warn("%s has the tag %.200q and no name", d.Digest, name)
		return ""
	}
	return a.normal(name)
}

// normal is a name in its normal form, or empty, with a warning, if it is none.
func (a *reader) normal(name string) string {
	r, err := ref.Parse(name)
	if err != nil {
		a.warn("%v; the image is left unnamed", err)
		return ""
	}
	return r.String()
}

// ReadDir is [Read] for the folder of an OCI layout. Nothing outside of dir is read, wherever
// links in it point to.
func ReadDir(ctx context.Context, dir string, sink Sink) (*Contents, error) {
	a := newReader(sink)
	if err := a.folder(ctx, dir); err != nil {
		return nil, fmt.Errorf("read layout %s: %w", dir, err)
	}
	return &a.Contents, nil
}

func (a *reader) folder(ctx context.Context, dir string) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	// A folder that is none is found out before anything is stored.
	if err := a.folderLists(root); err != nil {
		return err
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		if err := a.folderBlobs(ctx, root, path.Join("blobs", algorithm)); err != nil {
			return err
		}
	}
	return nil
}

// folderLists reads what the folder of a layout says that it holds.
func (a *reader) folderLists(root *os.Root) error {
	for _, name := range []string{layoutName, indexName} {
		err := withFile(root, name, func(size int64, r io.Reader) error {
			return a.keep(name, size, maxList, r)
		})
		if errors.Is(err, fs.ErrNotExist) && name == indexName {
			return fmt.Errorf("not an OCI layout: it has no %s: %w", indexName, errdefs.ErrInvalidArgument)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return a.listLayout()
}

func (a *reader) folderBlobs(ctx context.Context, root *os.Root, folder string) error {
	list, err := fs.ReadDir(root.FS(), folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(folder, e.Name())
		want, ok := blobName(name)
		if !ok {
			a.warn("%.200q is not the name of a blob, and was passed over", name)
			continue
		}
		err := withFile(root, name, func(size int64, r io.Reader) error {
			if _, err := a.put(ctx, want, size, &watched{ctx: ctx, r: r}); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// withFile opens a regular file, beneath root, for the length of f.
func withFile(root *os.Root, name string, f func(size int64, r io.Reader) error) (err error) {
	file, size, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return f(size, file)
}

// openRegular opens a regular file beneath root.
func openRegular(root *os.Root, name string) (*os.File, int64, error) {
	// Opening a pipe without this flag would wait for its writer.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

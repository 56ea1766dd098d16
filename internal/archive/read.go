package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// Read reads the archive r to its end: a tar, plain or packed with gzip, zstd, bzip2 or xz, that
// holds an OCI layout or what docker save writes, with its entries in any order. Of one that is
// both, the layout counts. Every blob goes to sink, whether an image needs it or not; what an
// image needs and the archive does not hold is for the caller to find, except in docker's own
// form, which has no absent platforms.
//
// Errors: [errdefs.ErrInvalidArgument] for what is no archive or a hostile one,
// [errdefs.ErrDataLoss] for one that is truncated or damaged, [errdefs.ErrNotImplemented] for
// what nobody should write, and those of sink and r.
func Read(ctx context.Context, r io.Reader, sink Sink) (*Contents, error) {
	a := newReader(sink)
	if err := a.stream(ctx, r); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if err := a.list(ctx); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	return &a.Contents, nil
}

// ReadBlobs reads the blobs of the archive r, as [WriteBlobs] or [Write] wrote it, and nothing
// else.
func ReadBlobs(ctx context.Context, r io.Reader, sink Sink) error {
	a := newReader(sink)
	a.blobsOnly = true
	if err := a.stream(ctx, r); err != nil {
		return fmt.Errorf("read blobs: %w", err)
	}
	if len(a.files) == 0 {
		return fmt.Errorf("read blobs: the archive holds none: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// A reader collects what goes past.
type reader struct {
	sink      Sink
	blobsOnly bool
	files     map[string]file   // what went to the sink, by name
	links     map[string]string // where links point to
	kept      map[string][]byte // small files that say what the others are
	keptBytes int64
	entries   int
	begin     func() error // if set, is called at the beginning of each entry's body
	Contents
}

// A file of the archive that is a blob in the sink now.
type file struct {
	image.Descriptor
	packed image.Compression
	config *image.Config // if it could be one
}

func newReader(sink Sink) *reader {
	return &reader{sink: sink, files: map[string]file{}, links: map[string]string{}, kept: map[string][]byte{}}
}

func (a *reader) warn(format string, args ...any) {
	// More than a person reads is not kept: an archive can be made of nothing else.
	if len(a.Warnings) < 100 {
		a.Warnings = append(a.Warnings, fmt.Sprintf(format, args...))
	}
}

// stream takes all entries of a tar.
func (a *reader) stream(ctx context.Context, r io.Reader) error {
	s, err := openStream(ctx, r)
	if err != nil {
		return err
	}
	defer s.close()
	return a.takeAll(ctx, s)
}

func (a *reader) takeAll(ctx context.Context, s *stream) error {
	for {
		h, err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && a.begin != nil {
			err = a.begin()
		}
		if err != nil {
			return err
		}
		body := &watched{ctx: ctx, r: s.tar}
		if err := a.entry(ctx, h, body); err != nil {
			if failed := body.failed(); failed != nil {
				// Whatever was made of it, the cause is in the archive.
				return fmt.Errorf("entry %.200q: %w", h.Name, s.explain(failed))
			}
			return err
		}
	}
	clean, err := s.drain()
	if !clean {
		a.warn("bytes after the end of the tar were passed over")
	}
	return err
}

// entry takes one entry of a tar.
func (a *reader) entry(ctx context.Context, h *tar.Header, body io.Reader) error {
	if a.entries++; a.entries > maxEntries {
		return fmt.Errorf("more than %d entries: %w", maxEntries, errdefs.ErrInvalidArgument)
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	refuse := func(why string) error {
		return fmt.Errorf("entry %.200q: %s: %w", h.Name, why, errdefs.ErrInvalidArgument)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeReg:
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return refuse("it is a sparse file")
			}
		}
	case tar.TypeSymlink, tar.TypeLink:
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return refuse(fmt.Sprintf("an image archive holds no entries of type %q", h.Typeflag))
	}
	if a.has(name) {
		if _, ok := blobName(name); !ok {
			// Programs differ in which of the two they take.
			return refuse("it stands twice in the archive")
		}
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		a.links[name], err = linkTarget(name, h.Linkname)
		return err
	case tar.TypeLink:
		a.links[name], err = cleanName(h.Linkname)
		return err
	}
	return a.regular(ctx, name, h.Size, body)
}

func (a *reader) has(name string) bool {
	_, isFile := a.files[name]
	_, isLink := a.links[name]
	_, isKept := a.kept[name]
	return isFile || isLink || isKept
}

// regular takes the file called name: it is kept, or goes to the sink, or is passed over.
func (a *reader) regular(ctx context.Context, name string, size int64, body io.Reader) error {
	want, isBlob := blobName(name)
	switch {
	case isBlob:
		return a.store(ctx, name, want, size, body)
	case a.blobsOnly:
		return nil
	case strings.HasPrefix(name, "blobs/"):
		a.warn("%.200q is not the name of a blob, and was passed over", name)
		return nil
	case name == layoutName, name == indexName, name == manifestName, name == repositoriesName:
		return a.keep(name, size, maxList, body)
	case path.Base(name) == "json":
		return a.keep(name, size, image.MaxConfig, body)
	case path.Base(name) == "VERSION":
		return nil
	}
	return a.store(ctx, name, configName(name), size, body)
}

// keep reads a small file into memory.
func (a *reader) keep(name string, size, limit int64, body io.Reader) error {
	a.keptBytes += size
	if size > limit || a.keptBytes > maxKept {
		return fmt.Errorf("entry %.200q: its %d bytes are more than the limit: %w", name, size, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(body, b); err != nil {
		return fmt.Errorf("entry %.200q: %w", name, err)
	}
	a.kept[name] = b
	return nil
}

// store hands a file to the sink, and takes note of what it may be.
func (a *reader) store(ctx context.Context, name string, want image.Digest, size int64, body io.Reader) error {
	head := make([]byte, min(size, image.SniffLen))
	if _, err := io.ReadFull(body, head); err != nil {
		return fmt.Errorf("entry %.200q: %w", name, err)
	}
	f := file{packed: image.Sniff(head)}
	all := io.MultiReader(bytes.NewReader(head), body)
	if _, isBlob := blobName(name); !isBlob && bytes.HasPrefix(head, []byte("{")) && size <= image.MaxConfig {
		// Perhaps a config. Its diffIDs are compared with the layers later.
		b := make([]byte, size)
		if _, err := io.ReadFull(all, b); err != nil {
			return fmt.Errorf("entry %.200q: %w", name, err)
		}
		if c, err := image.ParseConfig(b); err == nil {
			c.Raw = nil
			f.config = c
		}
		all = bytes.NewReader(b)
	}
	var err error
	if f.Descriptor, err = a.put(ctx, want, size, all); err != nil {
		return fmt.Errorf("entry %.200q: %w", name, err)
	}
	a.files[name] = f
	return nil
}

// put hands one blob to the sink.
func (a *reader) put(ctx context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	d, err := a.sink.Blob(ctx, want, size, r)
	if err != nil {
		return image.Descriptor{}, err
	}
	if d.Size != size || want != "" && d.Digest != want || image.CheckDigest(d.Digest) != nil {
		return image.Descriptor{}, fmt.Errorf("stored as %s of %d bytes where %s of %d were expected: %w", d.Digest, d.Size, want, size, errdefs.ErrDataLoss)
	}
	return image.Descriptor{Digest: d.Digest, Size: size}, nil
}

// find looks up a file that a list names, through links.
func (a *reader) find(name string) (file, error) {
	at, err := cleanName(name)
	if err != nil {
		return file{}, err
	}
	for range maxLinks {
		if f, ok := a.files[at]; ok {
			return f, nil
		}
		to, ok := a.links[at]
		if !ok {
			return file{}, fmt.Errorf("%.200q is listed, and is not in the archive: %w", name, errdefs.ErrDataLoss)
		}
		at = to
	}
	return file{}, fmt.Errorf("%.200q leads through too many links: %w", name, errdefs.ErrInvalidArgument)
}

// list finds out which images the archive holds, once all of it went past.
func (a *reader) list(ctx context.Context) error {
	switch {
	case a.kept[indexName] != nil:
		return a.listLayout()
	case a.kept[manifestName] != nil:
		return a.listDocker(ctx)
	case a.kept[repositoriesName] != nil:
		return a.listLegacy(ctx)
	}
	return fmt.Errorf("neither an OCI layout nor a docker archive: it has none of %s, %s and %s: %w",
		indexName, manifestName, repositoriesName, errdefs.ErrInvalidArgument)
}

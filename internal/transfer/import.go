package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
)

// ImportOptions tunes [Import]. The zero value takes every platform that is whole in the archive.
type ImportOptions struct {
	Choice
	Tag string // names the image that the archive leaves unnamed; normalised
	// Names gives an image its names, whatever they are, in place of that, from what the archive calls
	// it: a name in normal form, or a tag, or neither. With none it is left out.
	Names  func(name, tag string, d image.Digest) []string
	Labels map[string]string // that the images get
	// Of the platforms that count as asked for, those that were named are unpacked, or those among
	// them that Only lists; otherwise the host's, or the only one.
	UnpackOptions
	Progress progress.Sink
}

// ImportResult is what an import brought.
type ImportResult struct {
	Images   []ImportedImage `json:"images"`
	Fetched  Count           `json:"fetched"` // blobs that were taken from the archive
	Reused   Count           `json:"reused"`  // blobs that were there already
	Warnings []string        `json:"warnings,omitempty"`
	Seconds  float64         `json:"seconds"`
}

// ImportedImage is one name that an import gave.
type ImportedImage struct {
	Name      string         `json:"name"`
	Digest    image.Digest   `json:"digest"`
	MediaType string         `json:"mediaType"`
	State     metadata.State `json:"state"`
}

// Import reads images from an OCI layout or a docker archive, as a stream in any order of its
// entries, plain or compressed. Every blob is verified. Platforms that the archive leaves out
// are recorded as absent; an image of which no platform is whole is a *[MissingError], and gets
// no name. What was read by then is kept for another try.
func Import(ctx context.Context, s Store, r io.Reader, o ImportOptions) (*ImportResult, error) {
	return s.importing(ctx, o, func(sink archive.Sink) (*archive.Contents, error) {
		return archive.Read(ctx, r, sink)
	})
}

// ImportDir is [Import] from the folder of an OCI layout.
func ImportDir(ctx context.Context, s Store, dir string, o ImportOptions) (*ImportResult, error) {
	return s.importing(ctx, o, func(sink archive.Sink) (*archive.Contents, error) {
		return archive.ReadDir(ctx, dir, sink)
	})
}

func (s Store) importing(ctx context.Context, o ImportOptions, read func(archive.Sink) (*archive.Contents, error)) (res *ImportResult, err error) {
	begun := time.Now()
	// What will come is not known before it is there, so for as long as it takes everything
	// is held.
	hold, err := s.Meta.Hold(ctx, s.Namespace)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()

	u, err := s.beginUnpacking(o.UnpackOptions, o.Progress)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, u.close(ctx)) }()

	sink := &importSink{content: s.Content, progress: o.Progress, unpack: u}
	found, err := read(sink)
	if err == nil {
		err = sink.flush(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", errors.Join(err, sink.close()))
	}
	res = &ImportResult{Fetched: sink.fetched, Reused: sink.reused, Warnings: found.Warnings}
	if len(found.Images) == 0 {
		return nil, fmt.Errorf("import: the archive lists no image: %w", errdefs.ErrInvalidArgument)
	}
	var batch metadata.Batch
	known := map[image.Digest]bool{}
	put := func() error {
		images, err := s.Meta.Apply(ctx, s.Namespace, batch)
		for _, img := range images {
			res.Images = append(res.Images, ImportedImage{img.Name, img.Target.Digest, img.Target.MediaType, img.State})
			o.Progress.Send(progress.Event{Kind: progress.Finished, Name: img.Name, Digest: img.Target.Digest.String()})
		}
		batch = metadata.Batch{}
		return err
	}
	var failed []error
	var whole []archive.Entry
	refers, err := s.referrersAmong(ctx, found.Images)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	for _, e := range found.Images {
		if o.Names != nil && len(o.Names(e.Name, e.Tag, e.Target.Digest)) == 0 {
			continue
		}
		if refers[e.Target.Digest] {
			whole = append(whole, e)
			continue
		}
		if err := s.unpackImported(ctx, u, e, o); err != nil {
			failed = append(failed, fmt.Errorf("import: %w", err))
			continue
		}
		whole = append(whole, e)
	}
	if len(whole) == 0 && len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	if err := u.rows(&batch); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	for _, e := range whole {
		if err := s.addImported(ctx, &batch, known, e, refers[e.Target.Digest], o); err != nil {
			failed = append(failed, fmt.Errorf("import: %w", err))
			continue
		}
		if len(batch.Blobs) >= rowsAtOnce {
			if err := put(); err != nil {
				return nil, fmt.Errorf("import: %w", err)
			}
		}
	}
	if err := put(); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	res.Seconds = time.Since(begun).Seconds()
	return res, errors.Join(failed...)
}

// referrersAmong tells which images without a name are listed only because they refer to others, as
// signatures do. They are kept with these, and need no name.
func (s Store) referrersAmong(ctx context.Context, list []archive.Entry) (map[image.Digest]bool, error) {
	refers := map[image.Digest]bool{}
	for _, e := range list {
		if e.Name != "" || e.Tag != "" || e.Target.Size > image.MaxDocument {
			continue
		}
		b, err := content.ReadBlob(ctx, s.Content, e.Target.Digest, image.MaxDocument)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		doc, err := image.ParseDocument(b)
		if err != nil || doc.Subject == nil {
			continue
		}
		here, err := s.have(ctx, *doc.Subject)
		if err != nil {
			return nil, err
		}
		if here {
			refers[e.Target.Digest] = true
		}
	}
	if !slices.ContainsFunc(list, func(e archive.Entry) bool { return !refers[e.Target.Digest] }) {
		return nil, nil // there is nothing else
	}
	return refers, nil
}

// readImported finds out what one image of an archive is: its name, its documents, and the
// manifests that count as asked for.
func (s Store) readImported(ctx context.Context, e archive.Entry, o ImportOptions) (name string, t *image.Tree, chosen []image.Descriptor, err error) {
	name = e.Name
	if name == "" {
		name = o.Tag
	}
	if name == "" {
		name = "import@" + e.Target.Digest.String()
	}
	r, err := ref.Parse(name)
	if err != nil {
		return "", nil, nil, err
	}
	name = r.String()
	t, err = s.tree(ctx, e.Target)
	if errdefs.IsNotFound(err) {
		return "", nil, nil, &MissingError{Name: name, Missing: []image.Descriptor{e.Target}}
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	chosen, err = s.chooseImported(ctx, name, t, o.Choice)
	return name, t, chosen, err
}

// unpackImported unpacks what is to be unpacked of one image of an archive.
func (s Store) unpackImported(ctx context.Context, u *unpacking, e archive.Entry, o ImportOptions) error {
	if u == nil {
		return nil
	}
	name, t, chosen, err := s.readImported(ctx, e, o)
	if err != nil {
		return err
	}
	only := o.Only
	if len(only) == 0 && len(o.Platforms) == 0 && !o.All {
		only = []image.Platform{image.Host()}
	}
	if len(only) > 0 && len(chosen) > 1 {
		some, err := image.Choose(only, chosen)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		chosen = some
	}
	first := len(u.images)
	for _, d := range chosen {
		doc := t.Document(d.Digest)
		if !doc.IsImage() {
			continue
		}
		c, err := s.config(ctx, doc)
		if err == nil {
			err = u.add(d.Digest, doc, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, img := range u.images[first:] {
		if err := u.run.Add(ctx, img); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// addImported adds to a batch what makes one image of an archive: its rows, and its name unless it only
// refers to another.
func (s Store) addImported(ctx context.Context, batch *metadata.Batch, known map[image.Digest]bool, e archive.Entry, refers bool, o ImportOptions) error {
	name, t, chosen, err := s.readImported(ctx, e, o)
	if err != nil {
		return err
	}
	if err := s.addRows(ctx, batch, known, t); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if refers {
		return nil
	}
	put := metadata.PutImage{Name: name, Target: e.Target, Labels: o.Labels}
	for _, d := range chosen {
		put.Want = append(put.Want, d.Digest)
	}
	if o.Names == nil {
		batch.Images = append(batch.Images, put)
		return nil
	}
	for _, put.Name = range o.Names(e.Name, e.Tag, e.Target.Digest) {
		batch.Images = append(batch.Images, put)
	}
	return nil
}

// addRows adds to a batch the rows of everything of a tree that is here, but for the blobs that are known
// already.
func (s Store) addRows(ctx context.Context, batch *metadata.Batch, known map[image.Digest]bool, t *image.Tree) error {
	sel, err := selectBlobs(t, present(t))
	if err != nil {
		return err
	}
	for _, n := range sel.all() {
		if known[n.Digest] {
			continue
		}
		ok, err := s.haveDurably(ctx, n.Descriptor)
		if err != nil {
			return err
		}
		if ok {
			known[n.Digest] = true
			batch.Blobs = append(batch.Blobs, metadata.Blob{Digest: n.Digest, Size: n.Size})
		}
	}
	docs, err := s.documents(ctx, t)
	batch.Documents = append(batch.Documents, docs...)
	return err
}

// chooseImported finds the manifests that count as asked for: those of the platforms that were
// named, all of which must be whole; otherwise those that are whole, of which there must be one.
func (s Store) chooseImported(ctx context.Context, name string, t *image.Tree, want Choice) ([]image.Descriptor, error) {
	list := t.Platforms()
	named := want.All || len(want.Platforms) > 0
	if named {
		var err error
		if list, err = selectPlatforms(t, want, nil); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	var whole, gone []image.Descriptor
	for _, d := range list {
		lacks := []image.Descriptor{d}
		if t.Document(d.Digest) != nil {
			sel, err := selectBlobs(t, []image.Descriptor{d})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if lacks, err = s.missing(ctx, descriptors(sel.needed)); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		if len(lacks) == 0 {
			whole = append(whole, d)
		}
		gone = append(gone, lacks...)
	}
	if len(whole) == 0 || named && len(gone) > 0 {
		return nil, &MissingError{Name: name, Missing: gone}
	}
	return whole, nil
}

// present lists the manifests of t whose documents are there.
func present(t *image.Tree) []image.Descriptor {
	var list []image.Descriptor
	for _, d := range t.Documents() {
		if !t.Document(d.Digest).Index {
			list = append(list, d)
		}
	}
	return list
}

// rowsAtOnce bounds how many blobs one transaction names, and with it the memory that an import
// of thousands of images takes: 2,000 images of 25 blobs peak at 97 MB, and with 8,192 at 130 MB.
const rowsAtOnce = 1024

const (
	// A flush costs about as much for one small file as for hundreds, and every blob that waits
	// for one keeps a file open.
	ingestsAtOnce = 512
	bytesAtOnce   = 1 << 30
)

// An importSink takes blobs from an archive into the content store. It is used by one goroutine.
type importSink struct {
	content  content.Store
	progress progress.Sink
	unpack   *unpacking // nil: nothing is unpacked on the way
	whole    []content.Ingest
	bytes    int64
	fetched  Count
	reused   Count
}

// Blob stores one blob of the archive. want is empty when the archive does not say what it is.
func (k *importSink) Blob(ctx context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	key := want.String()
	if want == "" {
		key = "import-" + rand.Text()
	}
	in, err := begin(ctx, k.content, key, content.Want{Digest: want, Size: size})
	if errdefs.IsUnavailable(err) {
		// Never wait for another writer while keeping one waiting.
		if err := k.flush(ctx); err != nil {
			return image.Descriptor{}, err
		}
		in, err = begin(ctx, k.content, key, content.Want{Digest: want, Size: size, Wait: true})
	}
	if errdefs.IsAlreadyExists(err) {
		return k.check(want, size, r)
	}
	if err != nil {
		return image.Descriptor{}, err
	}
	return k.take(ctx, in, want, size, r)
}

// take writes and hashes a blob as it comes.
func (k *importSink) take(ctx context.Context, in content.Ingest, want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	what := "blob"
	k.progress.Send(progress.Event{Kind: progress.Started, Digest: want.String(), What: what, Total: size})
	// What an earlier try left is skipped: its hash is known.
	_, err := io.CopyN(io.Discard, r, in.Offset())
	guess := &guess{}
	if err == nil && in.Offset() == 0 {
		guess, r, err = k.unpack.guess(ctx, r)
	}
	if err == nil {
		err = pump(ctx, in, guess, r, size, func(offset int64) {
			k.progress.Send(progress.Event{Kind: progress.Advanced, Digest: want.String(), What: what, Offset: offset, Total: size})
		})
	}
	got := in.Digest()
	mismatch := err == nil && want != "" && got != want
	if mismatch {
		err = &content.MismatchError{Want: want, Got: got}
	}
	guess.end(err)
	switch {
	case mismatch:
		return image.Descriptor{}, errors.Join(err, in.Abort())
	case err != nil:
		return image.Descriptor{}, errors.Join(err, in.Close())
	}
	k.progress.Send(progress.Event{Kind: progress.Done, Digest: got.String(), What: what, Total: size})
	k.fetched.add(size)
	k.whole = append(k.whole, in)
	k.bytes += size
	if len(k.whole) >= ingestsAtOnce || k.bytes >= bytesAtOnce {
		err = k.flush(ctx)
	}
	return image.Descriptor{Digest: got, Size: size}, err
}

// check verifies a blob that is in the store already: what the archive says must be true
// whether its bytes are needed or not.
func (k *importSink) check(want image.Digest, size int64, r io.Reader) (image.Descriptor, error) {
	v := want.Verifier()
	n, err := io.Copy(v, r)
	if err != nil {
		return image.Descriptor{}, err
	}
	if n != size {
		return image.Descriptor{}, &content.SizeError{Digest: want, Want: size, Got: n}
	}
	if !v.Verified() {
		return image.Descriptor{}, fmt.Errorf("bytes do not hash to %s: %w", want, errdefs.ErrDataLoss)
	}
	k.reused.add(size)
	k.progress.Send(progress.Event{Kind: progress.Reused, Digest: want.String(), What: "blob", Total: size})
	return image.Descriptor{Digest: want, Size: size}, nil
}

// flush commits what is whole.
func (k *importSink) flush(ctx context.Context) error {
	batch := k.whole
	k.whole, k.bytes = nil, 0
	if len(batch) == 0 {
		return nil
	}
	k.progress.Send(progress.Event{Kind: progress.Flushing, Count: len(batch)})
	return k.content.Commit(ctx, batch...)
}

// close keeps what is whole for another try.
func (k *importSink) close() error {
	var errs []error
	for _, in := range k.whole {
		errs = append(errs, in.Close())
	}
	k.whole = nil
	return errors.Join(errs...)
}

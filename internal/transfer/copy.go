package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
)

// CopyOptions tunes [Copy]. The zero value copies the image as it is, with what refers to it.
type CopyOptions struct {
	// Choice means what it does in [PushOptions]. A docker archive holds one platform: the
	// host's, unless another is chosen. Of a source that holds some platforms whole and others
	// not, only a registry as target refuses the rest.
	Choice
	Streams     int       // blobs moved at once; 0: 4, and 16 small ones beside them
	NoReferrers bool      // leaves out what refers to the image, and what cosign's tags say of it
	NoSync      bool      // leaves it to the kernel when the bytes of folders and files reach the disk
	Store       *Store    // for ends that are in a store
	Fetch       Registry  // where lazy blobs of a store are fetched; nil: by way of the one that is copied to
	Stdin       io.Reader // stands behind the file name - of a source,
	Stdout      io.Writer // and this behind that of a target
	Progress    progress.Sink
}

// Copy brings an image from one place to another, in one pass: nothing of it is stored on the
// way. What the target has is not sent. Every blob is verified on its way, and asked of the next
// host when one gives wrong bytes; only what went down a pipe cannot be taken back. The image has
// its name at the target only when it is whole. From registry to registry, what stands under
// cosign's tags for the image and its manifests follows, and replaces what the target has there.
// Into a store an image comes as a pull brings it, without being unpacked.
//
// Errors: as of [Push], [Pull], [archive.OpenFile] and [WriteFile];
// [errdefs.ErrInvalidArgument] for an archive of several images of which none is named.
func Copy(ctx context.Context, reg Pusher, from, to Endpoint, o CopyOptions) (res *PushResult, err error) {
	begun := time.Now()
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy %s to %s: %w", from, to, err)
		}
	}()
	if err := to.CheckTarget(); err != nil {
		return nil, err
	}
	if (from.Transport == StoreTransport || to.Transport == StoreTransport) && o.Store == nil {
		return nil, fmt.Errorf("no store: %w", errdefs.ErrInvalidArgument)
	}
	c := &copying{reg: reg, to: to, o: o}
	switch from.Transport {
	case DockerTransport:
		res, err = c.fromRegistry(ctx, from.Ref)
	case StoreTransport:
		res, err = c.fromStore(ctx, from.Ref)
	default:
		res, err = c.fromArchive(ctx, from)
	}
	if err != nil {
		return nil, err
	}
	res.Name, res.Seconds = to.String(), time.Since(begun).Seconds()
	o.Progress.Send(progress.Event{Kind: progress.Finished, Name: res.Name, Digest: res.Digest.String()})
	return res, nil
}

// copying is one running [Copy].
type copying struct {
	reg Pusher
	to  Endpoint
	o   CopyOptions
}

// run moves the image of from, which is called name there, to the target.
func (c *copying) run(ctx context.Context, from source, name string) (*PushResult, error) {
	switch c.to.Transport {
	case DockerTransport:
		return c.toRegistry(ctx, from, name)
	case StoreTransport:
		return c.toStore(ctx, from, name)
	case LayoutTransport:
		return c.toFolder(ctx, from, name)
	}
	return c.toFile(ctx, from, name)
}

func (c *copying) fromRegistry(ctx context.Context, name string) (*PushResult, error) {
	r, err := ref.Parse(name)
	if err != nil {
		return nil, err
	}
	c.o.Progress.Send(progress.Event{Kind: progress.Resolving, Name: r.String()})
	s, err := newRegistrySource(ctx, c.reg, r)
	if err != nil {
		return nil, err
	}
	c.o.Progress.Send(progress.Event{Kind: progress.Resolved, Name: r.String(), Digest: s.root().Digest.String()})
	return c.run(ctx, s, r.String())
}

func (c *copying) fromArchive(ctx context.Context, from Endpoint) (res *PushResult, err error) {
	if from.Path == "-" && c.o.Stdin != nil {
		return c.fromStream(ctx, from, c.o.Stdin)
	}
	a, err := openArchive(ctx, from)
	if errdefs.IsFailedPrecondition(err) && (c.to.Transport == DockerTransport || c.to.Transport == LayoutTransport) {
		f, openErr := os.Open(from.Path)
		if openErr != nil {
			return nil, openErr
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		return c.fromStream(ctx, from, f)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	s := &archiveSource{Contents: a.Contents, blob: a.Open}
	name, err := s.choose(ctx, from)
	if err != nil {
		return nil, err
	}
	return c.run(ctx, s, name)
}

func (c *copying) mover(from source, to target, name string) *mover {
	if name == "" {
		name = from.root().Digest.String()
	}
	return newMover(from, to, name, moveOptions{
		Choice: c.o.Choice, Streams: c.o.Streams, NoReferrers: c.o.NoReferrers, Progress: c.o.Progress,
		alone: c.to.Transport == DockerArchiveTransport,
	})
}

func (c *copying) toRegistry(ctx context.Context, from source, name string) (*PushResult, error) {
	t, to, err := c.registry()
	if err != nil {
		return nil, err
	}
	m := c.mover(from, t, name)
	l, err := m.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return &m.res, m.send(ctx, l, to)
}

func (c *copying) registry() (registryTarget, ref.Reference, error) {
	r, err := ref.Parse(c.to.Ref)
	return registryTarget{c.reg, r}, r, err
}

func (c *copying) toFolder(ctx context.Context, from source, name string) (*PushResult, error) {
	t, err := c.folder(name)
	if err != nil {
		return nil, err
	}
	m := c.mover(from, t, name)
	l, err := m.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return &m.res, m.carry(ctx, l)
}

// ready sees that what a source would fetch on demand is there, for targets that need all of it and
// cannot take back what they have.
func ready(ctx context.Context, from source, blobs []need) error {
	if s, ok := from.(storeSource); ok {
		return s.bring(ctx, descriptors(blobs)...)
	}
	return nil
}

func (c *copying) folder(name string) (*dirTarget, error) {
	called, err := c.to.naming(name)
	if err != nil {
		return nil, err
	}
	return openDirTarget(c.to.Path, called.Name, called.Tag, c.o.NoSync)
}

func (c *copying) toFile(ctx context.Context, from source, name string) (*PushResult, error) {
	called, err := c.to.naming(name)
	if err != nil {
		return nil, err
	}
	m := c.mover(from, nowhere{}, name)
	l, err := m.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := ready(ctx, from, l.blobs()); err != nil {
		return nil, err
	}
	if c.to.Transport == DockerArchiveTransport && dockerEntry(l.main.tree, l.main.images()) == nil {
		return nil, fmt.Errorf("it cannot be in a docker archive, which holds images with all of their layers: %w", errdefs.ErrInvalidArgument)
	}
	if c.to.Path == "-" && c.o.Stdout != nil {
		return &m.res, m.pack(ctx, c.o.Stdout, l, called)
	}
	return &m.res, untilRight(func(err error) { m.warn(fmt.Sprintf("%s is written once more: %v", c.to.Path, err)) }, func() error {
		m.res.Pushed = Count{}
		return WriteFile(c.to.Path, c.o.NoSync, func(w io.Writer) error { return m.pack(ctx, w, l, called) })
	})
}

// fromStore moves a stored image, which is held meanwhile.
func (c *copying) fromStore(ctx context.Context, name string) (res *PushResult, err error) {
	s := *c.o.Store
	r, err := ref.Parse(name)
	if err != nil {
		return nil, err
	}
	if c.to.Transport == DockerTransport {
		to, err := ref.Parse(c.to.Ref)
		if err != nil {
			return nil, err
		}
		return s.push(ctx, c.reg, r.String(), to, PushOptions{
			Choice: c.o.Choice, Streams: c.o.Streams, NoReferrers: c.o.NoReferrers, Fetch: c.o.Fetch, Progress: c.o.Progress,
		})
	}
	images, release, err := s.holdImages(ctx, r.String())
	if err != nil {
		return nil, err
	}
	defer joinRelease(release, &err)
	img := images[0]
	from := storeSource{&demand{Store: s, reg: c.reg, sink: c.o.Progress}, img.Name, img.Target}
	if res, err = c.run(ctx, from, img.Name); err != nil {
		return nil, err
	}
	res.Refetched = from.list()
	return res, nil
}

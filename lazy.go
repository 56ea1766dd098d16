package stowage

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/transfer"
)

// WriteBlob writes a blob to w, verified as it is read. One that was evicted, or whose layer is lazy, is
// fetched first from where it came from, and stays; sink is told. After an error some bytes may
// have been written.
func (s *Store) WriteBlob(ctx context.Context, w io.Writer, digest string, sink ProgressSink) (err error) {
	d, err := s.digestOf(ctx, digest)
	if err != nil {
		return err
	}
	r, err := s.OpenBlob(ctx, d, sink)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = content.Copy(ctx, w, r, d)
	return err
}

// OpenBlob opens a blob, which is fetched first as [Store.WriteBlob] does; the caller closes it. Its bytes
// are as the disk gives them.
func (s *Store) OpenBlob(ctx context.Context, d Digest, sink ProgressSink) (r content.Reader, err error) {
	r, err = s.content.Open(ctx, d)
	if !errdefs.IsNotFound(err) {
		return r, err
	}
	lazy, findErr := s.meta.OnDemand(ctx, d)
	if findErr != nil {
		return nil, findErr
	}
	if lazy == nil {
		return s.content.Open(ctx, d) // somebody may just have brought it
	}
	defer s.writing()()
	// Until it is open, nobody may evict it again.
	hold, err := s.meta.Hold(ctx, s.ns, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	return transfer.OnDemand(s.place(), s.reg, []Descriptor{*lazy}, sink).Open(ctx, d)
}

// Evict gives up the packed layers of images that are unpacked and not pinned, if they can be fetched
// again from where they came from; the images are lazy then. See [gc.Evict].
func (s *Store) Evict(ctx context.Context, o EvictOptions) (*Eviction, error) {
	if err := s.owned("evict"); err != nil {
		return nil, err
	}
	e, err := gc.Evict(ctx, s.collected(), o)
	if err != nil {
		err = fmt.Errorf("evict: %w", err)
	}
	return &e, err
}

// discardUnpacked does so for images that have just come, if that is configured. They are here whatever
// becomes of it.
func (s *Store) discardUnpacked(ctx context.Context, names ...string) {
	if !s.gc.DiscardUnpacked || len(names) == 0 {
		return
	}
	if _, err := s.Evict(ctx, EvictOptions{Namespace: s.ns, Images: names}); err != nil {
		s.log.Warn("unpacked layers were not discarded", "reason", err)
	}
}

// sources is how lazy blobs of what is pushed are fetched. The user name that was given is for the
// registry of the target: others do not get to see it.
func (s *Store) sources(target ref.Reference) transfer.Registry {
	if s.nameless == nil {
		return s.reg
	}
	return apart{target.Registry(), s.reg, s.nameless}
}

// apart speaks to one registry by way of one client, and to the others by way of another.
type apart struct {
	registry    string
	own, others transfer.Registry
}

func (a apart) of(r ref.Reference) transfer.Registry {
	if r.Registry() == a.registry {
		return a.own
	}
	return a.others
}

func (a apart) Resolve(ctx context.Context, r ref.Reference) (registry.Resolved, error) {
	return a.of(r).Resolve(ctx, r)
}

func (a apart) Manifest(ctx context.Context, r ref.Reference, d Descriptor) ([]byte, error) {
	return a.of(r).Manifest(ctx, r, d)
}

func (a apart) Blob(ctx context.Context, r ref.Reference, d Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	return a.of(r).Blob(ctx, r, d, offset, onFault)
}

package transfer

import (
	"context"
	"slices"
	"strings"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// A Pusher is what pushes and copies ask of registries; *[registry.Client] answers it.
type Pusher interface {
	Registry
	HasManifest(ctx context.Context, r ref.Reference, d image.Descriptor) (bool, error)
	HasBlob(ctx context.Context, r ref.Reference, d image.Descriptor) (bool, error)
	PushBlob(ctx context.Context, r ref.Reference, d image.Descriptor, from registry.BlobSource, onFault func(error)) (registry.PushOutcome, error)
	PushManifest(ctx context.Context, r ref.Reference, d image.Descriptor, body []byte) error
	Referrers(ctx context.Context, r ref.Reference, subject image.Digest) ([]image.Descriptor, error)
}

// registryTarget brings an image to a registry.
type registryTarget struct {
	reg Pusher
	r   ref.Reference
}

func (t registryTarget) hasDocument(ctx context.Context, d image.Descriptor) (bool, error) {
	return t.reg.HasManifest(ctx, t.r, d)
}

func (t registryTarget) hasBlob(ctx context.Context, d image.Descriptor) (bool, error) {
	return t.reg.HasBlob(ctx, t.r, d)
}

func (t registryTarget) putBlob(ctx context.Context, d image.Descriptor, from registry.BlobSource, onFault func(error)) (registry.PushOutcome, error) {
	return t.reg.PushBlob(ctx, t.r, d, from, onFault)
}

func (t registryTarget) putDocument(ctx context.Context, d image.Descriptor, body []byte) error {
	r, err := ref.Parse(t.r.Name() + "@" + d.Digest.String())
	if err != nil {
		return err
	}
	return t.reg.PushManifest(ctx, r, d, body)
}

// putTagged implements [tagger].
func (t registryTarget) putTagged(ctx context.Context, tag string, d image.Descriptor, body []byte) error {
	r, err := t.r.WithoutDigest().WithTag(tag)
	if err != nil {
		return err
	}
	return t.reg.PushManifest(ctx, r, d, body)
}

func (t registryTarget) finish(ctx context.Context, root image.Descriptor, body []byte, _ []image.Descriptor) error {
	return t.reg.PushManifest(ctx, t.r, root, body)
}

// origins lists the other repositories of the registry that the source knows of. Those nearest to the
// target come first: who may push there may most likely pull from them.
func (t registryTarget) origins(ctx context.Context, from source, d image.Descriptor) ([]string, error) {
	list, err := from.origins(ctx, d, t.r.Registry())
	list = slices.DeleteFunc(list, func(repo string) bool { return repo == t.r.Repository() })
	slices.SortStableFunc(list, func(a, b string) int {
		return commonPath(b, t.r.Repository()) - commonPath(a, t.r.Repository())
	})
	return list, err
}

// commonPath counts the folders that two repositories are both below.
func commonPath(a, b string) int {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < min(len(x), len(y)) && x[n] == y[n] {
		n++
	}
	return n
}

func (registryTarget) gaps() bool { return false }

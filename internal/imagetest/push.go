package imagetest

import (
	"context"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// Push puts every blob of img into repo of the registry at host (address:port, plain HTTP) and
// names its root tag. What an index lists is there by digest.
func Push(ctx context.Context, host, repo, tag string, img *Image) error {
	registry := registrytest.Registry{Host: host}
	for _, b := range img.Blobs {
		if err := push(ctx, registry, repo, b); err != nil {
			return fmt.Errorf("push %s:%s: %w", repo, tag, err)
		}
	}
	root, _ := img.Blob(img.Root.Digest)
	body, err := root.Bytes()
	if err != nil {
		return fmt.Errorf("push %s:%s: %w", repo, tag, err)
	}
	return registry.PushManifest(ctx, repo, tag, root.MediaType, body)
}

func push(ctx context.Context, registry registrytest.Registry, repo string, b Blob) error {
	switch b.MediaType {
	case v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, DockerManifest, DockerList:
		body, err := b.Bytes()
		if err != nil {
			return err
		}
		return registry.PushManifest(ctx, repo, b.Digest.String(), b.MediaType, body)
	}
	body, err := b.Open()
	if err != nil {
		return err
	}
	defer body.Close()
	return registry.PushBlobFrom(ctx, repo, b.Digest, b.Size, body)
}

package metadata

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// ReadDocument makes a document of the bytes of a manifest or an index, with the platform that
// its config states, if that is in blobs. Nil: they are neither.
func ReadDocument(ctx context.Context, blobs content.Store, d image.Digest, b []byte) (*Document, error) {
	parsed, err := image.ParseDocument(b)
	if err != nil {
		return nil, nil
	}
	doc := &Document{Digest: d, Size: int64(len(b)), Document: *parsed}
	if !doc.IsImage() {
		return doc, nil
	}
	b, err = content.ReadBlob(ctx, blobs, doc.Config.Digest, image.MaxConfig)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) || errdefs.IsResourceExhausted(err) {
		return doc, nil
	}
	if err != nil {
		return nil, err
	}
	if config, err := image.ParseConfig(b); err == nil {
		doc.Platform = &config.Platform
	}
	return doc, nil
}

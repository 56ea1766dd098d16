// Package unpack turns the layers of images into chains of snapshots.
//
// A layer is unpacked in the pass over its bytes that stores them: see [Run.Stream]. What did not
// come that way, because it was stored before, or because the driver must know what is below
// first, is unpacked from the store: [Run.Add] sees to whatever is missing, in order. Both
// check the diffID, and leave nothing behind of a layer that does not match.
//
// Snapshots are one thing and blobs another: that a snapshot is there never means that its blob
// is, and this package never says that a blob need not be fetched.
package unpack

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/snapshot"
)

// Options tune unpacking. The zero value refuses losses, and uses no outside program.
type Options struct {
	Filter       layer.Filter  // decompresses gzip; the zero one is none
	Large        chan struct{} // see [layer.DecompressOptions]
	Limits       layer.Limits
	Ratio        int64 // how many times as large as its blob a layer may be, once it is over 1 GiB; 0: 200
	ReportLosses bool  // list what cannot be kept, rather than fail
	Progress     progress.Sink
}

// An Unpacker unpacks into one snapshotter what one content store has.
type Unpacker struct {
	Snapshots *snapshot.Store
	Content   content.Store
	Meta      *metadata.Store
	Namespace string
	Options
}

// An Image is what is to be unpacked: the layers of one manifest, lowest first.
type Image struct {
	Manifest image.Digest
	Layers   []image.Descriptor
	DiffIDs  []image.Digest
}

// ImageOf pairs the layers of a manifest with the diffIDs of its config. Errors:
// [errdefs.ErrInvalidArgument] when they are not equally many.
func ImageOf(manifest image.Digest, doc *image.Document, c *image.Config) (Image, error) {
	if len(doc.Layers) != len(c.DiffIDs) {
		return Image{}, fmt.Errorf("manifest %s lists %d layers and its config %d diffIDs: %w", manifest, len(doc.Layers), len(c.DiffIDs), errdefs.ErrInvalidArgument)
	}
	return Image{manifest, doc.Layers, c.DiffIDs}, nil
}

// Digests lists what has to be held while the image is unpacked: diffIDs and chainIDs.
func (img Image) Digests() []image.Digest {
	return slices.Concat(img.DiffIDs, image.ChainIDs(img.DiffIDs))
}

// Done tells whether the image is unpacked: every snapshot is there, with its folder, and knows
// the manifest.
func (u *Unpacker) Done(ctx context.Context, img Image) (bool, error) {
	chain := image.ChainIDs(img.DiffIDs)
	rows, err := u.Snapshots.Chain(ctx, chain)
	if err != nil || len(rows) < len(chain) {
		return false, err
	}
	return len(rows) == 0 || slices.Contains(rows[len(rows)-1].Manifests, img.Manifest), nil
}

// A LayerError says which layer could not be unpacked.
type LayerError struct {
	Layer image.Digest // of its blob
	Err   error
}

func (e *LayerError) Error() string { return fmt.Sprintf("unpack layer %s: %v", e.Layer, e.Err) }

// Unwrap gives the cause.
func (e *LayerError) Unwrap() error { return e.Err }

// side is how many layers are unpacked side by side. Each keeps a decompressor and a writer of
// files busy.
func side() int { return min(4, max(2, runtime.GOMAXPROCS(0))) }

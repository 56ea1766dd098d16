package stowage

import (
	"context"
	"fmt"
	"io"

	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/transfer"
)

// CopyOptions tunes [Copy]. The zero value copies the image as it is, with what refers to it.
type CopyOptions struct {
	Choice
	Streams     int             // blobs moved at once; 0: 4, and 16 small ones beside them
	NoReferrers bool            // leaves out what refers to the image: signatures, SBOMs; also those under cosign's tags
	NoSync      bool            // leaves it to the kernel when the bytes of folders and files reach the disk
	Store       *Store          // for ends that are store:REF; its registry options count then
	Registry    RegistryOptions // without a Store, how registries are reached
	Stdin       io.Reader       // stands behind the file name - of a source,
	Stdout      io.Writer       // and this behind that of a target
	Progress    ProgressSink
}

// Copy brings an image from one place to another, without storing it on the way. See
// [transfer.Copy].
func Copy(ctx context.Context, from, to Endpoint, o CopyOptions) (*CopyResult, error) {
	inner := transfer.CopyOptions{
		Choice: o.Choice, Streams: o.Streams, NoReferrers: o.NoReferrers, NoSync: o.NoSync, Stdin: o.Stdin, Stdout: o.Stdout, Progress: o.Progress,
	}
	if o.Store == nil {
		reg := registry.New(o.Registry)
		defer reg.Close()
		return transfer.Copy(ctx, reg, from, to, inner)
	}
	defer o.Store.writing()()
	place := o.Store.place()
	inner.Store = &place
	if from.Transport == StoreTransport {
		img, err := o.Store.find(ctx, from.Ref)
		if err != nil {
			return nil, fmt.Errorf("copy %s: %w", from, err)
		}
		o.Store.touch(ctx, img)
		from.Ref = img.Name
		if r, err := ref.Parse(to.Ref); err == nil && to.Transport == transfer.DockerTransport {
			inner.Fetch = o.Store.sources(r)
		}
	}
	return transfer.Copy(ctx, o.Store.reg, from, to, inner)
}

// ParseEndpoint reads docker://REF, store:REF, oci:DIR[:TAG], oci-archive:FILE[:REF] or
// docker-archive:FILE[:REF]. Errors: [errdefs.ErrInvalidArgument].
func ParseEndpoint(s string) (Endpoint, error) { return transfer.ParseEndpoint(s) }

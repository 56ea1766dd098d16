package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/metadata"
)

type contentService struct {
	api.UnimplementedContentServer
	server  *Server
	writes  *writes
	readers *readers
}

func registerContent(r grpc.ServiceRegistrar, s *Server) {
	api.RegisterContentServer(r, &contentService{
		server: s, writes: newWrites(s.store.Content(), maxWrites), readers: &readers{idle: map[blobIn]*idleReader{}},
	})
}

// Info describes a blob of the namespace. One that was evicted, or whose layer is lazy, counts as there,
// unless nothing is to be fetched.
func (c *contentService) Info(ctx context.Context, req *api.InfoRequest) (*api.InfoResponse, error) {
	store, d, err := c.of(ctx, req.Digest)
	if err != nil {
		return nil, err
	}
	b, err := c.blob(ctx, store, d)
	if err != nil {
		return nil, err
	}
	return &api.InfoResponse{Info: toInfo(b)}, nil
}

// blob describes a blob of the namespace that is here, or will be fetched when it is read. What a client
// left out of an image is fetched now.
func (c *contentService) blob(ctx context.Context, store *stowage.Store, d digest.Digest) (metadata.Blob, error) {
	if c.server.o.NoFetch {
		return store.Metadata().Blob(ctx, store.Namespace(), d)
	}
	b, err := store.Metadata().AvailableBlob(ctx, store.Namespace(), d)
	if !errdefs.IsNotFound(err) {
		return b, err
	}
	if fetchErr := c.server.filler.fetch(ctx, store, d); fetchErr != nil {
		return b, errors.Join(err, fetchErr)
	}
	return store.Metadata().Blob(ctx, store.Namespace(), d)
}

// Update changes the labels of a blob.
func (c *contentService) Update(ctx context.Context, req *api.UpdateRequest) (*api.UpdateResponse, error) {
	store, d, err := c.of(ctx, req.GetInfo().GetDigest())
	if err != nil {
		return nil, err
	}
	labels, all, err := maskLabels(req.UpdateMask.GetPaths(), req.Info.Labels)
	if err != nil {
		return nil, fmt.Errorf("update blob %s: %w", d, err)
	}
	change := store.Metadata().LabelBlob
	if all {
		change = store.Metadata().RelabelBlob
	}
	b, err := change(ctx, store.Namespace(), d, labels)
	if err != nil {
		return nil, err
	}
	return &api.UpdateResponse{Info: toInfo(b)}, nil
}

// maskLabels reads the mask of an update that can change nothing but labels: which labels it sets,
// those with empty values being removed; and whether these are all that there will be.
func maskLabels(mask []string, labels map[string]string) (set map[string]string, all bool, err error) {
	set = map[string]string{}
	for _, path := range mask {
		key, ok := strings.CutPrefix(path, "labels.")
		switch {
		case ok:
			set[key] = labels[key]
		case path == "labels":
			all = true
		default:
			return nil, false, fmt.Errorf("field %q cannot be changed: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	if all || len(mask) == 0 {
		return labels, true, nil
	}
	return set, false, nil
}

// listed is how many blobs go into one message of a list.
const listed = 100

// List sends the blobs of the namespace that the filters match.
func (c *contentService) List(req *api.ListContentRequest, stream api.Content_ListServer) error {
	ctx := stream.Context()
	store, err := c.server.in(ctx)
	if err != nil {
		return err
	}
	wanted, err := filter.Parse(req.Filters...)
	if err != nil {
		return err
	}
	blobs, err := store.Metadata().Blobs(ctx, store.Namespace())
	if err != nil {
		return err
	}
	var list []*api.Info
	for _, b := range blobs {
		if !wanted.Match(blobFields(b)) {
			continue
		}
		if list = append(list, toInfo(b)); len(list) == listed {
			if err := stream.Send(&api.ListContentResponse{Info: list}); err != nil {
				return err
			}
			list = list[:0]
		}
	}
	if len(list) == 0 {
		return nil
	}
	return stream.Send(&api.ListContentResponse{Info: list})
}

func blobFields(b metadata.Blob) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "digest":
			return b.Digest.String(), true
		case "labels":
			return filter.Label(b.Labels, path[1:])
		}
		return "", false
	}
}

// Delete has the namespace forget a blob, whatever needs it there. Its bytes go when no namespace
// knows it. What a running operation needs is [errdefs.ErrUnavailable].
func (c *contentService) Delete(ctx context.Context, req *api.DeleteContentRequest) (*emptypb.Empty, error) {
	store, d, err := c.of(ctx, req.Digest)
	if err != nil {
		return nil, err
	}
	if _, err := store.RemoveBlob(ctx, d.String(), true); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, c.readers.forget(blobIn{store.Namespace(), d})
}

// chunk is how much of a blob goes into one message.
const chunk = 1 << 20

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Read sends a blob of the namespace, or a part of it. One that was evicted, or whose layer is lazy, is
// fetched first from where it came from, and stays. What is sent of a blob that something touched
// since it was stored is not verified unless it is all of it.
func (c *contentService) Read(req *api.ReadContentRequest, stream api.Content_ReadServer) (err error) {
	ctx := stream.Context()
	store, d, err := c.of(ctx, req.Digest)
	if err != nil {
		return err
	}
	of, offset := blobIn{store.Namespace(), d}, max(req.Offset, 0)
	var r content.Reader
	if offset > 0 {
		r = c.readers.take(of)
	}
	if r == nil {
		if _, err := c.blob(ctx, store, d); err != nil {
			return err
		}
		if r, err = store.OpenBlob(ctx, d, nil); err != nil {
			return err
		}
	}
	rest := r.Size() - offset
	if req.Size > 0 {
		rest = min(rest, req.Size)
	}
	w := &readWriter{stream: stream}
	switch {
	case rest < 0:
		err = fmt.Errorf("read blob %s at %d of %d bytes: %w", d, offset, r.Size(), errdefs.ErrOutOfRange)
	case rest == r.Size():
		_, err = content.Send(ctx, w, r, d)
	default:
		err = w.piece(r, offset, rest)
	}
	if err != nil || offset+rest == r.Size() {
		return errors.Join(err, r.Close())
	}
	return c.readers.keep(of, r)
}

// A readWriter sends what is written to it.
type readWriter struct {
	stream api.Content_ReadServer
	offset int64 // from where the client began to read, as containerd counts
}

// piece sends a part of r.
func (w *readWriter) piece(r content.Reader, offset, size int64) error {
	p := chunks.Get().(*[chunk]byte)
	defer chunks.Put(p)
	for size > 0 {
		n, err := r.ReadAt(p[:min(size, chunk)], offset)
		if n == 0 {
			return err
		}
		if _, err := w.Write(p[:n]); err != nil {
			return err
		}
		offset, size = offset+int64(n), size-int64(n)
	}
	return nil
}

func (w *readWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		if err := w.stream.Send(&api.ReadContentResponse{Offset: w.offset, Data: part}); err != nil {
			return n, err
		}
		n, w.offset, p = n+len(part), w.offset+int64(len(part)), p[len(part):]
	}
	return n, nil
}

// of is the store on the namespace of a request, and the digest that it names.
func (c *contentService) of(ctx context.Context, text string) (*stowage.Store, digest.Digest, error) {
	d := digest.Digest(text)
	if err := content.Validate(d); err != nil {
		return nil, "", err
	}
	store, err := c.server.in(ctx)
	return store, d, err
}

func toInfo(b metadata.Blob) *api.Info {
	return &api.Info{
		Digest: b.Digest.String(), Size: b.Size, Labels: b.Labels,
		CreatedAt: timestamppb.New(b.CreatedAt), UpdatedAt: timestamppb.New(b.UpdatedAt),
	}
}

package containerd

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/metadata"
)

type diffService struct {
	diff.UnimplementedDiffServer
	server *Server
}

func registerDiff(r grpc.ServiceRegistrar, s *Server) {
	diff.RegisterDiffServer(r, &diffService{server: s})
}

// Apply makes the changes of a layer in what mounts show.
func (d *diffService) Apply(ctx context.Context, r *diff.ApplyRequest) (*diff.ApplyResponse, error) {
	store, err := d.server.in(ctx)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(r.GetDiff().GetMediaType(), "+encrypted") {
		return nil, fmt.Errorf("apply layer %s: it is encrypted: %w", r.Diff.Digest, errdefs.ErrNotImplemented)
	}
	plain, err := store.ApplyLayer(ctx, descriptorFromProto(r.Diff), mountsFrom(r.Mounts))
	if err != nil {
		return nil, err
	}
	return &diff.ApplyResponse{Applied: descriptorToProto(plain)}, nil
}

// Diff stores the layer that leads from what some mounts show to what others show.
func (d *diffService) Diff(ctx context.Context, r *diff.DiffRequest) (*diff.DiffResponse, error) {
	store, err := d.server.in(ctx)
	if err != nil {
		return nil, err
	}
	o := stowage.LayerOptions{MediaType: r.MediaType, Labels: r.Labels, Lease: lease(ctx)}
	if r.Ref != "" {
		if o.Key, err = metadata.IngestKey(store.Namespace(), r.Ref); err != nil {
			return nil, err
		}
	}
	if at := r.SourceDateEpoch; at != nil {
		o.Latest = at.AsTime()
	}
	desc, err := store.StoreLayer(ctx, mountsFrom(r.Left), mountsFrom(r.Right), o)
	if err != nil {
		return nil, err
	}
	return &diff.DiffResponse{Diff: descriptorToProto(desc)}, nil
}

func mountsFrom(list []*types.Mount) (mounts []stowage.Mount) {
	for _, m := range list {
		mounts = append(mounts, stowage.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return mounts
}

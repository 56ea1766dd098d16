package containerd

import (
	"context"
	"fmt"
	"strings"

	leases "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// leasesService makes leases, and says what is under them. The holds of running operations are leases
// of ours alone, and are not shown.
type leasesService struct {
	leases.UnimplementedLeasesServer
	server *Server
}

func registerLeases(r grpc.ServiceRegistrar, s *Server) {
	leases.RegisterLeasesServer(r, &leasesService{server: s})
}

// Create makes a lease with nothing under it.
func (l *leasesService) Create(ctx context.Context, req *leases.CreateRequest) (*leases.CreateResponse, error) {
	store, err := l.server.in(ctx)
	if err != nil {
		return nil, err
	}
	made, err := store.CreateLease(ctx, stowage.Lease{ID: req.ID, Labels: req.Labels})
	if err != nil {
		return nil, err
	}
	return &leases.CreateResponse{Lease: leaseToProto(made)}, nil
}

// Delete ends a lease, and with sync deletes what nothing needs any more before it answers.
func (l *leasesService) Delete(ctx context.Context, req *leases.DeleteRequest) (*emptypb.Empty, error) {
	store, err := l.server.in(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.DeleteLease(ctx, req.ID); err != nil {
		return nil, err
	}
	l.server.filler.wentOn(store.Namespace())
	if req.Sync {
		err = l.server.collector.collect(ctx)
	}
	return &emptypb.Empty{}, err
}

// List gives those that a filter matches: all, if there is none.
func (l *leasesService) List(ctx context.Context, req *leases.ListRequest) (*leases.ListResponse, error) {
	store, err := l.server.in(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := filter.Parse(req.Filters...)
	if err != nil {
		return nil, err
	}
	list, err := store.Leases(ctx)
	if err != nil {
		return nil, err
	}
	res := &leases.ListResponse{}
	for _, lease := range list {
		if lease.Holder == "" && chosen.Match(leaseFields(lease)) {
			res.Leases = append(res.Leases, leaseToProto(lease))
		}
	}
	return res, nil
}

// leaseFields are what filters look at.
func leaseFields(lease stowage.Lease) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return lease.ID, true
		case "labels":
			return filter.Label(lease.Labels, path[1:])
		}
		return "", false
	}
}

// AddResource puts one thing under a lease, which need not be here yet.
func (l *leasesService) AddResource(ctx context.Context, req *leases.AddResourceRequest) (*emptypb.Empty, error) {
	return l.change(ctx, req.ID, req.Resource, (*metadata.Store).AddToLease)
}

// DeleteResource takes one thing from a lease. It stays if something else keeps it.
func (l *leasesService) DeleteResource(ctx context.Context, req *leases.DeleteResourceRequest) (*emptypb.Empty, error) {
	return l.change(ctx, req.ID, req.Resource, (*metadata.Store).RemoveFromLease)
}

func (l *leasesService) change(ctx context.Context, id string, r *leases.Resource, act func(*metadata.Store, context.Context, string, string, metadata.LeaseResources) error) (*emptypb.Empty, error) {
	store, err := l.server.in(ctx)
	if err != nil {
		return nil, err
	}
	resources, err := resourcesFromProto(r)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, act(store.Metadata(), ctx, store.Namespace(), id, resources)
}

// ListResources lists what is under a lease.
func (l *leasesService) ListResources(ctx context.Context, req *leases.ListResourcesRequest) (*leases.ListResourcesResponse, error) {
	store, err := l.server.in(ctx)
	if err != nil {
		return nil, err
	}
	lease, err := store.Metadata().Lease(ctx, store.Namespace(), req.ID)
	if err != nil {
		return nil, err
	}
	res := &leases.ListResourcesResponse{}
	add := func(kind, id string) {
		res.Resources = append(res.Resources, &leases.Resource{Type: kind, ID: id})
	}
	for _, d := range lease.Digests {
		add(contentResource, d.String())
	}
	for _, name := range lease.Images {
		add(imageResource, name)
	}
	for _, ref := range lease.Ingests {
		add(ingestResource, ref)
	}
	for _, ref := range lease.Snapshots {
		add(snapshotResource+"/"+theirSnapshotter(ref.Snapshotter), ref.Key)
	}
	return res, nil
}

// The types of what can be under a lease. That of a snapshot ends in its snapshotter.
const (
	contentResource  = "content"
	imageResource    = "images"
	ingestResource   = "ingests"
	snapshotResource = "snapshots"
)

func resourcesFromProto(r *leases.Resource) (list metadata.LeaseResources, err error) {
	kind, snapshotter, of := strings.Cut(r.GetType(), "/")
	switch {
	case kind == snapshotResource && of:
		list.Snapshots = []metadata.SnapshotRef{{Snapshotter: metadata.SnapshotterName(snapshotter), Key: r.ID}}
	case of, kind == snapshotResource:
		err = fmt.Errorf("resource type %.100q: %w", r.GetType(), errdefs.ErrInvalidArgument)
	case kind == contentResource:
		list.Digests = []image.Digest{image.Digest(r.ID)}
	case kind == imageResource:
		list.Images = []string{r.ID}
	case kind == ingestResource:
		list.Ingests = []string{r.ID}
	default:
		err = fmt.Errorf("resource type %.100q: %w", r.GetType(), errdefs.ErrNotImplemented)
	}
	return list, err
}

func leaseToProto(l stowage.Lease) *leases.Lease {
	return &leases.Lease{ID: l.ID, Labels: l.Labels, CreatedAt: timestamppb.New(l.CreatedAt)}
}

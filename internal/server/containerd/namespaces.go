package containerd

import (
	"context"
	"fmt"
	"slices"

	namespaces "github.com/containerd/containerd/api/services/namespaces/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage/internal/metadata"
)

type namespacesService struct {
	namespaces.UnimplementedNamespacesServer
	server *Server
}

func registerNamespaces(r grpc.ServiceRegistrar, s *Server) {
	namespaces.RegisterNamespacesServer(r, &namespacesService{server: s})
}

// Get gives a namespace with its labels: none, if there is no such namespace yet, which clients ask for
// before they use it.
func (n *namespacesService) Get(ctx context.Context, req *namespaces.GetNamespaceRequest) (*namespaces.GetNamespaceResponse, error) {
	if err := metadata.CheckNamespace(req.Name); err != nil {
		return nil, err
	}
	list, err := n.server.store.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	found := metadata.Namespace{Name: req.Name}
	if i := slices.IndexFunc(list, func(n metadata.Namespace) bool { return n.Name == req.Name }); i >= 0 {
		found = list[i]
	}
	return &namespaces.GetNamespaceResponse{Namespace: namespaceToProto(found)}, nil
}

// List gives all of them.
func (n *namespacesService) List(ctx context.Context, _ *namespaces.ListNamespacesRequest) (*namespaces.ListNamespacesResponse, error) {
	list, err := n.server.store.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	res := &namespaces.ListNamespacesResponse{}
	for _, ns := range list {
		res.Namespaces = append(res.Namespaces, namespaceToProto(ns))
	}
	return res, nil
}

// Create makes a namespace.
func (n *namespacesService) Create(ctx context.Context, req *namespaces.CreateNamespaceRequest) (*namespaces.CreateNamespaceResponse, error) {
	if err := n.server.store.CreateNamespace(ctx, req.Namespace.GetName(), req.Namespace.GetLabels()); err != nil {
		return nil, err
	}
	return &namespaces.CreateNamespaceResponse{Namespace: req.Namespace}, nil
}

// Update gives a namespace labels, and makes it if it is new: those that the mask names, as labels.KEY,
// or all, with labels or without a mask.
func (n *namespacesService) Update(ctx context.Context, req *namespaces.UpdateNamespaceRequest) (*namespaces.UpdateNamespaceResponse, error) {
	name := req.Namespace.GetName()
	labels, whole, err := maskLabels(req.UpdateMask.GetPaths(), req.Namespace.GetLabels())
	if err != nil {
		return nil, fmt.Errorf("update namespace %.100s: %w", name, err)
	}
	if err := n.server.store.Metadata().PutNamespace(ctx, name, labels, whole); err != nil {
		return nil, err
	}
	got, err := n.Get(ctx, &namespaces.GetNamespaceRequest{Name: name})
	return &namespaces.UpdateNamespaceResponse{Namespace: got.GetNamespace()}, err
}

// Delete removes a namespace with nothing in it.
func (n *namespacesService) Delete(ctx context.Context, req *namespaces.DeleteNamespaceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, n.server.store.DeleteNamespace(ctx, req.Name)
}

func namespaceToProto(n metadata.Namespace) *namespaces.Namespace {
	return &namespaces.Namespace{Name: n.Name, Labels: n.Labels}
}

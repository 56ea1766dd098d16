package containerd

import (
	"context"
	"fmt"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// containersService says that there are no containers: clients ask before they remove images.
type containersService struct {
	containers.UnimplementedContainersServer
	server *Server
}

func registerContainers(r grpc.ServiceRegistrar, s *Server) {
	containers.RegisterContainersServer(r, &containersService{server: s})
}

// errNoContainers answers who wants to run one.
var errNoContainers = fmt.Errorf("this is a store of images, and runs no containers: %w", errdefs.ErrNotImplemented)

func noContainer(id string) error {
	return fmt.Errorf("container %.100q: %w", id, errdefs.ErrNotFound)
}

// Get finds none.
func (c *containersService) Get(_ context.Context, req *containers.GetContainerRequest) (*containers.GetContainerResponse, error) {
	return nil, noContainer(req.ID)
}

// List is empty.
func (c *containersService) List(ctx context.Context, _ *containers.ListContainersRequest) (*containers.ListContainersResponse, error) {
	_, err := c.server.in(ctx)
	return &containers.ListContainersResponse{}, err
}

// ListStream is empty.
func (c *containersService) ListStream(_ *containers.ListContainersRequest, stream containers.Containers_ListStreamServer) error {
	_, err := c.server.in(stream.Context())
	return err
}

// Create is refused.
func (c *containersService) Create(context.Context, *containers.CreateContainerRequest) (*containers.CreateContainerResponse, error) {
	return nil, errNoContainers
}

// Update finds none.
func (c *containersService) Update(_ context.Context, req *containers.UpdateContainerRequest) (*containers.UpdateContainerResponse, error) {
	return nil, noContainer(req.Container.GetID())
}

// Delete finds none.
func (c *containersService) Delete(_ context.Context, req *containers.DeleteContainerRequest) (*emptypb.Empty, error) {
	return nil, noContainer(req.ID)
}

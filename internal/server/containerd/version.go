package containerd

import (
	"context"

	version "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

type versionService struct {
	version.UnimplementedVersionServer
	server *Server
}

func registerVersion(r grpc.ServiceRegistrar, s *Server) {
	version.RegisterVersionServer(r, &versionService{server: s})
}

// Version says which stowage it is.
func (v *versionService) Version(context.Context, *emptypb.Empty) (*version.VersionResponse, error) {
	return &version.VersionResponse{Version: v.server.o.Version, Revision: v.server.o.Revision}, nil
}

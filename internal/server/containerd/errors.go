package containerd

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// Errors makes gRPC's errors, with the codes that containerd gives them, of those of the services.
func Errors() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			res, err := next(ctx, req)
			return res, toGRPC(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return toGRPC(next(srv, stream))
		}),
	}
}

func toGRPC(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return errgrpc.ToGRPC(told{err.Error(), errdefs.Resolve(err)})
}

// told is what goes over the wire of an error: what it says, and its kind. What it is made of is for
// this process. Some errors unwrap to nil, as those of DNS do, and errgrpc panics where they are joined
// with others.
type told struct {
	message string
	kind    error
}

func (t told) Error() string { return t.message }
func (t told) Unwrap() error { return t.kind }

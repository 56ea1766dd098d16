package containerd

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// pluginNamespace is that of what a containerd keeps here, whose plugin the store is.
const pluginNamespace = "containerd"

// Plugin has the one client of a socket be a containerd that has the store as its plugin; nil: there is
// no such socket. It keeps account itself of its namespaces and leases, and of what is
// needed: where it collects it names none, and elsewhere others than there are here. So whatever it asks
// for is in one namespace, under no lease, and stays until it removes it.
func Plugin(l net.Listener) []grpc.ServerOption {
	if l == nil {
		return nil
	}
	address := l.Addr().String()
	owned := func(ctx context.Context) context.Context {
		if p, ok := peer.FromContext(ctx); !ok || p.LocalAddr == nil || p.LocalAddr.String() != address {
			return ctx
		}
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(namespaceHeader, pluginNamespace))
		return context.WithValue(ctx, pluginKey{}, true)
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(owned(ctx), req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, ownedStream{stream, owned(stream.Context())})
		}),
	}
}

// An ownedStream is a stream with a context of its own.
type ownedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements [grpc.ServerStream].
func (s ownedStream) Context() context.Context { return s.ctx }

type pluginKey struct{}

// ofPlugin tells whether a request is one of those.
func ofPlugin(ctx context.Context) bool { return ctx.Value(pluginKey{}) != nil }

package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What clients may ask for at once. Who asks for more on one connection waits until others have ended;
// what is more on all of them is refused. A thousand small reads at once need not wait.
const (
	maxStreams  = 1024 // on one connection
	maxRequests = 4096 // on all of them
)

// outer stands around the services and their errors: it counts requests, and says what became of them.
func (d *daemon) outer() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (res any, err error) {
			err = d.request(ctx, info.FullMethod, func() error {
				res, err = next(ctx, req)
				return err
			})
			return res, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return d.request(stream.Context(), info.FullMethod, func() error { return next(srv, stream) })
		}),
	}
}

// request runs one request.
func (d *daemon) request(ctx context.Context, method string, run func() error) error {
	began, ended := time.Now(), d.Metrics.Began(method)
	var err error
	select {
	case d.slots <- struct{}{}:
		err = run()
		<-d.slots
	default:
		err = status.Errorf(codes.ResourceExhausted, "%d requests are under way already", cap(d.slots))
	}
	code, level := status.Code(err), slog.LevelDebug
	ended(code.String())
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.ResourceExhausted:
		level = slog.LevelWarn // whoever runs the daemon should know
	}
	if d.Log.Enabled(ctx, level) {
		attrs := []slog.Attr{slog.String("method", method), slog.String("code", code.String()), slog.Duration("took", time.Since(began)), slog.Any("peer", caller(ctx))}
		if err != nil {
			attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
		}
		d.Log.LogAttrs(ctx, level, "request", attrs...)
	}
	return err
}

// inner stands between the services and their errors: a panic ends the request, and not the daemon.
func (d *daemon) inner() []grpc.ServerOption {
	caught := func(method string, err *error) {
		if p := recover(); p != nil {
			d.Log.Error("a request panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			*err = fmt.Errorf("the request panicked; the log of the daemon says where: %w", errdefs.ErrInternal)
		}
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer caught(info.FullMethod, &err)
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer caught(info.FullMethod, &err)
			return next(srv, stream)
		}),
	}
}

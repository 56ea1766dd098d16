// Package server is the daemon: it offers a store on sockets, in the APIs of the packages beneath it.
// It owns what is common to them: listeners, limits, health, and how everything ends.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/server/containerd"
	"github.com/stowage/stowage/internal/server/cri"
	"github.com/stowage/stowage/internal/server/metrics"
)

// maxMessage bounds one message either way, in bytes: as containerd has it, whose clients split what
// is larger.
const maxMessage = 16 << 20

// How much a client may send ahead of what was taken from it, in bytes, and how much goes through a socket
// at a time. With what gRPC finds out by itself, six layers that a client writes at once take a tenth
// longer.
const (
	streamWindow     = 4 << 20
	connectionWindow = 16 << 20
	socketBuffer     = 128 << 10
)

// Options tune [Serve].
type Options struct {
	Version  string // of the program
	Revision string
	// Grace is for how long requests may go on after the context of [Serve] has ended; 0: not at all.
	Grace time.Duration
	// NoFetch fetches nothing that clients did not ask to pull; see [containerd.Options].
	NoFetch bool
	// CRI tunes the services of Kubernetes; its Version and Log are those here.
	CRI cri.Options
	// Collect and Examine are how long it is from one collection, and from one search for damage that
	// reads no blob whole, to the next; 0: never.
	Collect, Examine time.Duration
	Metrics          *metrics.Metrics // nil: nobody wants to see them
	// Trace makes spans of requests, and sends them to where the variables of OpenTelemetry say.
	Trace bool
	// TLS is for clients that come by TCP; nil: none is let in.
	TLS *tls.Config
	// Log is told what operators should know; nil: nobody.
	Log *slog.Logger
}

// Serve offers a store on listeners until ctx ends. Then it accepts no more, lets requests go on for
// the grace time, and cancels what is left, whose bytes are kept: the next request for them goes on
// from there. It returns when nothing uses the store any more, and nil unless a listener failed. It
// closes the listeners; the store is the caller's to close.
func Serve(ctx context.Context, store *stowage.Store, l *Listeners, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	more := containerd.Plugin(l.Plugin)
	if o.Trace {
		spans, end, err := traces(ctx, o.Version, o.Log)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		defer end()
		more = append(more, spans)
	}
	d := newDaemon(o, more...)
	api := containerd.New(store, containerd.Options{Version: d.Version, Revision: d.Revision, NoFetch: d.NoFetch, Log: d.Log})
	api.Register(d.grpc)
	d.CRI.Version, d.CRI.Log = d.Version, d.Log
	kubernetes, err := cri.New(store, d.CRI)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	kubernetes.Register(d.grpc)
	return d.run(ctx, l, api.Run,
		func(ctx context.Context) {
			d.every(ctx, "collection", d.Collect, func(ctx context.Context) error { return d.collect(ctx, store) })
		},
		func(ctx context.Context) {
			d.every(ctx, "examination", d.Examine, func(ctx context.Context) error { return d.examine(ctx, store) })
		})
}

// A daemon is one gRPC server.
type daemon struct {
	Options
	grpc   *grpc.Server
	health *health.Server
	ends   chan struct{} // closed when no more requests are taken
	slots  chan struct{} // one for each request that is under way
}

// newDaemon makes one. Requests pass through what is more before they get to the services.
func newDaemon(o Options, more ...grpc.ServerOption) *daemon {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New(o.Version)
	}
	d := &daemon{Options: o, health: health.NewServer(), ends: make(chan struct{}), slots: make(chan struct{}, maxRequests)}
	d.grpc = grpc.NewServer(slices.Concat([]grpc.ServerOption{
		grpc.Creds(keepDoor(o.TLS, o.Log)),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(socketBuffer),
		grpc.WriteBufferSize(socketBuffer),
		grpc.WaitForHandlers(true),
	}, d.outer(), containerd.Errors(), more, d.inner(), []grpc.ServerOption{grpc.ChainStreamInterceptor(d.endWatch)})...)
	grpc_health_v1.RegisterHealthServer(d.grpc, d.health)
	return d
}

// run serves until ctx ends, and drains then. What is done beside it ends with ctx.
func (d *daemon) run(ctx context.Context, l *Listeners, beside ...func(context.Context)) error {
	work, ctx := errgroup.WithContext(ctx)
	for _, do := range beside {
		work.Go(func() error {
			do(ctx)
			return nil
		})
	}
	if l.Debug != nil {
		work.Go(func() error { return d.debug(ctx, l.Debug) })
	}
	api := l.API
	if l.Plugin != nil {
		api = append(api, l.Plugin)
	}
	for _, one := range api {
		work.Go(func() error {
			if err := d.grpc.Serve(one); !errors.Is(err, grpc.ErrServerStopped) {
				return err
			}
			return nil
		})
	}
	work.Go(func() error {
		<-ctx.Done()
		d.Log.Info("the daemon ends", "grace", d.Grace)
		d.health.Shutdown()
		close(d.ends)
		cancelled := time.AfterFunc(d.Grace, d.grpc.Stop)
		defer cancelled.Stop()
		d.grpc.GracefulStop()
		return nil
	})
	return work.Wait()
}

// watches are the streams that end only when their clients do.
var watches = map[string]bool{
	"/grpc.health.v1.Health/Watch":                    true,
	"/containerd.services.events.v1.Events/Subscribe": true,
	"/runtime.v1.RuntimeService/GetContainerEvents":   true,
}

// endWatch ends a watch when the daemon ends: nobody would otherwise.
func (d *daemon) endWatch(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !watches[info.FullMethod] {
		return next(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		select {
		case <-d.ends:
			cancel()
		case <-ctx.Done():
		}
	}()
	return next(srv, streamOf{stream, ctx})
}

// A streamOf is a stream with another context.
type streamOf struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements [grpc.ServerStream].
func (s streamOf) Context() context.Context { return s.ctx }

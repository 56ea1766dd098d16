// Package containerd offers a store in containerd's gRPC API, so that its clients work with it
// unchanged: one file a service. It translates, and decides nothing that the store does not decide
// for its own commands as well.
//
// The namespace and the lease of a request come in its headers, as containerd has it, and become
// parameters at the door of each service. Errors are those of github.com/containerd/errdefs; [Errors]
// makes gRPC's of them.
package containerd

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/stowage/stowage"
)

// The headers of requests.
const (
	namespaceHeader = "containerd-namespace"
	leaseHeader     = "containerd-lease"
)

// Options tune [New].
type Options struct {
	Version  string // of the program
	Revision string
	Log      *slog.Logger
	// Floor is how many bytes of the disk clients cannot fill with what they write; 0: 256 MiB.
	Floor int64
	// NoFetch fetches nothing that clients did not ask to pull: blobs that were evicted, or whose layers
	// are lazy, are absent then for who reads them, and what clients leave out of images stays out.
	NoFetch bool
}

// A Server is the services over one store.
type Server struct {
	store     *stowage.Store
	o         Options
	collector *collector
	exchange  *exchange
	streams   streams
	filler    *filler
}

// New makes the services of a store, which the caller closes after the gRPC server has stopped. It
// observes the store's metadata.
func New(store *stowage.Store, o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Floor == 0 {
		o.Floor = 256 << 20
	}
	s := &Server{store: store, o: o, collector: newCollector(store), exchange: newExchange(), filler: newFiller(store, o.Log)}
	store.Metadata().Observe(s.exchange.observe)
	return s
}

// Run does what is left to do after requests, until ctx ends: it fetches what clients left out.
func (s *Server) Run(ctx context.Context) {
	if !s.o.NoFetch {
		s.filler.run(ctx)
	}
}

// Register adds every service to r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	registerSnapshots(r, s)
	registerDiff(r, s)
	registerVersion(r, s)
	registerContent(r, s)
	registerImages(r, s)
	registerIntrospection(r, s)
	registerNamespaces(r, s)
	registerLeases(r, s)
	registerContainers(r, s)
	registerTasks(r, s)
	registerEvents(r, s)
	registerStreaming(r, s)
	registerTransfer(r, s)
}

// in is the store on the namespace of a request. Errors: [errdefs.ErrFailedPrecondition] when it
// names none, [errdefs.ErrInvalidArgument].
func (s *Server) in(ctx context.Context) (*stowage.Store, error) {
	ns := header(ctx, namespaceHeader)
	if ns == "" {
		return nil, fmt.Errorf("namespace is required: %w", errdefs.ErrFailedPrecondition)
	}
	return s.store.In(ns)
}

// lease is that of a request; empty: none.
func lease(ctx context.Context) string { return header(ctx, leaseHeader) }

func header(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

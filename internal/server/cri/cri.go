// Package cri offers a store as the ImageService of the Kubernetes Container Runtime Interface
// (runtime.v1 of k8s.io/cri-api), so that kubelet and crictl keep their images in it. Of the
// RuntimeService there is what their clients ask before they come to images: stowage runs no
// containers.
//
// Images are those of the namespace k8s.io, whoever brought them, that can be run on this machine:
// one that is partial is not there for clients, which then pull it again. As with containerd, an
// image's ID is the digest of its config, and a pull records it under three names: its tag, its
// digest, and its ID.
//
// Errors are those of github.com/containerd/errdefs.
package cri

import (
	"fmt"
	"log/slog"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/ref"
)

// Namespace is the one that kubelet's images are in.
const Namespace = "k8s.io"

// Options tune [New]. The zero value unpacks with the best snapshotter.
type Options struct {
	Version     string // of the program
	Snapshotter string // for pulls; empty: that of the store
	// Runtimes says which snapshotter images are unpacked with for a runtime handler. Others have
	// Snapshotter.
	Runtimes map[string]string
	// Pinned are references of images that clients are told to keep whatever they collect, such as
	// that of sandboxes. They are labelled as such when they are pulled.
	Pinned []string
	Log    *slog.Logger // nil: nobody is told
}

// A Server is the services over one store.
type Server struct {
	runtime.UnimplementedImageServiceServer

	store  *stowage.Store // on the namespace
	o      Options
	pinned map[string]bool // by normal form
}

// New makes the services of a store, which the caller closes after the gRPC server has stopped.
// Errors: [errdefs.ErrInvalidArgument].
func New(store *stowage.Store, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	view, err := store.In(Namespace)
	if err != nil {
		return nil, err
	}
	s := &Server{store: view, o: o, pinned: map[string]bool{}}
	for _, name := range o.Pinned {
		r, err := parse(name)
		if err != nil {
			return nil, fmt.Errorf("pinned images: %w", err)
		}
		s.pinned[r.String()] = true
	}
	if err := store.CheckSnapshotter(o.Snapshotter); err != nil {
		return nil, err
	}
	for handler, name := range o.Runtimes {
		if err := store.CheckSnapshotter(name); err != nil {
			return nil, fmt.Errorf("runtime %s: %w", handler, err)
		}
	}
	return s, nil
}

// Register adds the services to r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	runtime.RegisterImageServiceServer(r, s)
	runtime.RegisterRuntimeServiceServer(r, &runtimeService{version: s.o.Version})
}

// parse reads a reference as CRI's clients mean it: where there is a digest, the tag says nothing.
func parse(name string) (ref.Reference, error) {
	r, err := ref.Parse(name)
	if err != nil || r.Digest() == "" || r.Tag() == "" {
		return r, err
	}
	return ref.Parse(r.Name() + "@" + r.Digest().String())
}

package cri_test

import (
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
	"github.com/stowage/stowage/internal/server/containerd"
	"github.com/stowage/stowage/internal/server/cri"
)

// A node is a store that is offered on a socket, with a client of it and a registry.
type node struct {
	t       *testing.T
	store   *stowage.Store // on the namespace of kubelet's images
	images  runtime.ImageServiceClient
	runtime runtime.RuntimeServiceClient
	host    string // of the registry
	open    string // likewise, past its faults
}

// newNode makes one whose registry has faults.
func newNode(t *testing.T, o cri.Options, faults ...rt.Fault) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri") // the path of a socket is limited to 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	reg, err := rt.New(rt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	front := httptest.NewServer(rt.Wrap(reg.Handler, faults...))
	t.Cleanup(front.Close)
	store, err := stowage.Open(filepath.Join(t.TempDir(), "store"), stowage.Options{Snapshotter: "native", NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := cri.New(store, o)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(containerd.Errors()...)
	server.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &node{
		t: t, images: runtime.NewImageServiceClient(conn), runtime: runtime.NewRuntimeServiceClient(conn),
		host: front.Listener.Addr().String(), open: reg.Host,
	}
	if n.store, err = store.In(cri.Namespace); err != nil {
		t.Fatal(err)
	}
	return n
}

// push builds an image and pushes it.
func (n *node) push(s imagetest.Spec, repo, tag string) *imagetest.Image {
	n.t.Helper()
	img, err := s.Build("")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := imagetest.Push(n.t.Context(), n.open, repo, tag, img); err != nil {
		n.t.Fatal(err)
	}
	return img
}

func (n *node) pull(name string) (id string) {
	n.t.Helper()
	res, err := n.images.PullImage(n.t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: name}})
	if err != nil {
		n.t.Fatal(err)
	}
	return res.ImageRef
}

func (n *node) status(name string) *runtime.Image {
	n.t.Helper()
	res, err := n.images.ImageStatus(n.t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: name}})
	if err != nil {
		n.t.Fatal(err)
	}
	return res.Image
}

func (n *node) list() []*runtime.Image {
	n.t.Helper()
	res, err := n.images.ListImages(n.t.Context(), &runtime.ListImagesRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	return res.Images
}

func (n *node) remove(name string) {
	n.t.Helper()
	if _, err := n.images.RemoveImage(n.t.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: name}}); err != nil {
		n.t.Fatal(err)
	}
}

// app is a small image of two layers.
func app(seed uint64, how imagetest.Compression) imagetest.Spec {
	return imagetest.Spec{Layers: imagetest.Layers(how, imagetest.Seeded(seed, 4096), imagetest.Seeded(seed+1, 2048))}
}

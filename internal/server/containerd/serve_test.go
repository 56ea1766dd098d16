package containerd_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	version "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/server/containerd"
)

// serve offers a new store on a socket until the test ends, and returns the store, the socket and
// a connection to it.
func serve(t testing.TB, o stowage.Options) (store *stowage.Store, address string, conn *grpc.ClientConn) {
	t.Helper()
	return serveRoot(t, filepath.Join(t.TempDir(), "store"), o)
}

// serveRoot is serve for the store in the folder root.
func serveRoot(t testing.TB, root string, o stowage.Options) (store *stowage.Store, address string, conn *grpc.ClientConn) {
	t.Helper()
	store, err := stowage.Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	address, conn = offer(t, store, containerd.Options{Version: "test"})
	return store, address, conn
}

// offer serves a store, without what a daemon does beside requests.
func offer(t testing.TB, store *stowage.Store, o containerd.Options) (address string, conn *grpc.ClientConn) {
	t.Helper()
	return attend(t, containerd.New(store, o))
}

// attend takes requests until the test ends.
func attend(t testing.TB, api *containerd.Server) (address string, conn *grpc.ClientConn) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", address)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(containerd.Errors(), grpc.MaxRecvMsgSize(16<<20), grpc.WaitForHandlers(true))...) // as containerd's
	api.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err = grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return address, conn
}

func TestVersion(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	v, err := version.NewVersionClient(conn).Version(context.Background(), &emptypb.Empty{})
	if err != nil || v.Version != "test" {
		t.Errorf("the version is %v, %v", v, err)
	}
}

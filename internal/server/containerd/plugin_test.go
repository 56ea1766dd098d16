package containerd_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/server/containerd"
)

// A containerd that has the store as its plugin names namespaces and leases that are not here, or none,
// and what it has written stays until it removes it. Other sockets are as ever.
func TestPlugin(t *testing.T) {
	store, err := stowage.Open(filepath.Join(t.TempDir(), "store"), stowage.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "sock"))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	plugin, other := listen(), listen()
	g := grpc.NewServer(append(containerd.Errors(), containerd.Plugin(plugin)...)...)
	containerd.New(store, containerd.Options{}).Register(g)
	served := make(chan error, 2)
	dial := func(l net.Listener) *grpc.ClientConn {
		go func() { served <- g.Serve(l) }()
		conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	mine, others := dial(plugin), dial(other)
	t.Cleanup(func() {
		err := errors.Join(mine.Close(), others.Close())
		g.Stop()
		if err := errors.Join(err, <-served, <-served, store.Close()); err != nil {
			t.Error(err)
		}
	})

	c := newContentClient(t, mine, "default").leased("of its own")
	d := c.put("kept")
	c.ctx = t.Context()
	if !c.has(d) {
		t.Error("a blob is there for one namespace and not for another")
	}
	sn := snapshots.NewSnapshotsClient(mine)
	if _, err := sn.Prepare(c.ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: "stowage", Key: "default/1/active"}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Prune(t.Context(), stowage.PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Stat(c.ctx, &snapshots.StatSnapshotRequest{Snapshotter: "stowage", Key: "default/1/active"}); err != nil || !c.has(d) {
		t.Errorf("what it keeps was collected: %v", err)
	}
	if _, err := c.ContentClient.Delete(c.ctx, &api.DeleteContentRequest{Digest: d.String()}); err != nil || c.has(d) {
		t.Errorf("it cannot remove it: %v", err)
	}
	if _, err := sn.Remove(c.ctx, &snapshots.RemoveSnapshotRequest{Snapshotter: "stowage", Key: "default/1/active"}); err != nil {
		t.Error(err)
	}

	_, err = snapshots.NewSnapshotsClient(others).Stat(newContentClient(t, others, "default").ctx, &snapshots.StatSnapshotRequest{Snapshotter: "stowage", Key: "k"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a snapshotter for others: got %v, want %s", err, codes.InvalidArgument)
	}
	if _, err := (contentClient{api.NewContentClient(others), t, t.Context()}).read(digest.FromString("x"), 0, 0); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("no namespace for others: got %v, want %s", err, codes.FailedPrecondition)
	}
}

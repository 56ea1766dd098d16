package containerd_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/mount"
)

// containerd's own suite passes over the socket, by its own client. It knows overlay as overlayfs.
func TestSnapshotsSuite(t *testing.T) {
	for _, name := range []string{"overlayfs", "native", "erofs"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testsuite.SnapshotterSuite(t, name, func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
				store, _, conn := serve(t, stowage.Options{NoSync: true})
				t.Cleanup(func() { unmountBeneath(t, store.Root()) })
				return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), name), nil, nil
			})
		})
	}
}

// unmountBeneath takes away what is mounted below a folder, which a daemon that ends leaves.
func unmountBeneath(t *testing.T, dir string) {
	t.Helper()
	list, err := mount.Beneath(dir)
	for _, m := range list {
		if err == nil {
			err = mount.Unmount(m.Target)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// What a client makes stays while its lease does, or, without one, for a while; what was committed is
// kept by what the client kept it by.
func TestSnapshotsUnderLease(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	c := snapshotsapi.NewSnapshotsClient(conn)
	ctx := namespaces.WithNamespace(t.Context(), "default")
	leased := metadata.AppendToOutgoingContext(ctx, "containerd-lease", "l")
	prepare := func(ctx context.Context, key, parent string) error {
		_, err := c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: key, Parent: parent})
		return err
	}
	if err := prepare(leased, "work", ""); status.Code(err) != codes.NotFound {
		t.Errorf("prepare under a lease that is not there: %v", err)
	}
	_, err := store.Metadata().CreateLease(ctx, "default", stowage.Lease{ID: "l"})
	must(t, err)
	must(t, prepare(leased, "work", ""))
	_, err = c.Commit(leased, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Name: "base", Key: "work"})
	must(t, err)
	must(t, prepare(leased, "work", "base"))
	must(t, prepare(ctx, "other", ""))
	wantSnapshots(t, store, "native", "base", "other", "work")
	// Others find it, and keep it as well.
	_, err = store.Metadata().CreateLease(ctx, "default", stowage.Lease{ID: "m"})
	must(t, err)
	_, err = c.Prepare(metadata.AppendToOutgoingContext(ctx, "containerd-lease", "m"), &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: "native", Key: "again", Labels: map[string]string{"containerd.io/snapshot.ref": "base"},
	})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("prepare what is there: %v", err)
	}
	must(t, store.Metadata().DeleteLease(ctx, "default", "l"))
	wantSnapshots(t, store, "native", "base", "other")
	must(t, store.Metadata().DeleteLease(ctx, "default", "m"))
	wantSnapshots(t, store, "native", "other")
}

// wantSnapshots collects what nothing needs, and checks which snapshots are left.
func wantSnapshots(t *testing.T, store *stowage.Store, snapshotter string, want ...string) {
	t.Helper()
	_, err := store.Prune(t.Context(), stowage.PruneOptions{})
	must(t, err)
	rows, err := store.Metadata().Snapshots(t.Context(), store.Namespace(), snapshotter)
	must(t, err)
	var got []string
	for _, row := range rows {
		got = append(got, row.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("snapshots: got %q, want %q", got, want)
	}
}

// Requests that cannot be are refused with containerd's codes.
func TestSnapshotsRefused(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{NoSync: true})
	c := snapshotsapi.NewSnapshotsClient(conn)
	ctx := namespaces.WithNamespace(t.Context(), "default")
	_, err := c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "work"})
	must(t, err)
	for _, tt := range []struct {
		name string
		ctx  context.Context
		r    *snapshotsapi.PrepareSnapshotRequest
		want codes.Code
	}{
		{"no namespace", t.Context(), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k"}, codes.FailedPrecondition},
		{"namespace with dots", namespaces.WithNamespace(t.Context(), "../x"), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k"}, codes.InvalidArgument},
		{"no snapshotter", ctx, &snapshotsapi.PrepareSnapshotRequest{Key: "k"}, codes.InvalidArgument},
		{"unknown snapshotter", ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "../native", Key: "k"}, codes.InvalidArgument},
		{"no key", ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native"}, codes.InvalidArgument},
		{"a key that is taken", ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "work"}, codes.AlreadyExists},
		{"no parent", ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k", Parent: "p"}, codes.NotFound},
		{"an active parent", ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k", Parent: "work"}, codes.FailedPrecondition},
		{
			"a long label", ctx,
			&snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k", Labels: map[string]string{"a": strings.Repeat("x", 4096)}},
			codes.InvalidArgument,
		},
		{
			"other owners", ctx,
			&snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k", Labels: map[string]string{"containerd.io/snapshot/uidmapping": "0:1000:1"}},
			codes.Unimplemented,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := c.Prepare(tt.ctx, tt.r); status.Code(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	_, err = c.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Name: "n", Key: "work", Parent: "other"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("commit on another parent: %v", err)
	}
}

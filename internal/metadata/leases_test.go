package metadata_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// What is put under a lease is kept until it is taken out again, and writing nothing new writes
// nothing.
func TestAddToLease(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	writes := 0
	s.Observe(func(_ context.Context, list []metadata.Change) error {
		writes += len(list)
		return nil
	})
	apply(t, s, ns, metadata.Batch{
		Blobs: blobs("m", "c", "l0", "stray"), Documents: []metadata.Document{manifest("m", "c", "l0")},
		Unpacked: []metadata.Unpacked{stackOf("none", "x")},
	})
	_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "mine", Labels: map[string]string{"k": "v"}})
	must(t, err)
	under := metadata.LeaseResources{
		Digests:   []image.Digest{desc("m").Digest},
		Snapshots: []metadata.SnapshotRef{{Snapshotter: overlay, Key: chain("x")}},
		Ingests:   []string{"layer-1"},
	}
	must(t, s.AddToLease(ctx, ns, "mine", under))
	before := writes
	must(t, s.AddToLease(ctx, ns, "mine", under))
	must(t, s.RemoveFromLease(ctx, ns, "mine", metadata.LeaseResources{Digests: []image.Digest{desc("other").Digest}}))
	if writes != before {
		t.Errorf("what was under the lease already made %d changes", writes-before)
	}
	swept(t, s)
	wantBlobs(t, s, ns, "m", "c", "l0")
	wantSnapshots(t, s, ns, overlay, chain("x"))

	l, err := s.Lease(ctx, ns, "mine")
	if err != nil || l.Labels["k"] != "v" || !slices.Equal(l.Digests, under.Digests) || !slices.Equal(l.Snapshots, under.Snapshots) || !slices.Equal(l.Ingests, under.Ingests) {
		t.Errorf("the lease is %+v, %v; want it with %+v", l, err, under)
	}
	must(t, s.RemoveFromLease(ctx, ns, "mine", under))
	swept(t, s)
	wantBlobs(t, s, ns)
	wantSnapshots(t, s, ns, overlay)
}

// Blobs of a batch come under its lease in the same act.
func TestApplyUnderLease(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	batch := metadata.Batch{Blobs: blobs("l0"), Lease: "mine"}
	if _, err := s.Apply(ctx, ns, batch); !errdefs.IsNotFound(err) {
		t.Errorf("under no lease: got %v, want not found", err)
	}
	wantBlobs(t, s, ns)
	_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "mine"})
	must(t, err)
	apply(t, s, ns, batch)
	swept(t, s)
	wantBlobs(t, s, ns, "l0")
}

// An image whose time is over is kept under a lease.
func TestLeaseOfImage(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	apply(t, s, ns, metadata.Batch{
		Blobs: blobs("m", "c", "l0"), Documents: []metadata.Document{manifest("m", "c", "l0")},
		Images: []metadata.PutImage{{Name: "old", Target: desc("m"), Labels: map[string]string{gcLabel + "expire": past}}},
	})
	_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "mine", Images: []string{"old"}})
	must(t, err)
	swept(t, s)
	wantBlobs(t, s, ns, "m", "c", "l0")
	if _, err := s.Image(ctx, ns, "old"); err != nil {
		t.Error(err)
	}
	must(t, s.DeleteLease(ctx, ns, "mine"))
	swept(t, s)
	wantBlobs(t, s, ns)
}

func TestAddToLeaseRefused(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for _, id := range []string{"full", "mine"} {
		_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: id})
		must(t, err)
	}
	_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "old", ExpiresAt: time.Now().Add(-time.Second)})
	must(t, err)
	hold, err := s.Hold(ctx, ns, desc("y").Digest)
	must(t, err)
	defer func() { must(t, hold.Release(ctx)) }()
	list, err := s.Leases(ctx, ns)
	must(t, err)
	held := list[slices.IndexFunc(list, func(l metadata.Lease) bool { return l.Holder != "" })].ID

	one := metadata.LeaseResources{Digests: []image.Digest{desc("x").Digest}}
	var most metadata.LeaseResources
	for i := range metadata.MaxLease {
		most.Ingests = append(most.Ingests, fmt.Sprint(i))
	}
	must(t, s.AddToLease(ctx, ns, "full", most))
	for _, c := range []struct {
		name, id string
		r        metadata.LeaseResources
		is       func(error) bool
	}{
		{"none", "none", one, errdefs.IsNotFound},
		{"an expired one", "old", one, errdefs.IsNotFound},
		{"a full one", "full", one, errdefs.IsResourceExhausted},
		{"a hold", held, one, errdefs.IsFailedPrecondition},
		{"what is no digest", "mine", metadata.LeaseResources{Digests: []image.Digest{"x"}}, errdefs.IsInvalidArgument},
		{"what is no snapshotter", "mine", metadata.LeaseResources{Snapshots: []metadata.SnapshotRef{{Snapshotter: "../x", Key: "k"}}}, errdefs.IsInvalidArgument},
		{"what is no image", "mine", metadata.LeaseResources{Images: []string{""}}, errdefs.IsInvalidArgument},
		{"what is no ingest", "mine", metadata.LeaseResources{Ingests: []string{""}}, errdefs.IsInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := s.AddToLease(ctx, ns, c.id, c.r); !c.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

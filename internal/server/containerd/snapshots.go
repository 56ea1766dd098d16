package containerd

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/metadata"
)

const (
	// refLabel names the committed snapshot that a client means to make of the one that it prepares.
	refLabel = "containerd.io/snapshot.ref"
	// These ask for files to have other owners than those of their layers.
	uidMapLabel = "containerd.io/snapshot/uidmapping"
	gidMapLabel = "containerd.io/snapshot/gidmapping"

	// graceTime is how long a snapshot stays that its client keeps by nothing, as long as the leases
	// last that containerd's clients make.
	graceTime = 24 * time.Hour
	// listBatch is how many snapshots one message of a list has, as containerd's.
	listBatch = 100
)

type snapshotsService struct {
	snapshots.UnimplementedSnapshotsServer
	server *Server
}

func registerSnapshots(r grpc.ServiceRegistrar, s *Server) {
	snapshots.RegisterSnapshotsServer(r, &snapshotsService{server: s})
}

// open finds the snapshotter that a request names, in its namespace.
func (s *snapshotsService) open(ctx context.Context, name string) (*stowage.Store, *stowage.Snapshotter, error) {
	store, err := s.server.in(ctx)
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		return nil, nil, fmt.Errorf("snapshotter is required: %w", errdefs.ErrInvalidArgument)
	}
	if ofPlugin(ctx) && name == "stowage" {
		name = "" // the plugin is ours, and nobody says more
	}
	sn, err := store.Snapshotter(name)
	return store, sn, err
}

// Prepare makes an active snapshot.
func (s *snapshotsService) Prepare(ctx context.Context, r *snapshots.PrepareSnapshotRequest) (*snapshots.PrepareSnapshotResponse, error) {
	mounts, err := s.make(ctx, r.Snapshotter, stowage.Snapshot{Kind: stowage.Active, Key: r.Key, Parent: r.Parent, Labels: r.Labels})
	return &snapshots.PrepareSnapshotResponse{Mounts: mounts}, err
}

// View makes a snapshot to be looked at.
func (s *snapshotsService) View(ctx context.Context, r *snapshots.ViewSnapshotRequest) (*snapshots.ViewSnapshotResponse, error) {
	mounts, err := s.make(ctx, r.Snapshotter, stowage.Snapshot{Kind: stowage.View, Key: r.Key, Parent: r.Parent, Labels: r.Labels})
	return &snapshots.ViewSnapshotResponse{Mounts: mounts}, err
}

func (s *snapshotsService) make(ctx context.Context, name string, row stowage.Snapshot) ([]*types.Mount, error) {
	store, sn, err := s.open(ctx, name)
	if err != nil {
		return nil, err
	}
	if row.Labels[uidMapLabel] != "" || row.Labels[gidMapLabel] != "" {
		return nil, fmt.Errorf("snapshot %s: owners cannot be mapped: %w", row.Key, errdefs.ErrNotImplemented)
	}
	defer store.Writing()()
	if target := row.Labels[refLabel]; target != "" {
		_, err := sn.Stat(ctx, target)
		if err == nil {
			if _, err := keep(ctx, store, sn, target); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("snapshot %s: %w", target, errdefs.ErrAlreadyExists)
		}
		if !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	if row.Expires, err = keep(ctx, store, sn, row.Key); err != nil {
		return nil, err
	}
	row.Labels = labelled(row.Labels)
	if _, err := sn.Make(ctx, row); err != nil {
		return nil, err
	}
	mounts, err := sn.Bind(ctx, row.Key)
	return mountsOf(mounts), err
}

// keep puts a snapshot that is to be made, or is there, under the lease of the request, and tells until
// when it is kept otherwise.
func keep(ctx context.Context, store *stowage.Store, sn *stowage.Snapshotter, key string) (until time.Time, err error) {
	if ofPlugin(ctx) {
		return time.Time{}, nil
	}
	now := time.Now().UTC()
	id := lease(ctx)
	if id == "" {
		return now.Add(graceTime), nil
	}
	return now, store.Metadata().AddToLease(ctx, store.Namespace(), id, metadata.LeaseResources{
		Snapshots: []metadata.SnapshotRef{{Snapshotter: sn.Name(), Key: key}},
	})
}

// letGo takes a snapshot that is there no more from the lease of the request.
func letGo(ctx context.Context, store *stowage.Store, sn *stowage.Snapshotter, key string) error {
	id := lease(ctx)
	if id == "" {
		return nil
	}
	err := store.Metadata().RemoveFromLease(ctx, store.Namespace(), id, metadata.LeaseResources{
		Snapshots: []metadata.SnapshotRef{{Snapshotter: sn.Name(), Key: key}},
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Mounts gives the mounts of a snapshot that is not committed, of kinds that every client can make.
func (s *snapshotsService) Mounts(ctx context.Context, r *snapshots.MountsRequest) (*snapshots.MountsResponse, error) {
	_, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Bind(ctx, r.Key)
	return &snapshots.MountsResponse{Mounts: mountsOf(mounts)}, err
}

// Commit makes an active snapshot a committed one.
func (s *snapshotsService) Commit(ctx context.Context, r *snapshots.CommitSnapshotRequest) (*emptypb.Empty, error) {
	store, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	defer store.Writing()()
	until, err := keep(ctx, store, sn, r.Name)
	if err != nil {
		return nil, err
	}
	if err := sn.CommitAs(ctx, r.Key, stowage.Snapshot{Key: r.Name, Parent: r.Parent, Labels: labelled(r.Labels), Expires: until}); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, letGo(ctx, store, sn, r.Key)
}

// Remove takes a snapshot away.
func (s *snapshotsService) Remove(ctx context.Context, r *snapshots.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	store, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if err := sn.Remove(ctx, r.Key); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, letGo(ctx, store, sn, r.Key)
}

// Stat describes a snapshot.
func (s *snapshotsService) Stat(ctx context.Context, r *snapshots.StatSnapshotRequest) (*snapshots.StatSnapshotResponse, error) {
	_, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	row, err := sn.Stat(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshots.StatSnapshotResponse{Info: infoOf(row)}, nil
}

// Update changes the labels of a snapshot; nothing else of it changes.
func (s *snapshotsService) Update(ctx context.Context, r *snapshots.UpdateSnapshotRequest) (*snapshots.UpdateSnapshotResponse, error) {
	store, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	change, err := relabel(r.GetInfo().GetLabels(), r.UpdateMask)
	if err != nil {
		return nil, fmt.Errorf("update snapshot %s: %w", r.GetInfo().GetName(), err)
	}
	row, err := store.Metadata().RelabelSnapshot(ctx, store.Namespace(), sn.Name(), r.GetInfo().GetName(), change)
	if err != nil {
		return nil, err
	}
	return &snapshots.UpdateSnapshotResponse{Info: infoOf(row)}, nil
}

// relabel makes new labels of those that something has, as the mask of a request says. Errors:
// [errdefs.ErrInvalidArgument] for a mask that names anything else.
func relabel(given map[string]string, mask *fieldmaskpb.FieldMask) (func(old map[string]string) map[string]string, error) {
	all := len(mask.GetPaths()) == 0
	var keys []string
	for _, path := range mask.GetPaths() {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
			all = true
		case one:
			keys = append(keys, key)
		default:
			return nil, fmt.Errorf("field %q does not change: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	return func(old map[string]string) map[string]string {
		if all {
			return labelled(given)
		}
		labels := maps.Clone(old)
		for _, key := range keys {
			if labels == nil {
				labels = map[string]string{}
			}
			labels[key] = given[key]
		}
		return labelled(labels)
	}, nil
}

// labelled is labels without those that are empty, which stand for none.
func labelled(labels map[string]string) map[string]string {
	labels = maps.Clone(labels)
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	if len(labels) == 0 {
		return nil
	}
	return labels
}

// List sends the snapshots that filters match, by key. One whose row is damaged is left out.
func (s *snapshotsService) List(r *snapshots.ListSnapshotsRequest, stream snapshots.Snapshots_ListServer) error {
	_, sn, err := s.open(stream.Context(), r.Snapshotter)
	if err != nil {
		return err
	}
	wanted, err := filter.Parse(r.Filters...)
	if err != nil {
		return err
	}
	rows, err := sn.Walk(stream.Context())
	if err != nil {
		return err
	}
	var batch []*snapshots.Info
	for _, row := range rows {
		if row.Damaged || !wanted.Match(snapshotFields(row)) {
			continue
		}
		batch = append(batch, infoOf(row))
		if len(batch) == listBatch {
			if err := stream.Send(&snapshots.ListSnapshotsResponse{Info: batch}); err != nil {
				return err
			}
			batch = nil
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return stream.Send(&snapshots.ListSnapshotsResponse{Info: batch})
}

// snapshotFields are those that filters know.
func snapshotFields(row stowage.Snapshot) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "name":
			return row.Key, true
		case "parent":
			return row.Parent, true
		case "kind":
			return row.Kind.String(), true
		case "labels":
			return filter.Label(row.Labels, path[1:])
		}
		return "", false
	}
}

// Usage says what a snapshot takes on the disk, without its parent.
func (s *snapshotsService) Usage(ctx context.Context, r *snapshots.UsageRequest) (*snapshots.UsageResponse, error) {
	_, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	usage, err := sn.Usage(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshots.UsageResponse{Size: usage.Size, Inodes: usage.Inodes}, nil
}

// Cleanup removes the folders that no snapshot has any more.
func (s *snapshotsService) Cleanup(ctx context.Context, r *snapshots.CleanupRequest) (*emptypb.Empty, error) {
	_, sn, err := s.open(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if _, err := sn.Sweep(ctx); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func infoOf(row stowage.Snapshot) *snapshots.Info {
	kinds := map[metadata.SnapshotKind]snapshots.Kind{
		stowage.Committed: snapshots.Kind_COMMITTED, stowage.Active: snapshots.Kind_ACTIVE, stowage.View: snapshots.Kind_VIEW,
	}
	return &snapshots.Info{
		Name: row.Key, Parent: row.Parent, Kind: kinds[row.Kind], Labels: row.Labels,
		CreatedAt: timestamppb.New(row.CreatedAt), UpdatedAt: timestamppb.New(row.UpdatedAt),
	}
}

func mountsOf(list []stowage.Mount) (mounts []*types.Mount) {
	for _, m := range list {
		mounts = append(mounts, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return mounts
}

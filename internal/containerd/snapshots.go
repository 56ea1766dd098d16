package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"

	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
)

const snapshotterType = "io.containerd.snapshotter.v1"

// Snapshotters names those that work at the peer.
func (c *Client) Snapshotters(ctx context.Context) (names []string, err error) {
	r, err := introspectionapi.NewIntrospectionClient(c.conn).Plugins(ctx, &introspectionapi.PluginsRequest{Filters: []string{"type==" + snapshotterType}})
	if err != nil {
		return nil, fmt.Errorf("list snapshotters: %w", native(err))
	}
	for _, p := range r.Plugins {
		if p.Type == snapshotterType && p.InitErr == nil {
			names = append(names, p.ID)
		}
	}
	slices.Sort(names)
	return names, nil
}

// A Snapshotter is one of a peer. Its methods are those of [snapshot.Store]; names and errors are the
// peer's.
type Snapshotter struct {
	c    *Client
	name string
	api  snapshotsapi.SnapshotsClient
}

// Snapshotter is the one called name, there or in rows, whether there is one or not.
func (c *Client) Snapshotter(name string) *Snapshotter {
	return &Snapshotter{c: c, name: peerName(name), api: snapshotsapi.NewSnapshotsClient(c.conn)}
}

// peerName is the inverse of [metadata.SnapshotterName].
func peerName(name string) string {
	if name == "overlay" {
		return "overlayfs"
	}
	return name
}

// Name is what the peer calls it.
func (s *Snapshotter) Name() string { return s.name }

func (s *Snapshotter) failed(verb, key string, err error) error {
	return fmt.Errorf("%s snapshot %s: %w", verb, key, native(err))
}

// Walk lists the snapshots by key.
func (s *Snapshotter) Walk(ctx context.Context) (list []metadata.Snapshot, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := s.api.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: s.name})
	for err == nil {
		var m *snapshotsapi.ListSnapshotsResponse
		if m, err = r.Recv(); errors.Is(err, io.EOF) {
			slices.SortFunc(list, func(a, b metadata.Snapshot) int { return strings.Compare(a.Key, b.Key) })
			return list, nil
		}
		for _, i := range m.GetInfo() {
			list = append(list, snapshotOf(i))
		}
	}
	return nil, fmt.Errorf("list snapshots of %s: %w", s.name, native(err))
}

func snapshotOf(i *snapshotsapi.Info) metadata.Snapshot {
	row := metadata.Snapshot{
		Key: i.GetName(), Parent: i.GetParent(), Kind: metadata.Committed, Labels: i.GetLabels(),
		CreatedAt: i.GetCreatedAt().AsTime(), UpdatedAt: i.GetUpdatedAt().AsTime(),
	}
	switch i.GetKind() {
	case snapshotsapi.Kind_ACTIVE:
		row.Kind = metadata.Active
	case snapshotsapi.Kind_VIEW:
		row.Kind = metadata.View
	}
	return row
}

// Stat describes a snapshot; its size is left to Usage.
func (s *Snapshotter) Stat(ctx context.Context, key string) (metadata.Snapshot, error) {
	r, err := s.api.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: s.name, Key: key})
	if err != nil {
		return metadata.Snapshot{}, s.failed("look up", key, err)
	}
	return snapshotOf(r.Info), nil
}

// Usage is what a snapshot takes on the disk, without its parent.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshot.Usage, error) {
	r, err := s.api.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: s.name, Key: key})
	if err != nil {
		return snapshot.Usage{}, s.failed("measure", key, err)
	}
	return snapshot.Usage{Size: r.Size, Inodes: r.Inodes}, nil
}

// Prepare makes an active snapshot. It is under the lease of the act.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	if err := s.c.underAct(ctx); err != nil {
		return nil, err
	}
	r, err := s.api.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: s.name, Key: key, Parent: parent, Labels: labels})
	if err != nil {
		return nil, s.failed("prepare", key, err)
	}
	return mountsOf(r.Mounts), nil
}

// View makes a view of a committed snapshot, under the lease of the act.
func (s *Snapshotter) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	if err := s.c.underAct(ctx); err != nil {
		return nil, err
	}
	r, err := s.api.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: s.name, Key: key, Parent: parent, Labels: labels})
	if err != nil {
		return nil, s.failed("view", key, err)
	}
	return mountsOf(r.Mounts), nil
}

// Mounts are those of an active snapshot or a view.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	r, err := s.api.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: s.name, Key: key})
	if err != nil {
		return nil, s.failed("mount", key, err)
	}
	return mountsOf(r.Mounts), nil
}

func mountsOf(list []*types.Mount) []mount.Mount {
	mounts := make([]mount.Mount, len(list))
	for i, m := range list {
		mounts[i] = mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return mounts
}

// Rebases tells whether [Snapshotter.CommitOn] gives parents to snapshots that have none.
func (s *Snapshotter) Rebases(ctx context.Context) (bool, error) {
	filter := "type==" + snapshotterType + ",id==" + s.name
	r, err := introspectionapi.NewIntrospectionClient(s.c.conn).Plugins(ctx, &introspectionapi.PluginsRequest{Filters: []string{filter}})
	if err != nil {
		return false, fmt.Errorf("look up snapshotter %s: %w", s.name, native(err))
	}
	return slices.ContainsFunc(r.Plugins, func(p *introspectionapi.Plugin) bool {
		return p.ID == s.name && slices.Contains(p.Capabilities, "rebase")
	}), nil
}

// Commit turns an active snapshot into a committed one.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, labels map[string]string) error {
	return s.CommitOn(ctx, name, key, "", labels)
}

// CommitOn is Commit that gives the snapshot a parent, if it has none and the peer can: see
// [Snapshotter.Rebases]. An empty one leaves it as it is.
func (s *Snapshotter) CommitOn(ctx context.Context, name, key, parent string, labels map[string]string) error {
	_, err := s.api.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: s.name, Name: name, Key: key, Parent: parent, Labels: labels})
	if err != nil {
		return s.failed("commit", key, err)
	}
	return nil
}

// Remove removes a snapshot that nothing stands on.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	if _, err := s.api.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: s.name, Key: key}); err != nil {
		return s.failed("remove", key, err)
	}
	return nil
}

// Label sets labels; an empty value removes one.
func (s *Snapshotter) Label(ctx context.Context, key string, labels map[string]string) (metadata.Snapshot, error) {
	r, err := s.api.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{
		Snapshotter: s.name, Info: &snapshotsapi.Info{Name: key, Labels: labels}, UpdateMask: maskOf(labels),
	})
	if err != nil {
		return metadata.Snapshot{}, s.failed("label", key, err)
	}
	return snapshotOf(r.Info), nil
}

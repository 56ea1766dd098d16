package proxy_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/proxy"
)

// A peer is a program with snapshots, which has some layers already.
type peer struct {
	api.UnimplementedSnapshotsServer
	has map[string]bool // layers, by their label
	lie bool            // says that it has them, and does not

	mu      sync.Mutex
	cleaned int
	there   map[string]*api.Info
	calls   []string
}

func (p *peer) Prepare(_ context.Context, r *api.PrepareSnapshotRequest) (*api.PrepareSnapshotResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, "prepare "+r.Key+" on "+r.Parent+" in "+r.Snapshotter)
	if name := r.Labels["containerd.io/snapshot.ref"]; name != "" && p.has[r.Labels["layer"]] {
		if !p.lie {
			p.there[name] = &api.Info{Name: name, Parent: r.Parent, Labels: r.Labels}
		}
		return nil, status.Error(codes.AlreadyExists, "it is there")
	}
	p.there[r.Key] = &api.Info{Name: r.Key, Parent: r.Parent, Labels: r.Labels}
	return &api.PrepareSnapshotResponse{Mounts: []*types.Mount{{Type: "bind", Source: "/", Options: []string{"ro"}}}}, nil
}

func (p *peer) Stat(_ context.Context, r *api.StatSnapshotRequest) (*api.StatSnapshotResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if info := p.there[r.Key]; info != nil {
		return &api.StatSnapshotResponse{Info: info}, nil
	}
	return nil, status.Error(codes.NotFound, "none")
}

func (p *peer) Cleanup(context.Context, *api.CleanupRequest) (*emptypb.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleaned++
	return &emptypb.Empty{}, nil
}

func (p *peer) Mounts(context.Context, *api.MountsRequest) (*api.MountsResponse, error) {
	return nil, status.Error(codes.NotFound, "none")
}

func (p *peer) Remove(_ context.Context, r *api.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.there[r.Key] == nil {
		return nil, status.Error(codes.NotFound, "none")
	}
	for _, info := range p.there {
		if info.Parent == r.Key {
			return nil, status.Error(codes.FailedPrecondition, "others stand on it")
		}
	}
	delete(p.there, r.Key)
	return &emptypb.Empty{}, nil
}

func (p *peer) List(_ *api.ListSnapshotsRequest, stream api.Snapshots_ListServer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &api.ListSnapshotsResponse{}
	for _, info := range p.there {
		r.Info = append(r.Info, info)
	}
	return stream.Send(r)
}

// open runs a peer and a driver for it.
func open(t *testing.T, p *peer) *proxy.Driver {
	t.Helper()
	p.there = map[string]*api.Info{}
	dir, err := os.MkdirTemp("", "peer")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	must(t, err)
	g := grpc.NewServer()
	api.RegisterSnapshotsServer(g, p)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		must(t, <-done)
	})
	d, err := proxy.New(l.Addr().String(), proxy.Options{Name: "lazy", Namespace: "ns"})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A layer that the other program has is there under the name of its folder, and one that it has not
// leaves nothing there.
func TestClaim(t *testing.T) {
	p := &peer{has: map[string]bool{"one": true, "two": true}}
	d, ctx := open(t, p), t.Context()
	claim := func(folder string, chain []string, layer string) bool {
		t.Helper()
		claimed, err := d.Claim(ctx, folder, chain, map[string]string{"layer": layer, "containerd.io/snapshot.ref": "sha256:0"})
		must(t, err)
		return claimed
	}
	if !claim("/s/aaaa", nil, "one") || !claim("/s/bbbb", []string{"/s/aaaa"}, "two") || claim("/s/cccc", []string{"/s/aaaa", "/s/bbbb"}, "three") {
		t.Errorf("wrong layers are claimed: %q", p.calls)
	}
	if len(p.there) != 2 || p.there["bbbb-committed"].Parent != "aaaa-committed" || p.there["aaaa-committed"].Labels["containerd.io/gc.root"] == "" {
		t.Errorf("there is %v", p.there)
	}
	if want := "prepare cccc-extract on bbbb-committed in lazy"; p.calls[2] != want {
		t.Errorf("got %q, want %q", p.calls[2], want)
	}
	if why, err := d.Look(ctx, "/s/bbbb", 0, time.Time{}); why != "" || err != nil {
		t.Errorf("one that is there looks %q, error %v", why, err)
	}
	if _, err := d.Look(ctx, "/s/cccc", 0, time.Time{}); !errdefs.IsDataLoss(err) {
		t.Errorf("one that is not there: %v", err)
	}
	p.lie = true
	if _, err := d.Claim(ctx, "/s/dddd", nil, map[string]string{"layer": "one"}); !errdefs.IsNotFound(err) {
		t.Errorf("a layer that is not there after all: %v", err)
	}
}

// Folders that no snapshot has take what stands for them away, from the top, and views that somebody
// made who was killed.
func TestRemove(t *testing.T) {
	p := &peer{has: map[string]bool{"layer": true}}
	d, ctx := open(t, p), t.Context()
	dir := t.TempDir()
	s, err := snapshot.Open("lazy", dir, d, metadata.New(mem.New(), filepath.Join(t.TempDir(), "holders")), snapshot.Options{Namespace: "default"})
	must(t, err)
	var chain []string
	for _, name := range []string{"aaaaaaaa", "bbbbbbbb", "cccccccc"} {
		folder := filepath.Join(dir, name)
		must(t, os.Mkdir(folder, 0o700))
		claimed, err := d.Claim(ctx, folder, chain, map[string]string{"layer": "layer"})
		must(t, err)
		if !claimed {
			t.Fatal("a layer is not claimed")
		}
		chain = append(chain, folder)
	}
	p.there["bbbbbbbb-look-x"] = &api.Info{Name: "bbbbbbbb-look-x", Parent: "bbbbbbbb-committed"}
	if err := d.Remove(ctx, chain[0]); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove one that others stand on: %v", err)
	}
	_, err = s.Sweep(ctx)
	must(t, err)
	if len(p.there) > 0 || p.cleaned == 0 {
		t.Errorf("left there: %v, cleaned %d times", p.there, p.cleaned)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "????????")); len(left) > 0 || err != nil {
		t.Errorf("left here: %q, error %v", left, err)
	}
}

// A program that does not run is an error that says so, and removes nothing.
func TestUnreachable(t *testing.T) {
	d, err := proxy.New(filepath.Join(t.TempDir(), "none"), proxy.Options{})
	must(t, err)
	if _, err := d.Claim(t.Context(), "/s/aaaa", nil, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("claim: %v", err)
	}
	if err := d.Remove(t.Context(), "/s/aaaa"); !errdefs.IsUnavailable(err) {
		t.Errorf("remove: %v", err)
	}
	must(t, d.Close())
}

package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/image"
)

// introspectionService says what there is, in the words that clients look for.
type introspectionService struct {
	introspection.UnimplementedIntrospectionServer
	server *Server
	list   func() []*introspection.Plugin

	naming sync.Mutex // the UUID
}

func registerIntrospection(r grpc.ServiceRegistrar, s *Server) {
	introspection.RegisterIntrospectionServer(r, &introspectionService{server: s, list: sync.OnceValue(s.plugins)})
}

// Plugins gives those that a filter matches: all, if there is none.
func (i *introspectionService) Plugins(_ context.Context, req *introspection.PluginsRequest) (*introspection.PluginsResponse, error) {
	chosen, err := filter.Parse(req.Filters...)
	if err != nil {
		return nil, err
	}
	res := &introspection.PluginsResponse{}
	for _, p := range i.list() {
		if chosen.Match(pluginFields(p)) {
			res.Plugins = append(res.Plugins, p)
		}
	}
	return res, nil
}

// pluginFields are what filters look at.
func pluginFields(p *introspection.Plugin) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "type":
			return p.Type, true
		case "id":
			return p.ID, true
		}
		return "", false
	}
}

// PluginInfo gives one of them. None has more to say of itself.
func (i *introspectionService) PluginInfo(_ context.Context, req *introspection.PluginInfoRequest) (*introspection.PluginInfoResponse, error) {
	for _, p := range i.list() {
		if p.Type != req.Type || p.ID != req.ID {
			continue
		}
		if req.Options != nil {
			return nil, fmt.Errorf("plugin %s.%s knows no more of itself: %w", p.Type, p.ID, errdefs.ErrNotImplemented)
		}
		return &introspection.PluginInfoResponse{Plugin: p}, nil
	}
	return nil, fmt.Errorf("plugin %.100q: %w", req.Type+"."+req.ID, errdefs.ErrNotFound)
}

// Server says who we are.
func (i *introspectionService) Server(context.Context, *emptypb.Empty) (*introspection.ServerResponse, error) {
	i.naming.Lock()
	defer i.naming.Unlock()
	id, err := uuid(filepath.Join(i.server.store.Root(), "uuid"))
	if err != nil {
		return nil, err
	}
	var pidns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &pidns); err != nil {
		return nil, fmt.Errorf("pid namespace: %w", err)
	}
	return &introspection.ServerResponse{UUID: id, Pid: uint64(os.Getpid()), Pidns: pidns.Ino}, nil
}

var isUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// uuid reads the UUID of a store from a file, which gets a random one if it has none.
func uuid(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err == nil && isUUID.Match(b) {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("uuid of the store: %w", err)
	}
	var r [16]byte
	rand.Read(r[:])
	r[6], r[8] = r[6]&0x0f|0x40, r[8]&0x3f|0x80 // version 4 of RFC 9562
	id := fmt.Sprintf("%x-%x-%x-%x-%x", r[:4], r[4:6], r[6:8], r[8:10], r[10:])
	if err := os.WriteFile(name, []byte(id), 0o644); err != nil {
		return "", fmt.Errorf("uuid of the store: %w", err)
	}
	return id, nil
}

// plugins lists what clients look for, as containerd would call it. What does not work here says why.
func (s *Server) plugins() []*introspection.Plugin {
	host := image.Host()
	here := []*types.Platform{{OS: host.OS, Architecture: host.Architecture, Variant: host.Variant, OSVersion: host.OSVersion}}
	var list []*introspection.Plugin
	add := func(kind string, platforms []*types.Platform, err error, ids ...string) *introspection.Plugin {
		for _, id := range ids {
			p := &introspection.Plugin{Type: "io.containerd." + kind, ID: id, Platforms: platforms}
			if err != nil {
				p.InitErr = status.Convert(errgrpc.ToGRPC(err)).Proto()
			}
			list = append(list, p)
		}
		return list[len(list)-1]
	}
	for _, name := range s.store.Snapshotters() {
		sn, err := s.store.Snapshotter(name)
		p := add("snapshotter.v1", here, err, theirSnapshotter(name))
		if err == nil && sn.Rebases() {
			p.Capabilities = append(p.Capabilities, "rebase") // so that clients apply layers side by side
		}
	}
	add("content.v1", nil, nil, "content")
	add("metadata.v1", nil, nil, "bolt")
	add("differ.v1", here, nil, "walking")
	add("lease.v1", nil, nil, "manager")
	add("gc.v1", nil, nil, "scheduler")
	add("event.v1", nil, nil, "exchange")
	add("transfer.v1", nil, nil, "local")
	add("streaming.v1", nil, nil, "manager")
	// BuildKit takes the platforms that it builds for from here, and does not start without.
	add("runtime.v2", here, errNoContainers, "task")
	add("grpc.v1", nil, nil, strings.Fields("containers content cri diff events healthcheck images introspection leases namespaces snapshots streaming tasks transfer version")...)
	return list
}

// Containerd calls overlay otherwise.
const overlayfs = "overlayfs"

func theirSnapshotter(name string) string {
	if name == "overlay" {
		return overlayfs
	}
	return name
}

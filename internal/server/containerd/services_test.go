package containerd_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	leases "github.com/containerd/containerd/api/services/leases/v1"
	namespaces "github.com/containerd/containerd/api/services/namespaces/v1"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/stowage/stowage"
)

// on is the context of requests on a namespace.
func on(t testing.TB, ns string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", ns)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v; want %s", what, err, want)
	}
}

// Clients set labels of namespaces that they have not made, with and without a mask.
func TestNamespaces(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	c, ctx := namespaces.NewNamespacesClient(conn), t.Context()
	update := func(labels map[string]string, paths ...string) error {
		req := &namespaces.UpdateNamespaceRequest{Namespace: &namespaces.Namespace{Name: "new", Labels: labels}}
		if len(paths) > 0 {
			req.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
		}
		_, err := c.Update(ctx, req)
		return err
	}
	wantLabels := func(want map[string]string) {
		t.Helper()
		got, err := c.Get(ctx, &namespaces.GetNamespaceRequest{Name: "new"})
		if err != nil || len(got.Namespace.Labels) != len(want) {
			t.Fatalf("namespace: %v, %v; want %v", got, err, want)
		}
		for k, v := range want {
			if got.Namespace.Labels[k] != v {
				t.Errorf("namespace: %v; want %v", got, want)
			}
		}
	}
	wantLabels(nil)
	list, err := c.List(ctx, &namespaces.ListNamespacesRequest{})
	if err != nil || len(list.Namespaces) > 0 {
		t.Errorf("asked for, a namespace is %v, %v; want none", list, err)
	}
	must(t, update(map[string]string{"a.b": "1", "c": "2"}, "labels.a.b"))
	wantLabels(map[string]string{"a.b": "1"})
	must(t, update(map[string]string{"c": "2"}, "labels.a.b", "labels.c"))
	wantLabels(map[string]string{"c": "2"})
	must(t, update(map[string]string{"d": "3"}))
	wantLabels(map[string]string{"d": "3"})
	must(t, update(map[string]string{"e": "4"}, "labels"))
	wantLabels(map[string]string{"e": "4"})
	wantCode(t, "another field", update(nil, "name"), codes.InvalidArgument)
	wantCode(t, "a long label", update(map[string]string{"a": strings.Repeat("b", 4096)}), codes.InvalidArgument)

	_, err = c.Create(ctx, &namespaces.CreateNamespaceRequest{Namespace: &namespaces.Namespace{Name: "made", Labels: map[string]string{"a": "b"}}})
	must(t, err)
	_, err = c.Create(ctx, &namespaces.CreateNamespaceRequest{Namespace: &namespaces.Namespace{Name: "made"}})
	wantCode(t, "made twice", err, codes.AlreadyExists)
	_, err = c.Create(ctx, &namespaces.CreateNamespaceRequest{})
	wantCode(t, "no name", err, codes.InvalidArgument)
	_, err = c.Create(ctx, &namespaces.CreateNamespaceRequest{Namespace: &namespaces.Namespace{Name: "../up"}})
	wantCode(t, "a name with dots", err, codes.InvalidArgument)
	_, err = leases.NewLeasesClient(conn).Create(on(t, "made"), &leases.CreateRequest{ID: "keeps"})
	must(t, err)
	_, err = c.Delete(ctx, &namespaces.DeleteNamespaceRequest{Name: "made"})
	wantCode(t, "not empty", err, codes.FailedPrecondition)
	_, err = c.Delete(ctx, &namespaces.DeleteNamespaceRequest{Name: "new"})
	must(t, err)
	_, err = c.Delete(ctx, &namespaces.DeleteNamespaceRequest{Name: "new"})
	wantCode(t, "deleted twice", err, codes.NotFound)
	list, err = c.List(ctx, &namespaces.ListNamespacesRequest{})
	if err != nil || len(list.Namespaces) != 1 || list.Namespaces[0].Name != "made" {
		t.Errorf("the namespaces are %v, %v; want made", list, err)
	}
}

// What is under a lease stays, and goes with it when its client waits for that.
func TestLeases(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{})
	c, ctx := leases.NewLeasesClient(conn), on(t, "default")
	blob, err := store.Ingest(ctx, "in", strings.NewReader("kept"), "", 4)
	must(t, err)

	made, err := c.Create(ctx, &leases.CreateRequest{Labels: map[string]string{"a": "b"}})
	if err != nil || made.Lease.ID == "" || made.Lease.Labels["a"] != "b" || made.Lease.CreatedAt.AsTime().IsZero() {
		t.Fatalf("made %v, %v", made, err)
	}
	id := made.Lease.ID
	_, err = c.Create(ctx, &leases.CreateRequest{ID: id})
	wantCode(t, "made twice", err, codes.AlreadyExists)
	_, err = c.Create(ctx, &leases.CreateRequest{ID: "sha256:other"})
	must(t, err)

	hold, err := store.Metadata().Hold(ctx, "default", blob.Digest)
	must(t, err)
	for filter, want := range map[string]string{"": id + " sha256:other", "labels.a==b": id, "id==none": ""} {
		list, err := c.List(ctx, &leases.ListRequest{Filters: []string{filter}})
		must(t, err)
		var ids []string
		for _, l := range list.Leases {
			ids = append(ids, l.ID)
		}
		wanted := strings.Fields(want)
		slices.Sort(wanted)
		if !slices.Equal(ids, wanted) {
			t.Errorf("leases with %q: %v; want %v", filter, ids, wanted)
		}
	}
	must(t, hold.Release(ctx))
	_, err = c.List(ctx, &leases.ListRequest{Filters: []string{"a=b"}})
	wantCode(t, "a filter that is none", err, codes.InvalidArgument)

	resources := []*leases.Resource{
		{Type: "content", ID: blob.Digest.String()},
		{Type: "images", ID: "example.com/a:1"},
		{Type: "ingests", ID: "layer-1"},
		{Type: "snapshots/overlayfs", ID: "top"},
	}
	for _, r := range append(resources, resources[0]) {
		_, err := c.AddResource(ctx, &leases.AddResourceRequest{ID: id, Resource: r})
		must(t, err)
	}
	list, err := c.ListResources(ctx, &leases.ListResourcesRequest{ID: id})
	must(t, err)
	if len(list.Resources) != len(resources) {
		t.Errorf("resources: %v; want %v", list.Resources, resources)
	}
	for i, r := range list.Resources {
		if r.Type != resources[i].Type || r.ID != resources[i].ID {
			t.Errorf("resource %v; want %v", r, resources[i])
		}
	}
	for r, want := range map[*leases.Resource]codes.Code{
		{Type: "content", ID: "what"}:        codes.InvalidArgument,
		{Type: "content/x", ID: "what"}:      codes.InvalidArgument,
		{Type: "snapshots", ID: "what"}:      codes.InvalidArgument,
		{Type: "snapshots/../x", ID: "what"}: codes.InvalidArgument,
		{Type: "containers", ID: "what"}:     codes.Unimplemented,
		nil:                                  codes.Unimplemented,
	} {
		_, err := c.AddResource(ctx, &leases.AddResourceRequest{ID: id, Resource: r})
		wantCode(t, r.String(), err, want)
	}
	_, err = c.AddResource(ctx, &leases.AddResourceRequest{ID: "none", Resource: resources[0]})
	wantCode(t, "a lease that is not there", err, codes.NotFound)
	_, err = c.ListResources(ctx, &leases.ListResourcesRequest{ID: "none"})
	wantCode(t, "a lease that is not there", err, codes.NotFound)
	_, err = c.List(t.Context(), &leases.ListRequest{})
	wantCode(t, "no namespace", err, codes.FailedPrecondition)
	_, err = c.List(on(t, "../up"), &leases.ListRequest{})
	wantCode(t, "a namespace with dots", err, codes.InvalidArgument)

	_, err = c.Delete(ctx, &leases.DeleteRequest{ID: "sha256:other", Sync: true})
	must(t, err)
	if _, err := store.Blob(ctx, blob.Digest.String()); err != nil {
		t.Errorf("under a lease: %v", err)
	}
	_, err = c.DeleteResource(ctx, &leases.DeleteResourceRequest{ID: id, Resource: resources[3]})
	must(t, err)
	_, err = c.Delete(ctx, &leases.DeleteRequest{ID: id, Sync: true})
	must(t, err)
	if _, err := store.Blob(ctx, blob.Digest.String()); err == nil {
		t.Error("its lease is gone, and the blob is there")
	}
	_, err = c.Delete(ctx, &leases.DeleteRequest{ID: id})
	wantCode(t, "deleted twice", err, codes.NotFound)
}

// There are no containers, and nobody can make one.
func TestContainers(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	c, run, ctx := containers.NewContainersClient(conn), tasks.NewTasksClient(conn), on(t, "default")
	list, err := c.List(ctx, &containers.ListContainersRequest{})
	if err != nil || len(list.Containers) > 0 {
		t.Errorf("containers: %v, %v; want none", list, err)
	}
	stream, err := c.ListStream(ctx, &containers.ListContainersRequest{})
	must(t, err)
	if got, err := stream.Recv(); err == nil || err.Error() != "EOF" {
		t.Errorf("containers: %v, %v; want the end", got, err)
	}
	running, err := run.List(ctx, &tasks.ListTasksRequest{})
	if err != nil || len(running.Tasks) > 0 {
		t.Errorf("tasks: %v, %v; want none", running, err)
	}
	metrics, err := run.Metrics(ctx, &tasks.MetricsRequest{})
	if err != nil || len(metrics.Metrics) > 0 {
		t.Errorf("metrics: %v, %v; want none", metrics, err)
	}
	_, err = c.List(t.Context(), &containers.ListContainersRequest{})
	wantCode(t, "no namespace", err, codes.FailedPrecondition)
	_, err = c.Get(ctx, &containers.GetContainerRequest{ID: "a"})
	wantCode(t, "get", err, codes.NotFound)
	_, err = c.Update(ctx, &containers.UpdateContainerRequest{})
	wantCode(t, "update", err, codes.NotFound)
	_, err = c.Delete(ctx, &containers.DeleteContainerRequest{ID: "a"})
	wantCode(t, "delete", err, codes.NotFound)
	_, err = c.Create(ctx, &containers.CreateContainerRequest{})
	wantCode(t, "create", err, codes.Unimplemented)
	if !strings.Contains(err.Error(), "runs no containers") {
		t.Errorf("create: %v; want a reason", err)
	}
	_, err = run.Get(ctx, &tasks.GetRequest{ContainerID: "a"})
	wantCode(t, "get a task", err, codes.NotFound)
	_, err = run.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: "a"})
	wantCode(t, "delete a task", err, codes.NotFound)
	_, err = run.Create(ctx, &tasks.CreateTaskRequest{})
	wantCode(t, "create a task", err, codes.Unimplemented)
	_, err = run.Start(ctx, &tasks.StartRequest{})
	wantCode(t, "start a task", err, codes.Unimplemented)
}

// Clients find what they do not start without.
func TestIntrospection(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{})
	c, ctx := introspection.NewIntrospectionClient(conn), t.Context()
	for filter, want := range map[string]string{
		"type==io.containerd.snapshotter.v1, id==overlayfs": "overlayfs",
		"type==io.containerd.snapshotter.v1":                "overlayfs erofs native",
		"type==io.containerd.runtime.v2":                    "task",
		"type==io.containerd.runtime.v1":                    "",
		"id==content":                                       "content content",
	} {
		got, err := c.Plugins(ctx, &introspection.PluginsRequest{Filters: []string{filter}})
		must(t, err)
		var ids []string
		for _, p := range got.Plugins {
			ids = append(ids, p.ID)
			if needs := strings.Contains(p.Type, "snapshotter") || strings.Contains(p.Type, "runtime"); needs && (len(p.Platforms) == 0 || p.Platforms[0].OS != "linux") {
				t.Errorf("%s.%s has the platforms %v", p.Type, p.ID, p.Platforms)
			}
		}
		if strings.Join(ids, " ") != want {
			t.Errorf("plugins with %s: %s; want %s", filter, ids, want)
		}
	}
	_, err := c.Plugins(ctx, &introspection.PluginsRequest{Filters: []string{"a=b"}})
	wantCode(t, "a filter that is none", err, codes.InvalidArgument)

	info, err := c.PluginInfo(ctx, &introspection.PluginInfoRequest{Type: "io.containerd.runtime.v2", ID: "task"})
	if err != nil || codes.Code(info.Plugin.InitErr.GetCode()) != codes.Unimplemented {
		t.Errorf("the runtime is %v, %v; want that it is none", info, err)
	}
	_, err = c.PluginInfo(ctx, &introspection.PluginInfoRequest{Type: "io.containerd.runtime.v2", ID: "task", Options: &anypb.Any{}})
	wantCode(t, "what a runtime has", err, codes.Unimplemented)
	_, err = c.PluginInfo(ctx, &introspection.PluginInfoRequest{Type: "io.containerd.runtime.v2", ID: "other"})
	wantCode(t, "another runtime", err, codes.NotFound)

	server, err := c.Server(ctx, &emptypb.Empty{})
	must(t, err)
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(server.UUID) || server.Pid != uint64(os.Getpid()) || server.Pidns == 0 {
		t.Errorf("the server is %v", server)
	}
	b, err := os.ReadFile(store.Root() + "/uuid")
	if err != nil || string(b) != server.UUID {
		t.Errorf("the file has %q, %v; want %s", b, err, server.UUID)
	}
	again, err := c.Server(ctx, &emptypb.Empty{})
	if err != nil || again.UUID != server.UUID {
		t.Errorf("asked again: %v, %v; want %s", again, err, server.UUID)
	}
}

// Clients that wait for a collection share it, and each finds gone what its lease kept.
func TestCollectionsAreShared(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	c, ctx := leases.NewLeasesClient(conn), on(t, "default")
	kept := map[string]string{}
	for i := range 16 {
		id := fmt.Sprint("lease-", i)
		blob, err := store.Ingest(ctx, id, strings.NewReader(id), "", int64(len(id)))
		must(t, err)
		_, err = c.Create(ctx, &leases.CreateRequest{ID: id})
		must(t, err)
		_, err = c.AddResource(ctx, &leases.AddResourceRequest{ID: id, Resource: &leases.Resource{Type: "content", ID: blob.Digest.String()}})
		must(t, err)
		kept[id] = blob.Digest.String()
	}
	var clients errgroup.Group
	for id, d := range kept {
		clients.Go(func() error {
			if _, err := c.Delete(ctx, &leases.DeleteRequest{ID: id, Sync: true}); err != nil {
				return err
			}
			if _, err := store.Blob(ctx, d); !errdefs.IsNotFound(err) {
				return fmt.Errorf("the blob of %s: %v, want not found", id, err)
			}
			return nil
		})
	}
	must(t, clients.Wait())
}

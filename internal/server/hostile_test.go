package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	content "github.com/containerd/containerd/api/services/content/v1"
	events "github.com/containerd/containerd/api/services/events/v1"
	images "github.com/containerd/containerd/api/services/images/v1"
	leases "github.com/containerd/containerd/api/services/leases/v1"
	namespaces "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/stowage/stowage"
)

// A target is a daemon for clients that mean no good. When they are done it works as before, and
// nothing is on the disk beside its store.
type target struct {
	t     *testing.T
	name  string // of the socket
	conn  *grpc.ClientConn
	store *stowage.Store
}

func newTarget(t *testing.T) *target {
	t.Helper()
	above := t.TempDir()
	store, err := stowage.Open(filepath.Join(above, "store"), stowage.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	name := socket(t)
	l := listen(t, name)
	start(t, func(ctx context.Context) error {
		return Serve(ctx, store, &Listeners{API: []net.Listener{l}}, Options{})
	})
	h := &target{t, name, dial(t, name), store}
	t.Cleanup(func() {
		h.works()
		entries, err := os.ReadDir(above)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the store: %v, %v", entries, err)
		}
	})
	return h
}

// on is the context of requests on a namespace.
func on(t *testing.T, ns string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", ns)
}

// works writes a blob, reads it and removes it.
func (h *target) works() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "works")
	if res, err := grpc_health_v1.NewHealthClient(h.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		h.t.Errorf("health: %v, %v", res, err)
	}
	c := content.NewContentClient(h.conn)
	data := []byte("works")
	d := digest.FromBytes(data).String()
	w, err := c.Write(ctx)
	if err == nil {
		err = w.Send(&content.WriteContentRequest{Action: content.WriteAction_COMMIT, Ref: "works", Data: data, Expected: d})
	}
	if err == nil {
		_, err = w.Recv()
	}
	if err != nil {
		h.t.Errorf("write: %v", err)
	}
	r, err := c.Read(ctx, &content.ReadContentRequest{Digest: d})
	if err != nil {
		h.t.Fatal(err)
	}
	if res, err := r.Recv(); err != nil || !bytes.Equal(res.Data, data) {
		h.t.Errorf("read: %v, %v", res, err)
	}
	if _, err := c.Delete(ctx, &content.DeleteContentRequest{Digest: d}); err != nil {
		h.t.Errorf("delete: %v", err)
	}
}

func (h *target) wants(what string, err error, want codes.Code) {
	h.t.Helper()
	if got := status.Code(err); got != want {
		h.t.Errorf("%s: %v; want %s", what, err, want)
	}
}

// firstOf is the first answer of a stream.
func firstOf[T any](stream grpc.ServerStreamingClient[T], err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// write sends messages until one is refused or all are answered.
func write(ctx context.Context, c content.ContentClient, send ...*content.WriteContentRequest) error {
	stream, err := c.Write(ctx)
	if err != nil {
		return err
	}
	for _, req := range send {
		if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

// Namespaces that would lead out of the store are refused by every service.
func TestHostileNamespaces(t *testing.T) {
	h := newTarget(t)
	some := digest.FromString("some").String()
	calls := map[string]func(ctx context.Context) error{
		"content info": func(ctx context.Context) error {
			_, err := content.NewContentClient(h.conn).Info(ctx, &content.InfoRequest{Digest: some})
			return err
		},
		"content list": func(ctx context.Context) error {
			return firstOf(content.NewContentClient(h.conn).List(ctx, &content.ListContentRequest{}))
		},
		"content read": func(ctx context.Context) error {
			return firstOf(content.NewContentClient(h.conn).Read(ctx, &content.ReadContentRequest{Digest: some}))
		},
		"content write": func(ctx context.Context) error {
			return write(ctx, content.NewContentClient(h.conn), &content.WriteContentRequest{Action: content.WriteAction_WRITE, Ref: "r", Data: []byte("x")})
		},
		"images": func(ctx context.Context) error {
			_, err := images.NewImagesClient(h.conn).List(ctx, &images.ListImagesRequest{})
			return err
		},
		"leases": func(ctx context.Context) error {
			_, err := leases.NewLeasesClient(h.conn).Create(ctx, &leases.CreateRequest{ID: "l"})
			return err
		},
		"snapshots": func(ctx context.Context) error {
			_, err := snapshots.NewSnapshotsClient(h.conn).Prepare(ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: "native", Key: "k"})
			return err
		},
		"containers": func(ctx context.Context) error {
			_, err := containers.NewContainersClient(h.conn).List(ctx, &containers.ListContainersRequest{})
			return err
		},
		"events": func(ctx context.Context) error {
			_, err := events.NewEventsClient(h.conn).Publish(ctx, &events.PublishRequest{Topic: "/a"})
			return err
		},
		"namespaces": func(ctx context.Context) error {
			md, _ := metadata.FromOutgoingContext(ctx)
			_, err := namespaces.NewNamespacesClient(h.conn).Create(ctx, &namespaces.CreateNamespaceRequest{Namespace: &namespaces.Namespace{Name: md.Get("containerd-namespace")[0]}})
			return err
		},
	}
	for what, call := range calls {
		for _, ns := range []string{"..", "../up", "a/../../b", "/abs", "a/b", ".", strings.Repeat("a", 77), "-a"} {
			h.wants(fmt.Sprintf("%s in %.20s", what, ns), call(on(t, ns)), codes.InvalidArgument)
		}
	}
	if list, err := h.store.Namespaces(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("there are namespaces: %v, %v", list, err)
	}
}

// Names that would lead out of the store are names like others, or refused.
func TestHostileNames(t *testing.T) {
	h := newTarget(t)
	ctx := on(t, "default")
	up := "../../../../up"
	c := content.NewContentClient(h.conn)
	if err := write(ctx, c, &content.WriteContentRequest{Action: content.WriteAction_WRITE, Ref: up, Data: []byte("x")}); err != nil {
		t.Error(err)
	}
	_, err := c.Info(ctx, &content.InfoRequest{Digest: "sha256:" + up})
	h.wants("a digest", err, codes.InvalidArgument)
	if _, err := leases.NewLeasesClient(h.conn).Create(ctx, &leases.CreateRequest{ID: up}); err != nil {
		t.Error(err)
	}
	sn := snapshots.NewSnapshotsClient(h.conn)
	if _, err := sn.Prepare(ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: "native", Key: up}); err != nil {
		t.Error(err)
	}
	_, err = sn.Prepare(ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: up, Key: "k"})
	h.wants("a snapshotter", err, codes.InvalidArgument)
	_, err = sn.Prepare(ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: "native", Key: "a\x00b"})
	h.wants("a key with a zero byte", err, codes.InvalidArgument)
	_, err = images.NewImagesClient(h.conn).Create(ctx, &images.CreateImageRequest{Image: &images.Image{
		Name: "a\x00b", Target: &types.Descriptor{MediaType: "a", Digest: digest.FromString("x").String(), Size: 1},
	}})
	h.wants("an image with a zero byte", err, codes.InvalidArgument)
	err = filepath.WalkDir(h.store.Root(), func(name string, _ fs.DirEntry, err error) error {
		if filepath.Base(name) == "up" {
			t.Errorf("there is %s", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Labels over the limits are refused wherever there are labels.
func TestHostileLabels(t *testing.T) {
	h := newTarget(t)
	ctx := on(t, "default")
	long := map[string]string{"key": strings.Repeat("v", 4096)}
	c := content.NewContentClient(h.conn)
	h.wants("content", write(ctx, c, &content.WriteContentRequest{Action: content.WriteAction_COMMIT, Ref: "r", Data: []byte("x"), Labels: long}), codes.InvalidArgument)
	_, err := images.NewImagesClient(h.conn).Create(ctx, &images.CreateImageRequest{Image: &images.Image{
		Name: "a", Target: &types.Descriptor{MediaType: "a", Digest: digest.FromString("x").String(), Size: 1}, Labels: long,
	}})
	h.wants("images", err, codes.InvalidArgument)
	_, err = leases.NewLeasesClient(h.conn).Create(ctx, &leases.CreateRequest{ID: "l", Labels: long})
	h.wants("leases", err, codes.InvalidArgument)
	_, err = namespaces.NewNamespacesClient(h.conn).Create(ctx, &namespaces.CreateNamespaceRequest{Namespace: &namespaces.Namespace{Name: "n", Labels: long}})
	h.wants("namespaces", err, codes.InvalidArgument)
	_, err = snapshots.NewSnapshotsClient(h.conn).Prepare(ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: "native", Key: "k", Labels: long})
	h.wants("snapshots", err, codes.InvalidArgument)
	_, err = events.NewEventsClient(h.conn).Publish(ctx, &events.PublishRequest{Topic: "/a", Event: &anypb.Any{Value: make([]byte, 1<<20)}})
	h.wants("a large event", err, codes.InvalidArgument)
}

// A message that says it has a gigabyte is refused before it comes.
func TestHostileMessage(t *testing.T) {
	h := newTarget(t)
	plain := new(http.Protocols)
	plain.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: plain, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.name)
	}}
	defer transport.CloseIdleConnections()
	body, send := io.Pipe()
	defer func() {
		if err := send.Close(); err != nil {
			t.Error(err)
		}
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://h/containerd.services.content.v1.Content/Write", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("Containerd-Namespace", "default")
	go func() {
		frame := binary.BigEndian.AppendUint32([]byte{0}, 1<<30)
		for _, err := send.Write(frame); err == nil; _, err = send.Write(make([]byte, 1<<10)) {
		}
	}()
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Error(err)
	}
	code := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status")
	if want := fmt.Sprint(int(codes.ResourceExhausted)); code != want {
		t.Errorf("the status is %s; want %s", code, want)
	}
}

// A write at a wrong offset is refused, and leaves what came before.
func TestHostileOffsets(t *testing.T) {
	h := newTarget(t)
	ctx := on(t, "default")
	c := content.NewContentClient(h.conn)
	at := func(offset int64) *content.WriteContentRequest {
		return &content.WriteContentRequest{Action: content.WriteAction_WRITE, Ref: "r", Data: []byte("four"), Offset: offset}
	}
	h.wants("in the middle", write(ctx, c, at(0), at(2)), codes.OutOfRange)
	h.wants("behind the end", write(ctx, c, at(1<<60)), codes.OutOfRange)
	h.wants("before the beginning", write(ctx, c, at(-1)), codes.InvalidArgument)
	if got, err := c.Status(ctx, &content.StatusRequest{Ref: "r"}); err != nil || got.Status.Offset != 4 {
		t.Errorf("what came before is %v, %v; want 4 bytes", got, err)
	}
}

// ingests is how many hostile clients leave open; a drill is to go beyond the bound.
var ingests = flag.Int("ingests", 100, "how many ingests hostile clients leave open")

// Ingests that are left open are bounded: the others go on, and what is more is refused until some are
// aborted.
func TestHostileIngests(t *testing.T) {
	const bound = 4096
	h := newTarget(t)
	ctx := on(t, "default")
	c := content.NewContentClient(h.conn)
	for i := range *ingests {
		err := write(ctx, c, &content.WriteContentRequest{Action: content.WriteAction_WRITE, Ref: fmt.Sprint(i), Data: []byte("x")})
		want := codes.OK
		if i >= bound {
			want = codes.ResourceExhausted
		}
		if h.wants(fmt.Sprint("ingest ", i), err, want); t.Failed() {
			return
		}
	}
	list, err := c.ListStatuses(ctx, &content.ListStatusesRequest{})
	if err != nil || len(list.Statuses) != min(*ingests, bound) {
		t.Fatalf("there are %d ingests, %v", len(list.GetStatuses()), err)
	}
	for _, at := range list.Statuses {
		if _, err := c.Abort(ctx, &content.AbortRequest{Ref: at.Ref}); err != nil {
			t.Fatal(err)
		}
	}
}

package containerd_test

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/server/containerd"
)

// A contentClient speaks the API of content itself, in a namespace.
type contentClient struct {
	api.ContentClient
	t   *testing.T
	ctx context.Context
}

func newContentClient(t *testing.T, conn grpc.ClientConnInterface, ns string) contentClient {
	return contentClient{api.NewContentClient(conn), t, namespaces.WithNamespace(t.Context(), ns)}
}

// leased is the client under a lease.
func (c contentClient) leased(id string) contentClient {
	c.ctx = leases.WithLease(c.ctx, id)
	return c
}

// send writes messages to one stream, which ends with the last or with an error, and returns the last
// answer.
func (c contentClient) send(list ...*api.WriteContentRequest) (*api.WriteContentResponse, error) {
	c.t.Helper()
	stream, err := c.Write(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	var last *api.WriteContentResponse
	for _, req := range list {
		if err := stream.Send(req); err != nil && err != io.EOF {
			c.t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		last = res
	}
	if err := stream.CloseSend(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { // the server has let go of what was written
		return last, err
	}
	return last, nil
}

func (c contentClient) mustSend(list ...*api.WriteContentRequest) *api.WriteContentResponse {
	c.t.Helper()
	res, err := c.send(list...)
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

// put writes a blob in one message.
func (c contentClient) put(text string) digest.Digest {
	c.t.Helper()
	res := c.mustSend(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Ref: "put", Data: []byte(text)})
	return digest.Digest(res.Digest)
}

// has tells whether the namespace knows a blob.
func (c contentClient) has(d digest.Digest) bool {
	c.t.Helper()
	_, err := c.Info(c.ctx, &api.InfoRequest{Digest: d.String()})
	if err != nil && status.Code(err) != codes.NotFound {
		c.t.Fatal(err)
	}
	return err == nil
}

// offset is how much is kept of what is written under ref; negative: nothing is.
func (c contentClient) offset(ref string) int64 {
	c.t.Helper()
	res, err := c.Status(c.ctx, &api.StatusRequest{Ref: ref})
	if status.Code(err) == codes.NotFound {
		return -1
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return res.Status.Offset
}

func (c contentClient) wantOffset(ref string, want int64) {
	c.t.Helper()
	if got := c.offset(ref); got != want {
		c.t.Errorf("%d bytes are kept of %s, want %d", got, ref, want)
	}
}

func stat(ref string) *api.WriteContentRequest { return &api.WriteContentRequest{Ref: ref} }

func write(ref, text string, offset int64) *api.WriteContentRequest {
	return &api.WriteContentRequest{Action: api.WriteAction_WRITE, Ref: ref, Data: []byte(text), Offset: offset}
}

func commit(offset, total int64, expected digest.Digest) *api.WriteContentRequest {
	return &api.WriteContentRequest{Action: api.WriteAction_COMMIT, Offset: offset, Total: total, Expected: expected.String()}
}

// What makes no sense gets the code that containerd gives it, and what was written before stays.
func TestWriteRefused(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	known := c.put("known")
	long := commit(4, 0, "")
	long.Labels = map[string]string{"key": strings.Repeat("v", 5000)}
	half := write("half", "half", 0)
	for _, tt := range []struct {
		name string
		c    contentClient
		want codes.Code
		send []*api.WriteContentRequest
	}{
		{"no namespace", contentClient{c.ContentClient, t, t.Context()}, codes.FailedPrecondition, []*api.WriteContentRequest{half}},
		{"a namespace that leads out", newContentClient(t, conn, "../.."), codes.InvalidArgument, []*api.WriteContentRequest{half}},
		{"no ref", c, codes.InvalidArgument, []*api.WriteContentRequest{stat("")}},
		{"a long ref", c, codes.InvalidArgument, []*api.WriteContentRequest{stat(strings.Repeat("r", 5000))}},
		{"a lease that is not there", c.leased("none"), codes.NotFound, []*api.WriteContentRequest{half}},
		{"no digest", c, codes.InvalidArgument, []*api.WriteContentRequest{{Ref: "r", Expected: "sha256:../../x"}}},
		{"a digest of another sort", c, codes.InvalidArgument, []*api.WriteContentRequest{{Ref: "r", Expected: digest.SHA384.FromString("x").String()}}},
		{"a blob that is there", c, codes.AlreadyExists, []*api.WriteContentRequest{{Ref: "r", Expected: known.String()}}},
		{"less than nothing", c, codes.InvalidArgument, []*api.WriteContentRequest{{Ref: "r", Total: -1}}},
		{"no action", c, codes.InvalidArgument, []*api.WriteContentRequest{stat("r"), {Action: 7}}},
		{"before the beginning", c, codes.InvalidArgument, []*api.WriteContentRequest{half, write("", "x", -1)}},
		{"behind the end", c, codes.OutOfRange, []*api.WriteContentRequest{half, write("", "x", 5)}},
		{"in the middle", c, codes.OutOfRange, []*api.WriteContentRequest{half, write("", "x", 3)}},
		{"too short", c, codes.FailedPrecondition, []*api.WriteContentRequest{half, commit(4, 5, "")}},
		{"too long", c, codes.FailedPrecondition, []*api.WriteContentRequest{half, commit(4, 3, "")}},
		{"another digest", c, codes.FailedPrecondition, []*api.WriteContentRequest{half, commit(4, 4, digest.FromString("whole"))}},
		{"a long label", c, codes.InvalidArgument, []*api.WriteContentRequest{half, long}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.c.send(tt.send...); status.Code(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if len(tt.send) > 1 && tt.send[0] == half {
				c.wantOffset("half", 4)
			}
		})
	}
	if res := c.mustSend(stat("half"), commit(4, 4, digest.FromString("half"))); !c.has(digest.Digest(res.Digest)) {
		t.Error("what was refused could not be finished")
	}
	if list, err := store.Ingests(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left over: %v, %v", list, err)
	}
}

func TestWriteOneAtATime(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	stream, err := c.Write(c.ctx)
	if err == nil {
		err = stream.Send(write("ref", "abc", 0))
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.send(stat("ref")); status.Code(err) != codes.Unavailable {
		t.Errorf("a second writer: got %v, want %s", err, codes.Unavailable)
	}
	other := newContentClient(t, conn, "other")
	other.mustSend(write("ref", "in another namespace", 0))
	c.wantOffset("ref", 3)
	other.wantOffset("ref", 20)

	// Whoever writes learns of the end of it with the next message.
	if _, err := c.Abort(c.ctx, &api.AbortRequest{Ref: "ref"}); err != nil {
		t.Fatal(err)
	}
	c.wantOffset("ref", -1)
	if err := stream.Send(write("", "def", 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("a write that was aborted: got %v, want %s", err, codes.Aborted)
	}
	if res := c.mustSend(stat("ref")); res.Offset != 0 {
		t.Errorf("a write after that begins at %d, want 0", res.Offset)
	}
	for _, want := range []codes.Code{codes.OK, codes.NotFound} {
		if _, err := other.Abort(other.ctx, &api.AbortRequest{Ref: "ref"}); status.Code(err) != want {
			t.Errorf("abort what nobody writes: got %v, want %s", err, want)
		}
	}
}

// What a daemon has taken of a blob is gone on with by the next one.
func TestWriteOverRestart(t *testing.T) {
	root := t.TempDir()
	first := text(3 << 20)
	rest := text(1 << 20)
	whole := digest.FromString(first + rest)
	t.Run("first", func(t *testing.T) {
		_, _, conn := serveRoot(t, root, stowage.Options{NoSync: true})
		open := stat("layer")
		open.Total, open.Expected = int64(len(first+rest)), whole.String()
		newContentClient(t, conn, "ns").mustSend(open, write("", first, 0))
	})
	_, _, conn := serveRoot(t, root, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	c.wantOffset("layer", int64(len(first)))
	res := c.mustSend(stat("layer"))
	if res.Offset != int64(len(first)) || res.Digest != digest.FromString(first).String() {
		t.Fatalf("it goes on at %d, with %s", res.Offset, res.Digest)
	}
	c.mustSend(stat("layer"), write("", rest, res.Offset), commit(int64(len(first+rest)), 0, whole))
	if !c.has(whole) {
		t.Error("it is not there")
	}
	// Under the same name, what is to be of another size is another blob.
	c.mustSend(&api.WriteContentRequest{Ref: "other", Total: 10}, write("", "abc", 0))
	if res := c.mustSend(&api.WriteContentRequest{Ref: "other", Total: 20}); res.Offset != 0 {
		t.Errorf("another blob begins at %d, want 0", res.Offset)
	}
}

// A blob that another namespace has need not be sent, and stays while it is asked for.
func TestWriteShared(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	a, b := newContentClient(t, conn, "a"), newContentClient(t, conn, "b")
	d := a.put("shared")
	open := stat("ref")
	open.Expected, open.Total = d.String(), 6
	stream, err := b.Write(b.ctx)
	if err == nil {
		err = stream.Send(open)
	}
	if err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil || res.Offset != 6 || res.Digest != d.String() {
		t.Fatalf("the first answer is %v, %v", res, err)
	}
	if b.has(d) {
		t.Error("it is there before it is committed")
	}
	// The other namespace may well lose it meanwhile.
	if _, err := store.Prune(t.Context(), stowage.PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if list, err := store.Ingests(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("something is written: %v, %v", list, err)
	}
	if err := stream.Send(commit(6, 6, d)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if !b.has(d) {
		t.Error("it is not there")
	}
	if got, err := b.read(d, 0, 0); got != "shared" || err != nil {
		t.Errorf("it reads %q, %v", got, err)
	}

	// One of another size, and one that the client writes all the same, are written.
	other := newContentClient(t, conn, "c")
	if res := other.mustSend(&api.WriteContentRequest{Ref: "ref", Expected: d.String(), Total: 7}); res.Offset != 0 {
		t.Errorf("one of another size begins at %d, want 0", res.Offset)
	}
	other.mustSend(&api.WriteContentRequest{Ref: "again", Expected: d.String()}, write("", "shared", 0), commit(6, 6, d))
	if !other.has(d) {
		t.Error("what was written again is not there")
	}
}

// A blob that the store itself is bringing is not brought by a client as well: it waits, can see how far
// the store is, and finds all of it at the end, though no row says so yet.
func TestWriteBesideStore(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	d := digest.FromString("fetched")
	in, err := store.Content().Begin(t.Context(), d.String(), content.Want{Digest: d, Size: 7})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteAt([]byte("fetch"), 0); err != nil {
		t.Fatal(err)
	}
	open := &api.WriteContentRequest{Ref: "layer", Expected: d.String(), Total: 7}
	if _, err := c.send(open); status.Code(err) != codes.Unavailable {
		t.Errorf("a write of what is being fetched: %v, want unavailable", err)
	}
	c.wantOffset("layer", -1)
	c.wantOffset(d.String(), 5)
	if _, err := in.WriteAt([]byte("ed"), 5); err != nil {
		t.Fatal(err)
	}
	if err := store.Content().Commit(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	c.wantOffset(d.String(), -1)
	if res := c.mustSend(open, commit(7, 7, d)); res.Offset != 7 || !c.has(d) {
		t.Errorf("what was fetched: %v, and it is there: %v", res, c.has(d))
	}

	// What nobody brings any more is the client's to bring.
	left := digest.FromString("left")
	if in, err = store.Content().Begin(t.Context(), left.String(), content.Want{Digest: left, Size: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteAt([]byte("le"), 0); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	c.wantOffset(left.String(), -1)
	c.mustSend(&api.WriteContentRequest{Ref: "layer", Expected: left.String(), Total: 4}, write("", "left", 0), commit(4, 4, left))
	if !c.has(left) {
		t.Error("what was left is not there")
	}
}

// A lease of the request keeps what is written under it.
func TestWriteUnderLease(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	in, err := store.In("ns")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.CreateLease(t.Context(), stowage.Lease{ID: "mine"}); err != nil {
		t.Fatal(err)
	}
	c := newContentClient(t, conn, "ns")
	there := c.put("there")
	mine := c.leased("mine")
	mine.mustSend(write("ref", "leased", 0))
	lists := func(ingests []string, digests ...digest.Digest) {
		t.Helper()
		l, err := store.Metadata().Lease(t.Context(), "ns", "mine")
		if err != nil || !slices.Equal(l.Ingests, ingests) || !slices.Equal(l.Digests, digests) {
			t.Errorf("the lease has %v and %v, %v; want %v and %v", l.Ingests, l.Digests, err, ingests, digests)
		}
	}
	lists([]string{"ref"})
	leased := digest.Digest(mine.mustSend(stat("ref"), commit(6, 6, "")).Digest)
	lists([]string{}, leased)
	if _, err := mine.send(&api.WriteContentRequest{Ref: "ref", Expected: there.String()}); !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("a blob that is there: got %v, want %v", err, errdefs.ErrAlreadyExists)
	}
	lists([]string{}, leased, there)
	if _, err := store.Prune(t.Context(), stowage.PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if !c.has(leased) || !c.has(there) {
		t.Error("what the lease has was collected")
	}
}

// Blobs of other algorithms are told so at the beginning.
func TestWriteSHA512(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	d := digest.SHA512.FromString("long digest")
	c.mustSend(&api.WriteContentRequest{Ref: "ref", Expected: d.String()}, write("", "long ", 0))
	c.mustSend(&api.WriteContentRequest{Ref: "ref", Expected: d.String()}, write("", "digest", 5), commit(11, 0, d))
	if got, err := c.read(d, 0, 0); got != "long digest" || err != nil {
		t.Errorf("it reads %q, %v", got, err)
	}
}

// When little is left of the disk no more is written to it, by writes that never end or by others.
func TestWriteFloor(t *testing.T) {
	store, err := stowage.Open(filepath.Join(t.TempDir(), "store"), stowage.Options{NoSync: true})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	_, conn := offer(t, store, containerd.Options{Floor: 1 << 60})
	c := newContentClient(t, conn, "ns")
	_, err = c.send(write("endless", "some", 0))
	wantCode(t, "a write to a full disk", err, codes.ResourceExhausted)
	if list, err := store.Ingests(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left over: %v, %v", list, err)
	}
}

package containerd_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/stowage/stowage"
)

// TestContentSuite runs containerd's own suites over the socket, by its own client, in namespaces that
// share what they have: without a lease, and each test under one, as containerd runs them on itself.
func TestContentSuite(t *testing.T) {
	suites := func(t *testing.T, wrap func(ctx context.Context, in *stowage.Store) (context.Context, func(context.Context) error, error)) {
		store, _, conn := serve(t, stowage.Options{NoSync: true})
		var namespace atomic.Int64
		open := func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
			within := func(ctx context.Context, _ bool) (context.Context, func(context.Context) error, error) {
				in, err := store.In(fmt.Sprintf("suite-%d", namespace.Add(1)))
				if err != nil {
					return nil, nil, err
				}
				return wrap(namespaces.WithNamespace(ctx, in.Namespace()), in)
			}
			return testsuite.SetContextWrapper(ctx, within), proxy.NewContentStore(conn), func() error { return nil }, nil
		}
		testsuite.ContentSuite(t, "all", open)
		testsuite.ContentCrossNSSharedSuite(t, "shared", open)
	}
	t.Run("without lease", func(t *testing.T) {
		suites(t, func(ctx context.Context, _ *stowage.Store) (context.Context, func(context.Context) error, error) {
			return ctx, func(context.Context) error { return nil }, nil
		})
	})
	t.Run("with lease", func(t *testing.T) {
		suites(t, func(ctx context.Context, in *stowage.Store) (context.Context, func(context.Context) error, error) {
			l, err := in.CreateLease(ctx, stowage.Lease{})
			return leases.WithLease(ctx, l.ID), func(ctx context.Context) error { return in.DeleteLease(ctx, l.ID) }, err
		})
	})
}

// text is size bytes that no two places share.
func text(size int) string {
	p := make([]byte, 0, size+16)
	for len(p) < size {
		p = fmt.Appendf(p, "%x ", len(p))
	}
	return string(p[:size])
}

// read reads a part of a blob; size 0: to its end.
func (c contentClient) read(d digest.Digest, offset, size int64) (string, error) {
	c.t.Helper()
	stream, err := c.Read(c.ctx, &api.ReadContentRequest{Digest: d.String(), Offset: offset, Size: size})
	if err != nil {
		c.t.Fatal(err)
	}
	var all []byte
	for {
		res, err := stream.Recv()
		if err == io.EOF {
			return string(all), nil
		}
		if err != nil {
			return string(all), err
		}
		if res.Offset != int64(len(all)) || len(res.Data) > 1<<20 {
			c.t.Errorf("a message has %d bytes at %d, where %d come next", len(res.Data), res.Offset, len(all))
		}
		all = append(all, res.Data...)
	}
}

func TestRead(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	whole := text(2<<20 + 100)
	d := c.put(whole)
	for _, tt := range []struct {
		offset, size int64
		want         string
	}{
		{0, 0, whole},
		{0, 1 << 30, whole},
		{-5, 0, whole},
		{10, 0, whole[10:]},
		{10, 1<<20 + 5, whole[10 : 1<<20+15]},
		{2 << 20, 1 << 62, whole[2<<20:]},
		{int64(len(whole)), 0, ""},
		{5, -1, whole[5:]},
	} {
		if got, err := c.read(d, tt.offset, tt.size); got != tt.want || err != nil {
			t.Errorf("%d bytes at %d: got %d bytes, %v, want %d", tt.size, tt.offset, len(got), err, len(tt.want))
		}
	}
	for _, tt := range []struct {
		name   string
		c      contentClient
		d      digest.Digest
		offset int64
		want   codes.Code
	}{
		{"past the end", c, d, int64(len(whole)) + 1, codes.OutOfRange},
		{"absent", c, digest.FromString("absent"), 0, codes.NotFound},
		{"of another namespace", newContentClient(t, conn, "other"), d, 0, codes.NotFound},
		{"no digest", c, "sha256:../..", 0, codes.InvalidArgument},
	} {
		if _, err := tt.c.read(tt.d, tt.offset, 0); status.Code(err) != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	// What something has touched is read whole only if it is right.
	file := filepath.Join(store.Root(), "content", "blobs", "sha256", d.Encoded())
	if err := os.WriteFile(file, []byte(strings.Repeat("x", len(whole))), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(d, 0, 0); status.Code(err) != codes.DataLoss {
		t.Errorf("damaged: got %v, want %s", err, codes.DataLoss)
	}
}

func TestUpdateContent(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	d := c.put("blob")
	for _, tt := range []struct {
		labels map[string]string
		mask   []string
		want   map[string]string // nil: refused
	}{
		{map[string]string{"a": "1", "b": "2", "c": ""}, nil, map[string]string{"a": "1", "b": "2"}},
		{map[string]string{"a": "3", "c": "4"}, []string{"labels.c", "labels.b"}, map[string]string{"a": "1", "c": "4"}},
		{map[string]string{"a": "5"}, []string{"labels.a", "labels"}, map[string]string{"a": "5"}},
		{map[string]string{"x.y": "6"}, []string{"labels.x.y"}, map[string]string{"a": "5", "x.y": "6"}},
		{map[string]string{"a": "7"}, []string{"labels.a", "size"}, nil},
		{map[string]string{"a": strings.Repeat("8", 5000)}, nil, nil},
	} {
		res, err := c.Update(c.ctx, &api.UpdateRequest{
			Info:       &api.Info{Digest: d.String(), Labels: tt.labels, Size: 77},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: tt.mask},
		})
		switch {
		case tt.want == nil:
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v: got %v, want %s", tt.mask, err, codes.InvalidArgument)
			}
		case err != nil || !maps.Equal(res.Info.Labels, tt.want) || res.Info.Size != 4:
			t.Errorf("%v: got %v, %v, want %v", tt.mask, res, err, tt.want)
		}
	}
	if _, err := c.Update(c.ctx, &api.UpdateRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("of nothing: got %v, want %s", err, codes.InvalidArgument)
	}
	if _, err := c.Update(c.ctx, &api.UpdateRequest{Info: &api.Info{Digest: digest.FromString("absent").String()}}); status.Code(err) != codes.NotFound {
		t.Errorf("of an absent blob: got %v, want %s", err, codes.NotFound)
	}
}

func TestListContent(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{NoSync: true})
	c := newContentClient(t, conn, "ns")
	newContentClient(t, conn, "other").put("elsewhere")
	want := map[string]bool{}
	for i := range 201 {
		want[c.put(fmt.Sprint(i)).String()] = true
	}
	list := func(filters ...string) (found []string) {
		t.Helper()
		stream, err := c.List(c.ctx, &api.ListContentRequest{Filters: filters})
		if err != nil {
			t.Fatal(err)
		}
		for {
			res, err := stream.Recv()
			if err == io.EOF {
				return found
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range res.Info {
				if !want[b.Digest] {
					t.Errorf("listed: %s", b.Digest)
				}
				found = append(found, b.Digest)
			}
		}
	}
	if got := list(); len(got) != len(want) {
		t.Errorf("%d blobs are listed, want %d", len(got), len(want))
	}
	d := digest.FromString("7").String()
	if got := list("digest==" + d); !slices.Equal(got, []string{d}) {
		t.Errorf("by digest: got %v", got)
	}
	if _, err := c.Update(c.ctx, &api.UpdateRequest{Info: &api.Info{Digest: d, Labels: map[string]string{"a.b": "c"}}}); err != nil {
		t.Fatal(err)
	}
	if got := list(`labels."a.b"==c`, "size==1"); !slices.Equal(got, []string{d}) {
		t.Errorf("by label: got %v", got)
	}

	c.mustSend(write("layer-1", "x", 0))
	c.mustSend(write("layer-2", "xy", 0))
	res, err := c.ListStatuses(c.ctx, &api.ListStatusesRequest{Filters: []string{"ref~=2$"}})
	if err != nil || len(res.Statuses) != 1 || res.Statuses[0].Ref != "layer-2" || res.Statuses[0].Offset != 2 {
		t.Errorf("what is being written: got %v, %v", res, err)
	}
}

func TestDeleteContent(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	a, b := newContentClient(t, conn, "a"), newContentClient(t, conn, "b")
	d := a.put("blob")
	if b.put("blob") != d {
		t.Fatal("two digests of the same bytes")
	}
	for i, c := range []contentClient{a, b} {
		if got, err := c.read(d, 1, 2); got != "lo" || err != nil {
			t.Errorf("a piece reads %q, %v", got, err)
		}
		for _, want := range []codes.Code{codes.OK, codes.NotFound} {
			if _, err := c.ContentClient.Delete(c.ctx, &api.DeleteContentRequest{Digest: d.String()}); status.Code(err) != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if _, err := c.read(d, 2, 1); status.Code(err) != codes.NotFound {
			t.Errorf("a piece of what was deleted: got %v, want %s", err, codes.NotFound)
		}
		if _, err := store.Content().Info(t.Context(), d); errdefs.IsNotFound(err) != (i == 1) {
			t.Errorf("after %d of 2 namespaces the bytes: %v", i+1, err)
		}
	}
}

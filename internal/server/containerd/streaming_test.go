package containerd_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/containerd/v2/core/streaming"
	streamproxy "github.com/containerd/containerd/v2/core/streaming/proxy"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage"
)

// eager opens streams by containerd's client, which says no more than EOF when the daemon has refused one
// before it came to ask.
type eager struct{ streaming.StreamCreator }

func (e eager) Create(ctx context.Context, id string) (s streaming.Stream, err error) {
	for err = io.EOF; err == io.EOF; {
		s, err = e.StreamCreator.Create(ctx, id)
	}
	return s, err
}

// TestStreams opens streams that cannot be, and more than there may be. When their client goes, others
// may have them again.
func TestStreams(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	streams := eager{streamproxy.NewStreamCreator(conn)}
	if _, err := streams.Create(t.Context(), "a"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a namespace: %v", err)
	}
	for name, id := range map[string]string{"empty": "", "long": strings.Repeat("a", 257)} {
		if _, err := streams.Create(ctx, id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("an ID that is %s: %v", name, err)
		}
	}
	odd, err := api.NewStreamingClient(conn).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first, err := anypb.New(&emptypb.Empty{})
	if err == nil {
		err = odd.Send(first)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := odd.Recv(); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("a stream that begins with something else: %v", err)
	}

	many, leave := context.WithCancel(ctx)
	defer leave()
	for n := range 1024 {
		if _, err := streams.Create(many, fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := streams.Create(ctx, "0"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an ID that is taken: %v", err)
	}
	if _, err := streams.Create(inNamespace(t, "other"), "0"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one stream more than may be: %v", err)
	}
	leave()
	for {
		if _, err = streams.Create(ctx, "0"); err == nil {
			break // the daemon has noticed
		}
		if !errdefs.IsResourceExhausted(err) && !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

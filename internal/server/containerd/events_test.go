package containerd_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	events "github.com/containerd/containerd/api/services/events/v1"
	leases "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	typeurl "github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/containerd/containerd/api/events"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
)

// subscribe begins to listen before it returns.
func subscribe(t testing.TB, conn *grpc.ClientConn, filters ...string) events.Events_SubscribeClient {
	t.Helper()
	stream, err := events.NewEventsClient(conn).Subscribe(t.Context(), &events.SubscribeRequest{Filters: filters})
	must(t, err)
	_, err = stream.Header()
	must(t, err)
	return stream
}

// mark ends what a subscriber is to see.
func mark(t testing.TB, conn *grpc.ClientConn) {
	t.Helper()
	_, err := events.NewEventsClient(conn).Publish(on(t, "test"), &events.PublishRequest{Topic: "/test/end", Event: &anypb.Any{}})
	must(t, err)
}

// told are the events up to the mark, each as one line.
func told(t testing.TB, stream events.Events_SubscribeClient) (lines []string) {
	t.Helper()
	for {
		env, err := stream.Recv()
		must(t, err)
		if env.Topic == "/test/end" {
			return lines
		}
		event, err := typeurl.UnmarshalAny(env.Event)
		must(t, err)
		if env.Timestamp.AsTime().IsZero() {
			t.Errorf("%s has no time", env.Topic)
		}
		lines = append(lines, strings.Join(strings.Fields(fmt.Sprintf("%s %s %v", env.Namespace, env.Topic, event)), " "))
	}
}

// What happens in the store is told in containerd's words.
func TestEventsOfTheStore(t *testing.T) {
	store, _, conn := serve(t, stowage.Options{NoSync: true})
	stream, ctx := subscribe(t, conn), t.Context()
	step := func(what string, want ...string) {
		t.Helper()
		mark(t, conn)
		if got := strings.Join(told(t, stream), "\n"); got != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, strings.Join(want, "\n"))
		}
	}
	must(t, store.CreateNamespace(ctx, "default", map[string]string{"a": "b"}))
	must(t, store.LabelNamespace(ctx, "default", map[string]string{"a": "c"}))
	step("a namespace", `default /namespaces/create name:"default" labels:{key:"a" value:"b"}`,
		`default /namespaces/update name:"default" labels:{key:"a" value:"c"}`)

	img := twoLayers(t, imagetest.Gzip)
	layer := img.Blobs[0]
	ingest(t, store, layer)
	step("a blob", fmt.Sprintf(`default /content/create digest:"%s" size:%d`, layer.Digest, layer.Size))

	ingest(t, store, img.Blobs[1:]...)
	mark(t, conn)
	told(t, stream)
	_, err := store.NameImage(ctx, stowage.PutImage{Name: "a", Target: image.Descriptor{MediaType: img.Root.MediaType, Digest: img.Root.Digest, Size: img.Root.Size}})
	must(t, err)
	_, err = store.Metadata().LabelImage(ctx, "default", "a", map[string]string{"k": "v"})
	must(t, err)
	must(t, store.RemoveImage(ctx, "a", ""))
	step("an image", `default /images/create name:"a"`, `default /images/update name:"a" labels:{key:"k" value:"v"}`, `default /images/delete name:"a"`)

	sn, err := store.Snapshotter("native")
	must(t, err)
	_, err = sn.Prepare(ctx, "work", "", nil)
	must(t, err)
	must(t, sn.Commit(ctx, "done", "work", nil))
	_, err = sn.View(ctx, "look", "done", nil)
	must(t, err)
	must(t, sn.Remove(ctx, "look"))
	must(t, sn.Remove(ctx, "done"))
	step("snapshots", `default /snapshot/prepare key:"work" snapshotter:"native"`, `default /snapshot/commit key:"work" name:"done" snapshotter:"native"`,
		`default /snapshot/remove key:"look" snapshotter:"native"`, `default /snapshot/remove key:"done" snapshotter:"native"`)

	c := leases.NewLeasesClient(conn)
	_, err = c.Create(on(t, "default"), &leases.CreateRequest{ID: "l", Labels: map[string]string{"a": "b"}})
	must(t, err)
	_, err = c.AddResource(on(t, "default"), &leases.AddResourceRequest{ID: "l", Resource: &leases.Resource{Type: "content", ID: layer.Digest.String()}})
	must(t, err)
	_, err = c.Delete(on(t, "default"), &leases.DeleteRequest{ID: "l"})
	must(t, err)
	mark(t, conn)
	if got := told(t, stream); len(got) != 2 || !strings.Contains(got[0], `/leases/create id:"l"`) || !strings.Contains(got[1], `/leases/delete id:"l"`) {
		t.Errorf("a lease: %v", got)
	}

	_, err = store.RemoveBlob(ctx, layer.Digest.String(), false)
	must(t, err)
	step("a blob that goes", fmt.Sprintf(`default /content/delete digest:"%s"`, layer.Digest))
}

// Subscribers see what their filters match of what others publish.
func TestEventFilters(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	c := events.NewEventsClient(conn)
	event := func(name string) *anypb.Any {
		packed, err := typeurl.MarshalAnyToProto(&api.ImageCreate{Name: name, Labels: map[string]string{"a.b": name}})
		must(t, err)
		return packed
	}
	end := `topic=="/test/end"`
	all := subscribe(t, conn)
	topic := subscribe(t, conn, end, `topic~="^/images/",namespace==two`)
	field := subscribe(t, conn, end, `event.labels.a.b==one`)
	for _, name := range []string{"one", "two"} {
		_, err := c.Publish(on(t, name), &events.PublishRequest{Topic: "/images/create", Event: event(name)})
		must(t, err)
	}
	_, err := c.Forward(t.Context(), &events.ForwardRequest{Envelope: &types.Envelope{Timestamp: timestamppb.Now(), Namespace: "two", Topic: "/other", Event: event("one")}})
	must(t, err)
	mark(t, conn)
	one, two := `one /images/create name:"one" labels:{key:"a.b" value:"one"}`, `two /images/create name:"two" labels:{key:"a.b" value:"two"}`
	other := `two /other name:"one" labels:{key:"a.b" value:"one"}`
	for _, s := range []struct {
		name   string
		stream events.Events_SubscribeClient
		want   []string
	}{{"all", all, []string{one, two, other}}, {"a topic", topic, []string{two}}, {"a field", field, []string{one, other}}} {
		if got := told(t, s.stream); strings.Join(got, "\n") != strings.Join(s.want, "\n") {
			t.Errorf("%s: %v; want %v", s.name, got, s.want)
		}
	}
}

func TestRefusedEvents(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	c := events.NewEventsClient(conn)
	publish := func(ctx context.Context, topic string, size int) error {
		_, err := c.Publish(ctx, &events.PublishRequest{Topic: topic, Event: &anypb.Any{Value: make([]byte, size)}})
		return err
	}
	wantCode(t, "no namespace", publish(t.Context(), "/a", 0), codes.FailedPrecondition)
	for _, topic := range []string{"", "/", "a/b", "/a//b", "/a/../b"} {
		wantCode(t, topic, publish(on(t, "n"), topic, 0), codes.InvalidArgument)
	}
	wantCode(t, "a large one", publish(on(t, "n"), "/a", 64<<10), codes.InvalidArgument)
	for name, env := range map[string]*types.Envelope{
		"none": nil, "no time": {Namespace: "n", Topic: "/a"}, "no namespace": {Timestamp: timestamppb.Now(), Topic: "/a"},
	} {
		_, err := c.Forward(t.Context(), &events.ForwardRequest{Envelope: env})
		wantCode(t, name, err, codes.InvalidArgument)
	}
	stream, err := c.Subscribe(t.Context(), &events.SubscribeRequest{Filters: []string{"a=b"}})
	must(t, err)
	_, err = stream.Recv()
	wantCode(t, "a filter that is none", err, codes.InvalidArgument)
}

// A subscriber that does not take its events is cut off, and nobody waits for it.
func TestSlowSubscriber(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	c := events.NewEventsClient(conn)
	slow := subscribe(t, conn)
	for range 200 { // 12 MB, of which sockets and streams hold little
		_, err := c.Publish(on(t, "n"), &events.PublishRequest{Topic: "/a", Event: &anypb.Any{Value: make([]byte, 60<<10)}})
		must(t, err)
	}
	n := 0
	for ; ; n++ {
		if _, err := slow.Recv(); err != nil {
			wantCode(t, "the end", err, codes.ResourceExhausted)
			break
		}
	}
	if n == 0 || n == 200 {
		t.Errorf("%d of 200 events came", n)
	}
}

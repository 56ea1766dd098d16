package containerd_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
	"github.com/stowage/stowage/internal/server/containerd"
)

// What was evicted is there for who reads it: it is fetched then, once however many ask, and stays.
func TestReadEvicted(t *testing.T) {
	var asked atomic.Int32
	reg, err := registrytest.New(registrytest.Options{Wrap: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
				asked.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	running := true
	stop := func() {
		if running {
			if running = false; reg.Close() != nil {
				t.Error("the registry did not end")
			}
		}
	}
	t.Cleanup(stop)
	img, err := imagetest.Spec{
		Layers:   imagetest.Layers(imagetest.Gzip, imagetest.Seeded(1, 90_000), imagetest.Seeded(2, 80_000)),
		Platform: image.Host(),
	}.Build("")
	if err == nil {
		err = imagetest.Push(t.Context(), reg.Host, "app", "1", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	store, _, conn := serve(t, stowage.Options{NoSync: true, Namespace: "ns", Snapshotter: "native"})
	evict := func() {
		t.Helper()
		if _, err := store.Pull(t.Context(), reg.Host+"/app:1", stowage.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		e, err := store.Evict(t.Context(), stowage.EvictOptions{})
		if err != nil || len(e.Blobs) != 2 {
			t.Fatalf("%d blobs were evicted, %v", len(e.Blobs), err)
		}
		asked.Store(0)
	}
	evict()
	layer := img.Manifest().Layers[0]
	blob, _ := img.Blob(layer.Digest)
	want, err := blob.Bytes()
	if err != nil {
		t.Fatal(err)
	}

	_, strict := offer(t, store, containerd.Options{NoFetch: true})
	for name, c := range map[string]contentClient{
		"when nothing is fetched": newContentClient(t, strict, "ns"),
		"for another namespace":   newContentClient(t, conn, "other"),
	} {
		if _, err := c.read(layer.Digest, 0, 0); status.Code(err) != codes.NotFound || c.has(layer.Digest) {
			t.Errorf("%s: got %v, want %s", name, err, codes.NotFound)
		}
	}
	c := newContentClient(t, conn, "ns")
	info, err := c.Info(c.ctx, &api.InfoRequest{Digest: layer.Digest.String()})
	if err != nil || info.Info.Size != layer.Size || len(info.Info.Labels) == 0 {
		t.Errorf("it is described as %v, %v", info, err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests before it is read", n)
	}
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			if got, err := c.read(layer.Digest, 5, 0); got != string(want[5:]) || err != nil {
				t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want)-5)
			}
		})
	}
	readers.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("%d requests for one blob", n)
	}

	// Who writes it brings it back as well; and who reads what nobody has any more is told so.
	evict()
	c.mustSend(&api.WriteContentRequest{Ref: "r", Expected: layer.Digest.String()}, write("", string(want), 0), commit(layer.Size, 0, layer.Digest))
	if got, err := c.read(layer.Digest, 0, 0); got != string(want) || err != nil || asked.Load() != 0 {
		t.Errorf("after a write: got %d bytes, %v, after %d requests", len(got), err, asked.Load())
	}
	stop()
	if _, err := c.read(img.Manifest().Layers[1].Digest, 0, 0); status.Code(err) != codes.Unavailable {
		t.Errorf("without the registry: got %v, want %s", err, codes.Unavailable)
	}
}

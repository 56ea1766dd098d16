package containerd_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/platforms"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/server/containerd"
)

// goClient is containerd's own client, which pulls by itself.
func goClient(t testing.TB, address string) *client.Client {
	t.Helper()
	c, err := client.New(address, client.WithDefaultNamespace("default"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// pullByItself has the client pull and unpack an image, as containerd's documentation shows.
func pullByItself(t testing.TB, c *client.Client, name, snapshotter string) client.Image {
	t.Helper()
	plain := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})
	img, err := c.Pull(t.Context(), name, client.WithPullUnpack, client.WithPullSnapshotter(snapshotter), client.WithResolver(plain))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestClientSkips has containerd's client pull two images whose layers are the same under other
// compression. It skips the blobs of the second one, as it has the layers unpacked: the image is partial.
// The daemon fetches them by itself, so that what the client then exports is whole.
func TestClientSkips(t *testing.T) {
	a := imagetest.Index(twoLayers(t, imagetest.Gzip), elsewhere(t))
	b := imagetest.Index(twoLayers(t, imagetest.Zstd), elsewhere(t))
	host := aRegistry(t, nil, map[string]*imagetest.Image{"a:1": a, "b:1": b})
	layers := b.Blobs[:2]

	for _, snapshotter := range []string{"overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			store, address, _ := serve(t, stowage.Options{}) // nobody fetches beside requests
			c := goClient(t, address)
			pullByItself(t, c, host+"/a:1", snapshotter)
			img := pullByItself(t, c, host+"/b:1", snapshotter)
			if found, err := store.Image(t.Context(), host+"/a:1"); err != nil || found.State != stowage.Complete {
				t.Errorf("the first image is %s, %v", found.State, err)
			}
			skipped, err := store.Image(t.Context(), img.Name())
			if err != nil || skipped.State != stowage.Partial {
				t.Fatalf("an image whose layers the client skipped is %s, %v", skipped.State, err)
			}
			for _, p := range skipped.Platforms {
				if wanted := p.Platform.Architecture != "s390x"; p.Wanted != wanted || wanted && len(p.Missing) != len(layers) {
					t.Errorf("platform %+v", p)
				}
			}
			var out bytes.Buffer
			if err := c.Export(t.Context(), &out, archive.WithImage(c.ImageService(), img.Name()), archive.WithPlatform(platforms.DefaultStrict())); err != nil {
				t.Fatal(err)
			}
			if whole, err := store.Image(t.Context(), img.Name()); err != nil || whole.State != stowage.Complete {
				t.Errorf("after the export the image is %s, %v", whole.State, err)
			}
			second, err := store.In("second")
			if err != nil {
				t.Fatal(err)
			}
			if res, err := second.Import(t.Context(), &out, stowage.ImportOptions{}); err != nil || res.Images[0].State != stowage.Complete {
				t.Errorf("what was exported: %+v, %v", res, err)
			}
		})
	}
}

// TestFiller has the daemon fetch what a client skipped before anybody asks for it.
func TestFiller(t *testing.T) {
	host := aRegistry(t, nil, map[string]*imagetest.Image{"a:1": twoLayers(t, imagetest.Gzip), "b:1": twoLayers(t, imagetest.Zstd)})
	store, address := daemon(t, t.TempDir())
	c := goClient(t, address)
	pullByItself(t, c, host+"/a:1", "native")
	pullByItself(t, c, host+"/b:1", "native")
	until(t, store, host+"/b:1", stowage.Complete)
}

// TestFillerAfterRestart fetches what an earlier daemon did not.
func TestFillerAfterRestart(t *testing.T) {
	host := aRegistry(t, nil, map[string]*imagetest.Image{"a:1": twoLayers(t, imagetest.Gzip), "b:1": twoLayers(t, imagetest.Zstd)})
	root := t.TempDir()
	t.Run("before", func(t *testing.T) {
		store := opened(t, root)
		address, _ := offer(t, store, containerd.Options{NoFetch: true})
		c := goClient(t, address)
		pullByItself(t, c, host+"/a:1", "native")
		img := pullByItself(t, c, host+"/b:1", "native")
		var out bytes.Buffer
		if err := c.Export(t.Context(), &out, archive.WithImage(c.ImageService(), img.Name())); err == nil {
			t.Error("an image was exported that is not here, and is not to be fetched")
		}
		until(t, store, host+"/b:1", stowage.Partial)
	})
	t.Run("after", func(t *testing.T) {
		store, _ := daemon(t, root)
		until(t, store, host+"/b:1", stowage.Complete)
	})
}

// daemon serves the store in root, with all that is done beside requests.
func daemon(t testing.TB, root string) (store *stowage.Store, address string) {
	t.Helper()
	store = opened(t, root)
	api := containerd.New(store, containerd.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		api.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	address, _ = attend(t, api)
	return store, address
}

func opened(t testing.TB, root string) *stowage.Store {
	t.Helper()
	store, err := stowage.Open(root, stowage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// until waits until an image is in a state.
func until(t testing.TB, store *stowage.Store, name string, want stowage.State) {
	t.Helper()
	for {
		img, err := store.Image(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if img.State == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

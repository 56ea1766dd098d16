package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	streamproxy "github.com/containerd/containerd/v2/core/streaming/proxy"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/archive"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/proxy"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// transferrer is containerd's client for transfers.
func transferrer(conn *grpc.ClientConn) transfer.Transferrer {
	return proxy.NewTransferrer(conn, streamproxy.NewStreamCreator(conn))
}

// aRegistry serves images until the test ends, behind what wrap puts before it once they are there.
func aRegistry(t testing.TB, wrap func(http.Handler) http.Handler, images map[string]*imagetest.Image) (host string) {
	t.Helper()
	var handler http.Handler
	var ready bool
	var mu sync.Mutex
	s, err := registrytest.New(registrytest.Options{Wrap: func(h http.Handler) http.Handler {
		if wrap != nil {
			handler = wrap(h)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			wrapped := ready && wrap != nil
			mu.Unlock()
			if wrapped {
				handler.ServeHTTP(w, r)
			} else {
				h.ServeHTTP(w, r)
			}
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, img := range images {
		repo, tag, _ := strings.Cut(name, ":")
		if err := imagetest.Push(t.Context(), s.Host, repo, tag, img); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	ready = true
	mu.Unlock()
	return s.Host
}

// A writeCloser is a buffer that knows that it was closed.
type writeCloser struct {
	bytes.Buffer
	closed chan struct{}
}

func newWriteCloser() *writeCloser { return &writeCloser{closed: make(chan struct{})} }

func (w *writeCloser) Close() error {
	close(w.closed)
	return nil
}

// elsewhere is an image for a machine that this one is not.
func elsewhere(t testing.TB) *imagetest.Image {
	t.Helper()
	platform := image.Platform{OS: "linux", Architecture: "s390x"}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(9, 5_000)), Platform: platform}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestTransferSharedLayers pulls two images with the same layers under other compression through the
// transfer service: the second one's blobs are not skipped. It is exported, imported by another store,
// tagged and pushed from there.
func TestTransferSharedLayers(t *testing.T) {
	a := imagetest.Index(twoLayers(t, imagetest.Gzip), elsewhere(t))
	b := imagetest.Index(twoLayers(t, imagetest.Zstd), elsewhere(t))
	host := aRegistry(t, nil, map[string]*imagetest.Image{"a:1": a, "b:1": b})
	store, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	client := transferrer(conn)

	var mu sync.Mutex
	var events []transfer.Progress
	told := transfer.WithProgress(func(p transfer.Progress) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, p)
	})
	pull := func(name, snapshotter string) {
		t.Helper()
		from, err := registry.NewOCIRegistry(ctx, host+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		to := transferimage.NewStore(host+"/"+name, transferimage.WithPlatforms(image.Host()), transferimage.WithAllMetadata,
			transferimage.WithUnpack(image.Host(), snapshotter), transferimage.WithUnpack(image.Host(), "native"),
			transferimage.WithImageLabels(map[string]string{"of": name}))
		if err := client.Transfer(ctx, from, to, told); err != nil {
			t.Fatal(err)
		}
	}
	pull("a:1", "overlayfs")
	pull("b:1", "overlayfs")
	for _, name := range []string{"a:1", "b:1"} {
		img, err := store.Image(ctx, host+"/"+name)
		if err != nil || img.State != stowage.Complete || img.Labels["of"] != name {
			t.Errorf("%s is %s with labels %v, %v", name, img.State, img.Labels, err)
		}
	}
	for _, name := range []string{"overlay", "native"} {
		if rows, err := store.Metadata().Snapshots(ctx, "default", name); err != nil || len(rows) != 2 {
			t.Errorf("%s has %d snapshots, %v, want 2", name, len(rows), err)
		}
	}
	mu.Lock()
	for _, want := range []string{"Resolving from OCI Registry (" + host + "/b:1)", "downloading", "complete", "saved"} {
		if !slices.ContainsFunc(events, func(p transfer.Progress) bool { return p.Event == want }) {
			t.Errorf("nobody was told %q", want)
		}
	}
	for _, p := range events {
		if strings.HasPrefix(p.Name, "layer-") && (len(p.Parents) != 1 || p.Total == 0) {
			t.Errorf("progress of a layer: %+v", p)
		}
	}
	mu.Unlock()

	out := newWriteCloser()
	to := archive.NewImageExportStream(out, "")
	quiet := transfer.WithProgress(func(p transfer.Progress) {
		if p.Name != "" {
			t.Errorf("an export tells %q of %s, which ctr prints into the archive", p.Event, p.Name)
		}
	})
	if err := client.Transfer(ctx, transferimage.NewStore("", transferimage.WithExtraReference(host+"/b:1")), to, quiet); err != nil {
		t.Fatal(err)
	}
	<-out.closed

	other, err := stowage.Open(filepath.Join(t.TempDir(), "store"), stowage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	res, err := other.Import(ctx, bytes.NewReader(out.Bytes()), stowage.ImportOptions{})
	if err != nil || len(res.Images) != 1 || res.Images[0].State != stowage.Complete || res.Images[0].Digest != b.Root.Digest {
		t.Fatalf("what was exported is %+v, %v", res, err)
	}

	// Into another namespace, from where it goes on.
	ctx = inNamespace(t, "second")
	in := archive.NewImageImportStream(bytes.NewReader(out.Bytes()), "")
	names := transferimage.NewStore("", transferimage.WithNamedPrefix("import-1", true), transferimage.WithUnpack(image.Host(), ""))
	if err := client.Transfer(ctx, in, names, told); err != nil {
		t.Fatal(err)
	}
	if err := client.Transfer(ctx, transferimage.NewStore(host+"/b:1"), transferimage.NewStore("mine")); err != nil {
		t.Fatal(err)
	}
	target, err := registry.NewOCIRegistry(ctx, host+"/pushed:2")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Transfer(ctx, transferimage.NewStore("mine", transferimage.WithPlatforms(image.Host())), target, told); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Pull(ctx, host+"/pushed:2", stowage.PullOptions{}); err != nil {
		t.Errorf("what was pushed: %v", err)
	}
}

// TestTransferLarge sends an archive of some megabytes both ways: more than any window has room for.
func TestTransferLarge(t *testing.T) {
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Plain, imagetest.Seeded(3, 5_000_000)), Platform: image.Host()}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	host := aRegistry(t, nil, map[string]*imagetest.Image{"large:1": img})
	store, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	client := transferrer(conn)
	if _, err := store.Pull(ctx, host+"/large:1", stowage.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	if err := store.Export(ctx, &whole, []string{host + "/large:1"}, stowage.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		out := newWriteCloser()
		if err := client.Transfer(ctx, transferimage.NewStore(host+"/large:1"), archive.NewImageExportStream(out, "")); err != nil {
			t.Fatal(err)
		}
		<-out.closed
		if !bytes.Equal(out.Bytes(), whole.Bytes()) {
			t.Fatalf("%d bytes were exported that are not the %d of the store's own export", out.Len(), whole.Len())
		}
	}
	err = client.Transfer(inNamespace(t, "second"), archive.NewImageImportStream(bytes.NewReader(whole.Bytes()), ""),
		transferimage.NewStore("", transferimage.WithDigestRef("x", false, false)))
	if err != nil {
		t.Fatal(err)
	}
	second, err := store.In("second")
	if err != nil {
		t.Fatal(err)
	}
	list, err := second.Images(ctx)
	if err != nil || len(list) != 1 || list[0].Name != "x@"+img.Root.Digest.String() || list[0].State != stowage.Complete {
		t.Errorf("imported %+v, %v", list, err)
	}
	if rows, err := store.Metadata().Snapshotters(ctx, "second"); err != nil || len(rows) != 0 {
		t.Errorf("without being asked, the image was unpacked into %v, %v", rows, err)
	}
}

// A helper gives credentials, and remembers what it was asked.
type helper struct {
	registry.Credentials
	mu    sync.Mutex
	asked []string
}

func (h *helper) GetCredentials(_ context.Context, ref, host string) (registry.Credentials, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, host+" "+ref)
	return h.Credentials, nil
}

// TestTransferCredentials asks the client for what the registry wants to see.
func TestTransferCredentials(t *testing.T) {
	img := twoLayers(t, imagetest.Gzip)
	for _, c := range []struct {
		name  string
		given registry.Credentials
		wrap  func(http.Handler) http.Handler
		ok    bool
	}{
		{"password", registry.Credentials{Username: "me", Secret: "secret"}, (&registrytest.Guard{User: "me", Password: "secret"}).Basic(), true},
		{"password for a token", registry.Credentials{Username: "me", Secret: "secret"}, (&registrytest.Guard{User: "me", Password: "secret"}).Bearer(), true},
		{"refresh token", registry.Credentials{Secret: "secret"}, (&registrytest.Guard{RefreshToken: "secret"}).Bearer(), true},
		{"header", registry.Credentials{Header: "Bearer secret"}, (&registrytest.Guard{Token: "secret"}).Bearer(), true},
		{"basic header", registry.Credentials{Header: "Basic bWU6c2VjcmV0"}, (&registrytest.Guard{User: "me", Password: "secret"}).Basic(), true},
		{"none", registry.Credentials{}, (&registrytest.Guard{User: "me", Password: "secret"}).Basic(), false},
		{"wrong", registry.Credentials{Username: "me", Secret: "other"}, (&registrytest.Guard{User: "me", Password: "secret"}).Basic(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := aRegistry(t, c.wrap, map[string]*imagetest.Image{"private:1": img})
			_, _, conn := serve(t, stowage.Options{})
			ctx := inNamespace(t, "default")
			h := &helper{Credentials: c.given}
			from, err := registry.NewOCIRegistry(ctx, host+"/private:1", registry.WithCredentials(h))
			if err != nil {
				t.Fatal(err)
			}
			err = transferrer(conn).Transfer(ctx, from, transferimage.NewStore(host+"/private:1", transferimage.WithPlatforms(image.Host())))
			if c.ok && err != nil || !c.ok && !errdefs.IsUnauthorized(err) {
				t.Errorf("got %v", err)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if want := host + " " + host + "/private:1"; !slices.Contains(h.asked, want) {
				t.Errorf("asked for %q, want %q", h.asked, want)
			}
		})
	}
}

// TestTransferHosts reaches a registry as a folder of the client says.
func TestTransferHosts(t *testing.T) {
	host := aRegistry(t, nil, map[string]*imagetest.Image{"a:1": twoLayers(t, imagetest.Gzip)})
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "_default"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "_default", "hosts.toml"), []byte(`server = "http://`+host+`"`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	client := transferrer(conn)
	for name, c := range map[string]struct {
		opts []registry.Opt
		ok   bool
	}{
		"with the folder": {[]registry.Opt{registry.WithHostDir(dir), registry.WithDefaultScheme("http")}, true},
		"without":         {nil, false},
	} {
		from, err := registry.NewOCIRegistry(ctx, "127.0.0.1:1/a:1", c.opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Transfer(ctx, from, transferimage.NewStore("a")); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTransferRefused asks for what cannot be.
func TestTransferRefused(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	ctx := inNamespace(t, "default")
	client := transferrer(conn)
	from := func(ref string, opts ...registry.Opt) *registry.OCIRegistry {
		t.Helper()
		r, err := registry.NewOCIRegistry(ctx, ref, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	named := func(name string) *transferimage.Store { return transferimage.NewStore(name) }
	tar := func(b string) *archive.ImageImportStream {
		return archive.NewImageImportStream(strings.NewReader(b), "")
	}
	prefix := transferimage.NewStore("", transferimage.WithNamedPrefix("a", true))
	for name, c := range map[string]struct {
		ctx      context.Context
		from, to any
		want     func(error) bool
	}{
		"no namespace":             {t.Context(), named("a"), named("b"), errdefs.IsFailedPrecondition},
		"no image":                 {ctx, named("a"), named("b"), errdefs.IsNotFound},
		"no image to push":         {ctx, named("a"), from("127.0.0.1:1/a:1"), errdefs.IsNotFound},
		"no image to export":       {ctx, named("a"), archive.NewImageExportStream(newWriteCloser(), ""), errdefs.IsNotFound},
		"no name to export":        {ctx, named(""), archive.NewImageExportStream(newWriteCloser(), ""), errdefs.IsInvalidArgument},
		"other kinds":              {ctx, from("127.0.0.1:1/a:1"), from("127.0.0.1:1/b:1"), errdefs.IsNotImplemented},
		"no archive":               {ctx, tar("none"), prefix, errdefs.IsDataLoss},
		"a name for an index":      {ctx, tar("none"), named("index"), errdefs.IsNotImplemented},
		"no name":                  {ctx, from("127.0.0.1:1/a:1"), named(""), errdefs.IsInvalidArgument},
		"no reference":             {ctx, from("127.0.0.1:1/UPPER"), named("a"), errdefs.IsInvalidArgument},
		"an unknown snapshotter":   {ctx, from("127.0.0.1:1/a:1"), transferimage.NewStore("a", transferimage.WithUnpack(v1.Platform{}, "zfs")), func(err error) bool { return err != nil }},
		"a scheme that is none":    {ctx, from("127.0.0.1:1/a:1", registry.WithDefaultScheme("gopher")), named("a"), errdefs.IsInvalidArgument},
		"headers with the request": {ctx, from("127.0.0.1:1/a:1", registry.WithHeaders(http.Header{"K": {"v"}})), named("a"), errdefs.IsNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			if err := client.Transfer(c.ctx, c.from, c.to); !c.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestTransferCancelled ends transfers whose client goes away, or whose data never comes.
func TestTransferCancelled(t *testing.T) {
	_, _, conn := serve(t, stowage.Options{})
	ctx, cancel := context.WithCancel(inNamespace(t, "default"))
	r, w := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		in := archive.NewImageImportStream(r, "")
		failed <- transferrer(conn).Transfer(ctx, in, transferimage.NewStore("", transferimage.WithNamedPrefix("a", true)))
	}()
	if _, err := w.Write(make([]byte, 512)); err != nil { // the client's side has begun
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) && !errdefs.IsCanceled(err) {
		t.Errorf("got %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

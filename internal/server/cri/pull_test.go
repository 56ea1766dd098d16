package cri_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
	"github.com/stowage/stowage/internal/server/cri"
)

// records are the names of the images of the namespace with their labels.
func (n *node) records() map[string]map[string]string {
	n.t.Helper()
	list, err := n.store.Images(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	found := map[string]map[string]string{}
	for _, img := range list {
		if img.State != stowage.Complete {
			n.t.Errorf("%s is %s", img.Name, img.State)
		}
		found[img.Name] = img.Labels
	}
	return found
}

// A pull leaves the records that containerd's would, and the image unpacked.
func TestPullRecords(t *testing.T) {
	n := newNode(t, cri.Options{})
	img := n.push(app(1, imagetest.Gzip), "app", "v1")
	managed := map[string]string{"io.cri-containerd.image": "managed"}
	name := n.host + "/app"
	byDigest := name + "@" + img.Root.Digest.String()

	id := n.pull(name + ":v1")
	want := map[string]map[string]string{name + ":v1": managed, byDigest: managed, id: managed}
	if diff := cmp.Diff(want, n.records()); diff != "" {
		t.Errorf("records of a tag (-want +got):\n%s", diff)
	}
	info, err := n.store.Info(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range info.Layers {
		if !l.Present || !l.Unpacked {
			t.Errorf("layer %s: present %v, unpacked %v", l.Digest, l.Present, l.Unpacked)
		}
	}

	// A name that is no reference is one for the commands of the store all the same.
	if _, err := n.store.RemoveImages(t.Context(), []string{id}, stowage.RemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, ok := n.records()[id]; ok {
		t.Error("the record of the ID is still there")
	}
	if img, err := n.store.RestoreImage(t.Context(), id, false); err != nil || img.Name != id {
		t.Errorf("restored %s, %v", img.Name, err)
	}

	n.remove(id)
	for _, by := range []string{byDigest, name + ":v1@" + img.Root.Digest.String()} {
		if again := n.pull(by); again != id {
			t.Errorf("%s is %s, want %s", by, again, id)
		}
		if diff := cmp.Diff(map[string]map[string]string{byDigest: managed, id: managed}, n.records()); diff != "" {
			t.Errorf("records of %s (-want +got):\n%s", by, diff)
		}
		if got := n.status(id); len(got.RepoTags) != 0 || !slices.Equal(got.RepoDigests, []string{byDigest}) {
			t.Errorf("the status of %s is %v", by, got)
		}
	}
}

// A tag that moves leaves the image that it stood for under its other names.
func TestPullMovedTag(t *testing.T) {
	n := newNode(t, cri.Options{})
	name := n.host + "/app:v1"
	old := n.push(app(1, imagetest.Gzip), "app", "v1")
	oldID := n.pull(name)
	n.push(app(7, imagetest.Gzip), "app", "v1")
	id := n.pull(name)
	if got := n.status(name); got.Id != id || id == oldID {
		t.Errorf("the tag stands for %s, want %s and not %s", got.Id, id, oldID)
	}
	if got := n.status(oldID); got == nil || len(got.RepoTags) != 0 || !slices.Equal(got.RepoDigests, []string{n.host + "/app@" + old.Root.Digest.String()}) {
		t.Errorf("the old image is %v", got)
	}
}

func TestPullPinned(t *testing.T) {
	n := newNode(t, cri.Options{})
	n.push(app(1, imagetest.Gzip), "pause", "v1")
	n.push(app(7, imagetest.Gzip), "app", "v1")
	with, err := cri.New(n.store, cri.Options{Pinned: []string{n.host + "/pause:v1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{n.host + "/pause:v1", n.host + "/app:v1"} {
		if _, err := with.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: name}}); err != nil {
			t.Fatal(err)
		}
	}
	// The label tells whoever does not know what is configured.
	if got := n.status(n.host + "/pause:v1"); !got.Pinned {
		t.Error("the pinned image is not pinned")
	}
	if got := n.status(n.host + "/app:v1"); got.Pinned {
		t.Error("an image that is not pinned is")
	}
	if _, err := cri.New(n.store, cri.Options{Pinned: []string{"a b"}}); err == nil {
		t.Error("what is no reference can be pinned")
	}
}

// The snapshotter is that of the runtime handler, if it has one.
func TestPullForRuntime(t *testing.T) {
	n := newNode(t, cri.Options{Snapshotter: "overlayfs", Runtimes: map[string]string{"kata": "native"}})
	n.push(app(1, imagetest.Gzip), "app", "v1")
	n.push(app(7, imagetest.Gzip), "app", "v2")
	for _, tc := range []struct{ tag, handler, want string }{
		{"v1", "kata", "native"},
		{"v2", "runc", "overlay"},
		{"v2", "", "overlay"},
	} {
		_, err := n.images.PullImage(t.Context(), &runtime.PullImageRequest{
			Image: &runtime.ImageSpec{Image: n.host + "/app:" + tc.tag, RuntimeHandler: tc.handler},
		})
		if err != nil {
			t.Fatal(err)
		}
		rows, err := n.store.Metadata().Snapshots(t.Context(), cri.Namespace, tc.want)
		if err != nil || len(rows) != 2 {
			t.Errorf("%q: %d snapshots of %s, %v; want 2", tc.handler, len(rows), tc.want, err)
		}
	}
	for _, o := range []cri.Options{{Snapshotter: "none"}, {Runtimes: map[string]string{"kata": "none"}}} {
		if _, err := cri.New(n.store, o); err == nil {
			t.Errorf("%v has a snapshotter that is none", o)
		}
	}
}

// Credentials of a request are for its registry, in whatever form they come.
func TestPullCredentials(t *testing.T) {
	const secret = "correct-horse"
	guard := &rt.Guard{User: "me", Password: secret, RefreshToken: secret, Token: secret}
	basic := newNode(t, cri.Options{}, guard.Basic())
	bearer := newNode(t, cri.Options{}, (&rt.Guard{User: "me", Password: secret, RefreshToken: secret, Token: secret}).Bearer())
	base64 := base64.StdEncoding.EncodeToString
	for _, tc := range []struct {
		name          string
		auth          *runtime.AuthConfig
		basic, bearer codes.Code
	}{
		{"none", nil, codes.Unauthenticated, codes.Unauthenticated},
		{"empty", &runtime.AuthConfig{}, codes.Unauthenticated, codes.Unauthenticated},
		{"user", &runtime.AuthConfig{Username: "me", Password: secret}, codes.OK, codes.OK},
		{"wrong", &runtime.AuthConfig{Username: "me", Password: "wrong"}, codes.Unauthenticated, codes.Unauthenticated},
		{"base64", &runtime.AuthConfig{Auth: base64([]byte("me:" + secret + "\x00\x00"))}, codes.OK, codes.OK},
		{"malformed", &runtime.AuthConfig{Auth: base64([]byte(secret))}, codes.InvalidArgument, codes.InvalidArgument},
		{"not base64", &runtime.AuthConfig{Auth: "me:" + secret}, codes.InvalidArgument, codes.InvalidArgument},
		{"identity token", &runtime.AuthConfig{IdentityToken: secret}, codes.Unauthenticated, codes.OK},
		{"registry token", &runtime.AuthConfig{RegistryToken: secret}, codes.Unauthenticated, codes.OK},
		{"server", &runtime.AuthConfig{Username: "me", Password: secret, ServerAddress: "https://HOST/v1/"}, codes.OK, codes.OK},
		{"other server", &runtime.AuthConfig{Username: "me", Password: secret, ServerAddress: "https://example.com"}, codes.Unauthenticated, codes.Unauthenticated},
		{"no server", &runtime.AuthConfig{Username: "me", Password: secret, ServerAddress: "a b"}, codes.InvalidArgument, codes.InvalidArgument},
	} {
		for _, c := range []struct {
			n    *node
			want codes.Code
		}{{basic, tc.basic}, {bearer, tc.bearer}} {
			c.n.push(app(1, imagetest.Gzip), "app", "v1")
			req := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: c.n.host + "/app:v1"}}
			if tc.auth != nil {
				req.Auth = &runtime.AuthConfig{
					Username: tc.auth.Username, Password: tc.auth.Password, Auth: tc.auth.Auth,
					IdentityToken: tc.auth.IdentityToken, RegistryToken: tc.auth.RegistryToken, ServerAddress: tc.auth.ServerAddress,
				}
				if req.Auth.ServerAddress == "https://HOST/v1/" {
					req.Auth.ServerAddress = "https://" + c.n.host + "/v1/"
				}
			}
			_, err := c.n.images.PullImage(t.Context(), req)
			if status.Code(err) != c.want {
				t.Errorf("%s, %v: got %v", tc.name, c.want, err)
			}
			c.n.remove(c.n.host + "/app:v1")
		}
	}
}

// What cannot be pulled is refused with the codes that clients know, and is not here then.
func TestPullFails(t *testing.T) {
	n := newNode(t, cri.Options{})
	foreign := app(1, imagetest.Gzip)
	foreign.Platform = image.Platform{OS: "linux", Architecture: "riscv64"}
	n.push(foreign, "foreign", "v1")
	artifact := imagetest.Artifact("application/vnd.example", []byte("{}"), nil)
	if err := imagetest.Push(t.Context(), n.open, "artifact", "v1", artifact); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]codes.Code{
		n.host + "/absent:v1":   codes.NotFound,
		n.host + "/foreign:v1":  codes.NotFound,
		n.host + "/artifact:v1": codes.InvalidArgument,
		"":                      codes.InvalidArgument,
		"UPPER":                 codes.InvalidArgument,
	} {
		_, err := n.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: name}})
		if status.Code(err) != want {
			t.Errorf("%q: got %v, want %v", name, err, want)
		}
	}
	if list := n.list(); len(list) != 0 {
		t.Errorf("there are %v", list)
	}
}

// A pull whose client goes away ends, and the next one goes on.
func TestPullCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := newNode(t, cri.Options{}, rt.On("GET", "/blobs/", rt.Times(1, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
	})))
	n.push(app(1, imagetest.Gzip), "app", "v1")
	_, err := n.images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: n.host + "/app:v1"}})
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if n.pull(n.host+"/app:v1") == "" {
		t.Error("the image has no ID")
	}
}

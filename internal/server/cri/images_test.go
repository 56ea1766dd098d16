package cri_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/server/cri"
)

// An image is found by every name that it has, and is the same by all of them.
func TestStatus(t *testing.T) {
	n := newNode(t, cri.Options{})
	img := n.push(app(1, imagetest.Gzip), "app", "v1")
	other := n.push(app(7, imagetest.Gzip), "other", "v1")
	id := img.Manifest().Config.Digest.String()
	name := n.host + "/app"
	byDigest := name + "@" + img.Root.Digest.String()

	if n.status(name+":v1") != nil || len(n.list()) != 0 {
		t.Error("there is an image before anything was pulled")
	}
	if got := n.pull(name + ":v1"); got != id {
		t.Errorf("the pull answers %s, want the digest of the config, %s", got, id)
	}
	n.pull(n.host + "/other:v1")

	want := &runtime.Image{
		Id: id, RepoTags: []string{name + ":v1"}, RepoDigests: []string{byDigest}, Size: uint64(img.Size()),
	}
	for _, by := range []string{id, id[:16], strings.TrimPrefix(id, "sha256:")[:13], name + ":v1", byDigest, name + ":any@" + img.Root.Digest.String()} {
		if got := n.status(by); got.String() != want.String() {
			t.Errorf("the status of %s is\n%v, want\n%v", by, got, want)
		}
	}
	for _, by := range []string{name, name + ":v2", n.host + "/app2:v1", other.Root.Digest.String(), strings.Repeat("0", 12)} {
		if got := n.status(by); got != nil {
			t.Errorf("%s, which is not here, is %v", by, got)
		}
	}
	for _, by := range []string{"", "UPPER", "a b"} {
		_, err := n.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: by}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("the status of %q is %v, want an invalid argument", by, err)
		}
	}

	res, err := n.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: id}, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		ChainID   string
		ImageSpec v1.Image
	}
	if err := json.Unmarshal([]byte(res.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	blob, _ := img.Blob(img.Manifest().Config.Digest)
	body, err := blob.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var spec v1.Image
	if err := json.Unmarshal(body, &spec); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, info.ImageSpec); diff != "" {
		t.Errorf("the config (-want +got):\n%s", diff)
	}
	if chain := image.ChainIDs(spec.RootFS.DiffIDs); info.ChainID != chain[1].String() {
		t.Errorf("the chainID is %s, want %s", info.ChainID, chain[1])
	}
}

// Who runs an image is told apart from its group, and users with a name from those with a number.
func TestStatusOfUser(t *testing.T) {
	n := newNode(t, cri.Options{})
	for user, want := range map[string]*runtime.Image{
		"":           {},
		"1002":       {Uid: &runtime.Int64Value{Value: 1002}},
		"0":          {Uid: &runtime.Int64Value{}},
		"1003:users": {Uid: &runtime.Int64Value{Value: 1003}},
		"www":        {Username: "www"},
		"www:1000":   {Username: "www"},

		strings.Repeat("é", 200_000):   {Username: strings.Repeat("é", 128)},
		"x" + strings.Repeat("é", 200): {Username: "x" + strings.Repeat("é", 127)},
	} {
		spec := app(1, imagetest.Gzip)
		spec.User = user
		n.push(spec, "app", "v1")
		n.pull(n.host + "/app:v1")
		got := n.status(n.host + "/app:v1")
		if got.Uid.String() != want.Uid.String() || got.Username != want.Username {
			t.Errorf("user %q is %v %q, want %v %q", user, got.Uid, got.Username, want.Uid, want.Username)
		}
	}
}

// Images of the same config are one, whatever their layers are packed with and whoever named them;
// the list has each once, also in parts, and can be asked for one.
func TestList(t *testing.T) {
	n := newNode(t, cri.Options{})
	one, two := n.push(app(1, imagetest.Gzip), "app", "v1"), n.push(app(1, imagetest.Zstd), "app", "v2")
	n.push(app(7, imagetest.Gzip), "other", "v1")
	id := n.pull(n.host + "/app:v1")
	if again := n.pull(n.host + "/app:v2"); again != id {
		t.Errorf("the other packing of %s is %s", id, again)
	}
	n.pull(n.host + "/other:v1")
	if err := n.store.Tag(t.Context(), n.host+"/app:v1", "example.com/mine:v1", false); err != nil {
		t.Fatal(err)
	}

	got := n.status(id)
	if diff := cmp.Diff([]string{n.host + "/app:v1", n.host + "/app:v2", "example.com/mine:v1"}, got.RepoTags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	digests := []string{n.host + "/app@" + one.Root.Digest.String(), n.host + "/app@" + two.Root.Digest.String()}
	slices.Sort(digests)
	if diff := cmp.Diff(digests, got.RepoDigests); diff != "" {
		t.Errorf("digests (-want +got):\n%s", diff)
	}
	all := n.list()
	if len(all) != 2 {
		t.Errorf("%d images, want 2: %v", len(all), all)
	}
	stream, err := n.images.StreamImages(t.Context(), &runtime.StreamImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []*runtime.Image
	for {
		res, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		streamed = append(streamed, res.Images...)
	}
	if len(streamed) != 2 || streamed[0].String() != all[0].String() || streamed[1].String() != all[1].String() {
		t.Errorf("the stream has %v, want %v", streamed, all)
	}
	for name, want := range map[string]int{id: 1, "example.com/mine:v1": 1, "example.com/absent:v1": 0, "": 2} {
		res, err := n.images.ListImages(t.Context(), &runtime.ListImagesRequest{Filter: &runtime.ImageFilter{Image: &runtime.ImageSpec{Image: name}}})
		if err != nil || len(res.Images) != want {
			t.Errorf("%d images %q, %v; want %d", len(res.GetImages()), name, err, want)
		}
	}
}

// Whatever name it is called by, an image goes whole, and once.
func TestRemove(t *testing.T) {
	n := newNode(t, cri.Options{Pinned: []string{"example.com/pinned:v1"}})
	n.push(app(1, imagetest.Gzip), "app", "v1")
	n.push(app(1, imagetest.Zstd), "app", "v2")
	n.push(app(7, imagetest.Gzip), "other", "v1")
	n.pull(n.host + "/other:v1")
	before, err := n.store.Metadata().Blobs(t.Context(), cri.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{"tag", "id", "pinned"} {
		id := n.pull(n.host + "/app:v1")
		n.pull(n.host + "/app:v2")
		name := n.host + "/app:v2"
		switch by {
		case "id":
			name = id
		case "pinned":
			name = "example.com/pinned:v1"
			if err := n.store.Tag(t.Context(), id, name, false); err != nil {
				t.Fatal(err)
			}
		}
		n.remove(name)
		for _, gone := range []string{name, id, n.host + "/app:v1", n.host + "/app:v2"} {
			if got := n.status(gone); got != nil {
				t.Errorf("removed by %s, %s is %v", by, gone, got)
			}
		}
		n.remove(name)
	}
	after, err := n.store.Metadata().Blobs(t.Context(), cri.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("blobs (-before +after):\n%s", diff)
	}
	if list := n.list(); len(list) != 1 {
		t.Errorf("%d images are left, want 1", len(list))
	}
}

// Of many who remove the same image none fails, and for each it is gone.
func TestRemoveTogether(t *testing.T) {
	n := newNode(t, cri.Options{})
	n.push(app(1, imagetest.Gzip), "app", "v1")
	for range 5 {
		id := n.pull(n.host + "/app:v1")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				spec := &runtime.ImageSpec{Image: id}
				if _, err := n.images.RemoveImage(t.Context(), &runtime.RemoveImageRequest{Image: spec}); err != nil {
					t.Error(err)
				}
				res, err := n.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: spec})
				if err != nil || res.Image != nil {
					t.Errorf("after it was removed: %v, %v", res, err)
				}
			})
		}
		wg.Wait()
	}
}

// An image that cannot be run is not here: clients pull it again, which mends it.
func TestPartialIsAbsent(t *testing.T) {
	n := newNode(t, cri.Options{})
	img := n.push(app(1, imagetest.Gzip), "app", "v1")
	name := n.host + "/app:v1"
	id := n.pull(name)
	layer := img.Manifest().Layers[0].Digest
	if err := n.store.Content().Delete(t.Context(), layer); err != nil {
		t.Fatal(err)
	}
	if found, err := n.store.Metadata().Recheck(t.Context(), cri.Namespace, name, []stowage.Digest{layer}); err != nil || found.State != stowage.Partial {
		t.Fatalf("without a layer it is %s, %v", found.State, err)
	}
	if n.status(name) != nil || n.status(id) != nil || len(n.list()) != 0 {
		t.Error("an image that lacks a layer is here")
	}
	if again := n.pull(name); again != id || n.status(id) == nil || len(n.list()) != 1 {
		t.Errorf("pulled again, it is %s: %v", again, n.status(id))
	}
}

// An image whose config is damaged does not spoil the list.
func TestBadConfig(t *testing.T) {
	n := newNode(t, cri.Options{})
	for i, tag := range []string{"good", "damaged"} {
		n.push(app(uint64(10*i), imagetest.Gzip), "app", tag)
	}
	good, damaged := n.pull(n.host+"/app:good"), n.pull(n.host+"/app:damaged")
	file := filepath.Join(n.store.Root(), "content/blobs", strings.Replace(damaged, ":", "/", 1))
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, bytes.ToUpper(body), 0o600)); err != nil {
		t.Fatal(err)
	}
	if list := n.list(); len(list) != 1 || list[0].Id != good {
		t.Errorf("beside a damaged image there are %v, want %s", list, good)
	}
	_, err = n.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: damaged}})
	if status.Code(err) != codes.DataLoss {
		t.Errorf("the status of the damaged image: %v, want data loss", err)
	}
}

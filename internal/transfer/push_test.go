package transfer_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/registry/registrytest"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/native"
	"github.com/stowage/stowage/internal/transfer"
	"github.com/stowage/stowage/internal/unpack"
)

// A place is a real registry whose requests are noted, and a client of its own.
type place struct {
	*registrytest.Proxy
	*registry.Client
	host string
}

// makes are registries of three makes.
var makes = map[string]func(t *testing.T) http.Handler{
	"distribution": func(t *testing.T) http.Handler {
		s, err := registrytest.New(registrytest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s.Handler
	},
	"debian": func(t *testing.T) http.Handler {
		p, err := registrytest.StartDebian(context.WithoutCancel(t.Context()), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		behind := &http.Transport{}
		t.Cleanup(func() {
			behind.CloseIdleConnections()
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
		return &httputil.ReverseProxy{Transport: behind, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: p.Host})
			r.Out.Host = r.In.Host // or it sends uploads past us
		}}
	},
	"ggcr": func(*testing.T) http.Handler {
		return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	},
}

func start(t *testing.T, kind string, faults ...registrytest.Fault) *place {
	t.Helper()
	p := &place{Proxy: registrytest.Wrap(makes[kind](t), faults...), Client: registry.New(registry.Options{})}
	s := httptest.NewServer(p.Proxy)
	t.Cleanup(func() {
		p.Close()
		http.DefaultClient.CloseIdleConnections()
		s.Close()
	})
	p.host = strings.TrimPrefix(s.URL, "http://")
	return p
}

// count counts the requests of a method to paths with part in them.
func (p *place) count(method, part string) (n int) {
	for _, r := range p.Requests() {
		if r.Method == method && strings.Contains(r.Path+"?"+r.Query, part) {
			n++
		}
	}
	return n
}

// put fills the registry over plain HTTP.
func (p *place) put(t *testing.T, repo, tag string, images ...*imagetest.Image) {
	t.Helper()
	for _, img := range images {
		if err := imagetest.Push(t.Context(), p.host, repo, tag, img); err != nil {
			t.Fatal(err)
		}
	}
	p.Forget()
}

// tagged is what a tag stands for, or empty.
func (p *place) tagged(t *testing.T, name string) image.Digest {
	t.Helper()
	found, err := p.Resolve(t.Context(), parse(t, p.host+"/"+name))
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	return found.Digest
}

// bring pulls from the registry.
func (p *place) bring(t *testing.T, s transfer.Store, name string, o transfer.PullOptions) *transfer.PullResult {
	t.Helper()
	res, err := transfer.Pull(t.Context(), s, p.Client, parse(t, p.host+"/"+name), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (p *place) push(t *testing.T, s transfer.Store, from, to string, o transfer.PushOptions) (*transfer.PushResult, error) {
	t.Helper()
	return transfer.Push(t.Context(), s, p.Client, parse(t, from).String(), parse(t, p.host+"/"+to), o)
}

func mustPush(t *testing.T, p *place, s transfer.Store, from, to string, o transfer.PushOptions) *transfer.PushResult {
	t.Helper()
	res, err := p.push(t, s, from, to, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// told collects the warnings of an operation.
func told(into *[]string) progress.Sink {
	return progress.Serial(func(e progress.Event) {
		if e.Kind == progress.Warning {
			*into = append(*into, e.Message)
		}
	})
}

// platform builds an image of its own for an architecture.
func platform(t *testing.T, arch string, seed uint64) *imagetest.Image {
	t.Helper()
	img, err := imagetest.Spec{
		Layers:   imagetest.Layers(imagetest.Gzip, imagetest.Seeded(seed, 20_000), imagetest.Seeded(99, 5_000)),
		Platform: image.Platform{OS: "linux", Architecture: arch}, Env: []string{"A=" + arch},
	}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// three is an index of three platforms, and of an attestation of the first.
func three(t *testing.T) (index *imagetest.Image, parts []*imagetest.Image) {
	t.Helper()
	for i, arch := range []string{"amd64", "arm64", "s390x"} {
		parts = append(parts, platform(t, arch, uint64(i+1)))
	}
	return imagetest.Index(parts[0], parts[1], parts[2], imagetest.Attestation(parts[0])), parts
}

var (
	amd64 = image.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = image.Platform{OS: "linux", Architecture: "arm64"}
)

// TestPush pushes an image of all kinds of parts to registries of all makes and pulls it back: the
// same. The root is the last to come. A second push sends nothing, and asks once for each blob.
func TestPush(t *testing.T) {
	for kind := range makes {
		t.Run(kind, func(t *testing.T) {
			p := start(t, kind)
			img, _ := three(t)
			s := fresh(t)
			all := transfer.PullOptions{Choice: transfer.Choice{All: true}}
			if _, err := transfer.Pull(t.Context(), s, &fakeRegistry{img: img}, parse(t, "example.com/app:1"), all); err != nil {
				t.Fatal(err)
			}
			res := mustPush(t, p, s, "example.com/app:1", "team/app:2", transfer.PushOptions{})
			if res.Digest != img.Root.Digest || res.Pushed.Blobs != len(img.Blobs) || res.Pushed.Bytes != img.Size() ||
				res.Existing.Blobs != 0 || len(res.Platforms) != 3 || res.Name != p.host+"/team/app:2" {
				t.Errorf("got %+v, want all %d blobs pushed", res, len(img.Blobs))
			}
			var puts []string
			for _, r := range p.Requests() {
				if _, what, _ := strings.Cut(r.Path, "/manifests/"); r.Method == "PUT" && what != "" {
					puts = append(puts, what)
				} else if r.Method != "HEAD" && len(puts) > 0 && !strings.Contains(r.Path, "/referrers/") {
					t.Errorf("%s %s after the first manifest", r.Method, r.Path)
				}
			}
			if len(puts) != 5 || puts[4] != "2" {
				t.Errorf("manifests were put in the order %v, want four by digest, then 2", puts)
			}

			back := fresh(t)
			p.bring(t, back, "team/app:2", all)
			if got, err := back.Meta.Image(t.Context(), "default", p.host+"/team/app:2"); err != nil || got.Target.Digest != img.Root.Digest || got.State != metadata.Complete {
				t.Errorf("it came back as %s, %s, %v", got.Target.Digest, got.State, err)
			}
			mustBeWhole(t, back, "pulled back")

			p.Forget()
			res = mustPush(t, p, s, "example.com/app:1", "team/app:2", transfer.PushOptions{})
			if res.Existing.Blobs != len(img.Blobs) || res.Pushed.Blobs != 0 {
				t.Errorf("the second push: %+v, want everything there", res)
			}
			if n := len(p.Requests()); p.count("HEAD", "") != len(img.Blobs) || n != len(img.Blobs)+1 || p.count("PUT", "/manifests/2") != 1 {
				t.Errorf("the second push made %d requests for %d blobs: %v", n, len(img.Blobs), p.Requests())
			}
		})
	}
}

// TestPushByDigest gives the image no tag.
func TestPushByDigest(t *testing.T) {
	p := start(t, "distribution")
	img := build(t, 5_000)
	s := fresh(t)
	pull(t, s, img)
	mustPush(t, p, s, "example.com/app:1", "app@"+img.Root.Digest.String(), transfer.PushOptions{})
	if p.tagged(t, "app@"+img.Root.Digest.String()) != img.Root.Digest || p.tagged(t, "app:latest") != "" {
		t.Error("want it by its digest alone")
	}
	p.Forget()
	_, err := p.push(t, s, "example.com/app:1", "app@"+image.Describe("", nil).Digest.String(), transfer.PushOptions{})
	if !errdefs.IsInvalidArgument(err) || p.count("POST", "") != 0 {
		t.Errorf("under another digest: %v, %v, want a refusal before anything is sent", err, p.Requests())
	}
}

// TestPushMounts pushes to another repository of the registry that an image was pulled from: no
// byte of a layer is sent.
func TestPushMounts(t *testing.T) {
	for _, kind := range []string{"distribution", "debian"} { // ggcr's has one pool of blobs
		t.Run(kind, func(t *testing.T) {
			p := start(t, kind)
			img := build(t, 50_000, 7_000)
			p.put(t, "base/app", "1", img)
			s := fresh(t)
			p.bring(t, s, "base/app:1", transfer.PullOptions{})
			p.Forget()
			res := mustPush(t, p, s, p.host+"/base/app:1", "mine/app:1", transfer.PushOptions{})
			if res.Mounted.Blobs != 3 || res.Pushed.Blobs != 1 {
				t.Errorf("got %+v, want layers and config mounted and the manifest pushed", res)
			}
			if p.count("POST", "from=base") != 3 || p.count("POST", "") != 3 || p.count("PUT", "/blobs/") != 0 || p.count("PATCH", "") != 0 {
				t.Errorf("requests: %v, want three mounts and no upload", p.Requests())
			}
			if got := p.tagged(t, "mine/app:1"); got != img.Root.Digest {
				t.Errorf("the tag stands for %q", got)
			}
		})
	}
}

// TestPushPart pushes an index of which one platform was pulled.
func TestPushPart(t *testing.T) {
	here, elsewhere := start(t, "distribution"), start(t, "distribution")
	img, parts := three(t)
	here.put(t, "app", "1", img)
	s := fresh(t)
	here.bring(t, s, "app:1", transfer.PullOptions{Choice: transfer.Choice{Platforms: []image.Platform{amd64}}})
	name := here.host + "/app:1"

	// Another registry has nothing of it.
	_, err := elsewhere.push(t, s, name, "app:1", transfer.PushOptions{})
	var partial *transfer.PartialError
	if !errors.As(err, &partial) || !slices.Contains(partial.Whole, "linux/amd64") ||
		!slices.Equal(partial.Gaps, []string{"linux/arm64", "linux/s390x"}) {
		t.Fatalf("got %v, want a PartialError that names the platforms", err)
	}
	var missing *transfer.MissingError
	if !errors.As(err, &missing) || len(missing.Missing) == 0 || !errdefs.IsNotFound(err) {
		t.Errorf("%v is not a MissingError with what is missing", err)
	}
	for _, r := range elsewhere.Requests() {
		if r.Method != "HEAD" {
			t.Errorf("%s %s, want nothing but questions", r.Method, r.Path)
		}
	}

	// The registry that it came from has the rest: in the same repository, and in another.
	for _, to := range []string{"app:2", "other:1"} {
		here.Forget()
		res := mustPush(t, here, s, name, to, transfer.PushOptions{})
		if res.Digest != img.Root.Digest || here.tagged(t, to) != img.Root.Digest || here.count("PUT", "/blobs/") != 0 {
			t.Errorf("%s: got %+v, want the whole index, without uploads", to, res)
		}
		back := fresh(t)
		here.bring(t, back, to, transfer.PullOptions{Choice: transfer.Choice{All: true}})
		mustBeWhole(t, back, to)
	}

	// One platform of it goes alone, and that is said.
	var warnings []string
	res := mustPush(t, elsewhere, s, name, "one:1", transfer.PushOptions{Choice: transfer.Choice{Platforms: []image.Platform{amd64}}, Progress: told(&warnings)})
	if res.Digest != parts[0].Root.Digest || elsewhere.tagged(t, "one:1") != parts[0].Root.Digest {
		t.Errorf("got %+v, want the manifest %s alone", res, parts[0].Root.Digest)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], parts[0].Root.Digest.String()) || !strings.Contains(warnings[0], img.Root.Digest.String()) ||
		!strings.Contains(warnings[0], "linux/s390x") {
		t.Errorf("warnings: %q, want one that names both digests and what was left", warnings)
	}
	if _, err := elsewhere.push(t, s, name, "none:1", transfer.PushOptions{Choice: transfer.Choice{Platforms: []image.Platform{{OS: "linux", Architecture: "riscv64"}}}}); !errdefs.IsNotFound(err) {
		t.Errorf("a platform that is not offered: %v", err)
	}
	if _, err := elsewhere.push(t, s, name, "none:1", transfer.PushOptions{Choice: transfer.Choice{Platforms: []image.Platform{arm64}}}); !errors.As(err, &missing) {
		t.Errorf("a platform that is not here: %v", err)
	}

	// What is missing is fetched when that is asked for.
	res, err = elsewhere.push(t, s, name, "whole:1", transfer.PushOptions{FetchMissing: true})
	if err != nil || res.Digest != img.Root.Digest {
		t.Errorf("with FetchMissing: %+v, %v", res, err)
	}
}

// TestPushSeveral pushes two of three platforms: an index of these and what is attested of them,
// the same bytes each time.
func TestPushSeveral(t *testing.T) {
	p := start(t, "distribution")
	img, parts := three(t)
	s := fresh(t)
	if _, err := transfer.Pull(t.Context(), s, &fakeRegistry{img: img}, parse(t, "example.com/app:1"), transfer.PullOptions{Choice: transfer.Choice{All: true}}); err != nil {
		t.Fatal(err)
	}
	var warnings []string
	o := transfer.PushOptions{Choice: transfer.Choice{Platforms: []image.Platform{arm64, amd64}}, Progress: told(&warnings)}
	first := mustPush(t, p, s, "example.com/app:1", "app:1", o)
	again := mustPush(t, p, s, "example.com/app:1", "app:2", o)
	if first.Digest == img.Root.Digest || first.Digest != again.Digest || len(first.Platforms) != 2 {
		t.Errorf("got %+v and %+v, want one new index", first, again)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0], "linux/s390x") || !strings.Contains(warnings[0], first.Digest.String()) {
		t.Errorf("warnings: %q", warnings)
	}
	b, err := p.Manifest(t.Context(), parse(t, p.host+"/app:1"), image.Descriptor{Digest: first.Digest, Size: sizeOf(t, p, "app:1")})
	if err != nil {
		t.Fatal(err)
	}
	var index v1.Index
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 3 || index.Manifests[0].Digest != parts[0].Root.Digest || index.Manifests[1].Digest != parts[1].Root.Digest ||
		!image.IsAttestation(index.Manifests[2]) || index.Manifests[0].Platform.Architecture != "amd64" {
		t.Errorf("the index holds %+v", index.Manifests)
	}
	// All that it lists is no choice.
	warnings = nil
	o.Platforms = append(o.Platforms, image.Platform{OS: "linux", Architecture: "s390x"})
	if res := mustPush(t, p, s, "example.com/app:1", "app:3", o); res.Digest != img.Root.Digest || len(warnings) != 0 {
		t.Errorf("all three: %s, %q, want the index as it is", res.Digest, warnings)
	}
}

func sizeOf(t *testing.T, p *place, name string) int64 {
	t.Helper()
	found, err := p.Resolve(t.Context(), parse(t, p.host+"/"+name))
	if err != nil {
		t.Fatal(err)
	}
	return found.Size
}

// TestPushLonePlatform asks for a platform of an image that has no index.
func TestPushLonePlatform(t *testing.T) {
	p := start(t, "distribution")
	s := fresh(t)
	pull(t, s, build(t, 5_000)) // linux/amd64
	res := mustPush(t, p, s, "example.com/app:1", "app:1", transfer.PushOptions{Choice: transfer.Choice{Platforms: []image.Platform{amd64}}})
	if !slices.Equal(res.Platforms, []string{"linux/amd64"}) {
		t.Errorf("got %+v, want its platform named", res)
	}
	_, err := p.push(t, s, "example.com/app:1", "app:2", transfer.PushOptions{Choice: transfer.Choice{Platforms: []image.Platform{arm64}}})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/amd64") {
		t.Errorf("got %v, want that it is for linux/amd64 alone", err)
	}
}

// TestPushReferrers has a signature of an index and one of that signature follow the index, to registries
// with and without the referrers API.
func TestPushReferrers(t *testing.T) {
	for kind := range makes {
		t.Run(kind, func(t *testing.T) {
			from, p := start(t, "ggcr"), start(t, kind)
			img, parts := three(t)
			sbom := imagetest.Artifact("application/vnd.example.sbom", []byte("{}\n"), parts[1])
			signature := imagetest.Artifact("application/vnd.example.signature", []byte("signed"), img)
			counter := imagetest.Artifact("application/vnd.example.signature", []byte("signed too"), signature)
			from.put(t, "app", "1", img)
			for _, r := range []*imagetest.Image{sbom, signature, counter} {
				from.put(t, "app", r.Root.Digest.Encoded()[:8], r)
			}
			s := fresh(t)
			c := transfer.CopyOptions{Store: &s}
			res, err := transfer.Copy(t.Context(), from.Client, endpoint(t, "docker://"+from.host+"/app:1"), endpoint(t, "store:example.com/app:1"), c)
			if err != nil || res.Referrers != 3 {
				t.Fatalf("copied to the store: %+v, %v, want three referrers", res, err)
			}
			if garbage, err := s.Meta.Garbage(t.Context(), nil); err != nil || len(garbage.Blobs) != 0 {
				t.Errorf("%d blobs count as garbage, %v", len(garbage.Blobs), err)
			}

			if res := mustPush(t, p, s, "example.com/app:1", "bare:1", transfer.PushOptions{NoReferrers: true}); res.Referrers != 0 {
				t.Errorf("without: %+v", res)
			}
			if list, err := p.Referrers(t.Context(), parse(t, p.host+"/bare:1"), img.Root.Digest); err != nil || len(list) != 0 {
				t.Errorf("without: the registry lists %v, %v", list, err)
			}
			p.Forget()
			if res := mustPush(t, p, s, "example.com/app:1", "app:1", transfer.PushOptions{}); res.Referrers != 3 {
				t.Errorf("with: %+v", res)
			}
			puts := p.Requests()
			if last := puts[len(puts)-1]; last.Method != "PUT" || !strings.HasSuffix(last.Path, "/app/manifests/1") {
				t.Errorf("the last request was %v, want that of the tag", last)
			}
			for subject, want := range map[*imagetest.Image]*imagetest.Image{parts[1]: sbom, img: signature, signature: counter} {
				list, err := p.Referrers(t.Context(), parse(t, p.host+"/app:1"), subject.Root.Digest)
				if err != nil || len(list) != 1 || list[0].Digest != want.Root.Digest {
					t.Errorf("referrers of %s: %v, %v, want %s", subject.Root.Digest, list, err, want.Root.Digest)
				}
			}
		})
	}
}

// TestPushLazy fetches what a remote snapshotter stood for, before it pushes.
func TestPushLazy(t *testing.T) {
	from, p := start(t, "distribution"), start(t, "distribution")
	img := build(t, 10_000, 20_000)
	from.put(t, "app", "1", img)
	s := fresh(t)
	driver := &remote{Driver: native.New(), has: map[string]bool{img.Manifest().Layers[0].Digest.String(): true}}
	sn, err := snapshot.Open("remote", t.TempDir(), driver, s.Meta, snapshot.Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	s.Unpacker = func(string) (*unpack.Unpacker, error) {
		return &unpack.Unpacker{Snapshots: sn, Content: s.Content, Meta: s.Meta, Namespace: "default"}, nil
	}
	from.bring(t, s, "app:1", transfer.PullOptions{})
	if got, err := s.Meta.Image(t.Context(), "default", from.host+"/app:1"); err != nil || got.State != metadata.Lazy {
		t.Fatalf("state %s, %v, want lazy", got.State, err)
	}
	if _, err := p.push(t, s, from.host+"/app:1", "app:1", transfer.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	back := fresh(t)
	p.bring(t, back, "app:1", transfer.PullOptions{})
	mustBeWhole(t, back, "pushed")
}

// holding asks, before each blob, what a collection would take.
type holding struct {
	transfer.Pusher
	t     *testing.T
	store transfer.Store
	once  sync.Once
}

func (h *holding) PushBlob(ctx context.Context, r ref.Reference, d image.Descriptor, from registry.BlobSource, onFault func(error)) (registry.PushOutcome, error) {
	h.once.Do(func() {
		if _, err := h.store.Meta.RemoveImages(ctx, "default", "example.com/app:1"); err != nil {
			h.t.Error(err)
		}
	})
	if garbage, err := h.store.Meta.Garbage(ctx, nil); err != nil || len(garbage.Blobs) != 0 {
		h.t.Errorf("while it is pushed %d blobs are garbage, %v", len(garbage.Blobs), err)
	}
	return h.Pusher.PushBlob(ctx, r, d, from, onFault)
}

// TestPushHolds removes an image while it is pushed: what is pushed stays until then.
func TestPushHolds(t *testing.T) {
	p := start(t, "distribution")
	img := build(t, 10_000, 20_000)
	s := fresh(t)
	pull(t, s, img)
	if _, err := transfer.Push(t.Context(), s, &holding{Pusher: p.Client, t: t, store: s}, "example.com/app:1", parse(t, p.host+"/app:1"), transfer.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if garbage, err := s.Meta.Garbage(t.Context(), nil); err != nil || len(garbage.Blobs) != len(img.Blobs) {
		t.Errorf("afterwards %d blobs are garbage, %v, want all %d", len(garbage.Blobs), err, len(img.Blobs))
	}
}

// TestPushRefused pushes to a registry that refuses a layer: no name, and an error of its kind.
func TestPushRefused(t *testing.T) {
	p := start(t, "distribution", registrytest.On("POST", "/blobs/uploads/", registrytest.Status(http.StatusForbidden)))
	s := fresh(t)
	pull(t, s, build(t, 10_000))
	_, err := p.push(t, s, "example.com/app:1", "app:1", transfer.PushOptions{})
	if !errdefs.IsPermissionDenied(err) || p.count("PUT", "/manifests/") != 0 {
		t.Errorf("got %v and %d manifests", err, p.count("PUT", "/manifests/"))
	}
	if _, err := p.push(t, s, "example.com/none:1", "app:1", transfer.PushOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("an image that is not there: %v", err)
	}
}

func endpoint(t *testing.T, s string) transfer.Endpoint {
	t.Helper()
	e, err := transfer.ParseEndpoint(s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

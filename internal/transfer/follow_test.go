package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/registry/registrytest"
	"github.com/stowage/stowage/internal/transfer"
)

// behind is a client for which r.example is a registry with a mirror before it.
func behind(t *testing.T, mirror, upstream *place) *registry.Client {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "r.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", upstream.host, mirror.host)
	if err := os.WriteFile(filepath.Join(dir, "r.example", "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	c := registry.New(registry.Options{HostsDirs: []string{dir}})
	t.Cleanup(c.Close)
	return c
}

// TestCopyBadMirror copies past a mirror that gives wrong bytes for every blob: it is blamed, and the
// registry behind it asked. What is on its way down a pipe cannot be taken back.
func TestCopyBadMirror(t *testing.T) {
	mirror := start(t, "distribution", registrytest.On("GET", "/blobs/", registrytest.WrongBytes()))
	upstream, p := start(t, "distribution"), start(t, "distribution")
	img := build(t, 300_000, 20_000)
	for _, from := range []*place{mirror, upstream} {
		from.put(t, "app", "1", img)
	}
	dir := t.TempDir()
	s := fresh(t)
	for _, to := range []string{"docker://" + p.host + "/app:1", "store:app:1", "oci:" + dir + "/layout", "oci-archive:" + dir + "/a.tar", "docker-archive:" + dir + "/d.tar"} {
		t.Run(strings.SplitN(to, ":", 2)[0], func(t *testing.T) {
			mirror.Forget()
			var faults int
			o := transfer.CopyOptions{Store: &s, Choice: transfer.Choice{Platforms: []image.Platform{amd64}}, Progress: progress.Serial(func(e progress.Event) {
				if strings.Contains(e.Message, mirror.host+" gave wrong bytes") {
					faults++
				}
			})}
			c := behind(t, mirror, upstream)
			res, err := transfer.Copy(t.Context(), c, endpoint(t, "docker://r.example/app:1"), endpoint(t, to), o)
			if err != nil || res.Digest != img.Root.Digest || res.Pushed.Blobs != len(img.Blobs) {
				t.Fatalf("got %+v, %v", res, err)
			}
			if n := mirror.count("GET", "/blobs/"); n != 3 || faults < 3 {
				t.Errorf("the mirror was asked for %d blobs and blamed %d times, want each of the three once", n, faults)
			}
			back := start(t, "distribution")
			mustCopy(t, back, to, "docker://"+back.host+"/back:1", transfer.CopyOptions{Store: &s})
			arrived(t, back, "back:1", img)
		})
	}

	var out bytes.Buffer
	_, err := transfer.Copy(t.Context(), behind(t, mirror, upstream), endpoint(t, "docker://r.example/app:1"), endpoint(t, "oci-archive:-"), transfer.CopyOptions{Stdout: &out})
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), mirror.host) {
		t.Errorf("down a pipe: %v, want the mirror to be blamed", err)
	}
}

// slow is a registry that has everything, and takes a second for each answer.
type slow struct{ *fakeRegistry }

func (slow) HasManifest(context.Context, ref.Reference, image.Descriptor) (bool, error) {
	time.Sleep(time.Second)
	return true, nil
}

func (s slow) HasBlob(ctx context.Context, r ref.Reference, d image.Descriptor) (bool, error) {
	return s.HasManifest(ctx, r, d)
}

func (slow) PushBlob(context.Context, ref.Reference, image.Descriptor, registry.BlobSource, func(error)) (registry.PushOutcome, error) {
	time.Sleep(time.Second)
	return registry.PushOutcome{How: registry.Present}, nil
}

func (slow) PushManifest(context.Context, ref.Reference, image.Descriptor, []byte) error {
	time.Sleep(time.Second)
	return nil
}

func (slow) Referrers(context.Context, ref.Reference, image.Digest) ([]image.Descriptor, error) {
	return nil, nil // a push does not ask
}

// TestPushAgainRoundTrips pushes what is there already: 40 layers and a config in three round trips, and two
// more for the manifest and the tag. Whoever says how many at once gets no more.
func TestPushAgainRoundTrips(t *testing.T) {
	sizes := make([]int64, 40)
	for i := range sizes {
		sizes[i] = 1000
	}
	img := build(t, sizes...)
	for streams, want := range map[int]time.Duration{0: 5 * time.Second, 4: 13 * time.Second} {
		s := fresh(t)
		synctest.Test(t, func(t *testing.T) {
			reg := slow{&fakeRegistry{img: img}}
			r := parse(t, "example.com/app:1")
			if _, err := transfer.Pull(t.Context(), s, reg, r, transfer.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			res, err := transfer.Push(t.Context(), s, reg, r.String(), r, transfer.PushOptions{Streams: streams})
			if err != nil || res.Existing.Blobs != len(img.Blobs) {
				t.Fatalf("got %+v, %v", res, err)
			}
			if took := time.Since(begun); took != want {
				t.Errorf("%d streams: took %s, want %s", streams, took, want)
			}
		})
	}
}

// TestPushMountsNearest pushes what came from several repositories of the registry: it is mounted from the one
// nearest to the target, whichever was last.
func TestPushMountsNearest(t *testing.T) {
	p := start(t, "distribution")
	img := build(t, 5_000)
	s := fresh(t)
	for _, repo := range []string{"base/app", "team/base/app", "team/app"} {
		p.put(t, repo, "1", img)
		p.bring(t, s, repo+":1", transfer.PullOptions{})
	}
	for target, want := range map[string]string{"team/base/new": "team/base/app", "base/new": "base/app", "new": "team/app"} {
		p.Forget()
		res := mustPush(t, p, s, p.host+"/base/app:1", target+":1", transfer.PushOptions{})
		if res.Mounted.Blobs != 2 || p.count("POST", "") != 2 || p.count("POST", "from="+strings.ReplaceAll(want, "/", "%2F")) != 2 {
			t.Errorf("%s: got %+v, %v, want both blobs mounted from %s", target, res, p.Requests(), want)
		}
	}
}

// TestPushMountsNext pushes a part of an index whose rest is in the second of the repositories that it came from.
func TestPushMountsNext(t *testing.T) {
	p := start(t, "distribution")
	img, _ := three(t)
	p.put(t, "app", "1", img)
	s := fresh(t)
	p.bring(t, s, "app:1", transfer.PullOptions{Choice: transfer.Choice{Platforms: []image.Platform{amd64}}})
	root := metadata.Blob{Digest: img.Root.Digest, Size: img.Root.Size, Labels: map[string]string{metadata.SourceLabel + p.host: "team/gone"}}
	if _, err := s.Meta.Apply(t.Context(), "default", metadata.Batch{Blobs: []metadata.Blob{root}}); err != nil {
		t.Fatal(err)
	}
	mustPush(t, p, s, p.host+"/app:1", "team/app:1", transfer.PushOptions{})
	arrived(t, p, "team/app:1", img)
}

// TestCosign has what cosign says of an index and of one of its images follow, under its tags.
func TestCosign(t *testing.T) {
	from, p := start(t, "distribution"), start(t, "distribution")
	img, parts := three(t)
	said := map[string]*imagetest.Image{
		"sha256-" + img.Root.Digest.Encoded() + ".sig":       imagetest.Artifact("application/vnd.example.signature", []byte("signed"), nil),
		"sha256-" + parts[1].Root.Digest.Encoded() + ".att":  imagetest.Artifact("application/vnd.example.attestation", []byte("attested"), nil),
		"sha256-" + parts[2].Root.Digest.Encoded() + ".sbom": imagetest.Artifact("application/vnd.example.sbom", []byte("{}\n"), nil),
	}
	from.put(t, "app", "1", img)
	for tag, a := range said {
		from.put(t, "app", tag, a)
	}
	look := func(repo string, want bool) {
		t.Helper()
		for tag, a := range said {
			if got := p.tagged(t, repo+":"+tag); want && got != a.Root.Digest || !want && got != "" {
				t.Errorf("%s:%s stands for %q", repo, tag, got)
			}
		}
	}
	source := "docker://" + from.host + "/app:1"
	mustCopy(t, p, source, "docker://"+p.host+"/without:1", transfer.CopyOptions{NoReferrers: true})
	look("without", false)
	if n := from.count("HEAD", ".sig"); n != 0 {
		t.Errorf("asked %d times for what nobody wants", n)
	}
	from.Forget()
	if res := mustCopy(t, p, source, "docker://"+p.host+"/app:1", transfer.CopyOptions{}); res.Referrers != 3 {
		t.Errorf("got %+v, want three to follow", res)
	}
	requests := p.Requests()
	if last := requests[len(requests)-1]; last.Method != "PUT" || !strings.HasSuffix(last.Path, "/app/manifests/1") {
		t.Errorf("the last request was %v, want that of the image's own tag", last)
	}
	look("app", true)
	if n := from.count("HEAD", "/manifests/sha256-"); n != 12 {
		t.Errorf("%d questions, want three for the index and for each of its three images", n)
	}
	if res := mustCopy(t, p, source, "docker://"+p.host+"/app:1", transfer.CopyOptions{}); res.Pushed.Blobs != 0 {
		t.Errorf("again: %+v, want nothing sent", res)
	}
	arrived(t, p, "app:1", img)

	// Of a stored image follows what is stored.
	s := fresh(t)
	all := transfer.PullOptions{Choice: transfer.Choice{All: true}}
	from.bring(t, s, "app:1", all)
	mustPush(t, p, s, from.host+"/app:1", "bare:1", transfer.PushOptions{})
	look("bare", false)
	for tag := range said {
		from.bring(t, s, "app:"+tag, all)
	}
	if res := mustPush(t, p, s, from.host+"/app:1", "pushed:1", transfer.PushOptions{}); res.Referrers != 3 {
		t.Errorf("got %+v, want three to follow", res)
	}
	look("pushed", true)
}

package transfer_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/registrytest"
	"github.com/stowage/stowage/internal/transfer"
)

func mustCopy(t *testing.T, p *place, from, to string, o transfer.CopyOptions) *transfer.PushResult {
	t.Helper()
	res, err := transfer.Copy(t.Context(), p.Client, endpoint(t, from), endpoint(t, to), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// arrived sees that a registry has all of an image, and nothing else under its bytes.
func arrived(t *testing.T, p *place, name string, img *imagetest.Image) {
	t.Helper()
	if got := p.tagged(t, name); got != img.Root.Digest {
		t.Errorf("%s stands for %q, want %s", name, got, img.Root.Digest)
		return
	}
	s := fresh(t)
	res := p.bring(t, s, name, transfer.PullOptions{Choice: transfer.Choice{All: true}})
	if res.Fetched.Blobs != len(img.Blobs) {
		t.Errorf("%s: %d blobs came, want %d", name, res.Fetched.Blobs, len(img.Blobs))
	}
	mustBeWhole(t, s, name)
}

// TestCopy takes an index with a referrer from every transport to every other, and from there to a
// registry: the same image, with its referrer, wherever it has been.
func TestCopy(t *testing.T) {
	p := start(t, "ggcr")
	img, _ := three(t)
	signature := imagetest.Artifact("application/vnd.example.signature", []byte("signed"), img)
	p.put(t, "app", "1", img)
	p.put(t, "app", "signature", signature)
	dir := t.TempDir()
	s := fresh(t)
	o := transfer.CopyOptions{Store: &s}

	at := func(transport, name string) string {
		switch transport {
		case "docker":
			return "docker://" + p.host + "/" + name + ":1"
		case "store":
			return "store:example.com/" + name + ":1"
		}
		return transport + ":" + filepath.Join(dir, name) + ":example.com/app:1"
	}
	transports := []string{"docker", "store", "oci", "oci-archive"}
	for _, from := range transports {
		if from != "docker" {
			mustCopy(t, p, at("docker", "app"), at(from, "from-"+from), o)
		}
		for _, to := range transports {
			t.Run(from+" to "+to, func(t *testing.T) {
				source, name := at(from, "from-"+from), from+"-"+to
				if from == "docker" {
					source = at("docker", "app")
				}
				res := mustCopy(t, p, source, at(to, name), o)
				if res.Digest != img.Root.Digest || res.Referrers != 1 || len(res.Platforms) != 3 {
					t.Errorf("got %+v", res)
				}
				if to != "docker" {
					mustCopy(t, p, at(to, name), at("docker", name), o)
				}
				arrived(t, p, name+":1", img)
				list, err := p.Referrers(t.Context(), parse(t, p.host+"/"+name+":1"), img.Root.Digest)
				if err != nil || len(list) != 1 || list[0].Digest != signature.Root.Digest {
					t.Errorf("referrers %v, %v", list, err)
				}
			})
		}
	}
}

// TestCopyDockerArchive goes through docker's own form, whose layers have no digests in their names.
func TestCopyDockerArchive(t *testing.T) {
	p := start(t, "distribution")
	img, parts := three(t)
	p.put(t, "app", "1", img)
	dir := t.TempDir()
	file := "docker-archive:" + filepath.Join(dir, "docker.tar")
	var warnings []string
	res := mustCopy(t, p, "docker://"+p.host+"/app:1", file, transfer.CopyOptions{Choice: transfer.Choice{Platforms: []image.Platform{arm64}}, Progress: told(&warnings)})
	if res.Digest != parts[1].Root.Digest || len(warnings) != 1 {
		t.Errorf("got %+v, %q, want linux/arm64 alone, said", res, warnings)
	}
	mustCopy(t, p, file, "docker://"+p.host+"/back:1", transfer.CopyOptions{})
	arrived(t, p, "back:1", parts[1])

	_, err := transfer.Copy(t.Context(), p.Client, endpoint(t, "docker://"+p.host+"/app:1"), endpoint(t, file), transfer.CopyOptions{Choice: transfer.Choice{Platforms: []image.Platform{arm64, amd64}}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("two platforms: %v", err)
	}
	p.put(t, "sbom", "1", imagetest.Artifact("application/vnd.example.sbom", []byte("{}\n"), nil))
	_, err = transfer.Copy(t.Context(), p.Client, endpoint(t, "docker://"+p.host+"/sbom:1"), endpoint(t, "docker-archive:"+filepath.Join(dir, "sbom.tar")), transfer.CopyOptions{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("an artifact: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCopyAgain copies twice: the second time nothing moves, between registries by mount.
func TestCopyAgain(t *testing.T) {
	p := start(t, "distribution")
	img, _ := three(t)
	p.put(t, "app", "1", img)
	dir := filepath.Join(t.TempDir(), "layout")
	for _, to := range []string{"docker://" + p.host + "/other:1", "oci:" + dir + ":one"} {
		first := mustCopy(t, p, "docker://"+p.host+"/app:1", to, transfer.CopyOptions{})
		if first.Pushed.Blobs+first.Mounted.Blobs != len(img.Blobs) {
			t.Errorf("%s: first %+v", to, first)
		}
		p.Forget()
		again := mustCopy(t, p, "docker://"+p.host+"/app:1", to, transfer.CopyOptions{})
		if again.Existing.Blobs != len(img.Blobs) || again.Pushed.Blobs+again.Mounted.Blobs != 0 || p.count("GET", "/blobs/") != 0 {
			t.Errorf("%s: again %+v, %v", to, again, p.Requests())
		}
	}
	if n := p.count("PUT", "/blobs/"); n != 0 {
		t.Errorf("%d uploads within one registry", n)
	}
}

// TestCopyWrongBytes has a source give wrong bytes: no target has a name afterwards.
func TestCopyWrongBytes(t *testing.T) {
	from := start(t, "distribution", registrytest.On("GET", "/blobs/", registrytest.WrongBytes()))
	p := start(t, "distribution")
	from.put(t, "app", "1", build(t, 300_000))
	dir := t.TempDir()
	s := fresh(t)
	for _, to := range []string{"docker://" + p.host + "/app:1", "store:app", "oci:" + dir + "/layout", "oci-archive:" + dir + "/a.tar"} {
		_, err := transfer.Copy(t.Context(), from.Client, endpoint(t, "docker://"+from.host+"/app:1"), endpoint(t, to), transfer.CopyOptions{Store: &s})
		if !errdefs.IsDataLoss(err) {
			t.Errorf("%s: got %v, want data loss", to, err)
		}
	}
	if p.count("PUT", "/manifests/") != 0 || p.tagged(t, "app:1") != "" {
		t.Error("the registry has a manifest")
	}
	for _, file := range []string{"layout/index.json", "a.tar"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			t.Errorf("%s is there", file)
		}
	}
	if images, err := s.Meta.Images(t.Context(), "default"); err != nil || len(images) != 0 {
		t.Errorf("the store has %v, %v", images, err)
	}
}

// TestCopyGoesOn has the source break off in the middle of a blob, and the target refuse an upload
// for a while: the copy goes on, and what arrives is right.
func TestCopyGoesOn(t *testing.T) {
	from := start(t, "distribution", registrytest.On("GET", "/blobs/", registrytest.Cut(100_000)))
	p := start(t, "distribution", registrytest.On("PUT", "/blobs/", registrytest.Times(2, registrytest.Status(http.StatusServiceUnavailable))))
	img := build(t, 350_000)
	from.put(t, "app", "1", img)
	res := mustCopy(t, from, "docker://"+from.host+"/app:1", "docker://"+p.host+"/app:1", transfer.CopyOptions{})
	if res.Pushed.Blobs != len(img.Blobs) {
		t.Errorf("got %+v", res)
	}
	arrived(t, p, "app:1", img)
}

// TestCopyLayout adds to a layout what others have put there: their images stay.
func TestCopyLayout(t *testing.T) {
	p := start(t, "distribution")
	one, two := build(t, 5_000), build(t, 6_000, 7_000)
	p.put(t, "app", "1", one)
	p.put(t, "app", "2", two)
	dir := t.TempDir()
	copyTo := func(tag, to string) {
		t.Helper()
		mustCopy(t, p, "docker://"+p.host+"/app:"+tag, "oci:"+dir+to, transfer.CopyOptions{})
	}
	names := func() (list []string) {
		t.Helper()
		a, err := archive.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}()
		for _, e := range a.Images {
			list = append(list, e.Name+e.Tag+" "+e.Target.Digest.Encoded()[:6])
		}
		slices.Sort(list)
		return list
	}
	first, second := " "+one.Root.Digest.Encoded()[:6], " "+two.Root.Digest.Encoded()[:6]
	copyTo("1", ":a")
	copyTo("2", ":b")
	copyTo("2", "") // under its own name
	if got, want := names(), []string{p.host + "/app:2" + second, "a" + first, "b" + second}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	copyTo("2", ":a")
	if got, want := names(), []string{p.host + "/app:2" + second, "a" + second, "b" + second}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	copyTo("1", ":c")
	_, err := transfer.Copy(t.Context(), p.Client, endpoint(t, "oci:"+dir), endpoint(t, "docker://"+p.host+"/back:1"), transfer.CopyOptions{})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"c"`) {
		t.Errorf("of several images none named: %v", err)
	}
	_, err = transfer.Copy(t.Context(), p.Client, endpoint(t, "oci:"+dir+":d"), endpoint(t, "docker://"+p.host+"/back:1"), transfer.CopyOptions{})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), `"c"`) {
		t.Errorf("one that is not there: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = transfer.Copy(t.Context(), p.Client, endpoint(t, "oci:"+dir+":c"), endpoint(t, "oci:"+other), transfer.CopyOptions{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("into a folder of something else: %v", err)
	}
}

// TestCopyPart copies what a store has of an index: to an archive without the rest, which is said, and to
// a registry not at all. The archive is the one that an export writes.
func TestCopyPart(t *testing.T) {
	p, elsewhere := start(t, "distribution"), start(t, "distribution")
	img, _ := three(t)
	p.put(t, "app", "1", img)
	s := fresh(t)
	p.bring(t, s, "app:1", transfer.PullOptions{Choice: transfer.Choice{Platforms: []image.Platform{amd64}}})
	from := "store:" + p.host + "/app:1"
	file := filepath.Join(t.TempDir(), "a.tar")
	var warnings []string
	o := transfer.CopyOptions{Store: &s, Progress: told(&warnings)}
	res := mustCopy(t, p, from, "oci-archive:"+file, o)
	if res.Digest != img.Root.Digest || !slices.Equal(res.Platforms, []string{"linux/amd64"}) || len(warnings) != 1 || !strings.Contains(warnings[0], "linux/s390x") {
		t.Errorf("got %+v, %q", res, warnings)
	}
	var export bytes.Buffer
	if err := transfer.Export(t.Context(), s, &export, []string{p.host + "/app:1"}, transfer.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, export.Bytes()) {
		t.Errorf("a copy of %d bytes and an export of %d differ, %v", len(b), export.Len(), err)
	}

	for _, source := range []string{from, "oci-archive:" + file} {
		_, err := transfer.Copy(t.Context(), p.Client, endpoint(t, source), endpoint(t, "docker://"+elsewhere.host+"/app:1"), o)
		var partial *transfer.PartialError
		if !errors.As(err, &partial) || !slices.Equal(partial.Gaps, []string{"linux/arm64", "linux/s390x"}) {
			t.Errorf("%s to a registry: %v", source, err)
		}
	}
	back := fresh(t)
	warnings = nil
	if res := mustCopy(t, p, "oci-archive:"+file, "store:app:1", transfer.CopyOptions{Store: &back, Progress: told(&warnings)}); !slices.Equal(res.Platforms, []string{"linux/amd64"}) || len(warnings) != 1 {
		t.Errorf("back into a store: %+v, %q", res, warnings)
	}
	mustBeWhole(t, back, "back")
}

// TestCopySources refuses archives that are hurt, or none.
func TestCopySources(t *testing.T) {
	p := start(t, "distribution")
	dir := t.TempDir()
	p.put(t, "app", "1", build(t, 50_000))
	whole := filepath.Join(dir, "a.tar")
	mustCopy(t, p, "docker://"+p.host+"/app:1", "oci-archive:"+whole, transfer.CopyOptions{})
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return "oci-archive:" + filepath.Join(dir, name)
	}
	flipped := bytes.Clone(b)
	flipped[len(b)/2] ^= 1
	for name, c := range map[string]struct {
		from string
		is   func(error) bool
	}{
		"compressed": {write("a.tar.gz", []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0}), errdefs.IsDataLoss},
		"truncated":  {write("short.tar", b[:len(b)/2]), errdefs.IsDataLoss},
		"damaged":    {write("damaged.tar", flipped), errdefs.IsDataLoss},
		"no archive": {write("text.tar", []byte("hello, world")), errdefs.IsDataLoss},
		"absent":     {"oci-archive:" + filepath.Join(dir, "absent.tar"), func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		"no layout":  {"oci:" + dir, errdefs.IsInvalidArgument},
	} {
		_, err := transfer.Copy(t.Context(), p.Client, endpoint(t, c.from), endpoint(t, "docker://"+p.host+"/x:"+strings.ReplaceAll(name, " ", "-")), transfer.CopyOptions{})
		if err == nil || !c.is(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if p.count("PUT", "/x/manifests/") != 0 {
		t.Error("something got a name")
	}
}

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]transfer.Endpoint{
		"docker://alpine":                    {Transport: "docker", Ref: "alpine"},
		"docker://127.0.0.1:5000/a:1":        {Transport: "docker", Ref: "127.0.0.1:5000/a:1"},
		"store:a:1":                          {Transport: "store", Ref: "a:1"},
		"oci:/srv/x":                         {Transport: "oci", Path: "/srv/x"},
		"oci:/srv/x:tag":                     {Transport: "oci", Path: "/srv/x", Ref: "tag"},
		"oci-archive:x.tar:example.com/a:1":  {Transport: "oci-archive", Path: "x.tar", Ref: "example.com/a:1"},
		"docker-archive:-":                   {Transport: "docker-archive", Path: "-"},
		"docker-archive:x.tar:127.0.0.1:1/a": {Transport: "docker-archive", Path: "x.tar", Ref: "127.0.0.1:1/a"},
	} {
		got, err := transfer.ParseEndpoint(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %+v, %s, %v, want %+v", text, got, got, err, want)
		}
	}
	for _, text := range []string{"", "alpine", "docker:alpine", "docker://", "store:", "oci:", "oci::tag", "oci:-", "dir:x", "http://x"} {
		if e, err := transfer.ParseEndpoint(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %+v, %v, want a refusal", text, e, err)
		}
	}
}

// cut is a registry whose blobs break off as a lost connection does.
type cut struct{ transfer.Pusher }

func (c cut) Blob(ctx context.Context, r ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	body, err := c.Pusher.Blob(ctx, r, d, offset, onFault)
	if err != nil {
		return nil, err
	}
	lost := &lostError{}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, d.Size/2), failing{lost}), body}, nil
}

type lostError struct{}

func (*lostError) Error() string { return "the connection was lost" }
func (*lostError) Unwrap() []error {
	return []error{errdefs.ErrUnavailable, io.EOF}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestCopyLost loses the source for good: the error tells of that, and not of what it looks like.
func TestCopyLost(t *testing.T) {
	p, to := start(t, "distribution"), start(t, "distribution")
	p.put(t, "app", "1", build(t, 50_000))
	dir := t.TempDir()
	s := fresh(t)
	for _, target := range []string{"docker://" + to.host + "/app:1", "oci:" + dir + "/layout", "oci-archive:" + dir + "/a.tar", "store:a"} {
		_, err := transfer.Copy(t.Context(), cut{p.Client}, endpoint(t, "docker://"+p.host+"/app:1"), endpoint(t, target), transfer.CopyOptions{Store: &s})
		if !errdefs.IsUnavailable(err) || errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "connection was lost") {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

// TestImportReferrers loads an archive with signatures beside the image: the image gets a name, and
// the signatures are kept with it.
func TestImportReferrers(t *testing.T) {
	p := start(t, "ggcr")
	img, parts := three(t)
	p.put(t, "app", "1", img)
	for i, subject := range []*imagetest.Image{img, parts[1]} {
		p.put(t, "app", fmt.Sprint("s", i), imagetest.Artifact("application/vnd.example.signature", []byte{byte(i)}, subject))
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	mustCopy(t, p, "docker://"+p.host+"/app:1", "oci-archive:"+file, transfer.CopyOptions{})
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := fresh(t)
	res, err := transfer.Import(t.Context(), s, bytes.NewReader(b), transfer.ImportOptions{})
	if err != nil || len(res.Images) != 1 || res.Images[0].Name != p.host+"/app:1" {
		t.Fatalf("got %+v, %v, want the one image", res, err)
	}
	if garbage, err := s.Meta.Garbage(t.Context(), nil); err != nil || len(garbage.Blobs) != 0 {
		t.Errorf("%d blobs are garbage, %v", len(garbage.Blobs), err)
	}
	if res := mustPush(t, p, s, p.host+"/app:1", "back:1", transfer.PushOptions{}); res.Referrers != 2 {
		t.Errorf("pushed with %d referrers, want two", res.Referrers)
	}
}

// TestCopyStream copies out of archives that can be read only once.
func TestCopyStream(t *testing.T) {
	p := start(t, "ggcr")
	img, parts := three(t)
	p.put(t, "app", "1", img)
	p.put(t, "app", "s", imagetest.Artifact("application/vnd.example.signature", []byte("signed"), img))
	dir := t.TempDir()
	mustCopy(t, p, "docker://"+p.host+"/app:1", "oci-archive:"+dir+"/a.tar:v1", transfer.CopyOptions{})
	b, err := os.ReadFile(filepath.Join(dir, "a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.tar.gz"), packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}

	to := start(t, "ggcr")
	for i, from := range []string{"oci-archive:-:v1", "oci-archive:" + dir + "/a.tar.gz"} {
		o := transfer.CopyOptions{Stdin: bytes.NewReader(b)}
		name := fmt.Sprint("app:", i)
		res := mustCopy(t, to, from, "docker://"+to.host+"/"+name, o)
		if i == 0 && (res.Pushed.Blobs != len(img.Blobs)+3 || res.Existing.Blobs != 0) || res.Referrers != 1 {
			t.Errorf("%s: got %+v", from, res)
		}
		arrived(t, to, name, img)
		layout := fmt.Sprint("oci:", dir, "/layout", i)
		o.Stdin = bytes.NewReader(b)
		mustCopy(t, to, from, layout, o)
		mustCopy(t, to, layout, "docker://"+to.host+"/back:1", transfer.CopyOptions{})
		arrived(t, to, "back:1", img)
	}

	layer, _ := img.Blob(parts[0].Manifest().Layers[0].Digest)
	body, err := layer.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(b)
	damaged[bytes.Index(b, body)+len(body)/2] ^= 1
	to = start(t, "ggcr") // which has nothing of it yet
	_, err = transfer.Copy(t.Context(), to.Client, endpoint(t, "oci-archive:-"), endpoint(t, "docker://"+to.host+"/damaged:1"), transfer.CopyOptions{Stdin: bytes.NewReader(damaged)})
	if !errdefs.IsDataLoss(err) || to.tagged(t, "damaged:1") != "" {
		t.Errorf("damaged: got %v", err)
	}
	_, err = transfer.Copy(t.Context(), to.Client, endpoint(t, "oci-archive:"+dir+"/a.tar.gz"), endpoint(t, "oci-archive:"+dir+"/b.tar"), transfer.CopyOptions{})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "decompress it first") {
		t.Errorf("from one archive to another: %v", err)
	}
}

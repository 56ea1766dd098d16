package metadata_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

const ns = "default"

func newStore(t testing.TB) *metadata.Store {
	t.Helper()
	return metadata.New(mem.New(), filepath.Join(t.TempDir(), "holders"))
}

// desc is a descriptor of bytes that say their own name, of 10 bytes.
func desc(name string) image.Descriptor {
	return image.Descriptor{MediaType: image.OCILayer + "+gzip", Digest: digest.FromString(name), Size: 10}
}

func blob(name string) metadata.Blob {
	return metadata.Blob{Digest: desc(name).Digest, Size: 10}
}

func blobs(names ...string) (list []metadata.Blob) {
	for _, n := range names {
		list = append(list, blob(n))
	}
	return list
}

// manifest is the document called name.
func manifest(name, config string, layers ...string) metadata.Document {
	c := desc(config)
	c.MediaType = image.OCIConfig
	doc := metadata.Document{Digest: desc(name).Digest, Size: 10, Document: image.Document{MediaType: image.OCIManifest, Config: &c}}
	for _, l := range layers {
		doc.Layers = append(doc.Layers, desc(l))
	}
	return doc
}

func index(name string, manifests ...image.Descriptor) metadata.Document {
	return metadata.Document{
		Digest: desc(name).Digest, Size: 10,
		Document: image.Document{MediaType: image.OCIIndex, Index: true, Manifests: manifests},
	}
}

// on is a descriptor in an index, with its platform.
func on(name, arch string) image.Descriptor {
	d := desc(name)
	d.MediaType, d.Platform = image.OCIManifest, &image.Platform{OS: "linux", Architecture: arch}
	return d
}

func put(name, target string, want ...string) metadata.PutImage {
	p := metadata.PutImage{Name: name, Target: desc(target)}
	for _, w := range want {
		p.Want = append(p.Want, desc(w).Digest)
	}
	return p
}

func apply(t *testing.T, s *metadata.Store, ns string, b metadata.Batch) []metadata.Image {
	t.Helper()
	images, err := s.Apply(t.Context(), ns, b)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return images
}

// alpine applies an image of two layers.
func alpine(t *testing.T, s *metadata.Store) {
	t.Helper()
	apply(t, s, ns, metadata.Batch{
		Blobs:     blobs("m", "c", "l0", "l1"),
		Documents: []metadata.Document{manifest("m", "c", "l0", "l1")},
		Images:    []metadata.PutImage{put("alpine", "m")},
	})
}

// states shows an image in short: its state, and each platform's.
func states(img metadata.Image) string {
	s := []string{string(img.State)}
	for _, p := range img.Platforms {
		s = append(s, fmt.Sprintf("%s=%s", p.Platform.Architecture, p.State))
	}
	return strings.Join(s, " ")
}

func wantStates(t *testing.T, s *metadata.Store, name, want string) metadata.Image {
	t.Helper()
	img, err := s.Image(t.Context(), ns, name)
	if err != nil {
		t.Fatal(err)
	}
	if got := states(img); got != want {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
	return img
}

func TestCompleteness(t *testing.T) {
	foreign := desc("foreign")
	foreign.MediaType, foreign.URLs = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", []string{"https://example.com/l"}
	windows := manifest("windows", "wc", "wl")
	windows.Layers = append(windows.Layers, foreign)
	attestation := on("attestation", "unknown")
	attestation.Platform.OS = "unknown"
	chart := manifest("chart", "cc", "cl")
	chart.Config.MediaType, chart.ArtifactType = "application/vnd.oci.empty.v1+json", "application/x-chart"
	fromConfig := manifest("fc", "fcc")
	fromConfig.Platform = &image.Platform{OS: "linux", Architecture: "riscv64"}
	bare := on("fc", "")
	bare.Platform = nil

	arm, amd := manifest("arm", "ac", "shared", "al"), manifest("amd", "dc", "shared", "dl")
	both := index("idx", on("amd", "amd64"), on("arm", "arm64"), attestation)
	all := []string{"idx", "amd", "dc", "shared", "dl", "arm", "ac", "al"}
	for _, tt := range []struct {
		name   string
		blobs  []string
		docs   []metadata.Document
		target string
		wanted []string
		want   string
		size   int64
	}{
		{"manifest", []string{"arm", "ac", "shared", "al"}, []metadata.Document{arm}, "arm", nil, "complete =complete", 40},
		{"manifest without a layer", []string{"arm", "ac", "shared"}, []metadata.Document{arm}, "arm", nil, "partial =partial", 30},
		{"manifest without its config", []string{"arm", "shared", "al"}, []metadata.Document{arm}, "arm", nil, "partial =partial", 30},
		{"all platforms", all, []metadata.Document{arm, amd, both}, "idx", nil, "complete amd64=complete arm64=complete", 80},
		{"one of two", all[:5], []metadata.Document{amd, both}, "idx", nil, "complete amd64=complete arm64=absent", 50},
		{"one of two, both wanted", all[:7], []metadata.Document{arm, amd, both}, "idx", []string{"amd", "arm"}, "partial amd64=complete arm64=partial", 70},
		{"the other one wanted", all[:7], []metadata.Document{arm, amd, both}, "idx", []string{"arm"}, "partial amd64=complete arm64=partial", 70},
		{"none of two", []string{"idx"}, []metadata.Document{both}, "idx", nil, "partial amd64=partial arm64=partial", 10},
		{"document not read", all, []metadata.Document{amd, both}, "idx", []string{"amd", "arm"}, "partial amd64=complete arm64=partial", 60},
		{
			"nested index",
			append([]string{"outer"}, all...),
			[]metadata.Document{arm, amd, both, index("outer", desc("idx"))},
			"outer", nil, "complete amd64=complete arm64=complete", 90,
		},
		{"foreign layer", []string{"windows", "wc", "wl"}, []metadata.Document{windows}, "windows", nil, "complete =complete", 30},
		{"attestation itself", []string{"attestation", "x", "y"}, []metadata.Document{manifest("attestation", "x", "y")}, "attestation", nil, "complete =complete", 30},
		{"artifact itself", []string{"chart", "cc", "cl"}, []metadata.Document{chart}, "chart", nil, "complete =complete", 30},
		{
			"artifact in an index",
			[]string{"i", "chart", "fc", "fcc"},
			[]metadata.Document{chart, fromConfig, index("i", desc("chart"), bare)},
			"i", nil, "complete riscv64=complete", 40,
		},
		{"index of artifacts", []string{"i", "chart", "cc", "cl"}, []metadata.Document{chart, index("i", desc("chart"))}, "i", nil, "complete", 40},
		{"index of artifacts with a gap", []string{"i", "chart", "cc"}, []metadata.Document{chart, index("i", desc("chart"))}, "i", nil, "partial", 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			apply(t, s, ns, metadata.Batch{Blobs: blobs(tt.blobs...), Documents: tt.docs, Images: []metadata.PutImage{put("x", tt.target, tt.wanted...)}})
			img := wantStates(t, s, "x", tt.want)
			if got := img.Size; got != tt.size {
				t.Errorf("size: got %d, want %d", got, tt.size)
			}
		})
	}
}

func TestMissingIsNamed(t *testing.T) {
	s := newStore(t)
	images := apply(t, s, ns, metadata.Batch{
		Blobs: blobs("m", "l0"), Documents: []metadata.Document{manifest("m", "c", "l0", "l1", "l1")}, Images: []metadata.PutImage{put("x", "m")},
	})
	config := desc("c")
	config.MediaType = image.OCIConfig
	want := []image.Descriptor{config, desc("l1")}
	if diff := cmp.Diff(want, images[0].Platforms[0].Missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if got, want := images[0].Platforms[0].Size, int64(40); got != want {
		t.Errorf("size of the platform: got %d, want %d", got, want)
	}
}

// Blobs that arrive later, in whatever namespace, make an image complete; what is wanted adds up.
func TestLaterBlobs(t *testing.T) {
	s := newStore(t)
	amd, arm := manifest("amd", "dc", "dl"), manifest("arm", "ac", "al")
	idx := index("idx", on("amd", "amd64"), on("arm", "arm64"))
	apply(t, s, ns, metadata.Batch{
		Blobs: blobs("idx", "amd", "dc", "dl", "arm", "ac"), Documents: []metadata.Document{idx, amd, arm},
		Images: []metadata.PutImage{put("x", "idx", "amd")},
	})
	wantStates(t, s, "x", "complete amd64=complete arm64=absent")
	apply(t, s, ns, metadata.Batch{Images: []metadata.PutImage{put("x", "idx", "arm")}})
	wantStates(t, s, "x", "partial amd64=complete arm64=partial")
	apply(t, s, "other", metadata.Batch{Blobs: blobs("al")})
	wantStates(t, s, "x", "complete amd64=complete arm64=complete")

	// Another target is another wish.
	apply(t, s, ns, metadata.Batch{Blobs: blobs("idx2"), Documents: []metadata.Document{index("idx2", on("amd", "amd64"), on("new", "arm64"))}, Images: []metadata.PutImage{put("x", "idx2", "amd")}})
	wantStates(t, s, "x", "complete amd64=complete arm64=absent")
	if got, err := s.ReferencedBy(t.Context(), desc("idx").Digest); err != nil || len(got) != 0 {
		t.Errorf("the old target: got %v, %v, want no name on it", got, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	doc := manifest("m", "c")
	for _, tt := range []struct {
		name  string
		ns    string
		batch metadata.Batch
		is    func(error) bool
	}{
		{"namespace", "a/b", metadata.Batch{}, errdefs.IsInvalidArgument},
		{"long namespace", strings.Repeat("n", 77), metadata.Batch{}, errdefs.IsInvalidArgument},
		{"digest", ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: "sha256:12"}}}, errdefs.IsInvalidArgument},
		{"negative size", ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: desc("a").Digest, Size: -1}}}, errdefs.IsInvalidArgument},
		{"other size", ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: desc("here").Digest, Size: 11}}}, errdefs.IsInvalidArgument},
		{"label", ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: desc("a").Digest, Labels: map[string]string{"k": strings.Repeat("v", 4096)}}}}, errdefs.IsInvalidArgument},
		{"edge", ns, metadata.Batch{Documents: []metadata.Document{index("here", image.Descriptor{Digest: "x"})}}, errdefs.IsInvalidArgument},
		{"size of an edge", ns, metadata.Batch{Documents: []metadata.Document{index("here", image.Descriptor{Digest: desc("a").Digest, Size: -1})}}, errdefs.IsInvalidArgument},
		{"no name", ns, metadata.Batch{Images: []metadata.PutImage{put("", "m")}}, errdefs.IsInvalidArgument},
		{"long name", ns, metadata.Batch{Images: []metadata.PutImage{put(strings.Repeat("n", 1025), "m")}}, errdefs.IsInvalidArgument},
		{"document without its blob", ns, metadata.Batch{Documents: []metadata.Document{doc}}, errdefs.IsFailedPrecondition},
		{"target that is not here", ns, metadata.Batch{Images: []metadata.PutImage{put("x", "m")}}, errdefs.IsFailedPrecondition},
		{"target that is no document", ns, metadata.Batch{Images: []metadata.PutImage{put("x", "here")}}, errdefs.IsFailedPrecondition},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			apply(t, s, ns, metadata.Batch{Blobs: blobs("here")})
			tt.batch.Blobs = append([]metadata.Blob{blob("new")}, tt.batch.Blobs...)
			if _, err := s.Apply(t.Context(), tt.ns, tt.batch); !tt.is(err) {
				t.Errorf("got %v", err)
			}
			if _, err := s.Blob(t.Context(), ns, desc("new").Digest); !errdefs.IsNotFound(err) {
				t.Errorf("the rest of a refused batch: got %v, want it not applied", err)
			}
		})
	}
}

func TestNames(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	apply(t, s, ns, metadata.Batch{Blobs: blobs("m2", "c"), Documents: []metadata.Document{manifest("m2", "c")}, Images: []metadata.PutImage{put("busybox", "m2")}})

	exclusive := put("alpine", "m2")
	exclusive.Exclusive = true
	if _, err := s.Apply(ctx, ns, metadata.Batch{Images: []metadata.PutImage{exclusive}}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("exclusive: got %v, want already exists", err)
	}
	if _, err := s.Tag(ctx, ns, "alpine", "busybox", false); !errdefs.IsAlreadyExists(err) {
		t.Errorf("tag over another image: got %v, want already exists", err)
	}
	if _, err := s.Tag(ctx, ns, "none", "new", false); !errdefs.IsNotFound(err) {
		t.Errorf("tag of nothing: got %v, want not found", err)
	}
	for dst, force := range map[string]bool{"busybox": true, "copy": false, "alpine": false} {
		img, err := s.Tag(ctx, ns, "alpine", dst, force)
		if err != nil || img.Name != dst || img.Target.Digest != desc("m").Digest || img.State != metadata.Complete {
			t.Errorf("tag %s: got %+v, %v", dst, img, err)
		}
	}
	edges, err := s.ReferencedBy(ctx, desc("m").Digest)
	want := []metadata.Edge{
		{Place: "target", Namespace: ns, Image: "alpine"}, {Place: "target", Namespace: ns, Image: "busybox"}, {Place: "target", Namespace: ns, Image: "copy"},
	}
	if diff := cmp.Diff(want, edges); err != nil || diff != "" {
		t.Errorf("names of m: %v (-want +got):\n%s", err, diff)
	}

	missing, err := s.RemoveImages(ctx, ns, "alpine", "none", "copy")
	if err != nil || !slices.Equal(missing, []string{"none"}) {
		t.Errorf("remove: got %v, %v, want none not there", missing, err)
	}
	list, err := s.Images(ctx, ns)
	if err != nil || len(list) != 1 || list[0].Name != "busybox" {
		t.Errorf("images: got %v, %v, want busybox", list, err)
	}
	if list, err := s.Images(ctx, "other"); err != nil || len(list) != 0 {
		t.Errorf("images of another namespace: got %v, %v", list, err)
	}
}

func TestLabels(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	set := map[string]string{"a": "1", "b": "2"}
	if _, err := s.LabelImage(ctx, ns, "alpine", set); err != nil {
		t.Fatal(err)
	}
	img, err := s.LabelImage(ctx, ns, "alpine", map[string]string{"a": "", "c": "3"})
	want := map[string]string{"b": "2", "c": "3"}
	if diff := cmp.Diff(want, img.Labels); err != nil || diff != "" {
		t.Errorf("image: %v (-want +got):\n%s", err, diff)
	}
	d := desc("l0").Digest
	if _, err := s.LabelBlob(ctx, ns, d, set); err != nil {
		t.Fatal(err)
	}
	labelled := blob("l0")
	labelled.Labels = map[string]string{"c": "3", "a": ""}
	apply(t, s, ns, metadata.Batch{Blobs: []metadata.Blob{labelled}})
	if b, err := s.Blob(ctx, ns, d); err != nil || cmp.Diff(want, b.Labels) != "" {
		t.Errorf("blob: got %v, %v, want %v", b.Labels, err, want)
	}
	if b, err := s.RelabelBlob(ctx, ns, d, map[string]string{"c": "3", "d": ""}); err != nil || cmp.Diff(map[string]string{"c": "3"}, b.Labels) != "" {
		t.Errorf("other labels instead: got %v, %v", b.Labels, err)
	}
	if _, err := s.RelabelBlob(ctx, "other", d, set); !errdefs.IsNotFound(err) {
		t.Errorf("other labels for an unknown blob: got %v, want %v", err, errdefs.ErrNotFound)
	}
	if _, err := s.LabelBlob(ctx, "other", d, set); !errdefs.IsNotFound(err) {
		t.Errorf("blob that another namespace knows: got %v, want not found", err)
	}
	if _, err := s.LabelImage(ctx, ns, "alpine", map[string]string{"": "x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("label without a key: got %v, want invalid argument", err)
	}
}

func TestReads(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	d := desc("l0").Digest
	for _, prefix := range []string{d.String(), d.String()[:13], d.String()[:14], d.Encoded()[:6], d.Encoded()[:7], d.Encoded()} {
		if got, err := s.BlobsByPrefix(ctx, ns, prefix); err != nil || len(got) != 1 || got[0].Digest != d {
			t.Errorf("blobs by %q: got %v, %v, want %s", prefix, got, err, d)
		}
	}
	target := desc("m").Digest
	for _, prefix := range []string{target.String(), target.Encoded()[:6], target.Encoded()[:7]} {
		if got, err := s.ImagesByPrefix(ctx, ns, prefix); err != nil || len(got) != 1 || got[0].Name != "alpine" {
			t.Errorf("images by %q: got %v, %v, want alpine", prefix, got, err)
		}
		if got, err := s.ImagesByPrefix(ctx, "other", prefix); err != nil || len(got) != 0 {
			t.Errorf("images of another namespace by %q: got %v, %v", prefix, got, err)
		}
	}
	digit := "0"
	if d.Encoded()[6] == '0' {
		digit = "1"
	}
	for _, prefix := range []string{
		d.Encoded()[:6] + digit, strings.ToUpper(d.Encoded()), d.String() + "0", d.String() + "00",
		"sha512:" + d.Encoded()[:6], "md5:" + d.Encoded()[:6], "sha2", "x", "x0",
	} {
		if got, err := s.BlobsByPrefix(ctx, ns, prefix); err != nil || len(got) != 0 {
			t.Errorf("blobs by %q: got %v, %v, want none", prefix, got, err)
		}
	}
	if _, err := s.Blob(ctx, ns, image.Digest("sha256:"+strings.ToUpper(d.Encoded()))); !errdefs.IsNotFound(err) {
		t.Errorf("blob by a digest in capitals: got %v, want not found", err)
	}
	if got, err := s.ImagesByPrefix(ctx, ns, d.String()); err != nil || len(got) != 0 {
		t.Errorf("images by a layer: got %v, %v", got, err)
	}
	has, err := s.HasBlobs(ctx, d, desc("none").Digest)
	if err != nil || !has[d] || has[desc("none").Digest] {
		t.Errorf("has: got %v, %v", has, err)
	}
	doc, err := s.Document(ctx, target)
	if diff := cmp.Diff(manifest("m", "c", "l0", "l1"), doc); err != nil || diff != "" {
		t.Errorf("document: %v (-want +got):\n%s", err, diff)
	}
	if _, err := s.Document(ctx, d); !errdefs.IsNotFound(err) {
		t.Errorf("document of a layer: got %v, want not found", err)
	}
	edges, err := s.ReferencedBy(ctx, d)
	if diff := cmp.Diff([]metadata.Edge{{Parent: target, Place: "layer 0"}}, edges); err != nil || diff != "" {
		t.Errorf("referenced by: %v (-want +got):\n%s", err, diff)
	}
	list, err := s.Blobs(ctx, ns)
	if err != nil || len(list) != 4 || !slices.IsSortedFunc(list, func(a, b metadata.Blob) int { return strings.Compare(string(a.Digest), string(b.Digest)) }) {
		t.Errorf("blobs: got %v, %v, want 4 by digest", list, err)
	}
}

func TestNamespaces(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	if err := s.CreateNamespace(ctx, "b", map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateNamespace(ctx, "b", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("twice: got %v, want already exists", err)
	}
	if err := s.LabelNamespace(ctx, "b", map[string]string{"k": "", "l": "w"}); err != nil {
		t.Fatal(err)
	}
	list, err := s.Namespaces(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "b" || list[0].Labels["l"] != "w" || list[1].Name != ns {
		t.Errorf("namespaces: got %v, %v, want b and default", list, err)
	}
	if err := s.DeleteNamespace(ctx, ns); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete one that is not empty: got %v, want failed precondition", err)
	}
	if err := s.DeleteNamespace(ctx, "b"); err != nil {
		t.Errorf("delete: %v", err)
	}
	for name, err := range map[string]error{"delete": s.DeleteNamespace(ctx, "b"), "label": s.LabelNamespace(ctx, "b", nil)} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s one that is gone: got %v, want not found", name, err)
		}
	}
	must(t, s.PutNamespace(ctx, "b", map[string]string{"k": "v"}, false))
	must(t, s.PutNamespace(ctx, "b", map[string]string{"l": "w"}, false))
	if list, err := s.Namespaces(ctx); err != nil || len(list) != 2 || len(list[0].Labels) != 2 {
		t.Errorf("put: got %v, %v, want b with both labels", list, err)
	}
	must(t, s.PutNamespace(ctx, "b", map[string]string{"l": "x"}, true))
	if list, err := s.Namespaces(ctx); err != nil || len(list[0].Labels) != 1 || list[0].Labels["l"] != "x" {
		t.Errorf("put whole: got %v, %v, want b with one label", list, err)
	}
	if err := s.PutNamespace(ctx, "../b", nil, true); !errdefs.IsInvalidArgument(err) {
		t.Errorf("put a bad name: got %v, want invalid argument", err)
	}
}

func TestRemoveBlob(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	l0 := desc("l0").Digest
	err := s.RemoveBlob(ctx, ns, l0, false)
	if want := "needed by image alpine"; !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("needed: got %v, want %q in it", err, want)
	}
	apply(t, s, "other", metadata.Batch{Blobs: blobs("l0", "free")})
	if err := s.RemoveBlob(ctx, "other", l0, false); err != nil {
		t.Errorf("needed, but not by this namespace: %v", err)
	}
	wantStates(t, s, "alpine", "complete =complete")
	if _, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "keep", Digests: []image.Digest{desc("free").Digest}}); err != nil {
		t.Fatal(err)
	}
	err = s.RemoveBlob(ctx, "other", desc("free").Digest, false)
	if want := "needed by lease keep"; !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("leased in another namespace: got %v, want %q in it", err, want)
	}

	if err := s.RemoveBlob(ctx, ns, l0, true); err != nil {
		t.Fatal(err)
	}
	img := wantStates(t, s, "alpine", "partial =partial")
	if got := img.Platforms[0].Missing; len(got) != 1 || got[0].Digest != l0 {
		t.Errorf("missing: got %v, want l0", got)
	}
	if has, err := s.HasBlobs(ctx, l0); err != nil || has[l0] {
		t.Errorf("removed: got %v, %v, want it absent", has, err)
	}
	if err := s.RemoveBlob(ctx, ns, l0, true); !errdefs.IsNotFound(err) {
		t.Errorf("twice: got %v, want not found", err)
	}
	if _, err := s.Apply(ctx, ns, metadata.Batch{Blobs: blobs("l0")}); !errdefs.IsUnavailable(err) {
		t.Errorf("apply while its bytes are being deleted: got %v, want unavailable", err)
	}
	hold, err := s.Hold(ctx, ns, l0)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, ns, metadata.Batch{Blobs: blobs("l0"), Release: hold})
	wantStates(t, s, "alpine", "complete =complete")
}

// A signature is not needed by what it signs.
func TestRemoveReferrer(t *testing.T) {
	s := newStore(t)
	alpine(t, s)
	signature, subject := manifest("sig", "sc"), desc("m")
	signature.Subject = &subject
	apply(t, s, ns, metadata.Batch{Blobs: blobs("sig", "sc"), Documents: []metadata.Document{signature}})
	edges, err := s.ReferencedBy(t.Context(), desc("m").Digest)
	if err != nil || len(edges) != 2 || edges[0].Place != "subject" {
		t.Errorf("referenced by: got %v, %v, want the referrer and the image", edges, err)
	}
	if err := s.RemoveBlob(t.Context(), ns, desc("sig").Digest, false); err != nil {
		t.Error(err)
	}
}

func TestRecheck(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	alpine(t, s)
	if _, err := s.Tag(ctx, ns, "alpine", "copy", false); err != nil {
		t.Fatal(err)
	}
	gone := []image.Digest{desc("l1").Digest, desc("m").Digest}
	img, err := s.Recheck(ctx, ns, "alpine", gone)
	if err != nil || img.State != metadata.Partial || len(img.Platforms[0].Missing) != 2 {
		t.Errorf("recheck: got %+v, %v, want two blobs missing", img, err)
	}
	wantStates(t, s, "copy", "partial =partial")
	apply(t, s, ns, metadata.Batch{Blobs: blobs("l1", "m")})
	wantStates(t, s, "alpine", "complete =complete")
	wantStates(t, s, "copy", "complete =complete")
	if _, err := s.Recheck(ctx, ns, "none", gone); !errdefs.IsNotFound(err) {
		t.Errorf("no such image: got %v, want not found", err)
	}
}

// One record that does not decode is listed, breaks nothing, and can be removed or replaced.
func TestDamagedRecord(t *testing.T) {
	db := mem.New()
	s, ctx := metadata.New(db, t.TempDir()), t.Context()
	alpine(t, s)
	for _, name := range []string{"bad", "worse"} {
		if _, err := s.Tag(ctx, ns, "alpine", name, false); err != nil {
			t.Fatal(err)
		}
		err := db.Update(ctx, func(w kv.Writer) error { return w.Put([]byte("i/default\x00"+name), []byte("{")) })
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Images(ctx, ns)
	if err != nil || len(list) != 3 || list[1].Name != "bad" || list[1].State != metadata.Partial || list[1].Target.Digest != "" {
		t.Errorf("list: got %+v, %v, want bad in it", list, err)
	}
	if _, err := s.Image(ctx, ns, "bad"); !errdefs.IsDataLoss(err) {
		t.Errorf("image: got %v, want data loss", err)
	}
	apply(t, s, ns, metadata.Batch{Images: []metadata.PutImage{put("bad", "m")}})
	wantStates(t, s, "bad", "complete =complete")
	if missing, err := s.RemoveImages(ctx, ns, "worse"); err != nil || len(missing) != 0 {
		t.Errorf("remove: got %v, %v", missing, err)
	}
	if edges, err := s.ReferencedBy(ctx, desc("m").Digest); err != nil || len(edges) != 2 {
		t.Errorf("names of m: got %v, %v, want alpine and bad", edges, err)
	}
}

func TestLeases(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	kept := metadata.Lease{ID: "a", Digests: []image.Digest{desc("x").Digest}, Labels: map[string]string{"k": "v"}}
	if _, err := s.CreateLease(ctx, ns, kept); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateLease(ctx, ns, kept); !errdefs.IsAlreadyExists(err) {
		t.Errorf("twice: got %v, want already exists", err)
	}
	if _, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "old", ExpiresAt: time.Now().Add(-time.Second)}); err != nil {
		t.Fatal(err)
	}
	if l, err := s.CreateLease(ctx, "other", metadata.Lease{}); err != nil || l.ID == "" {
		t.Errorf("without an ID: got %+v, %v", l, err)
	}
	list, err := s.Leases(ctx, ns)
	if err != nil || len(list) != 1 || list[0].ID != "a" || list[0].Labels["k"] != "v" {
		t.Errorf("leases: got %v, %v, want a", list, err)
	}
	hold, err := s.Hold(ctx, ns, desc("y").Digest)
	if err != nil {
		t.Fatal(err)
	}
	list, err = s.Leases(ctx, ns)
	if err != nil || len(list) != 2 {
		t.Fatalf("leases beside a hold: got %v, %v, want two", list, err)
	}
	for _, l := range list {
		if err := s.DeleteLease(ctx, ns, l.ID); errdefs.IsFailedPrecondition(err) != (l.Holder != "") || l.Holder == "" && err != nil {
			t.Errorf("delete %+v: got %v", l, err)
		}
	}
	if err := hold.Release(ctx); err != nil {
		t.Error(err)
	}
	if err := s.DeleteLease(ctx, ns, "a"); !errdefs.IsNotFound(err) {
		t.Errorf("deleted twice: got %v, want not found", err)
	}
	if _, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "no\x00zero"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad ID: got %v, want invalid argument", err)
	}
}

func holders(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestHold(t *testing.T) {
	dir := t.TempDir()
	s, ctx := metadata.New(mem.New(), dir), t.Context()
	apply(t, s, ns, metadata.Batch{Blobs: blobs("a", "b")})
	a, b := desc("a").Digest, desc("b").Digest
	hold, err := s.Hold(ctx, ns, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Add(ctx, b); err != nil {
		t.Fatal(err)
	}
	for _, d := range []image.Digest{a, b} {
		if err := s.RemoveBlob(ctx, ns, d, true); !errdefs.IsUnavailable(err) {
			t.Errorf("remove what is held: got %v, want unavailable", err)
		}
	}
	if list, err := s.Leases(ctx, ns); err != nil || len(list) != 1 || len(list[0].Digests) != 2 {
		t.Errorf("leases: got %v, %v, want the hold", list, err)
	}
	for range 2 {
		if err := hold.Release(ctx); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if got := holders(t, dir); len(got) != 0 {
		t.Errorf("lock files afterwards: got %v, want none", got)
	}
	if err := hold.Add(ctx, a); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("add after release: got %v, want failed precondition", err)
	}
	if err := s.RemoveBlob(ctx, ns, a, false); err != nil {
		t.Errorf("remove after release: %v", err)
	}

	hold, err = s.Hold(ctx, ns, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, ns, metadata.Batch{Images: []metadata.PutImage{put("x", "none")}, Release: hold}); err == nil {
		t.Error("a batch that must be refused was applied")
	}
	if list, err := s.Leases(ctx, ns); err != nil || len(list) != 1 {
		t.Errorf("after a refused batch: got %v, %v, want the hold to go on", list, err)
	}
	apply(t, s, ns, metadata.Batch{Release: hold})
	if list, err := s.Leases(ctx, ns); err != nil || len(list) != 0 || len(holders(t, dir)) != 0 {
		t.Errorf("after the batch: got %v, %v, want no hold", list, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Hold(cancelled, ns, b); err == nil || len(holders(t, dir)) != 0 {
		t.Errorf("hold under an ended context: got %v and %v, want an error and no lock file", err, holders(t, dir))
	}
}

// Who holds nothing in particular holds everything.
func TestHoldAll(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	apply(t, s, ns, metadata.Batch{Blobs: blobs("a", "b")})
	if err := s.RemoveBlob(ctx, ns, desc("a").Digest, false); err != nil {
		t.Fatal(err)
	}
	hold, err := s.Hold(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Add(ctx, desc("c").Digest); err != nil {
		t.Fatal(err)
	}
	stray := []metadata.Garbage{{Digest: desc("stray").Digest, Size: 10}}
	if f, err := s.Garbage(ctx, stray); err != nil || len(f.Blobs) != 0 {
		t.Errorf("garbage: got %v, %v, want none", f, err)
	}
	if err := s.RemoveBlob(ctx, ns, desc("b").Digest, true); !errdefs.IsUnavailable(err) {
		t.Errorf("remove: got %v, want unavailable", err)
	}
	apply(t, s, ns, metadata.Batch{Blobs: blobs("a"), Release: hold})
	if f, err := s.Garbage(ctx, stray); err != nil || len(f.Blobs) != 3 {
		t.Errorf("garbage afterwards: got %v, %v, want all", f, err)
	}
}

// An image cannot be exported without its indexes: the platforms that they lead to are not whole.
func TestLostIndex(t *testing.T) {
	arm, both := manifest("arm", "ac", "al"), index("idx", on("arm", "arm64"), on("amd", "amd64"))
	for _, lost := range []string{"idx", "outer"} {
		s := newStore(t)
		apply(t, s, ns, metadata.Batch{
			Blobs:     blobs("outer", "idx", "arm", "ac", "al"),
			Documents: []metadata.Document{arm, both, index("outer", desc("idx"))},
			Images:    []metadata.PutImage{put("x", "outer")},
		})
		wantStates(t, s, "x", "complete arm64=complete amd64=absent")
		if err := s.RemoveBlob(t.Context(), ns, desc(lost).Digest, true); err != nil {
			t.Fatal(err)
		}
		img := wantStates(t, s, "x", "partial arm64=partial amd64=absent")
		if got := img.Platforms[0].Missing; len(got) != 1 || got[0].Digest != desc(lost).Digest {
			t.Errorf("without %s, missing: %v", lost, got)
		}
	}
}

// What reaches a blob is found, however far up, and in one namespace alone.
func TestImagesAbove(t *testing.T) {
	s := newStore(t)
	both := metadata.Batch{
		Blobs:     blobs("amd64", "arm64", "config", "layer", "other", "index"),
		Documents: []metadata.Document{manifest("amd64", "config", "layer"), manifest("arm64", "other", "layer"), index("index", on("amd64", "amd64"), on("arm64", "arm64"))},
		Images:    []metadata.PutImage{put("multi", "index"), put("again", "index"), put("one", "amd64")},
	}
	apply(t, s, ns, both)
	both.Images = []metadata.PutImage{put("elsewhere", "index")}
	apply(t, s, "other", both)
	for _, tc := range []struct {
		ns, blob string
		want     []string
	}{
		{ns, "config", []string{"again", "multi", "one"}},
		{ns, "layer", []string{"again", "multi", "one"}},
		{ns, "other", []string{"again", "multi"}},
		{ns, "index", []string{"again", "multi"}},
		{ns, "absent", nil},
		{"other", "config", []string{"elsewhere"}},
	} {
		list, err := s.ImagesAbove(t.Context(), tc.ns, desc(tc.blob).Digest)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, img := range list {
			got = append(got, img.Name)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("above %s in %s (-want +got):\n%s", tc.blob, tc.ns, diff)
		}
	}
	if _, err := s.ImagesAbove(t.Context(), ns, "sha256:x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("above what is no digest: %v", err)
	}
}

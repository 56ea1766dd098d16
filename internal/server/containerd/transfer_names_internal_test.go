package containerd

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/images"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// namesTaken is a containerd's image store that remembers what was named.
type namesTaken struct {
	images.Store
	names []string
}

func (n *namesTaken) Create(_ context.Context, img images.Image) (images.Image, error) {
	n.names = append(n.names, img.Name)
	return img, nil
}

// TestImportedNames compares the names that images of archives get with those that containerd gives them.
func TestImportedNames(t *testing.T) {
	d := digest.FromString("a")
	refs := map[string]struct {
		o transferimage.StoreOpt
		r *transfer.ImageReference
	}{
		"prefix":        {transferimage.WithNamedPrefix("docker.io/my/app", false), &transfer.ImageReference{Name: "docker.io/my/app", IsPrefix: true}},
		"default":       {transferimage.WithNamedPrefix("import-1", true), &transfer.ImageReference{Name: "import-1", IsPrefix: true, AllowOverwrite: true}},
		"digests":       {transferimage.WithDigestRef("docker.io/my/app", false, false), &transfer.ImageReference{Name: "docker.io/my/app", IsPrefix: true, AddDigest: true}},
		"digests alone": {transferimage.WithDigestRef("import-1", true, true), &transfer.ImageReference{Name: "import-1", IsPrefix: true, AllowOverwrite: true, AddDigest: true, SkipNamedDigest: true}},
		"whole name":    {transferimage.WithExtraReference("docker.io/my/app:1"), &transfer.ImageReference{Name: "docker.io/my/app:1"}},
	}
	for about, c := range refs {
		for _, called := range []struct{ name, tag string }{
			{"", ""}, {"", "v1"}, {"docker.io/my/app:v1", ""}, {"docker.io/my/app/sub:v1", ""}, {"docker.io/my/application:v1", ""}, {"docker.io/other:v1", ""},
		} {
			t.Run(fmt.Sprintf("%s %s%s", about, called.name, called.tag), func(t *testing.T) {
				annotations := map[string]string{"io.containerd.import.ref-source": "annotation"}
				if called.name != "" {
					annotations[images.AnnotationImageName] = called.name
				}
				if called.tag != "" {
					annotations[v1.AnnotationRefName] = called.tag
				}
				theirs := &namesTaken{}
				_, err := transferimage.NewStore("", c.o).Store(t.Context(), v1.Descriptor{Digest: d, Annotations: annotations}, theirs)
				if err != nil && !errdefs.IsNotFound(err) {
					t.Fatal(err)
				}
				got := importedNames([]*transfer.ImageReference{c.r}, called.name, called.tag, d)
				if !slices.Equal(got, theirs.names) {
					t.Errorf("got %q, containerd %q", got, theirs.names)
				}
			})
		}
	}
}

// FuzzAuthorization reads what clients give as an Authorization header.
func FuzzAuthorization(f *testing.F) {
	f.Add("Bearer token")
	f.Add("basic bWU6c2VjcmV0")
	f.Add("Basic bWU=")
	f.Add(" ")
	f.Fuzz(func(t *testing.T, value string) {
		c, err := fromHeader(value)
		if is := c.Username != "" || c.RegistryToken != ""; is != (err == nil) {
			t.Errorf("%q: %+v, %v", value, c, err)
		}
	})
}

package image

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// hexes returns a digest made of one hex digit.
func hexes(digit string) Digest { return Digest("sha256:" + strings.Repeat(digit, 64)) }

// desc is a descriptor as JSON.
func desc(mediaType, digit string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":7}`, mediaType, hexes(digit))
}

func manifest(config string, layers ...string) string {
	return `{"schemaVersion":2,"config":` + config + `,"layers":[` + strings.Join(layers, ",") + `]}`
}

func TestParseDocument(t *testing.T) {
	config, layer := desc(OCIConfig, "a"), desc(OCILayer+"+gzip", "b")
	for _, tt := range []struct {
		name, in, mediaType string
		index, image        bool
		children            int
	}{
		{"OCI manifest", manifest(config, layer), OCIManifest, false, true, 2},
		{"Docker manifest", `{"schemaVersion":2,"mediaType":"` + DockerManifest + `","config":` + desc(DockerConfig, "a") + `,"layers":[` + layer + `,` + layer + `]}`, DockerManifest, false, true, 3},
		{"config of Docker 1.9", manifest(desc(octetStream, "a"), layer), OCIManifest, false, true, 2},
		{"no layers", manifest(config), OCIManifest, false, true, 1},
		{"layers null", `{"schemaVersion":2,"config":` + config + `,"layers":null}`, OCIManifest, false, true, 1},
		{"a type of its own", `{"schemaVersion":2,"mediaType":"application/x","config":` + config + `}`, "application/x", false, true, 1},
		{"OCI index", `{"schemaVersion":2,"manifests":[` + desc(OCIManifest, "c") + `]}`, OCIIndex, true, false, 1},
		{"empty index", `{"schemaVersion":2,"manifests":[]}`, OCIIndex, true, false, 0},
		{"Docker list", `{"schemaVersion":2,"mediaType":"` + DockerManifestList + `","manifests":[` + desc(DockerManifest, "c") + `]}`, DockerManifestList, true, false, 1},
		{"index in an index", `{"schemaVersion":2,"manifests":[` + desc(OCIIndex, "c") + `]}`, OCIIndex, true, false, 1},
		{"artifact", `{"schemaVersion":2,"artifactType":"application/spdx+json","config":` + desc("application/vnd.oci.empty.v1+json", "a") + `,"layers":[` + desc("application/spdx+json", "b") + `],"subject":` + desc(OCIManifest, "d") + `}`, OCIManifest, false, false, 2},
		{"artifact of a config type", manifest(desc("application/vnd.cncf.helm.config.v1+json", "a"), layer), OCIManifest, false, false, 2},
		{"signature with an image's config", manifest(config, desc("application/vnd.dev.cosign.simplesigning.v1+json", "b")), OCIManifest, false, false, 2},
		{"free keys that differ by case", `{"schemaVersion":2,"manifests":[],"annotations":{"a":"1","A":"2"}}`, OCIIndex, true, false, 0},
		{"embedded data", `{"schemaVersion":2,"config":{"mediaType":"x","digest":"` + string(hexes("a")) + `","size":2,"data":"e30="},"layers":[]}`, OCIManifest, false, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doc, err := ParseDocument([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if doc.MediaType != tt.mediaType || doc.Index != tt.index || doc.IsImage() != tt.image {
				t.Errorf("got type %s, index %t, image %t; want %s, %t, %t", doc.MediaType, doc.Index, doc.IsImage(), tt.mediaType, tt.index, tt.image)
			}
			children := slices.Collect(doc.Children())
			if len(children) != tt.children {
				t.Errorf("got %d children, want %d", len(children), tt.children)
			}
			for _, c := range children {
				if c.Data != nil {
					t.Errorf("%s %d: embedded data was kept", c.Place, c.Index)
				}
			}
		})
	}
}

func TestParseDocumentRefuses(t *testing.T) {
	config, layer := desc(OCIConfig, "a"), desc(OCILayer, "b")
	good := manifest(config, layer)
	for _, tt := range []struct {
		name, in, reason string
		kind             error
	}{
		{"nothing", ``, "not JSON", nil},
		{"not JSON", `hello`, "not JSON", nil},
		{"cut short", good[:len(good)-1], "not JSON", nil},
		{"trailing data", good + `{}`, "after top-level value", nil},
		{"not an object", `[]`, "not an object", nil},
		{"null", `null`, "neither a manifest nor an index", nil},
		{"not UTF-8", strings.Replace(good, "schema", "sch\xff", 1), "not UTF-8", nil},
		{"too large", good + strings.Repeat(" ", MaxDocument), "more than the limit", nil},
		{"schema 1", `{"schemaVersion":1,"name":"x","fsLayers":[]}`, "Docker schema 1", errdefs.ErrNotImplemented},
		{"schema 1 by type", `{"schemaVersion":1,"mediaType":"` + dockerSchema1Signed + `"}`, "Docker schema 1", errdefs.ErrNotImplemented},
		{"ORAS artifact", `{"mediaType":"` + orasArtifact + `","blobs":[]}`, "artifact manifest", errdefs.ErrNotImplemented},
		{"ORAS artifact by shape", `{"blobs":[]}`, "artifact manifest", errdefs.ErrNotImplemented},
		{"no schemaVersion", `{"config":` + config + `,"layers":[]}`, "schemaVersion is 0", nil},
		{"schemaVersion 3", strings.Replace(good, `:2`, `:3`, 1), "schemaVersion is 3", nil},
		{"schemaVersion a string", strings.Replace(good, `:2`, `:"2"`, 1), "schemaVersion cannot be a string", nil},
		{"neither", `{"schemaVersion":2}`, "neither a manifest nor an index", nil},
		{"both", `{"schemaVersion":2,"manifests":[],"config":` + config + `}`, "both a manifest and an index", nil},
		{"both, with layers", `{"schemaVersion":2,"manifests":[],"layers":[]}`, "both a manifest and an index", nil},
		{"both, by another case", `{"schemaVersion":2,"manifests":[],"Layers":[]}`, "both a manifest and an index", nil},
		{"no config", `{"schemaVersion":2,"layers":[]}`, "without config", nil},
		{"says index, is manifest", `{"schemaVersion":2,"mediaType":"` + OCIIndex + `","config":` + config + `}`, "mediaType says index", nil},
		{"says manifest, is index", `{"schemaVersion":2,"mediaType":"` + DockerManifest + `","manifests":[]}`, "mediaType says manifest", nil},
		{"key twice", `{"schemaVersion":2,"manifests":[],"manifests":[]}`, `"manifests" stands twice`, nil},
		{"key twice, escaped", `{"schemaVersion":2,"manifests":[],"manifest\u0073":[]}`, `"manifests" stands twice`, nil},
		{"key twice below", strings.Replace(good, `"size":7`, `"size":7,"size":8`, 1), `"size" stands twice`, nil},
		{"key twice in annotations", `{"schemaVersion":2,"manifests":[],"annotations":{"a":"1","a":"2"}}`, `"a" stands twice`, nil},
		{"keys differ by case", `{"schemaVersion":2,"manifests":[],"Manifests":[]}`, "differ only by case", nil},
		{"keys differ by Unicode case", `{"schemaVersion":2,"manifests":[],"manifeſts":[]}`, "differ only by case", nil},
		{"empty digest", strings.Replace(good, string(hexes("b")), "", 1), "layers[0]: the digest is empty", nil},
		{"short digest", strings.Replace(good, string(hexes("a")), "sha256:abc", 1), "config: invalid argument: digest", nil},
		{"capital digest", strings.Replace(good, string(hexes("a")), string(hexes("A")), 1), "config: invalid argument: digest", nil},
		{"unknown algorithm", strings.Replace(good, "sha256:", "md5:", 1), "unsupported digest algorithm", nil},
		{"sha384", strings.Replace(good, string(hexes("a")), "sha384:"+strings.Repeat("a", 96), 1), "unsupported digest algorithm", nil},
		{"negative size", strings.Replace(good, `"size":7`, `"size":-7`, 1), "is negative", nil},
		{"huge size", strings.Replace(good, `"size":7`, `"size":1e30`, 1), "cannot be a number", nil},
		{"bad subject", strings.Replace(good, `{`, `{"subject":{},`, 1), "subject: the digest is empty", nil},
		{"bad manifest", `{"schemaVersion":2,"manifests":[{}]}`, "manifests[0]: the digest is empty", nil},
		{"too many", `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", maxEntries) + `{}]}`, "a list of more than", nil},
		{"too deep", `{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "nested more than", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kind := tt.kind
			if kind == nil {
				kind = errdefs.ErrInvalidArgument
			}
			doc, err := ParseDocument([]byte(tt.in))
			if !errors.Is(err, kind) || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("got %+v, %v; want %v and %q", doc, err, kind, tt.reason)
			}
		})
	}
}

func TestTooManyKeys(t *testing.T) {
	var b strings.Builder
	for i := range maxEntries + 1 {
		fmt.Fprintf(&b, `"k%d":"",`, i)
	}
	_, err := ParseDocument([]byte(`{"schemaVersion":2,"manifests":[],"annotations":{` + b.String() + `"z":""}}`))
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "keys") {
		t.Errorf("got %v, want a limit on keys", err)
	}
}

// The config and layers of an image built by Docker 1.9 are what their places say.
func TestOctetStreamConfig(t *testing.T) {
	b, err := os.ReadFile("testdata/redis-2.8.23.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := ParseDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	if !doc.IsImage() {
		t.Error("not taken for an image")
	}
	var places []string
	for c := range doc.Children() {
		places = append(places, fmt.Sprint(c.Place, c.Index))
	}
	if want := []string{"config0", "layer0", "layer1"}; !slices.Equal(places, want) {
		t.Errorf("got places %v, want %v", places, want)
	}
	for c := range doc.Children() { // and the caller may stop early
		if c.Place == PlaceLayer {
			break
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	redis, err := os.ReadFile("testdata/redis-2.8.23.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(redis)
	f.Add([]byte(manifest(desc(OCIConfig, "a"), desc(OCILayer, "b"))))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[` + desc(OCIManifest, "c") + `],"subject":` + desc(OCIManifest, "d") + `}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[],"Layers":[]}`))
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := ParseDocument(b)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if doc.Index == (doc.Config != nil) || doc.Index && doc.Layers != nil || !doc.Index && doc.Manifests != nil {
			t.Errorf("neither or both: %+v", doc)
		}
		for c := range doc.Children() {
			if err := CheckDescriptor(c.Descriptor); err != nil {
				t.Errorf("%s %d: %v", c.Place, c.Index, err)
			}
			if doc.Index != (c.Place == PlaceManifest) {
				t.Errorf("a %s in %+v", c.Place, doc)
			}
		}
	})
}

package ref

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

var (
	sha256 = "sha256:" + strings.Repeat("a", 64)
	sha512 = "sha512:" + strings.Repeat("b", 128)
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ in, whole, familiar, registry, repository, tag, digest string }{
		{"alpine", "docker.io/library/alpine:latest", "alpine:latest", "docker.io", "library/alpine", "latest", ""},
		{"alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20", "docker.io", "library/alpine", "3.20", ""},
		{"index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest", "docker.io", "library/alpine", "latest", ""},
		{"a/b", "docker.io/a/b:latest", "a/b:latest", "docker.io", "a/b", "latest", ""},
		{"quay.io/a/b/c:V1_x", "quay.io/a/b/c:V1_x", "quay.io/a/b/c:V1_x", "quay.io", "a/b/c", "V1_x", ""},
		{"localhost/a", "localhost/a:latest", "localhost/a:latest", "localhost", "a", "latest", ""},
		{"127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b", "127.0.0.1:5000", "a", "b", ""},
		{"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest", "[::1]:5000", "a", "latest", ""},
		{"alpine@" + sha256, "docker.io/library/alpine@" + sha256, "alpine@" + sha256, "docker.io", "library/alpine", "", sha256},
		{"alpine@" + sha512, "docker.io/library/alpine@" + sha512, "alpine@" + sha512, "docker.io", "library/alpine", "", sha512},
		{"a:b@" + sha256, "docker.io/library/a:b@" + sha256, "a:b@" + sha256, "docker.io", "library/a", "b", sha256},
	} {
		r, err := Parse(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := r.String(); got != tt.whole {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.whole)
		}
		if got := r.Familiar(); got != tt.familiar {
			t.Errorf("%s: familiar: got %s, want %s", tt.in, got, tt.familiar)
		}
		if r.Registry() != tt.registry || r.Repository() != tt.repository || r.Tag() != tt.tag || r.Digest().String() != tt.digest {
			t.Errorf("%s: got %q, %q, %q, %q", tt.in, r.Registry(), r.Repository(), r.Tag(), r.Digest())
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("%s: read back as %v, %v", r, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, reason := range map[string]string{
		"":                                      "it is empty",
		"https://quay.io/a":                     "scheme",
		"a b":                                   "space",
		"Alpine":                                "lowercase",
		"quay.io/A/b:x":                         "lower",
		"alpine:":                               "a tag is",
		"alpine:-x":                             "a tag is",
		"alpine:" + strings.Repeat("x", 129):    "a tag is",
		"alpine@sha256:abc":                     "not a digest",
		sha256:                                  "it is a digest without a name",
		"alpine@":                               "not a digest",
		"alpine@md5:" + strings.Repeat("a", 32): "digest",
		"a@sha384:" + strings.Repeat("a", 96):   "unsupported digest algorithm",
		"quay.io//a":                            "empty",
		"quay.io/a/":                            "empty",
		"a--.b":                                 "made of",
		strings.Repeat("a", 64):                 "hexadecimal",
		strings.Repeat("a/", 150) + "a":         "more than",
	} {
		r, err := Parse(in)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%.60q: got %v, %v; want %q", in, r, err, reason)
		}
	}
}

func TestWith(t *testing.T) {
	r, err := Parse("alpine")
	if err != nil {
		t.Fatal(err)
	}
	tagged, err := r.WithTag("edge")
	if err != nil || tagged.String() != "docker.io/library/alpine:edge" {
		t.Errorf("got %s, %v", tagged, err)
	}
	both, err := tagged.WithDigest(digest.Digest(sha256))
	if err != nil || both.String() != "docker.io/library/alpine:edge@"+sha256 {
		t.Errorf("got %s, %v", both, err)
	}
	if got := both.WithoutDigest(); got != tagged {
		t.Errorf("got %s, want %s", got, tagged)
	}
	bare, err := Parse("alpine@" + sha256)
	if err != nil {
		t.Fatal(err)
	}
	if got := bare.WithoutDigest(); got != r {
		t.Errorf("got %s, want %s", got, r)
	}
	if both.Name() != "docker.io/library/alpine" || (Reference{}).String() != "" {
		t.Errorf("got name %q, and %q for nothing", both.Name(), Reference{})
	}
	if _, err := r.WithTag("no tag"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad tag: got %v", err)
	}
	for _, d := range []string{"", "sha256:1", "sha384:" + strings.Repeat("a", 96)} {
		if _, err := r.WithDigest(digest.Digest(d)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("digest %q: got %v", d, err)
		}
	}
}

func TestParseDigestPrefix(t *testing.T) {
	for in, want := range map[string]string{
		"aaaaaa":                 "sha256:aaaaaa",
		"sha256:012def":          "sha256:012def",
		sha256:                   sha256,
		strings.Repeat("a", 64):  sha256,
		sha512:                   sha512,
		"sha512:0123456":         "sha512:0123456",
		"aaaaa":                  "",
		"AAAAAA":                 "",
		"alpine":                 "",
		"sha256:":                "",
		"md5:aaaaaa":             "",
		sha256 + "a":             "",
		strings.Repeat("a", 128): "",
		"sha256:sha256:aaaaaa":   "",
		"":                       "",
	} {
		algorithm, hex, ok := ParseDigestPrefix(in)
		got := ""
		if ok {
			got = algorithm + ":" + hex
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// A reference that is accepted has one normal form, which reads back as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"alpine", "quay.io/a/b:c", "localhost:5000/a@" + sha256, "[::1]:1/a:b@" + sha512, "A", "a//b", "docker.io/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if r.Tag() == "" && r.Digest() == "" {
			t.Errorf("%q: neither tag nor digest", s)
		}
		for _, form := range []string{r.String(), r.Familiar()} {
			if again, err := Parse(form); err != nil || again != r {
				t.Errorf("%q: %s reads back as %v, %v", s, form, again, err)
			}
		}
	})
}

func FuzzParseDigestPrefix(f *testing.F) {
	f.Add(sha256)
	f.Add("aaaaaa")
	f.Fuzz(func(t *testing.T, s string) {
		algorithm, hex, ok := ParseDigestPrefix(s)
		if ok && !strings.HasSuffix(s, hex) || !ok && algorithm+hex != "" {
			t.Errorf("%q: got %q, %q, %t", s, algorithm, hex, ok)
		}
	})
}

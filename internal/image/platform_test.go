package image

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64":                       "linux/amd64",
		"Linux/x86_64":                      "linux/amd64",
		"linux/amd64/v1":                    "linux/amd64",
		"linux/amd64/v3":                    "linux/amd64/v3",
		"linux/aarch64":                     "linux/arm64",
		"linux/arm64/v8":                    "linux/arm64",
		"linux/arm":                         "linux/arm/v7",
		"linux/armhf":                       "linux/arm/v7",
		"linux/arm/v6":                      "linux/arm/v6",
		"windows(10.0.17763.1)/amd64":       "windows(10.0.17763.1)/amd64",
		"arm64":                             runtime.GOOS + "/arm64",
		"":                                  "",
		"linux/*":                           "",
		"a/b/c/d":                           "",
		"linux/amd 64":                      "",
		"no-such-thing":                     "",
		"linux/" + strings.Repeat("a", 300): "",
	} {
		p, err := ParsePlatform(in)
		if want == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%.40q: got %v, %v; want invalid argument", in, p, err)
			}
			continue
		}
		if got := FormatPlatform(p); err != nil || got != want {
			t.Errorf("%q: got %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestFormatPlatform(t *testing.T) {
	for want, p := range map[string]Platform{
		"unknown":          {Architecture: "amd64"},
		"linux/arm64":      {OS: "linux", Architecture: "aarch64", Variant: "v8"},
		"linux/a?[31md?64": {OS: "linux", Architecture: "a\x1b[31md\n64"},
	} {
		if got := FormatPlatform(p); got != want {
			t.Errorf("%+v: got %q, want %q", p, got, want)
		}
	}
}

func TestHost(t *testing.T) {
	p := Host()
	if p.OS != runtime.GOOS || p.Architecture != runtime.GOARCH {
		t.Errorf("got %+v", p)
	}
	if !Match([]Platform{p}, p) {
		t.Error("the host does not match itself")
	}
}

func platform(t testing.TB, s string) Platform {
	t.Helper()
	p, err := ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// index makes the manifests of an index: the nth has a digest of n times the digit n, and "-"
// leaves the platform out.
func index(t testing.TB, names ...string) []Descriptor {
	t.Helper()
	list := make([]Descriptor, len(names))
	for i, name := range names {
		list[i] = Descriptor{MediaType: OCIManifest, Digest: hexes(string("0123456789abcdef"[i])), Size: 1}
		if name != "-" {
			p := platform(t, name)
			list[i].Platform = &p
		}
	}
	return list
}

func TestChoose(t *testing.T) {
	withFeature := index(t, "linux/amd64", "linux/amd64")
	withFeature[0].Platform.OSFeatures = []string{"erofs"}
	unknown := index(t, "linux/amd64", "linux/amd64")
	unknown[0].Platform.OS, unknown[0].Platform.Architecture = "unknown", "unknown"
	attested := index(t, "linux/amd64", "linux/amd64")
	attested[0].Annotations = map[string]string{annotationKind: "attestation-manifest", annotationSubject: string(hexes("1"))}
	lax := index(t, "linux/amd64", "linux/arm64")
	lax[1].Platform.Variant = "v8"

	for _, tt := range []struct {
		name, want string
		from       []Descriptor
		picks      []int // nil: none fits
	}{
		{"exact", "linux/arm64", index(t, "linux/amd64", "linux/arm64"), []int{1}},
		{"arm64 is v8", "linux/arm64", lax, []int{1}},
		{"first of equals", "linux/amd64", index(t, "linux/arm64", "linux/amd64", "linux/amd64"), []int{1}},
		{"arm v8 runs v7", "linux/arm/v8", index(t, "linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), []int{2}},
		{"arm v6 runs v5", "linux/arm/v6", index(t, "linux/arm/v7", "linux/arm/v5"), []int{1}},
		{"arm v5 runs no v6", "linux/arm/v5", index(t, "linux/arm/v6"), nil},
		{"arm64 v9 runs v8", "linux/arm64/v9", index(t, "linux/arm64"), []int{0}},
		{"amd64 v3 prefers v3", "linux/amd64/v3", index(t, "linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"), []int{2}},
		{"amd64 v3 runs v2", "linux/amd64/v3", index(t, "linux/amd64", "linux/amd64/v2", "linux/amd64/v4"), []int{1}},
		{"amd64 runs no v2", "linux/amd64", index(t, "linux/amd64/v2"), nil},
		{"arm64 is not arm", "linux/arm64", index(t, "linux/arm/v7"), nil},
		{"amd64 is not 386", "linux/amd64", index(t, "linux/386"), nil},
		{"another OS", "linux/amd64", index(t, "windows/amd64"), nil},
		{"unknown ladder, exact", "linux/riscv64/rva23", index(t, "linux/riscv64", "linux/riscv64/rva23"), []int{1}},
		{"unknown ladder, base", "linux/riscv64/rva23", index(t, "linux/riscv64"), []int{0}},
		{"unknown ladder, another", "linux/riscv64/rva23", index(t, "linux/riscv64/rva20"), nil},
		{"Windows build", "windows(10.0.17763.2)/amd64", index(t, "windows(10.0.20348.1)/amd64", "windows(10.0.17763.9)/amd64"), []int{1}},
		{"Windows, exact", "windows(10.0.17763.2)/amd64", index(t, "windows(10.0.17763.9)/amd64", "windows(10.0.17763.2)/amd64"), []int{1}},
		{"Windows, no such build", "windows(10.0.17763.2)/amd64", index(t, "windows(10.0.177.2)/amd64"), nil},
		{"Windows, any build", "windows/amd64", index(t, "windows(10.0.20348.1)/amd64"), []int{0}},
		{"version of another OS", "freebsd(14)/amd64", index(t, "freebsd(13)/amd64", "freebsd(14)/amd64"), []int{1}},
		{"without extra features first", "linux/amd64", withFeature, []int{1}},
		{"with extra features if need be", "linux/amd64", withFeature[:1], []int{0}},
		{"not unknown", "linux/amd64", unknown, []int{1}},
		{"not an attestation", "linux/amd64", attested, []int{1}},
		{"several", "linux/arm64 linux/amd64", index(t, "linux/amd64", "linux/arm64"), []int{1, 0}},
		{"several, the same", "linux/amd64/v3 linux/amd64", index(t, "linux/amd64"), []int{0}},
		{"one is missing", "linux/amd64 linux/s390x", index(t, "linux/amd64"), nil},
		{"says none", "linux/amd64", index(t, "-"), []int{0}},
		{"says none, but another fits", "linux/amd64", index(t, "-", "linux/amd64"), []int{1}},
		{"all", "", attested, []int{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want []Platform
			for _, s := range strings.Fields(tt.want) {
				want = append(want, platform(t, s))
			}
			got, err := Choose(want, tt.from)
			if tt.picks == nil {
				if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "on offer: "+FormatPlatform(*tt.from[0].Platform)) {
					t.Fatalf("got %v, %v; want not found, with what is on offer", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var picks []int
			for _, d := range got {
				picks = append(picks, slices.IndexFunc(tt.from, func(c Descriptor) bool { return c.Digest == d.Digest }))
			}
			if !slices.Equal(picks, tt.picks) {
				t.Errorf("got %v, want %v", picks, tt.picks)
			}
		})
	}
	if _, err := Choose([]Platform{Host()}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("of nothing: got %v", err)
	}
}

func TestMatch(t *testing.T) {
	arm := platform(t, "linux/arm64")
	if !Match(nil, arm) {
		t.Error("no platforms match every one")
	}
	if Match([]Platform{platform(t, "linux/amd64")}, arm) {
		t.Error("amd64 matches arm64")
	}
	if !Match([]Platform{platform(t, "linux/amd64"), arm}, arm) {
		t.Error("the second of two does not match")
	}
}

func TestAttestation(t *testing.T) {
	d := Descriptor{Annotations: map[string]string{annotationKind: "attestation-manifest", annotationSubject: string(hexes("1"))}}
	if !IsAttestation(d) || AttestationSubject(d) != hexes("1") {
		t.Errorf("got %t, %s", IsAttestation(d), AttestationSubject(d))
	}
	d.Annotations[annotationSubject] = "nonsense"
	if got := AttestationSubject(d); got != "" {
		t.Errorf("nonsense: got %q", got)
	}
	if IsAttestation(Descriptor{}) {
		t.Error("nothing is an attestation")
	}
}

// What is formatted parses to the same platform.
func FuzzParsePlatform(f *testing.F) {
	for _, s := range []string{"linux/amd64", "linux/arm/v6", "arm64", "windows(10.0.17763.1)/amd64", "linux/arm64/v8", "linux/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlatform(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		again, err := ParsePlatform(FormatPlatform(p))
		if err != nil || FormatPlatform(again) != FormatPlatform(p) {
			t.Errorf("%q: %s parses as %s, %v", s, FormatPlatform(p), FormatPlatform(again), err)
		}
		if !Match([]Platform{p}, p) {
			t.Errorf("%q does not match itself", s)
		}
	})
}

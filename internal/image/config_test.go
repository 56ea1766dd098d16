package image

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"os":"linux","architecture":"arm64","variant":"v8","os.features":["x"],
		"created":"2016-01-02T03:04:05.678Z","config":{"Labels":{"a":"","A":""},"Volumes":{"/d":{},"/D":{}}},
		"rootfs":{"type":"layers","diff_ids":["` + string(hexes("1")) + `","` + string(hexes("2")) + `"]},
		"history":[{},{"empty_layer":true},{}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := FormatPlatform(c.Platform); got != "linux(+x)/arm64" {
		t.Errorf("got platform %s", got)
	}
	if want := []Digest{hexes("1"), hexes("2")}; !slices.Equal(c.DiffIDs, want) {
		t.Errorf("got diffIDs %v, want %v", c.DiffIDs, want)
	}
	if c.History != 3 || c.Created.Year() != 2016 || !slices.Equal(c.Platform.OSFeatures, []string{"x"}) || len(c.Raw) == 0 {
		t.Errorf("got %+v", c)
	}
}

func TestParseConfigDefaults(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                       "linux/amd64",
		`{"os":"windows"}`:         "windows/amd64",
		`{"architecture":"s390x"}`: "linux/s390x",
		`{"os":"linux","architecture":"x86_64","created":"yesterday"}`: "linux/amd64",
		`{"os":"linux","architecture":"amd64","created":12}`:           "linux/amd64",
	} {
		c, err := ParseConfig([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := FormatPlatform(c.Platform); got != want || !c.Created.IsZero() {
			t.Errorf("%s: got %s, created %v; want %s", in, got, c.Created, want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for in, reason := range map[string]string{
		`x`:                                                               "not JSON",
		`{"os":"linux","OS":"windows"}`:                                   "differ only by case",
		`{"rootfs":{"diff_ids":["sha256:1"]}}`:                            "diff_ids[0]",
		`{"rootfs":{"diff_ids":[7]}}`:                                     "cannot be a number",
		`{"rootfs":{"diff_ids":[],"diff_ids":[]}}`:                        "stands twice",
		`{"config":{"Labels":{"a":"1","a":"2"}}}`:                         "stands twice",
		`{"x":"` + strings.Repeat("x", MaxConfig) + `"}`:                  "more than the limit",
		`{"rootfs":{"diff_ids":["md5:` + strings.Repeat("a", 32) + `"]}}`: "unsupported",
	} {
		_, err := ParseConfig([]byte(in))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%.60s: got %v, want %q", in, err, reason)
		}
	}
}

// Computed with: printf '%s %s' CHAINID DIFFID | sha256sum.
func TestChainIDs(t *testing.T) {
	got := ChainIDs([]Digest{hexes("1"), hexes("2"), hexes("3")})
	want := []Digest{
		hexes("1"),
		"sha256:9932074217c35353d2e03a3f5a86549f7c67bfeb0ba53e23d69f4d4c8f7958f5",
		"sha256:50127c0d6b338be78246434b4bce23ecf75e505158ea0bbd15effeb162fbf3ec",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := ChainIDs(nil); len(got) != 0 {
		t.Errorf("no layers: got %v", got)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"os":"linux","architecture":"arm","variant":"v7","rootfs":{"type":"layers","diff_ids":["` + string(hexes("1")) + `"]},"history":[{}]}`))
	f.Add([]byte(`{"os.version":"10.0.17763.1","os":"windows","created":"2016-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if c.Platform.OS == "" || c.Platform.Architecture == "" {
			t.Errorf("no platform: %+v", c)
		}
		for _, d := range ChainIDs(c.DiffIDs) {
			if err := CheckDigest(d); err != nil {
				t.Error(err)
			}
		}
	})
}

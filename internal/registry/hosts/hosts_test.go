package hosts_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// write makes files below a new folder and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLoadWithoutFiles(t *testing.T) {
	for _, tc := range []struct {
		registry   string
		plain      bool
		url, other string
		skipVerify bool
	}{
		{registry: "docker.io", url: "https://registry-1.docker.io/v2"},
		{registry: "docker.io", plain: true, url: "https://registry-1.docker.io/v2"},
		{registry: "r.example", url: "https://r.example/v2"},
		{registry: "r.example:5000", url: "https://r.example:5000/v2"},
		{registry: "r.example:5000", plain: true, url: "http://r.example:5000/v2"},
		{registry: "localhost", url: "https://localhost/v2", skipVerify: true},
		{registry: "localhost:5000", url: "http://localhost:5000/v2", other: "https", skipVerify: true},
		{registry: "localhost:80", url: "http://localhost:80/v2"},
		{registry: "localhost:443", url: "https://localhost:443/v2", skipVerify: true},
		{registry: "127.1.2.3:5000", url: "http://127.1.2.3:5000/v2", other: "https", skipVerify: true},
		{registry: "[::1]:5000", url: "http://[::1]:5000/v2", other: "https", skipVerify: true},
		{registry: "[::2]:5000", url: "https://[::2]:5000/v2"},
		{registry: "localhost.example:5000", url: "https://localhost.example:5000/v2"},
	} {
		plan, err := hosts.Load(tc.registry, hosts.Options{PlainHTTP: tc.plain, Dirs: []string{t.TempDir(), "/nonexistent"}})
		list := plan.Hosts
		if err != nil || len(list) != 1 {
			t.Fatalf("load %s: %d hosts, %v", tc.registry, len(list), err)
		}
		h := list[0]
		if got := h.URL.String(); got != tc.url || h.OtherScheme != tc.other || h.SkipVerify != tc.skipVerify {
			t.Errorf("%s: got %s, other scheme %q, skip verify %t; want %s, %q, %t",
				tc.registry, got, h.OtherScheme, h.SkipVerify, tc.url, tc.other, tc.skipVerify)
		}
		if h.Capabilities != everything || h.DialTimeout != hosts.DefaultDialTimeout {
			t.Errorf("%s: capabilities %b, dial timeout %s", tc.registry, h.Capabilities, h.DialTimeout)
		}
	}
}

// The first folder that is there counts: each root in turn, and in it the most telling name.
func TestLoadOrder(t *testing.T) {
	one := write(t, map[string]string{
		"r.example_5000_/hosts.toml": `server = "underscores.example"`,
		"r.example:5000/hosts.toml":  `server = "colon.example"`,
		"s.example:5000/hosts.toml":  `server = "s-colon.example"`,
		"empty.example/hosts.toml":   "",
	})
	two := write(t, map[string]string{
		"_default/hosts.toml":   `server = "default.example"`,
		"r.example/hosts.toml":  `server = "portless.example"`,
		"docker.io/hosts.toml":  `[host."https://mirror.example"]`,
		"u.example/hosts.toml":  "[host.\"https://mirror.example\"]\n capabilities = [\"pull\"]",
		"[::2]_443_/hosts.toml": `server = "six.example"`,
	})
	for registry, want := range map[string][]string{
		"r.example:5000": {"https://underscores.example/v2"},
		"s.example:5000": {"https://s-colon.example/v2"},
		"r.example":      {"https://portless.example/v2"},
		"r.example:6000": {"https://default.example/v2"},
		"docker.io":      {"https://mirror.example/v2", "https://registry-1.docker.io/v2"},
		"u.example":      {"https://mirror.example/v2", "https://u.example/v2"},
		"empty.example":  {"https://empty.example/v2"},
		"[::2]:443":      {"https://six.example/v2"},
	} {
		plan, err := hosts.Load(registry, hosts.Options{Dirs: []string{one, two}})
		if err != nil {
			t.Errorf("%s: %v", registry, err)
			continue
		}
		var got []string
		for _, h := range plan.Hosts {
			got = append(got, h.URL.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}

// What is said of certificates for an http URL, or without naming a server, holds for the server.
func TestLoadTLS(t *testing.T) {
	root := write(t, map[string]string{
		"a.example/ca.crt":          "",
		"a.example/me.cert":         "",
		"a.example/me.key":          "",
		"c.example/hosts.toml":      "[host.\"http://m.example:5000\"]\nskip_verify = true\n[host.\"http://n.example:80\"]\nskip_verify = true\n",
		"localhost:5000/ca.crt":     "",
		"d.example/hosts.toml":      "ca = \"x.pem\"\ncapabilities = [\"pull\"]",
		"file.example":              "",
		"broken.example/hosts.toml": "sever = 1",
	})
	load := func(registry string) ([]hosts.Host, error) {
		plan, err := hosts.Load(registry, hosts.Options{Dirs: []string{root}})
		return plan.Hosts, err
	}

	list, err := load("a.example")
	if err != nil || len(list) != 1 {
		t.Fatalf("a.example: %d hosts, %v", len(list), err)
	}
	want := brief{
		URL: "https://a.example/v2", Capabilities: everything, DialTimeout: hosts.DefaultDialTimeout,
		CA:     []string{filepath.Join(root, "a.example/ca.crt")},
		Client: []hosts.KeyPair{{Cert: filepath.Join(root, "a.example/me.cert"), Key: filepath.Join(root, "a.example/me.key")}},
	}
	if diff := cmp.Diff(want, briefs(list)[0]); diff != "" {
		t.Errorf("a.example (-want +got):\n%s", diff)
	}

	list, err = load("c.example")
	if err != nil || len(list) != 3 {
		t.Fatalf("c.example: %d hosts, %v", len(list), err)
	}
	if h := list[0]; h.URL.Scheme != "https" || h.OtherScheme != "http" || !h.SkipVerify {
		t.Errorf("http with TLS settings: %+v", h)
	}
	if h := list[1]; h.URL.Scheme != "http" || h.OtherScheme != "" {
		t.Errorf("http on port 80 with TLS settings: %+v", h)
	}

	list, err = load("localhost:5000")
	if err != nil || len(list) != 1 {
		t.Fatalf("localhost:5000: %d hosts, %v", len(list), err)
	}
	if h := list[0]; h.URL.Scheme != "https" || h.OtherScheme != "http" || h.SkipVerify || len(h.CA) != 1 {
		t.Errorf("localhost with a CA: %+v", h)
	}

	list, err = load("d.example")
	if err != nil || len(list) != 1 {
		t.Fatalf("d.example: %d hosts, %v", len(list), err)
	}
	if h := list[0]; h.URL.Host != "d.example" || len(h.CA) != 1 || h.Capabilities != everything {
		t.Errorf("a file without a server: %+v", h)
	}

	for registry, want := range map[string]string{
		"file.example":   "is not a folder",
		"broken.example": filepath.Join(root, "broken.example/hosts.toml") + `:1: unknown key sever`,
	} {
		if _, err := load(registry); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", registry, err, want)
		}
	}
}

// A host that nobody is to stand in for leaves those after it what it may not be asked for.
func TestLoadFallback(t *testing.T) {
	root := write(t, map[string]string{
		"a.example/hosts.toml": "[host.\"m.example\"]\ncapabilities = [\"pull\", \"resolve\"]\nfallback = false\n[host.\"n.example\"]\ncapabilities = [\"pull\"]\n",
		"b.example/hosts.toml": "[host.\"m.example\"]\nfallback = false\n",
		"c.example/hosts.toml": "fallback = false\n[host.\"m.example\"]\n[host.\"n.example\"]\nfallback = true\n",
	})
	for registry, want := range map[string][]brief{
		"a.example": {{URL: "https://m.example/v2", Capabilities: hosts.Pull | hosts.Resolve}, {URL: "https://a.example/v2", Capabilities: hosts.Push | hosts.Referrers}},
		"b.example": {{URL: "https://m.example/v2", Capabilities: everything}},
		"c.example": {{URL: "https://m.example/v2", Capabilities: everything}, {URL: "https://n.example/v2", Capabilities: everything}},
	} {
		plan, err := hosts.Load(registry, hosts.Options{Dirs: []string{root}})
		if err != nil {
			t.Fatal(err)
		}
		got := briefs(plan.Hosts)
		for i := range got {
			got[i].DialTimeout = 0
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}

func TestRepo(t *testing.T) {
	list, err := hosts.Parse("/d/hosts.toml", []byte(`
[host."https://m.example".rewrite]
"^library/(.*)" = "hub/$1"
"^(.*)/alpine$" = "second/$1"
"^same$" = "same"
"^sa" = "third/sa"
"^bad" = "../bad"
"^tag" = "a:tag"
"^upper" = "UPPER"
"^all.*" = ""
`))
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]string{
		"library/alpine": "hub/alpine", // the second would change it too
		"x/alpine":       "second/x",
		"same":           "third/same",
		"other":          "other",
	} {
		if got, err := list[0].Repo(repo); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", repo, got, err, want)
		}
		if got, err := list[1].Repo(repo); err != nil || got != repo {
			t.Errorf("%s at the registry itself: got %s, %v", repo, got, err)
		}
	}
	for _, repo := range []string{"bad", "tag", "upper", "all"} {
		if got, err := list[0].Repo(repo); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %q, %v, want invalid argument", repo, got, err)
		}
	}
}

func TestLoadPassword(t *testing.T) {
	const auth = "[host.\"m.example\"]\nusername = \"me\"\npassword_file = \"../pass\"\n"
	for _, tc := range []struct{ name, pass, want, err string }{
		{name: "a line", pass: "secret\n", want: "secret"},
		{name: "a line of DOS", pass: "secret\r\n", want: "secret"},
		{name: "no line", pass: " secret ", want: " secret "},
		{name: "one end of a line only", pass: "secret\n\n", want: "secret\n"},
		{name: "nothing", pass: "\n", err: "has no password"},
		{name: "much", pass: strings.Repeat("secret", 20000), err: "more than 65536 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := write(t, map[string]string{"r.example/hosts.toml": auth, "pass": tc.pass})
			file := filepath.Join(root, "r.example/hosts.toml")
			plan, err := hosts.Load("r.example", hosts.Options{Dirs: []string{root}})
			if tc.err != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), file+":2: ") || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got %v, want invalid argument with %s:2, %s", err, file, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := &hosts.Auth{Username: "me", Password: tc.want, Source: file + ":2"}
			if diff := cmp.Diff(want, plan.Hosts[0].Auth); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if plan.Hosts[1].Auth != nil {
				t.Error("the registry itself has got the mirror's password")
			}
		})
	}
	root := write(t, map[string]string{"r.example/hosts.toml": auth})
	if _, err := hosts.Load("r.example", hosts.Options{Dirs: []string{root}}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "hosts.toml:2: password_file: open "+filepath.Join(root, "pass")) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// What a plan tells people.
func TestLoadTells(t *testing.T) {
	one := t.TempDir()
	root := write(t, map[string]string{
		"a.example:5000/hosts.toml": "server = \"up.example\"\n\n[host.\"m.example\"]\n[host.\"n.example\"]\n",
		"b.example/hosts.toml":      "[host.\"m.example\"]\n",
		"c.example/ca.crt":          "",
		"e.example/hosts.toml":      "",
	})
	in := func(name string) string { return filepath.Join(root, name) }
	for registry, want := range map[string]hosts.Plan{
		"a.example:5000": {
			Source: in("a.example:5000/hosts.toml"),
			Looked: []hosts.Look{
				{Path: filepath.Join(one, "a.example_5000_"), Found: "not there"},
				{Path: filepath.Join(one, "a.example:5000"), Found: "not there"},
				{Path: filepath.Join(one, "_default"), Found: "not there"},
				{Path: in("a.example_5000_"), Found: "not there"},
				{Path: in("a.example:5000/hosts.toml"), Found: "hosts"},
			},
			Hosts: []hosts.Host{
				{Why: "host at " + in("a.example:5000/hosts.toml") + ":3"},
				{Why: "host at " + in("a.example:5000/hosts.toml") + ":4"},
				{Why: "server at " + in("a.example:5000/hosts.toml") + ":1"},
			},
		},
		"b.example": {
			Source: in("b.example/hosts.toml"),
			Hosts: []hosts.Host{
				{Why: "host at " + in("b.example/hosts.toml") + ":1"},
				{Why: "the registry itself, as " + in("b.example/hosts.toml") + " names no server"},
			},
		},
		"c.example": {
			Source: in("c.example"),
			Looked: []hosts.Look{
				{Path: filepath.Join(one, "c.example"), Found: "not there"},
				{Path: filepath.Join(one, "_default"), Found: "not there"},
				{Path: in("c.example"), Found: "certificates"},
			},
			Hosts: []hosts.Host{{Why: "the registry itself, as " + in("c.example") + " names no server"}},
		},
		"e.example": {
			Source: in("e.example"),
			Looked: []hosts.Look{
				{Path: filepath.Join(one, "e.example"), Found: "not there"},
				{Path: filepath.Join(one, "_default"), Found: "not there"},
				{Path: in("e.example"), Found: "neither hosts.toml nor certificates"},
			},
			Hosts: []hosts.Host{{Why: "the registry itself, as " + in("e.example") + " names no server"}},
		},
		"d.example": {Hosts: []hosts.Host{{Why: "the registry itself, as nothing says otherwise"}}},
	} {
		plan, err := hosts.Load(registry, hosts.Options{Dirs: []string{one, root}})
		if err != nil {
			t.Fatal(err)
		}
		got := hosts.Plan{Source: plan.Source}
		if want.Looked != nil {
			got.Looked = plan.Looked
		}
		for _, h := range plan.Hosts {
			got.Hosts = append(got.Hosts, hosts.Host{Why: h.Why})
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(hosts.Host{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}

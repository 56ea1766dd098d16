package hosts_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// sections are the ways in which the same section can be written, as what comes before its tables.
var sections = []struct {
	name, version, prefix string
	containerd            bool
}{
	{"ours", "", "registry", false},
	{"ours, as containerd's", "", `plugins."io.containerd.grpc.v1.cri".registry`, false},
	{"ours, as containerd's third", "", `plugins."io.containerd.cri.v1.images".registry`, false},
	{"first, without version", "", `plugins.cri.registry`, true},
	{"first", "version = 1", `plugins.cri.registry`, true},
	{"second", "version = 2", `plugins."io.containerd.grpc.v1.cri".registry`, true},
	{"second, as the third", "version = 2", `plugins."io.containerd.cri.v1.images".registry`, true},
	{"third", "version = 3", `plugins."io.containerd.cri.v1.images".registry`, true},
	{"fourth", "version = 4", `plugins."io.containerd.cri.v1.images".registry`, true},
}

// read reads a configuration. P in it stands for the key of the section.
func read(t *testing.T, prefix, text string) (hosts.Tables, error) {
	t.Helper()
	tables, _, err := hosts.ReadConfig("/d/config.toml", []byte(strings.ReplaceAll(text, "[P", "["+prefix)))
	return tables, err
}

func TestReadConfig(t *testing.T) {
	const text = `
[P]
[P.mirrors."docker.io"]
endpoint = ["https://m.example", "n.example:5000/hub", "http://registry-1.docker.io"]
[P.mirrors."r.example"]
endpoint = ["localhost:5000"]
[P.mirrors."*"]
endpoint = ["http://all.example"]
[P.mirrors."none.example"]
[P.configs."m.example".tls]
insecure_skip_verify = true
ca_file = "/etc/ca.pem"
cert_file = "c.pem"
key_file = "c.key"
[P.configs."m.example".auth]
username = "me"
password = "secret"
identitytoken = "unused"
[P.configs."n.example:5000".auth]
identitytoken = "token"
auth = "eDp5"
[P.configs."docker.io".auth]
auth = "bWU6c2U6Y3JldAA="
[P.auths."https://all.example/v1/"]
username = "old"
password = "older"
[P.headers]
x-all = ["1", "2"]
`
	const pull = hosts.Pull | hosts.Resolve | hosts.Referrers
	header := http.Header{"X-All": {"1", "2"}}
	for _, s := range sections {
		t.Run(s.name, func(t *testing.T) {
			tables, containerd, err := hosts.ReadConfig("/d/config.toml", []byte(s.version+strings.ReplaceAll(text, "[P", "["+s.prefix)))
			if err != nil {
				t.Fatal(err)
			}
			if containerd != s.containerd {
				t.Errorf("it is containerd's: %t, want %t", containerd, s.containerd)
			}
			for registry, want := range map[string][]brief{
				"docker.io": {
					{
						URL: "https://m.example/v2", Capabilities: pull, SkipVerify: true, CA: []string{"/etc/ca.pem"},
						Client: []hosts.KeyPair{{Cert: "/d/c.pem", Key: "/d/c.key"}}, Auth: &hosts.Auth{Username: "me", Password: "secret", Source: "/d/config.toml:15"},
					},
					{URL: "https://n.example:5000/hub", Capabilities: pull, Auth: &hosts.Auth{IdentityToken: "token", Source: "/d/config.toml:19"}},
					{URL: "http://registry-1.docker.io/v2", Capabilities: everything, Auth: &hosts.Auth{Username: "me", Password: "se:cret", Source: "/d/config.toml:22"}},
				},
				"r.example": {
					{URL: "http://localhost:5000/v2", Capabilities: pull},
					{URL: "https://r.example/v2", Capabilities: everything},
				},
				"none.example": {{URL: "https://none.example/v2", Capabilities: everything}},
				"m.example": {
					{URL: "http://all.example/v2", Capabilities: pull, Auth: &hosts.Auth{Username: "old", Password: "older", Source: "/d/config.toml:24"}},
					{
						URL: "https://m.example/v2", Capabilities: everything, SkipVerify: true, CA: []string{"/etc/ca.pem"},
						Client: []hosts.KeyPair{{Cert: "/d/c.pem", Key: "/d/c.key"}}, Auth: &hosts.Auth{Username: "me", Password: "secret", Source: "/d/config.toml:15"},
					},
				},
				"all.example": {
					{URL: "http://all.example/v2", Capabilities: everything, Auth: &hosts.Auth{Username: "old", Password: "older", Source: "/d/config.toml:24"}},
				},
			} {
				plan, err := hosts.Load(registry, hosts.Options{Tables: tables})
				if err != nil {
					t.Fatal(err)
				}
				for i := range want {
					want[i].Header, want[i].DialTimeout = header, hosts.DefaultDialTimeout
				}
				if diff := cmp.Diff(want, briefs(plan.Hosts)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", registry, diff)
				}
			}
		})
	}
}

func TestTablesTell(t *testing.T) {
	tables, err := read(t, "registry", `[P.mirrors."r.example"]
endpoint = ["https://m.example"]
[P.configs."m.example".tls]
insecure_skip_verify = true
[P.configs."s.example".auth]
username = "me"
[P.configs."s.example".tls]
insecure_skip_verify = true
`)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for registry, want := range map[string]hosts.Plan{
		"r.example": {
			Registry: "r.example", Source: "/d/config.toml:1",
			Looked: []hosts.Look{{Path: "/d/config.toml:1", Found: "mirrors"}},
			Hosts:  []hosts.Host{{Why: "mirrors table at /d/config.toml:1; configs table at /d/config.toml:3"}, {Why: "the registry itself, after the mirrors at /d/config.toml:1"}},
		},
		"s.example": {
			Registry: "s.example",
			Looked: []hosts.Look{
				{Path: "/d/config.toml", Found: "no mirrors of it"},
				{Path: filepath.Join(dir, "s.example"), Found: "not there"},
				{Path: filepath.Join(dir, "_default"), Found: "not there"},
			},
			Hosts: []hosts.Host{{Why: "the registry itself, as nothing says otherwise; configs table at /d/config.toml:5"}},
		},
	} {
		got, err := hosts.Load(registry, hosts.Options{Dirs: []string{dir}, Tables: tables})
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range got.Hosts {
			got.Hosts[i] = hosts.Host{Why: h.Why}
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(hosts.Host{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}

// What a folder says comes before what the tables say of a host, one thing at a time.
func TestTablesBesideFolders(t *testing.T) {
	tables, err := read(t, "registry", `
[P.configs."r.example".tls]
insecure_skip_verify = true
[P.configs."r.example".auth]
username = "table"
[P.configs."m.example".tls]
insecure_skip_verify = true
[P.configs."m.example".auth]
username = "table"
[P.configs."localhost:5000".tls]
ca_file = "ca.pem"
[P.headers]
x-a = ["table"]
x-b = ["table"]
`)
	if err != nil {
		t.Fatal(err)
	}
	root := write(t, map[string]string{
		"r.example/hosts.toml": "[host.\"https://m.example\"]\nca = \"x.pem\"\nusername = \"file\"\npassword_file = \"pass\"\n[host.\"https://m.example\".header]\nX-A = \"file\"\n",
		"r.example/pass":       "secret",
	})
	for registry, want := range map[string][]brief{
		"r.example": {
			{
				URL: "https://m.example/v2", Capabilities: everything, DialTimeout: hosts.DefaultDialTimeout, CA: []string{filepath.Join(root, "r.example/x.pem")},
				Header: http.Header{"X-A": {"file"}, "X-B": {"table"}},
				Auth:   &hosts.Auth{Username: "file", Password: "secret", Source: filepath.Join(root, "r.example/hosts.toml") + ":3"},
			},
			{
				URL: "https://r.example/v2", Capabilities: everything, DialTimeout: hosts.DefaultDialTimeout, SkipVerify: true,
				Header: http.Header{"X-A": {"table"}, "X-B": {"table"}}, Auth: &hosts.Auth{Username: "table", Source: "/d/config.toml:4"},
			},
		},
		"localhost:5000": {{
			URL: "https://localhost:5000/v2", Other: "http", Capabilities: everything, DialTimeout: hosts.DefaultDialTimeout,
			CA: []string{"/d/ca.pem"}, Header: http.Header{"X-A": {"table"}, "X-B": {"table"}},
		}},
	} {
		plan, err := hosts.Load(registry, hosts.Options{Dirs: []string{root}, Tables: tables})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, briefs(plan.Hosts)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}

func TestReadConfigPath(t *testing.T) {
	for _, s := range sections {
		tables, err := read(t, s.prefix, s.version+"\n[P]\nconfig_path = \"/a:b::/c\"\n[P.mirrors]\n[P.configs.\"r.example\".auth]\nusername = \"u\"\n")
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if diff := cmp.Diff([]string{"/a", "/d/b", "/c"}, tables.Dirs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
}

// Which section counts is what containerd decides; what else is in the file does not matter.
func TestReadContainerdConfig(t *testing.T) {
	const third, second = "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/third\"\n", "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/second\"\n"
	const rest = `
root = "/var/lib/containerd"
oom_score = -999
[grpc]
address = "/run/containerd/containerd.sock"
[proxy_plugins.stargz]
type = "snapshot"
[plugins."io.containerd.snapshotter.v1.stargz"]
registry = "elsewhere"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "pause"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
[registry]
config_path = "/not-read"
`
	for text, want := range map[string][]string{
		"version = 3\n" + rest + third + second:               {"/third"},
		"version = 3\n" + rest + second:                       nil,
		"version = 2\n" + rest + third + second:               {"/second"},
		"version = 2\n" + rest + third:                        {"/third"},
		"version = 2\n" + rest:                                nil,
		"version = 3\n" + third + "unheard_of = {a = true}\n": {"/third"},
	} {
		tables, containerd, err := hosts.ReadConfig("/d/config.toml", []byte(text))
		if err != nil || !containerd {
			t.Errorf("%s\nit is containerd's: %t, %v", text, containerd, err)
		}
		if diff := cmp.Diff(want, tables.Dirs); diff != "" {
			t.Errorf("%s\n(-want +got):\n%s", text, diff)
		}
	}
}

func TestReadConfigImports(t *testing.T) {
	const second = `plugins."io.containerd.grpc.v1.cri".registry`
	root := write(t, map[string]string{
		"config.toml":     "version = 2\nimports = [\"conf.d/*.toml\", \"more.toml\"]\n[" + second + ".mirrors.\"a.example\"]\nendpoint = [\"one.example\"]\n[" + second + ".configs.\"one.example\".auth]\nusername = \"u\"\n[" + second + ".headers]\nx-a = [\"1\"]\n",
		"conf.d/1.toml":   "version = 2\n[" + second + ".mirrors.\"a.example\"]\nendpoint = [\"two.example\"]\n",
		"conf.d/2.toml":   "oom_score = 0\n[" + second + ".mirrors.\"b.example\"]\nendpoint = [\"two.example\"]\n",
		"conf.d/3.tml":    "not read",
		"more.toml":       "version = 2\nimports = [\"config.toml\", \"more.toml\", \"last.toml\"]\n[" + second + ".configs.\"one.example\".tls]\ninsecure_skip_verify = true\n[" + second + ".headers]\nx-b = [\"2\"]\n",
		"last.toml":       "version = 2\n[" + second + ".mirrors.\"a.example\"]\nendpoint = [\"one.example\"]\n",
		"dirs.toml":       "version = 2\nimports = [\"last.toml\"]\n\n[" + second + "]\nconfig_path = \"/a\"\n",
		"missing.toml":    "version = 2\nimports = [\"none.toml\"]\n",
		"many.toml":       "version = 2\nimports = [\"many/*\"]\n",
		"bad.toml":        "version = 2\nimports = [\"[*\"]\n",
		"elsewhere/x.cfg": "",
	})
	load := func(name string) (hosts.Tables, error) {
		file := filepath.Join(root, name)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tables, _, err := hosts.ReadConfig(file, b)
		return tables, err
	}
	tables, err := load("config.toml")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := hosts.Load("a.example", hosts.Options{Tables: tables})
	if err != nil {
		t.Fatal(err)
	}
	want := brief{
		URL: "https://one.example/v2", Capabilities: hosts.Pull | hosts.Resolve | hosts.Referrers, DialTimeout: hosts.DefaultDialTimeout, SkipVerify: true,
		Header: http.Header{"X-A": {"1"}, "X-B": {"2"}}, Auth: &hosts.Auth{Username: "u", Source: filepath.Join(root, "config.toml") + ":5"},
	}
	if diff := cmp.Diff(want, briefs(plan.Hosts)[0]); diff != "" {
		t.Errorf("a.example (-want +got):\n%s", diff)
	}
	if got, want := plan.Source, filepath.Join(root, "last.toml")+":2"; got != want {
		t.Errorf("source %s, want %s", got, want)
	}
	if plan, _ := hosts.Load("b.example", hosts.Options{Tables: tables}); len(plan.Hosts) != 2 {
		t.Errorf("b.example: %d hosts, want 2", len(plan.Hosts))
	}

	_, err = load("dirs.toml")
	if want := "mirrors at " + filepath.Join(root, "last.toml") + ":2 and folders of hosts at " + filepath.Join(root, "dirs.toml") + ":5 exclude each other"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("mirrors and config_path: %v, want %s", err, want)
	}
	if _, err := load("missing.toml"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "none.toml: no such file") {
		t.Errorf("an import that is not there: %v", err)
	}
	if _, err := load("bad.toml"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad pattern: %v", err)
	}
	for i := range 64 {
		name := filepath.Join(root, "many", strings.Repeat("x", i+1))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := load("many.toml"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("64 imports: %v, want invalid argument", err)
	}
}

func TestReadConfigRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"mirrors and config_path", "[P]\nconfig_path = \"/a\"\n[P.mirrors.\"r.example\"]\n", "/d/config.toml: mirrors at /d/config.toml:4 and folders of hosts at /d/config.toml:3 exclude each other"},
		{"an endpoint that is no URL", "[P.mirrors.\"r.example\"]\n\nendpoint = [\"https://me:se/cret@m.exa mple\"]\n", `/d/config.toml:4: endpoint "https://m.exa mple" is not a URL`},
		{"an endpoint of another scheme", "[P.mirrors.\"r.example\"]\nendpoint = [\"ftp://m.example\"]\n", `/d/config.toml:3: endpoint "ftp://m.example" is neither http nor https`},
		{"an endpoint without a host", "[P.mirrors.\"r.example\"]\nendpoint = [\"\"]\n", `/d/config.toml:3: endpoint "https://" is not a URL`},
		{"an endpoint with a password", "[P.mirrors.\"r.example\"]\nendpoint = [\"http://me:secret@m.example\"]\n", `/d/config.toml:3: endpoint the URL of m.example has more`},
		{"too many endpoints", "[P.mirrors.\"r.example\"]\nendpoint = [" + strings.Repeat(`"a.example",`, 65) + "]\n", `/d/config.toml:2: more than 64 endpoints`},
		{"endpoints of a wrong type", "[P.mirrors.\"r.example\"]\nendpoint = \"a.example\"\n", "/d/config.toml:3: "},
		{"a certificate without a key", "[P.configs.\"r.example\".tls]\ncert_file = \"c\"\n", "/d/config.toml:2: cert_file and key_file need each other"},
		{"a key without a certificate", "[P.configs.\"r.example\".tls]\nkey_file = \"c\"\n", "/d/config.toml:2: cert_file and key_file need each other"},
		{"auth that is not base64", "[P.configs.\"r.example\".auth]\nauth = \"secret!\"\n", "/d/config.toml:3: auth is not username:password in base64"},
		{"auth without a password", "[P.auths.\"r.example\"]\nauth = \"c2VjcmV0\"\n", "/d/config.toml:3: auth is not username:password in base64"},
		{"a header's name", "[P.headers]\n\"x a\" = [\"1\"]\n", `/d/config.toml:3: "x a" is no name of a header`},
		{"not TOML", "[P]\n[P\n", "/d/config.toml:3: "},
		{"too long", strings.Repeat("#", 1<<20+1), "/d/config.toml: it has more than 1048576 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, s := range sections {
				_, err := read(t, s.prefix, s.version+"\n"+tc.text)
				if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), tc.want) || strings.Contains(err.Error(), "cret") {
					t.Errorf("%s: %v, want %s", s.name, err, tc.want)
				}
			}
		})
	}
	// In a file of our own, every key is known.
	for _, tc := range []struct{ name, text, want string }{
		{"a key of the section", "[registry]\nconfig_pth = \"/a\"\n", "/d/config.toml:2: unknown key registry.config_pth"},
		{"a key of a mirror", "[registry.mirrors.\"r.example\"]\nendpoints = []\n", "/d/config.toml:2: unknown key registry.mirrors.r.example.endpoints"},
		{"another plugin", "[plugins.\"io.containerd.snapshotter.v1.zfs\"]\nroot = \"/a\"\n", "/d/config.toml:1: unknown key plugins.io.containerd.snapshotter.v1.zfs"},
		{"the section twice", "[registry]\nconfig_path = \"/a\"\n[plugins.\"io.containerd.cri.v1.images\".registry]\n", "/d/config.toml:3: the registry section stands at /d/config.toml:1 already"},
		{"config_path and hosts_dirs", "hosts_dirs = [\"/b\"]\n[registry]\nconfig_path = \"/a\"\n", "/d/config.toml:1: hosts_dirs is said as config_path at /d/config.toml:3 already"},
		{"mirrors and hosts_dirs", "hosts_dirs = [\"/b\"]\n[registry.mirrors.\"r.example\"]\n", "/d/config.toml: mirrors at /d/config.toml:2 and folders of hosts at /d/config.toml:1 exclude each other"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := read(t, "", tc.text); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a:b\"\n"))
	f.Add([]byte("[plugins.cri.registry.mirrors.\"*\"]\nendpoint = [\"a\", \"http://localhost:1/x\"]\n[plugins.cri.registry.auths.\"http://a/\"]\nauth = \"eDp5\"\n"))
	f.Add([]byte("[registry.configs.a]\nauth = {username = \"u\", identitytoken = \"t\"}\ntls = {ca_file = \"c\", insecure_skip_verify = true}\n[registry.headers]\na = [\"b\"]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 || strings.Contains(string(b), "imports") {
			return // longer inputs find nothing more, and imports would read the disk
		}
		tables, _, err := hosts.ReadConfig("/d/config.toml", b)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		plan, err := hosts.Load("r.example", hosts.Options{Tables: tables})
		if err != nil || len(plan.Hosts) == 0 {
			t.Fatalf("%d hosts, %v", len(plan.Hosts), err)
		}
		for _, h := range plan.Hosts {
			if h.URL.Host == "" {
				t.Fatalf("a host without a URL: %+v", h)
			}
		}
	})
}

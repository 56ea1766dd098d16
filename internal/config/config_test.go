package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stowage/stowage/internal/registry/hosts"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// sameTables leaves what was said of registries and of the daemon to the tests that are about it.
var sameTables = cmp.Options{cmpopts.IgnoreTypes(hosts.Tables{}, Server{}, Doctor{}), cmpopts.IgnoreUnexported(Config{})}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestLoadDefaults(t *testing.T) {
	file := write(t, "")
	root, err := Load(file, env("HOME", "/home/u"), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Root: "/var/lib/stowage", Namespace: "default", Sync: "full",
		HostsDirs: []string{"/etc/stowage/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"},
		AuthFiles: []string{"/home/u/.docker/config.json"}, GC: defaultGC,
	}
	if diff := cmp.Diff(want, root, sameTables); diff != "" {
		t.Errorf("as root (-want +got):\n%s", diff)
	}
	user, err := Load(file, env("HOME", "/home/u"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := user.Root, "/home/u/.local/share/stowage"; got != want {
		t.Errorf("root of a user = %s, want %s", got, want)
	}
	if _, err := Load(file, env(), 1000); !errdefs.IsInvalidArgument(err) {
		t.Errorf("with no home: %v, want invalid argument", err)
	}
}

func TestLoadAddress(t *testing.T) {
	file := write(t, "")
	for want, pairs := range map[string][]string{
		"":   nil,
		"/s": {"STOWAGE_ADDRESS", "/s", "CONTAINERD_ADDRESS", "/c"},
		"/c": {"CONTAINERD_ADDRESS", "/c"},
	} {
		c, err := Load(file, env(append(pairs, "HOME", "/h")...), 0)
		if err != nil || c.Address != want {
			t.Errorf("%v: got %q, %v, want %q", pairs, c.Address, err, want)
		}
	}
}

func TestLoadOrder(t *testing.T) {
	file := write(t, "root = '/srv/images'\nnamespace = 'ci'\nsync = 'none'\nhosts_dirs = ['/h']\nmax_concurrent = 2\n")
	c, err := Load("", env("STOWAGE_CONFIG", file, "CONTAINERD_NAMESPACE", "k8s.io", "XDG_DATA_HOME", "/data"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{Root: "/srv/images", Namespace: "k8s.io", Sync: "none", HostsDirs: []string{"/h"}, MaxConcurrent: 2, GC: defaultGC}
	if diff := cmp.Diff(want, c, sameTables); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c, err = Load(file, env("STOWAGE_ROOT", "/r", "STOWAGE_NAMESPACE", "n", "CONTAINERD_NAMESPACE", "k8s.io"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/r" || c.Namespace != "n" {
		t.Errorf("root, namespace = %s, %s, want /r, n", c.Root, c.Namespace)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a key it does not know", "root = '/r'\nrot = '/x'\n", "config.toml:2: unknown key rot"},
		{"what is not TOML", "root = \n", "config.toml:1: "},
		{"a wrong type", "\nmax_concurrent = 'many'\n", "config.toml:2: "},
		{"a huge file", strings.Repeat("#\n", maxFile), "at most"},
		{"a key of the registry section", "[registry]\nmirors = 1\n", "config.toml:2: unknown key registry.mirors"},
		{"a key of containerd's, in a file of ours", "oom_score = 0\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a'\n", "config.toml:1: unknown key oom_score"},
		{"folders of hosts and mirrors", "hosts_dirs = ['/a']\n[registry.mirrors.'r.example']\n", "exclude each other"},
		{"what containerd refuses", "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a'\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'r.example']\n", "exclude each other"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(write(t, c.text), env(), 0)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want invalid argument with %q", err, c.want)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml"), env(), 0); !os.IsNotExist(err) {
		t.Errorf("a named file that is not there: %v, want not exist", err)
	}
}

// Of containerd's file only the registry section is taken: its root is not ours.
func TestLoadContainerds(t *testing.T) {
	rest := "root = '/var/lib/containerd'\noom_score = 0\nnamespace = 'x'\n[grpc]\naddress = '/run/c.sock'\n"
	defaults := []string{"/etc/stowage/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"}
	for _, c := range []struct {
		name, text string
		dirs       []string
		mirrors    int
	}{
		{"first", rest + "[plugins.cri.registry.mirrors.'docker.io']\nendpoint = ['https://m.example']\n", defaults, 1},
		{"second", "version = 2\n" + rest + "[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a:/b'\n", []string{"/a", "/b"}, 0},
		{"third", "version = 3\n" + rest + "[plugins.'io.containerd.cri.v1.images'.registry.mirrors.'*']\nendpoint = ['m.example']\n", defaults, 1},
		{"without registries", "version = 3\n" + rest, defaults, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Load(write(t, c.text), env(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(got.Registry.Mirrors); n != c.mirrors {
				t.Errorf("%d registries with mirrors, want %d", n, c.mirrors)
			}
			want := &Config{Root: "/var/lib/stowage", Namespace: "default", Sync: "full", HostsDirs: c.dirs, GC: defaultGC}
			if diff := cmp.Diff(want, got, sameTables); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A file of our own may have the section too, under either name, beside the rest.
func TestLoadRegistry(t *testing.T) {
	for _, section := range []string{"registry", "plugins.'io.containerd.grpc.v1.cri'.registry", "plugins.'io.containerd.cri.v1.images'.registry"} {
		c, err := Load(write(t, "root = '/r'\n["+section+"]\nconfig_path = '/a'\n["+section+".configs.'r.example'.tls]\ninsecure_skip_verify = true\n"), env(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"/a"}, c.HostsDirs); diff != "" || c.Root != "/r" {
			t.Errorf("%s: root %s, hosts_dirs (-want +got):\n%s", section, c.Root, diff)
		}
		plan, err := hosts.Load("r.example", hosts.Options{Tables: c.Registry})
		if err != nil || !plan.Hosts[0].SkipVerify {
			t.Errorf("%s: %+v, %v, want one host and no verifying", section, plan, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("root = '/r'\nhosts_dirs = ['a', 'b']\n"))
	f.Add([]byte("max_concurrent = -1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever the bytes are, they are read or refused.
		if bytes.Contains(b, []byte("imports")) {
			return // they would read the disk
		}
		_ = (&Config{}).parse("/d/config.toml", b)
	})
}

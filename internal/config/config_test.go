package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

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
		AuthFiles: []string{"/home/u/.docker/config.json"},
	}
	if diff := cmp.Diff(want, root); diff != "" {
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

func TestLoadOrder(t *testing.T) {
	file := write(t, "root = '/srv/images'\nnamespace = 'ci'\nsync = 'none'\nhosts_dirs = ['/h']\nmax_concurrent = 2\n")
	c, err := Load("", env("STOWAGE_CONFIG", file, "CONTAINERD_NAMESPACE", "k8s.io", "XDG_DATA_HOME", "/data"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{Root: "/srv/images", Namespace: "k8s.io", Sync: "none", HostsDirs: []string{"/h"}, MaxConcurrent: 2}
	if diff := cmp.Diff(want, c); diff != "" {
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
		{"a key it does not know", "root = '/r'\nrot = '/x'\n", "line 2: unknown key rot"},
		{"what is not TOML", "root = \n", "line 1"},
		{"a wrong type", "\nmax_concurrent = 'many'\n", "line 2"},
		{"a huge file", strings.Repeat("#\n", maxFile), "at most"},
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

func FuzzConfig(f *testing.F) {
	f.Add([]byte("root = '/r'\nhosts_dirs = ['a', 'b']\n"))
	f.Add([]byte("max_concurrent = -1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever the bytes are, they are read or refused.
		_ = (&Config{}).parse(b)
	})
}

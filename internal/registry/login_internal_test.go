package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// What a login writes and a logout removes, in files that have something already.
func TestStoreAndForget(t *testing.T) {
	const mine = `{"auth":"bWU6c2VjcmV0"}` // me:secret
	for _, tc := range []struct {
		name, server  string
		before        string
		stored, after string // the same file after a login, and after a logout
	}{
		{
			name: "nothing yet", server: "r.example",
			stored: `{"auths":{"r.example":` + mine + `}}`, after: `{"auths":{}}`,
		},
		{
			name: "other things stay", server: "r.example",
			before: `{"psFormat":"x","auths":{"q.example":{"auth":"x"},"r.example/team":{"auth":"y"}}}`,
			stored: `{"psFormat":"x","auths":{"q.example":{"auth":"x"},"r.example/team":{"auth":"y"},"r.example":` + mine + `}}`,
			after:  `{"psFormat":"x","auths":{"q.example":{"auth":"x"},"r.example/team":{"auth":"y"}}}`,
		},
		{
			name: "other spellings go", server: "r.example", before: `{"auths":{"https://r.example/v1/":{"auth":"x"},"r.example/v2/":{"auth":"x"}}}`,
			stored: `{"auths":{"r.example":` + mine + `}}`, after: `{"auths":{}}`,
		},
		{
			name: "Docker Hub", server: "docker.io", before: `{"auths":{"docker.io":{"auth":"x"},"index.docker.io":{"auth":"x"}}}`,
			stored: `{"auths":{"https://index.docker.io/v1/":` + mine + `}}`, after: `{"auths":{}}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "link.json") // as people have who keep their settings elsewhere
			target := filepath.Join(dir, "folder", "config.json")
			if tc.before == "" {
				file = target
			} else if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil {
				t.Fatal(err)
			} else if err := os.WriteFile(target, []byte(tc.before), 0o644); err != nil {
				t.Fatal(err)
			} else if err := os.Symlink(target, file); err != nil {
				t.Fatal(err)
			}
			is := func(want string) {
				t.Helper()
				b, err := os.ReadFile(target)
				if err != nil {
					t.Fatal(err)
				}
				var got, wanted any
				if err := json.Unmarshal(b, &got); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(want), &wanted); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(wanted, got); diff != "" {
					t.Errorf("file (-want +got):\n%s", diff)
				}
				if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
				}
			}
			c := New(Options{AuthFiles: []string{file}})
			if stored, err := c.store(t.Context(), file, tc.server, "me", "secret"); err != nil || stored != (Stored{File: file}) {
				t.Fatalf("store: %+v, %v", stored, err)
			}
			is(tc.stored)
			if from, err := c.Logout(t.Context(), tc.server); err != nil || !slices.Equal(from, []Stored{{File: file}}) {
				t.Fatalf("forget: %+v, %v", from, err)
			}
			is(tc.after)
			if tc.before != "" {
				if info, err := os.Lstat(file); err != nil || info.Mode().Type() != os.ModeSymlink {
					t.Errorf("the link is %v, %v", info.Mode(), err)
				}
			}
		})
	}
}

// A helper that fails to keep a password leaves the file as it was, and the password untold.
func TestHelperDoesNotStore(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\ncat; cat >&2; exit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-broken"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	file := filepath.Join(dir, "config.json")
	const text = `{"credHelpers":{"r.example":"broken"}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{AuthFiles: []string{file}})
	_, err := c.store(t.Context(), file, "r.example", "me", "secret")
	if err == nil || !strings.Contains(err.Error(), "docker-credential-broken failed: exit status 1") || strings.Contains(err.Error(), "secret") {
		t.Errorf("store: %v", err)
	}
	if _, err := c.Logout(t.Context(), "r.example"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("forget: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != text {
		t.Errorf("file is %s, %v", b, err)
	}
}

func TestLoginRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "r.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Only another server is ever asked.
	if err := os.WriteFile(filepath.Join(dir, "r.example", "hosts.toml"), []byte("server = \"http://127.0.0.1:1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{HostsDirs: []string{dir}, AuthFiles: []string{filepath.Join(dir, "config.json")}})
	for _, tc := range []struct {
		client     *Client
		host, user string
		kind       func(error) bool
	}{
		{c, "r.example", "me", errdefs.IsFailedPrecondition},
		{c, "", "me", errdefs.IsInvalidArgument},
		{c, "r.example/team", "me", errdefs.IsInvalidArgument},
		{c, "not a host", "me", errdefs.IsInvalidArgument},
		{c, "r.example", "", errdefs.IsInvalidArgument},
		{c, "r.example", "a:b", errdefs.IsInvalidArgument},
		{New(Options{}), "r.example", "me", errdefs.IsInvalidArgument},
		{c, "127.0.0.1:1", "me", errdefs.IsUnavailable},
	} {
		if _, err := tc.client.Login(t.Context(), tc.host, tc.user, "secret"); !tc.kind(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("log in to %q as %q: got %v", tc.host, tc.user, err)
		}
	}
	if _, err := c.Logout(t.Context(), "a/b"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("log out: got %v", err)
	}
}

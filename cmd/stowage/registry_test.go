package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// Log in, pull, push, log out, against Debian's registry behind TLS: with htpasswd, and with a token
// server. The password is in nothing that the command prints, whatever the level of the log.
func TestRealLogin(t *testing.T) {
	for _, name := range []string{"htpasswd", "tokens"} {
		t.Run(name, func(t *testing.T) {
			cert, err := registrytest.NewCertificate(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			o := registrytest.ProcessOptions{Certificate: cert, Htpasswd: name == "htpasswd"}
			if name == "tokens" {
				if o.Tokens, err = registrytest.NewTokenServer(registrytest.TokenOptions{Certificate: cert, ExpiresIn: 300}); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := o.Tokens.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			host, image := guarded(t, o)
			root, home, certs := t.TempDir(), t.TempDir(), trust(t, host, cert.CA)
			t.Setenv("HOME", home)
			for _, name := range []string{"DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "STOWAGE_USERNAME", "STOWAGE_PASSWORD"} {
				t.Setenv(name, "")
			}
			ask := func(stdin string, want int, args ...string) string {
				t.Helper()
				var out, errs bytes.Buffer
				args = append(args, "--root", root, "--config", "/dev/null", "--log-level", "debug", "--progress", "none")
				if got := run(args, strings.NewReader(stdin), &out, &errs); got != want {
					t.Fatalf("%s: exit status %d, want %d\n%s", args, got, want, errs.Bytes())
				}
				for _, secret := range []string{registrytest.Password, base64.StdEncoding.EncodeToString([]byte(registrytest.User + ":" + registrytest.Password))} {
					if strings.Contains(out.String()+errs.String(), secret) {
						t.Errorf("%s told the secret:\n%s%s", args, out.Bytes(), errs.Bytes())
					}
				}
				return out.String() + errs.String()
			}
			name := host + "/team/app:1"
			ask("", 5, "pull", "--hosts-dir", certs, name)
			if said := ask("wrong\n", 1, "login", "--hosts-dir", certs, "-u", registrytest.User, "--password-stdin", host); !strings.Contains(said, "stowage: log in to "+host+": it refuses the user name or the password") {
				t.Errorf("with a wrong password it said:\n%s", said)
			}
			ask("", 5, "pull", "--hosts-dir", certs, name)

			// Without a login, what the environment says counts, and -u before it.
			t.Setenv("STOWAGE_USERNAME", registrytest.User)
			t.Setenv("STOWAGE_PASSWORD", registrytest.Password)
			ask("", 0, "pull", "--dry-run", "--hosts-dir", certs, name)
			ask("", 5, "pull", "--dry-run", "--hosts-dir", certs, "-u", "me:wrong", name)
			t.Setenv("STOWAGE_USERNAME", "")

			ask(registrytest.Password+"\n", 0, "login", "--hosts-dir", certs, "-u", registrytest.User, "--password-stdin", host)
			if said := ask("", 0, "pull", "--no-unpack", "--hosts-dir", certs, "--limit-rate", "100M", name); !strings.Contains(said, image) {
				t.Errorf("pull said:\n%s", said)
			}
			before := 0
			if o.Tokens != nil {
				before = len(o.Tokens.Asked())
			}
			if said := ask("", 0, "push", "--hosts-dir", certs, name, host+"/team/copy:1"); !strings.Contains(said, host+"/team/copy:1@"+image) {
				t.Errorf("push said:\n%s", said)
			}
			if o.Tokens != nil {
				// One to look and to upload, and one to mount from the other repository.
				want := []string{
					"GET basic repository:team/copy:pull,push",
					"GET basic repository:team/app:pull repository:team/copy:pull,push",
				}
				if diff := cmp.Diff(want, o.Tokens.Asked()[before:]); diff != "" {
					t.Errorf("tokens asked for by a push that mounts (-want +got):\n%s", diff)
				}
			}
			said := ask("", 0, "registry", "explain", "--try", "--hosts-dir", certs, host+"/team/copy:1")
			for _, want := range []string{"certificate is verified", "a password from auth file " + filepath.Join(home, ".docker/config.json"), "GET /v2/       200 OK", "HEAD manifest  200 OK"} {
				if !strings.Contains(said, want) {
					t.Errorf("explain did not say %q:\n%s", want, said)
				}
			}

			ask("", 0, "logout", host)
			ask("", 0, "rmi", "--gc", name)
			ask("", 5, "pull", "--hosts-dir", certs, name)
		})
	}
}

// guarded runs a registry that asks for credentials, with an image in it, and returns the image's
// digest.
func guarded(t *testing.T, o registrytest.ProcessOptions) (host, image string) {
	t.Helper()
	dir := t.TempDir()
	open, err := registrytest.StartDebian(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	img, err := fixture("first")
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Push(t.Context(), open.Host, "team/app", "1", img); err != nil {
		t.Fatal(err)
	}
	if err := open.Stop(); err != nil {
		t.Fatal(err)
	}
	p, err := registrytest.StartDebianWith(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p.Host, img.Root.Digest.String()
}

// trust makes a folder of certs.d in which the certificate of a registry on loopback is verified.
func trust(t *testing.T, host, ca string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, host), 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = \"https://%s\"\nca = %q\n", host, ca)
	if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]int64{"": 0, "1": 1, "500k": 500_000, "10M": 10_000_000, "1.5g": 1_500_000_000, "2K": 2000} {
		if got, err := parseRate(s); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1", "k", "M10", "10 M", "10MB", "1e99", "NaN", "Inf", "fast"} {
		if got, err := parseRate(s); err == nil {
			t.Errorf("%q: got %d", s, got)
		}
	}
}

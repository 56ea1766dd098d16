package registry_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

const secret = "correct-horse"

// authFile writes a file in docker's format and returns its name.
func authFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// helper puts a credential helper into the search path, a shell script.
func helper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Credentials are found wherever users have them, and work with each way of asking for them.
func TestCredentials(t *testing.T) {
	file := func(format string) func(*testing.T, string) registry.Options {
		return func(t *testing.T, host string) registry.Options {
			absent := filepath.Join(t.TempDir(), "absent.json")
			return registry.Options{AuthFiles: []string{absent, authFile(t, `{}`), authFile(t, fmt.Sprintf(format, host))}}
		}
	}
	none := func(*testing.T, string) registry.Options { return registry.Options{} }
	guard := func() *rt.Guard { return &rt.Guard{User: "me", Password: secret, RefreshToken: secret} }
	for _, tc := range []struct {
		name    string
		guard   *rt.Guard
		helper  string
		options func(t *testing.T, host string) registry.Options
		basic   bool   // works with Basic
		bearer  string // works with Bearer, and how the token is asked for
		want    string // in the error, when it works with neither
	}{
		{
			name: "given", options: func(*testing.T, string) registry.Options {
				return registry.Options{Username: "me", Password: secret}
			},
			basic: true, bearer: "GET",
		},
		{name: "auth", options: file(`{"auths":{"%s":{"auth":"` + basic("me", secret) + `"}}}`), basic: true, bearer: "GET"},
		{name: "user and password", options: file(`{"auths":{"%s":{"username":"me","password":"` + secret + `"}}}`), basic: true, bearer: "GET"},
		{name: "a URL", options: file(`{"auths":{"http://%s/v1/":{"auth":"` + basic("me", secret) + `"}}}`), basic: true, bearer: "GET"},
		{name: "identity token", options: file(`{"auths":{"%s":{"identitytoken":"` + secret + `"}}}`), bearer: "POST"},
		{
			name: "helper", options: file(`{"credHelpers":{"%s":"test"}}`), basic: true, bearer: "GET",
			helper: `cat >/dev/null; echo '{"ServerURL":"x","Username":"me","Secret":"` + secret + `"}'`,
		},
		{
			name: "store", options: file(`{"auths":{"%s":{}},"credsStore":"test"}`), basic: true, bearer: "GET",
			helper: `cat >/dev/null; echo '{"ServerURL":"x","Username":"me","Secret":"` + secret + `"}'`,
		},
		{
			name: "identity token of a helper", options: file(`{"credHelpers":{"%s":"test"}}`), bearer: "POST",
			helper: `cat >/dev/null; echo '{"ServerURL":"x","Username":"<token>","Secret":"` + secret + `"}'`,
		},
		{name: "none", options: none, want: "it does not exist, or needs a login"},
		{name: "of another registry", options: file(`{"auths":{"x%s":{"auth":"` + basic("me", secret) + `"}}}`), want: "needs a login"},
		{name: "anonymous", guard: &rt.Guard{Anonymous: true, User: "me", Password: secret}, options: none, bearer: "GET"},
		{
			name: "wrong", guard: &rt.Guard{User: "me", Password: "other"}, want: "401 Unauthorized",
			options: func(*testing.T, string) registry.Options {
				return registry.Options{Username: "me", Password: secret}
			},
		},
		{name: "a malformed auth", options: file(`{"auths":{"%s":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(secret)) + `"}}}`), want: "they are malformed, or the credential helper failed"},
		{name: "a malformed file", options: file(`{"auths": "%s` + secret + `"`), want: "they are malformed"},
		{name: "a helper that is not there", options: file(`{"credHelpers":{"%s":"absent"}}`), want: "the credential helper that it names is not installed"},
		{name: "a helper that fails", options: file(`{"credHelpers":{"%s":"test"}}`), helper: "cat >/dev/null; echo cannot open " + secret + "; exit 1", want: "or the credential helper failed"},
	} {
		for _, scheme := range []string{"basic", "bearer"} {
			t.Run(tc.name+"/"+scheme, func(t *testing.T) {
				g := tc.guard
				if g == nil {
					g = guard()
				}
				fault, works := g.Basic(), tc.basic
				if scheme == "bearer" {
					fault, works = g.Bearer(), tc.bearer != ""
				}
				f := serve(t, fault)
				if tc.helper != "" {
					helper(t, "test", tc.helper)
				}
				o := tc.options(t, f.host)
				log, lines := logged()
				o.Log = log
				c := dial(t, o)
				found, err := c.Resolve(t.Context(), f.tag)
				if strings.Contains(lines.String(), secret) || strings.Contains(lines.String(), basic("me", secret)) {
					t.Errorf("the log tells the secret:\n%s", lines)
				}
				if !works {
					if !errors.Is(err, errdefs.ErrUnauthenticated) {
						t.Fatalf("got %v, want an unauthenticated request", err)
					}
					if s := err.Error(); strings.Contains(s, secret) || strings.Contains(s, "\n") || !strings.Contains(s, tc.want) {
						t.Errorf("got %q, want one line with %q and no secret", s, tc.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Manifest(t.Context(), f.tag, found.Descriptor); err != nil {
					t.Error(err)
				}
				body, err := c.Blob(t.Context(), f.tag, f.layer, 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, body); err != nil {
					t.Error(err)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
				if scheme == "bearer" {
					want := []string{tc.bearer + " repository:" + repo + ":pull"}
					if diff := cmp.Diff(want, g.Asked()); diff != "" {
						t.Errorf("tokens asked for (-want +got):\n%s", diff)
					}
				}
			})
		}
	}
}

// A token that ran out is replaced, in the middle of a blob too.
func TestTokenRunsOut(t *testing.T) {
	g := &rt.Guard{Anonymous: true, Lifetime: 1}
	f := serve(t, g.Bearer(), rt.On("GET", "/blobs/", rt.Cut(100_000)))
	got, _, err := fetch(t, f, registry.Options{}, 0)
	if err != nil || len(got) != len(f.blob) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := len(g.Asked()); n != 3 {
		t.Errorf("asked for %d tokens, want 3", n)
	}
}

// What is meant for the registry is not sent to where it redirects, nor to its mirrors.
func TestSecretsStay(t *testing.T) {
	var seen []http.Header
	f := serve(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header)
		f.registry.ServeHTTP(w, r)
	}))
	defer other.Close()
	g := &rt.Guard{User: "me", Password: secret}
	own := serve(t, g.Basic(), rt.On("GET", "/blobs/", rt.Redirect(other.URL+"{path}?signature="+secret)))
	dir := hostsDir(t, own.host, "server = \"http://"+own.host+"\"\n[header]\nx-key = \""+secret+"\"\n")
	got, _, err := fetch(t, own, registry.Options{HostsDirs: []string{dir}, Username: "me", Password: secret}, 0)
	if err != nil || len(got) != len(own.blob) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if len(seen) != 1 {
		t.Fatalf("the other server saw %d requests, want 1", len(seen))
	}
	if s := fmt.Sprint(seen[0]); strings.Contains(s, secret) || strings.Contains(s, basic("me", secret)) {
		t.Errorf("the other server was told secrets: %s", s)
	}

	// The target of a redirect is down: its URL, which is signed, is not in the error.
	other.Close()
	_, _, err = fetch(t, own, registry.Options{Username: "me", Password: secret}, 0)
	if !errdefs.IsUnavailable(err) || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v, want an unavailable host and no secret", err)
	}

	mirror := serve(t, g.Basic())
	dir = hostsDir(t, "r.example", "[host.\"http://"+mirror.host+"\"]\n")
	list := registry.Options{HostsDirs: []string{dir}, Username: "me", Password: secret}
	_, err = dial(t, list).Resolve(t.Context(), parse(t, "r.example/"+repo+":v1"))
	if !errdefs.IsUnauthorized(err) {
		t.Errorf("the mirror was told the password of the registry, or: %v", err)
	}
}

package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/image"
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
	given := func(c registry.Credentials) func(*testing.T, string) registry.Options {
		return func(t *testing.T, host string) registry.Options {
			return registry.Options{Credentials: func(_ context.Context, name string) (registry.Credentials, error) {
				if name != host {
					t.Errorf("asked for the credentials of %s, want %s", name, host)
				}
				return c, nil
			}}
		}
	}
	guard := func() *rt.Guard { return &rt.Guard{User: "me", Password: secret, RefreshToken: secret, Token: secret} }
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
		{name: "asked for", options: given(registry.Credentials{Username: "me", Password: secret}), basic: true, bearer: "GET"},
		{name: "asked for, an identity token", options: given(registry.Credentials{IdentityToken: secret}), bearer: "POST"},
		{name: "asked for, a registry token", options: given(registry.Credentials{RegistryToken: secret}), bearer: "none"},
		{name: "asked for, and there are none", options: given(registry.Credentials{}), want: "needs a login"},
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
		{name: "registry token", options: file(`{"auths":{"%s":{"registrytoken":"` + secret + `"}}}`), bearer: "none"},
		{
			name: "by POST alone", guard: &rt.Guard{User: "me", Password: secret, PostOnly: true},
			options: func(*testing.T, string) registry.Options {
				return registry.Options{Username: "me", Password: secret}
			},
			basic: true, bearer: "GET POST",
		},
		{name: "none", options: none, want: "it does not exist, or needs a login"},
		{name: "of another registry", options: file(`{"auths":{"x%s":{"auth":"` + basic("me", secret) + `"}}}`), want: "needs a login"},
		{name: "anonymous", guard: &rt.Guard{Anonymous: true, User: "me", Password: secret}, options: none, bearer: "GET"},
		{
			name: "wrong", guard: &rt.Guard{User: "me", Password: "other"}, want: "it refuses the user name or the password",
			options: func(*testing.T, string) registry.Options {
				return registry.Options{Username: "me", Password: secret}
			},
		},
		{name: "a malformed auth", options: file(`{"auths":{"%s":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(secret)) + `"}}}`), want: "they are malformed"},
		{name: "a malformed file", options: file(`{"auths": "%s` + secret + `"`), want: "they are malformed"},
		{name: "a helper that is not there", options: file(`{"credHelpers":{"%s":"absent"}}`), want: "the credential helper docker-credential-absent is not installed"},
		{name: "a helper that fails", options: file(`{"credHelpers":{"%s":"test"}}`), helper: "cat >/dev/null; echo cannot open " + secret + "; echo " + secret + " >&2; exit 1", want: "the credential helper docker-credential-test failed: exit status 1"},
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
					var want []string
					for method := range strings.FieldsSeq(strings.TrimPrefix(tc.bearer, "none")) {
						want = append(want, method+" repository:"+repo+":pull")
					}
					if diff := cmp.Diff(want, g.Asked()); diff != "" {
						t.Errorf("tokens asked for (-want +got):\n%s", diff)
					}
				}
			})
		}
	}
}

// A client for one request has credentials that the others do not have, and tokens of its own.
func TestWithCredentials(t *testing.T) {
	g := &rt.Guard{User: "me", Password: secret}
	f := serve(t, g.Bearer())
	c := dial(t, registry.Options{})
	with := c.With(registry.Manner{Credentials: func(context.Context, string) (registry.Credentials, error) {
		return registry.Credentials{Username: "me", Password: secret}, nil
	}})
	defer with.Close()
	if _, err := with.Resolve(t.Context(), f.tag); err != nil {
		t.Error(err)
	}
	if _, err := c.Resolve(t.Context(), f.tag); !errdefs.IsUnauthorized(err) {
		t.Errorf("got %v without credentials, want an unauthenticated request", err)
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

// A token that is known to run out is replaced before it does: nothing is refused but the first
// request, and each has a token of its own when tokens live for less than a request.
func TestTokenIsReplacedBefore(t *testing.T) {
	g := &rt.Guard{Anonymous: true, Lifetime: 1, ExpiresIn: 1e-9}
	f := serve(t, g.Bearer(), rt.On("GET", "/blobs/", rt.Cut(100_000)))
	got, _, err := fetch(t, f, registry.Options{}, 0)
	if err != nil || len(got) != len(f.blob) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := len(g.Asked()); n != 3 || g.Denied() != 1 {
		t.Errorf("asked for %d tokens, and was refused %d times; want 3 and 1", n, g.Denied())
	}
}

// A body that was sent with a token that just ran out is sent again with another.
func TestTokenRunsOutInPush(t *testing.T) {
	g := &rt.Guard{User: "me", Password: secret, Lifetime: 1}
	f := serve(t, g.Bearer())
	c := dial(t, registry.Options{Username: "me", Password: secret})
	body := []byte(strings.Repeat("another layer", 1000))
	d := image.Describe(image.OCILayer, body)
	out, err := c.PushBlob(t.Context(), f.tag, d, registry.BlobSource{Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(body[offset:])), nil
	}}, nil)
	if err != nil || out.How != registry.Uploaded {
		t.Fatalf("got %+v, %v", out, err)
	}
	// HEAD, POST and PUT: each was refused once, and each got its token for all of them.
	want := slices.Repeat([]string{"GET repository:" + repo + ":pull,push"}, 3)
	if diff := cmp.Diff(want, g.Asked()); diff != "" || g.Denied() != 3 {
		t.Errorf("%d requests were refused, want 3; tokens asked for (-want +got):\n%s", g.Denied(), diff)
	}
	read, err := c.Blob(t.Context(), f.tag, d, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(read); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %d bytes back, %v", len(got), err)
	}
	if err := read.Close(); err != nil {
		t.Error(err)
	}
}

// Repositories of one registry may have credentials of their own.
func TestCredentialsByRepository(t *testing.T) {
	for _, scheme := range []string{"basic", "bearer"} {
		t.Run(scheme, func(t *testing.T) {
			g := &rt.Guard{User: "me", Password: "for-others", Passwords: map[string]string{repo: "for-" + repo}}
			fault := g.Basic()
			if scheme == "bearer" {
				fault = g.Bearer()
			}
			f := serve(t, fault)
			file := authFile(t, fmt.Sprintf(`{"auths":{"%s/%s":{"auth":"%s"},"%s":{"auth":"%s"}}}`, f.host, repo, basic("me", "for-"+repo), f.host, basic("me", "for-others")))
			c := dial(t, registry.Options{AuthFiles: []string{file}})
			for range 2 {
				if _, err := c.Resolve(t.Context(), f.tag); err != nil {
					t.Error(err)
				}
				// It is not there; but that is told to those alone who may know.
				if _, err := c.Resolve(t.Context(), parse(t, f.host+"/library/other:v1")); !errdefs.IsNotFound(err) {
					t.Errorf("got %v, want not found", err)
				}
			}
		})
	}
}

// What a server asks for may be nonsense, or a trap.
func TestStrangeChallenges(t *testing.T) {
	var reached []string
	trap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached = append(reached, r.URL.Path)
		switch r.URL.Path {
		case "/html":
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>log in</html>") // the client may be gone
		case "/text":
			_, _ = io.WriteString(w, "<html>log in</html>")
		case "/huge":
			_, _ = io.WriteString(w, strings.Repeat(" ", 1<<20)+`{"token":"x"}`)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/away":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}
	}))
	defer trap.Close()
	realm := func(path string) string { return `Bearer realm="` + trap.URL + path + `",service="x"` }
	for _, tc := range []struct {
		name, header string
		tls          string // the name of the registry, which speaks TLS; empty: it does not; loopback: by its address
		token        bool   // log in with an identity token
		want         string // in the error
		reached      int    // requests that the realm may see
	}{
		{name: "no header", header: "", want: "401 Unauthorized"},
		{name: "malformed", header: `Bearer realm="` + trap.URL, want: "its WWW-Authenticate header is malformed"},
		{name: "no realm", header: `Bearer service="x"`, want: "its WWW-Authenticate header is malformed"},
		{name: "an unknown scheme", header: `Negotiate abc==`, want: "401 Unauthorized"},
		{name: "no address", header: `Bearer realm="nowhere"`, want: "is no address of a token server"},
		{name: "a file", header: `Bearer realm="file://localhost/etc/passwd"`, want: "neither https nor http, but file"},
		{name: "another server without TLS", header: `Bearer realm="http://auth.example/token"`, want: "no password is sent there"},
		{name: "TLS no more", header: realm("/token"), tls: "r.example", want: "the realm that it names is http"},
		{name: "TLS no more, where http is tried first", header: realm("/token"), tls: "loopback", want: "400 Bad Request"},
		{name: "a web page", header: realm("/html"), want: "it answered with a web page", reached: 1},
		{name: "text", header: realm("/text"), want: "it answered with a web page", reached: 1},
		{name: "no token", header: realm("/empty"), want: "it answered with something else", reached: 1},
		{name: "too much", header: realm("/huge"), want: "it answered with something else", reached: 1},
		{name: "down", header: realm("/busy"), want: "503 Service Unavailable for a token", reached: 5},
		{name: "a redirect with an identity token", header: realm("/away"), token: true, want: "redirects with a secret to another server, 127.0.0.1:1", reached: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reached = nil
			answer := http.Header{}
			if tc.header != "" {
				answer.Set("WWW-Authenticate", tc.header)
			}
			f := serve(t, rt.Answer(http.StatusUnauthorized, answer, ""))
			o := registry.Options{Username: "me", Password: secret}
			r := f.tag
			if tc.token {
				o = registry.Options{AuthFiles: []string{authFile(t, `{"auths":{"`+f.host+`":{"identitytoken":"`+secret+`"}}}`)}}
			}
			if tc.tls != "" {
				host, _ := secure(t, f.proxy, nil)
				r = parse(t, host+"/"+repo+":v1")
				if tc.tls != "loopback" {
					o.HostsDirs = []string{hostsDir(t, tc.tls, "server = \"https://"+host+"\"\nskip_verify = true\n")}
					r = parse(t, tc.tls+"/"+repo+":v1")
				}
			}
			_, err := dial(t, o).Resolve(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v, want %q and no secret", err, tc.want)
			}
			if len(reached) != tc.reached {
				t.Errorf("the realm was asked for %v, want %d requests", reached, tc.reached)
			}
		})
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

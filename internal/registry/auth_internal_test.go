package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// The first link of the chain that has credentials counts, and in a file the longest path.
func TestChain(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nread server\n" +
		`[ "$1" = get ] && [ "$server" != unknown.example ] || { echo "credentials not found in native keychain"; exit 1; }` + "\n" +
		`echo "{\"Username\":\"helped\",\"Secret\":\"$server\"}"` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	entry := func(user string) string {
		return `{"auth":"` + base64.StdEncoding.EncodeToString([]byte(user+":secret")) + `"}`
	}
	auths := func(keys ...string) string {
		var list []string
		for _, k := range keys {
			list = append(list, `"`+k+`":`+entry("filed"))
		}
		return `{"auths":{` + strings.Join(list, ",") + `}}`
	}
	own := hosts.Host{URL: url.URL{Scheme: "https", Host: "r.example", Path: "/v2"}}
	hub := hosts.Host{URL: url.URL{Scheme: "https", Host: "registry-1.docker.io", Path: "/v2"}}
	mirror := hosts.Host{URL: url.URL{Scheme: "https", Host: "mirror.example:5000", Path: "/v2"}}
	given := Options{Username: "given", Password: "secret", UsernameFrom: "flag -u"}
	said := mirror
	said.Auth = &hosts.Auth{Username: "said", Password: "secret", Source: "hosts.toml:3"}
	for _, tc := range []struct {
		name     string
		o        Options
		host     hosts.Host
		registry string
		repo     string
		files    []string
		user     string
		source   string // FILE0 stands for the first of files
	}{
		{name: "nothing", host: own, registry: "r.example", source: "none: anonymous"},
		{name: "what is given comes first", o: given, host: own, registry: "r.example", files: []string{auths("r.example")}, user: "given", source: "flag -u"},
		{name: "but not for mirrors", o: given, host: mirror, registry: "r.example", files: []string{auths("r.example")}, source: "none: anonymous"},
		{name: "the hosts file comes before docker's", host: said, registry: "r.example", files: []string{auths("mirror.example:5000")}, user: "said", source: "hosts.toml:3"},
		{name: "a mirror has its own", host: mirror, registry: "r.example", files: []string{auths("r.example", "mirror.example:5000")}, user: "filed", source: "auth file FILE0, key mirror.example:5000"},
		{name: "the second file", host: own, registry: "r.example", files: []string{``, `{"auths":{"r.example":{}}}`, auths("r.example")}, user: "filed", source: "auth file FILE2, key r.example"},
		{name: "the longest path", host: own, registry: "r.example", repo: "a/b/c", files: []string{auths("r.example", "r.example/a", "r.example/a/b", "r.example/a/b/d", "r.example/a/bb")}, user: "filed", source: "auth file FILE0, key r.example/a/b"},
		{name: "the whole path", host: own, registry: "r.example", repo: "a/b", files: []string{auths("r.example/a", "r.example/a/b")}, user: "filed", source: "auth file FILE0, key r.example/a/b"},
		{name: "of another path only", host: own, registry: "r.example", repo: "a/b", files: []string{auths("r.example/b")}, source: "none: anonymous"},
		{name: "a path in the second file is after the first file", host: own, registry: "r.example", repo: "a", files: []string{auths("r.example"), auths("r.example/a")}, user: "filed", source: "auth file FILE0, key r.example"},
		{name: "a URL of old", host: own, registry: "r.example", repo: "a", files: []string{auths("https://r.example/v1/")}, user: "filed", source: "auth file FILE0, key https://r.example/v1/"},
		{name: "a URL with a path is for the server", host: own, registry: "r.example", repo: "a", files: []string{auths("https://r.example/anything")}, user: "filed", source: "auth file FILE0, key https://r.example/anything"},
		{name: "v1 without a scheme", host: own, registry: "r.example", files: []string{auths("r.example/v1/")}, user: "filed", source: "auth file FILE0, key r.example/v1/"},
		{name: "the name before its URLs", host: own, registry: "r.example", files: []string{auths("http://r.example", "r.example")}, user: "filed", source: "auth file FILE0, key r.example"},
		{name: "letter case", host: own, registry: "r.example", files: []string{auths("R.Example")}, user: "filed", source: "auth file FILE0, key R.Example"},
		{name: "Docker Hub by docker", host: hub, registry: "docker.io", repo: "library/a", files: []string{auths(hubKey)}, user: "filed", source: "auth file FILE0, key " + hubKey},
		{name: "Docker Hub by podman", host: hub, registry: "docker.io", repo: "library/a", files: []string{auths("docker.io")}, user: "filed", source: "auth file FILE0, key docker.io"},
		{name: "Docker Hub by index", host: hub, registry: "docker.io", files: []string{auths("index.docker.io")}, user: "filed", source: "auth file FILE0, key index.docker.io"},
		{name: "Docker Hub by path", host: hub, registry: "docker.io", repo: "team/a", files: []string{auths("docker.io", "docker.io/team")}, user: "filed", source: "auth file FILE0, key docker.io/team"},
		{name: "a helper of the server", host: own, registry: "r.example", files: []string{`{"auths":{"r.example":` + entry("x") + `},"credHelpers":{"r.example":"test"}}`}, user: "helped", source: "auth file FILE0, key r.example, helper docker-credential-test"},
		{name: "a helper for all", host: own, registry: "r.example", files: []string{`{"credsStore":"test"}`}, user: "helped", source: "auth file FILE0, key r.example, helper docker-credential-test"},
		{name: "a helper of a path", host: own, registry: "r.example", repo: "a/b", files: []string{`{"auths":{"r.example":` + entry("x") + `},"credHelpers":{"r.example/a":"test"}}`}, user: "helped", source: "auth file FILE0, key r.example/a, helper docker-credential-test"},
		{name: "a helper that does not know", host: hosts.Host{URL: url.URL{Host: "unknown.example"}}, registry: "unknown.example", files: []string{`{"credsStore":"test","auths":{"unknown.example":` + entry("x") + `}}`}, user: "x", source: "auth file FILE0, key unknown.example"},
		{name: "the helper of another server", host: own, registry: "r.example", files: []string{`{"credHelpers":{"q.example":"absent"}}`}, source: "none: anonymous"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := tc.o
			for i, text := range tc.files {
				file := filepath.Join(t.TempDir(), "config.json")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				o.AuthFiles = append(o.AuthFiles, file)
				tc.source = strings.Replace(tc.source, fmt.Sprintf("FILE%d", i), file, 1)
			}
			isOwn := tc.host.URL.Host == tc.registry || tc.registry == "docker.io"
			got, err := New(o).newChain(tc.registry, tc.host, isOwn).find(t.Context(), tc.repo)
			if err != nil || got.Username != tc.user || got.source != tc.source {
				t.Errorf("got %q from %q, %v; want %q from %q", got.Username, got.source, err, tc.user, tc.source)
			}
		})
	}
}

// A helper is asked for the server as docker calls it.
func TestHelperIsAskedFor(t *testing.T) {
	f := &authFile{Store: "all", Helpers: map[string]string{"docker.io": "hub", "r.example/a": "path"}, Auths: map[string]json.RawMessage{"q.example/b": nil}}
	for server, want := range map[string][]place{
		"docker.io": {{"docker.io", "hub", hubKey}, {"docker.io", "all", hubKey}},
		"r.example": {{"r.example/a", "path", "r.example/a"}, {"r.example", "all", "r.example"}},
		"q.example": {{"q.example", "all", "q.example"}},
	} {
		if got := f.places(server, "a/x"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", server, got, want)
		}
	}
}

// A helper that hangs, lies or is a path is left, and what it says is not told.
func TestHelperFaults(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	const secret = "correct-horse"
	for name, tc := range map[string]struct{ script, want string }{
		"hangs":   {"exec sleep 1000", "did not end within 50ms"},
		"shouts":  {"exec head -c 1000000 /dev/zero", "said more than 65536 bytes"},
		"fails":   {"echo " + secret + "; echo " + secret + " >&2; exit 3", "failed: exit status 3"},
		"babbles": {"echo '{\"Secret\": " + secret + "'", "gave no JSON"},
		"../x":    {"", "is a path"},
		"absent":  {"", "docker-credential-absent is not installed"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.script != "" {
				if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+tc.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var o Options
			if name == "hangs" {
				o.HelperTimeout = 50 * time.Millisecond
			}
			_, err := New(o).askHelper(t.Context(), name, "r.example")
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v, want %q and no secret", err, tc.want)
			}
		})
	}
}

func TestParseChallenges(t *testing.T) {
	bearer := challenge{"bearer", map[string]string{"realm": "https://a.example/token", "service": "r", "scope": "repository:a:pull,push"}}
	for _, tc := range []struct {
		name   string
		values []string
		want   []challenge
		bad    bool
	}{
		{name: "none"},
		{name: "as registries write it", values: []string{`Bearer realm="https://a.example/token",service="r",scope="repository:a:pull,push"`}, want: []challenge{bearer}},
		{name: "spaces and case", values: []string{`bEARER  Realm = "https://a.example/token" , SERVICE=r ,, scope="repository:a:pull,push",`}, want: []challenge{bearer}},
		{name: "two headers", values: []string{`Basic realm="x"`, `Bearer realm=y`}, want: []challenge{{"basic", map[string]string{"realm": "x"}}, {"bearer", map[string]string{"realm": "y"}}}},
		{name: "two in one", values: []string{`Basic realm="a, b", Bearer realm="y",service="s"`}, want: []challenge{{"basic", map[string]string{"realm": "a, b"}}, {"bearer", map[string]string{"realm": "y", "service": "s"}}}},
		{name: "others between", values: []string{`Negotiate, NTLM abc==, Basic`}, want: []challenge{{"negotiate", map[string]string{}}, {"ntlm", map[string]string{}}, {"basic", map[string]string{}}}},
		{name: "quotes", values: []string{`Basic realm="say \"x\\y\""`}, want: []challenge{{"basic", map[string]string{"realm": `say "x\y"`}}}},
		{name: "no end of the quotes", values: []string{`Bearer realm="https://a`}, bad: true},
		{name: "a quote at the end", values: []string{`Bearer realm="https://a\`}, bad: true},
		{name: "no value", values: []string{`Bearer realm=,service=x`}, want: []challenge{{"bearer", map[string]string{}}}, bad: true},
		{name: "more after a value", values: []string{`Bearer realm="a"b`}, bad: true},
		{name: "no scheme", values: []string{`="x"`}, bad: true},
		{name: "what is good comes through", values: []string{`Basic realm="x"`, `"`}, want: []challenge{{"basic", map[string]string{"realm": "x"}}}, bad: true},
		{name: "too long", values: []string{`Basic realm="` + strings.Repeat("x", maxChallenge) + `"`}, bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseChallenges(tc.values)
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(challenge{})); diff != "" || ok == tc.bad {
				t.Errorf("ok is %v; (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func TestCheckRealm(t *testing.T) {
	for _, tc := range []struct {
		server, realm string
		secret        bool
		want          string // in the error; empty: it is taken
	}{
		{server: "https://r.example", realm: "https://auth.example/token?x=y", secret: true},
		{server: "https://r.example", realm: "http://r.example/token", want: "is http"},
		{server: "https://r.example", realm: "http://127.0.0.1/token", want: "is http"},
		{server: "http://r.example", realm: "https://auth.example/token", secret: true},
		{server: "http://r.example", realm: "http://r.example:81/token", secret: true},
		{server: "http://r.example", realm: "http://auth.example/token", secret: true, want: "no password is sent there"},
		{server: "http://r.example", realm: "http://auth.example/token"},
		{server: "http://r.example", realm: "http://127.0.0.1:5001/token", secret: true},
		{server: "http://r.example", realm: "http://[::1]:5001/token", secret: true},
		{server: "http://r.example", realm: "file:///etc/passwd", want: "is no address"},
		{server: "http://r.example", realm: "file://x/etc/passwd", want: "but file"},
		{server: "http://r.example", realm: "gopher://x", want: "but gopher"},
		{server: "https://r.example", realm: "https://me:secret@auth.example/", want: "is no address"},
		{server: "https://r.example", realm: "/token", want: "is no address"},
		{server: "https://r.example", realm: "https:auth.example", want: "is no address"},
		{server: "https://r.example", realm: "https://a b/", want: "is no address"},
	} {
		server, err := url.Parse(tc.server)
		if err != nil {
			t.Fatal(err)
		}
		got, err := checkRealm(tc.realm, server, tc.secret)
		switch {
		case tc.want == "" && (err != nil || got.String() != tc.realm):
			t.Errorf("%s at %s: got %v, %v", tc.realm, tc.server, got, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s at %s: got %v, %v; want %q", tc.realm, tc.server, got, err, tc.want)
		}
	}
}

// Where a token server redirects to, a secret goes only if that is the same server, and nothing goes
// from https to http.
func TestTokenRedirect(t *testing.T) {
	const from = "https://auth.example/token"
	for _, tc := range []struct {
		name, from, to string
		post           bool
		before         int    // redirects
		want           string // empty: it is followed
	}{
		{name: "another path", from: from, to: "https://auth.example/v2/token", post: true},
		{name: "another server, asked by GET", from: from, to: "https://other.example/token"},
		{name: "another server, asked by POST", from: from, to: "https://other.example/token", post: true, want: "with a secret to another server, other.example"},
		{name: "another port, asked by POST", from: from, to: "https://auth.example:8443/token", post: true, want: "with a secret to another server, auth.example:8443"},
		{name: "TLS no more", from: from, to: "http://auth.example/token", want: "from https to http, at auth.example"},
		{name: "never TLS", from: "http://auth.example/token", to: "http://auth.example/v2/token", post: true},
		{name: "for ever", from: from, to: from, before: maxRedirects, want: "more than 10 redirects"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			method := http.MethodGet
			var body io.Reader
			if tc.post {
				method, body = http.MethodPost, strings.NewReader("password=x")
			}
			req := httptest.NewRequest(method, tc.to, body)
			if !tc.post {
				req.Body = nil // as a client's is
			}
			via := slices.Repeat([]*http.Request{httptest.NewRequest(method, tc.from, nil)}, max(tc.before, 1))
			err := tokenRedirect(req, via)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// How long a token is used for: nine tenths of its life.
func TestParseToken(t *testing.T) {
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name, body, value string
		use               time.Duration // from begun on
	}{
		{"no expiry", `{"token":"a"}`, "a", 54 * time.Second},
		{"access_token", `{"access_token":"b","expires_in":300}`, "b", 270 * time.Second},
		{"both", `{"token":"a","access_token":"b","expires_in":10}`, "a", 9 * time.Second},
		{"in quotes", `{"token":"a","expires_in":"300"}`, "a", 270 * time.Second},
		{"a fraction", `{"token":"a","expires_in":0.5}`, "a", 450 * time.Millisecond},
		{"null", `{"token":"a","expires_in":null}`, "a", 54 * time.Second},
		{"nought", `{"token":"a","expires_in":0}`, "a", 54 * time.Second},
		{"negative", `{"token":"a","expires_in":-1}`, "a", 54 * time.Second},
		{"no number", `{"token":"a","expires_in":{"x":1}}`, "a", 54 * time.Second},
		{"for ever", `{"token":"a","expires_in":1e300}`, "a", maxLife * 9 / 10},
		{"from a cache", `{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:02:05Z"}`, "a", 150 * time.Second},
		{"a clock behind ours", `{"token":"a","expires_in":300,"issued_at":"2026-01-02T02:02:05Z"}`, "a", 270 * time.Second},
		{"a clock before ours", `{"token":"a","expires_in":300,"issued_at":"2026-01-02T05:02:05Z"}`, "a", 270 * time.Second},
		{"no time", `{"token":"a","expires_in":300,"issued_at":"yesterday"}`, "a", 270 * time.Second},
	} {
		got, ok := parseToken([]byte(tc.body), begun)
		if !ok || got.value != tc.value || got.renew.Sub(begun) != tc.use {
			t.Errorf("%s: got %q for %s, %v; want %q for %s", tc.name, got.value, got.renew.Sub(begun), ok, tc.value, tc.use)
		}
	}
	for _, body := range []string{``, `{}`, `<html>`, `{"token":""}`, `{"token":"a\nb"}`, `{"token":"a b"}`, `{"token":"ä"}`, `[]`, strings.Repeat(" ", maxToken) + `{"token":"a"}`} {
		if got, ok := parseToken([]byte(body), begun); ok {
			t.Errorf("%.20q: got %q, want none", body, got.value)
		}
	}
}

// clocked is a registry and its token server, both without a network, so that time can be made up.
type clocked struct {
	life int // of tokens, in seconds; they are refused after it

	mu     sync.Mutex
	issued map[string]time.Time
	tokens int // that were asked for
	denied int // requests
	wait   time.Duration
	broken bool // the token server
}

func (c *clocked) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{}, Body: http.NoBody, Request: req}
	if req.URL.Host == "auth.example" {
		if err := rate.Wait(req.Context(), c.wait); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.URL.Host == "auth.example" {
		c.tokens++
		if c.broken {
			return nil, errors.New("broken")
		}
		token := fmt.Sprintf("token-%d-%s", c.tokens, strings.Join(req.URL.Query()["scope"], " "))
		token = base64.RawURLEncoding.EncodeToString([]byte(token))
		c.issued[token] = time.Now()
		resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"token":"%s","expires_in":%d}`, token, c.life)))
		return resp, nil
	}
	at, ok := c.issued[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
	if !ok || time.Since(at) > time.Duration(c.life)*time.Second {
		c.denied++
		resp.StatusCode = 401
		resp.Header.Set("WWW-Authenticate", `Bearer realm="https://auth.example/token",service="r"`)
	}
	return resp, nil
}

func (c *clocked) authorizer() *authorizer {
	c.issued = map[string]time.Time{}
	h := hosts.Host{URL: url.URL{Scheme: "https", Host: "r.example", Path: "/v2"}}
	return New(Options{}).newAuthorizer("r.example", h, true, &http.Client{Transport: c, CheckRedirect: tokenRedirect})
}

func ask(ctx context.Context, a *authorizer, scopes ...string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://r.example/v2/a/manifests/b", nil)
	if err != nil {
		return 0, err
	}
	resp, err := a.do(req, "a", scopes...)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// A token is renewed before it runs out, so that the server refuses one request and never another.
func TestTokenIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &clocked{life: 300}
		a := server.authorizer()
		for range 3600 {
			if status, err := ask(t.Context(), a, "repository:a:pull"); status != 200 {
				t.Fatalf("got %d, %v", status, err)
			}
			time.Sleep(time.Second)
		}
		if server.denied != 1 || server.tokens != 3600/270+1 {
			t.Errorf("%d requests were refused, and %d tokens given; want 1 and %d", server.denied, server.tokens, 3600/270+1)
		}
	})
}

// Requests that want the same share one token; those that want something else do not.
func TestTokensAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &clocked{life: 300, wait: time.Second}
		a := server.authorizer()
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				scopes := []string{"repository:a:pull"}
				if i%2 == 1 { // a mount: from b to a
					scopes = []string{"repository:b:pull", "repository:a:push,pull"}
				}
				if status, err := ask(t.Context(), a, scopes...); status != 200 {
					t.Errorf("got %d, %v", status, err)
				}
			})
		}
		group.Wait()
		if server.tokens != 2 {
			t.Errorf("%d tokens were asked for, want 2", server.tokens)
		}
	})
}

// Whoever waited for a token that did not come does not try again, one after the other.
func TestTokenFaultIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &clocked{wait: 30 * time.Second, broken: true}
		a := server.authorizer()
		begun := time.Now()
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if _, err := ask(t.Context(), a, "repository:a:pull"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "auth.example: a token") {
					t.Errorf("got %v, want an unavailable token server", err)
				}
			})
		}
		group.Wait()
		if took := time.Since(begun); took != 30*time.Second {
			t.Errorf("it took %s, want 30s", took)
		}
		// One that gives up, while it waits or while all others wait for it, takes nobody with it.
		server.broken, server.life = false, 300
		for range 8 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := ask(ctx, a, "repository:a:pull"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want that it gives up", err)
				}
			})
		}
		synctest.Wait()
		if status, err := ask(t.Context(), a, "repository:a:pull"); status != 200 {
			t.Errorf("got %d, %v", status, err)
		}
		group.Wait()
	})
}

// What a helper gave is asked for anew when it is refused in the end.
func TestCredentialsAreLookedUpAgain(t *testing.T) {
	password, looked := "old", 0
	server := roundTrip(func(req *http.Request) *http.Response {
		resp := &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {`Basic realm="x"`}}, Body: http.NoBody, Request: req}
		if _, given, _ := req.BasicAuth(); given == password {
			resp.StatusCode = 200
		}
		return resp
	})
	h := hosts.Host{URL: url.URL{Scheme: "https", Host: "r.example", Path: "/v2"}}
	a := New(Options{}).newAuthorizer("r.example", h, true, &http.Client{Transport: server, CheckRedirect: tokenRedirect})
	a.find = func(context.Context, string) (credential, error) {
		looked++
		return credential{auth.Credential{Username: "me", Password: password}, "here"}, nil
	}
	for i, next := range []string{"old", "old", "new"} {
		password = next
		if status, err := ask(t.Context(), a); status != 200 {
			t.Errorf("request %d: got %d, %v", i, status, err)
		}
	}
	if looked != 2 {
		t.Errorf("credentials were looked up %d times, want 2", looked)
	}
}

type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req), nil }

// Whatever a server sends to say what it asks for, there is an end of it, and what is read is there.
func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a.example/token",service="r",scope="repository:a:pull"`)
	f.Add(`Negotiate abc==, Basic realm="a\"b", Bearer realm=x`)
	f.Fuzz(func(t *testing.T, header string) {
		list, ok := parseChallenges([]string{header})
		size := 0
		for _, c := range list {
			size += len(c.scheme)
			for k, v := range c.params {
				size += len(k) + len(v)
			}
		}
		if size > len(header) || ok && len(list) == 0 && strings.Trim(header, " \t,") != "" {
			t.Errorf("got %v, %v", list, ok)
		}
		if c, ok := choose(list); ok {
			_, _ = checkRealm(c.params["realm"], &url.URL{Scheme: "https", Host: "r.example"}, true)
		}
	})
}

// A token is one that a header can carry, and is used for a while that has an end.
func FuzzToken(f *testing.F) {
	f.Add([]byte(`{"token":"a","access_token":"b","expires_in":300,"issued_at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"token":"a","expires_in":"-1e9"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		got, ok := parseToken(body, begun)
		if use := got.renew.Sub(begun); ok && (got.value == "" || strings.ContainsAny(got.value, " \r\n\x00") || use > maxLife || use < -maxLife) {
			t.Errorf("got %q for %s", got.value, use)
		}
	})
}

// Whatever is in a file, an error of it does not quote it.
func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"r.example/a":{"auth":"bWU6c2VjcmV0"},"https://index.docker.io/v1/":{"identitytoken":"x"}},"credsStore":"x","credHelpers":{"r.example":"y"}}`), "r.example", "a/b")
	f.Add([]byte(`{"auths":{"r.example":{"auth":"secret"}}}`), "r.example", "")
	f.Fuzz(func(t *testing.T, body []byte, server, repo string) {
		file := &authFile{name: "x"}
		if err := file.parse(body); err != nil {
			if err != errMalformed {
				t.Errorf("got %v", err)
			}
			return
		}
		for _, p := range file.places(server, repo) {
			if p.helper != "" {
				continue
			}
			if _, err := file.entry(p.key); err != nil && err != errMalformed {
				t.Errorf("got %v", err)
			}
		}
		for _, key := range file.keys(server) {
			if normalKey(key) != server {
				t.Errorf("key %q is not of %q", key, server)
			}
		}
	})
}

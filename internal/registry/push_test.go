package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	third "github.com/google/go-containerregistry/pkg/registry"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// A target is a registry behind faults, to be pushed to.
type target struct {
	host     string
	proxy    *rt.Proxy
	registry http.Handler // without faults
	ref      ref.Reference
}

// A start runs a registry, or another front of one, behind faults.
type start func(t *testing.T, faults ...rt.Fault) *target

// makes are real registries of three makes.
var makes = map[string]func(t *testing.T) start{
	"distribution": func(*testing.T) start { return distribution },
	"debian": func(t *testing.T) start {
		p, err := rt.StartDebian(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
		transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return lingering{c.(*net.TCPConn)}, nil
		}}
		t.Cleanup(transport.CloseIdleConnections)
		return func(t *testing.T, faults ...rt.Fault) *target {
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.Host})
			proxy.Transport, proxy.ErrorLog = transport, log.New(io.Discard, "", 0)
			return behind(t, proxy, faults...)
		}
	},
	"go-containerregistry": func(*testing.T) start {
		return func(t *testing.T, faults ...rt.Fault) *target {
			return behind(t, third.New(third.Logger(log.New(io.Discard, "", 0)), third.WithReferrersSupport(true)), faults...)
		}
	},
}

// A lingering connection is closed when the other side has done so too. A registry whose client is gone
// in the middle of a request is done with it by then; before that, what it says of the upload depends on
// how far it has got.
type lingering struct{ *net.TCPConn }

func (l lingering) Close() error {
	err := l.CloseWrite()
	_, _ = io.Copy(io.Discard, l.TCPConn) // how it ends is no matter
	return errors.Join(err, l.TCPConn.Close())
}

func distribution(t *testing.T, faults ...rt.Fault) *target {
	t.Helper()
	g := new(target)
	s, err := rt.New(rt.Options{Wrap: func(h http.Handler) http.Handler {
		g.registry, g.proxy = h, rt.Wrap(h, faults...)
		return g.proxy
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return g.at(t, s.Host)
}

// behind serves a registry behind faults.
func behind(t *testing.T, h http.Handler, faults ...rt.Fault) *target {
	t.Helper()
	g := &target{registry: h, proxy: rt.Wrap(h, faults...)}
	s := httptest.NewUnstartedServer(g.proxy)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return g.at(t, s.Listener.Addr().String())
}

func (g *target) at(t *testing.T, host string) *target {
	g.host, g.ref = host, parse(t, host+"/"+repo+":v1")
	return g
}

// get asks the registry itself.
func (g *target) get(path string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, "http://"+g.host+"/v2/"+path, nil)
	r.Header.Set("Accept", image.OCIManifest+","+image.OCIIndex)
	w := httptest.NewRecorder()
	g.registry.ServeHTTP(w, r)
	return w.Result()
}

// has fails the test unless the registry has the bytes under a path.
func (g *target) has(t *testing.T, path string, want []byte) {
	t.Helper()
	resp := g.get(path)
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("%s: %d, %d bytes, want %d; %v", path, resp.StatusCode, len(got), len(want), err)
	}
}

// methods lists the requests that arrived by their methods.
func (g *target) methods() string {
	var list []string
	for _, r := range g.proxy.Requests() {
		list = append(list, r.Method)
	}
	return strings.Join(list, " ")
}

func random(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{2})
	_, _ = source.Read(b) // never fails
	return b
}

func describe(b []byte) image.Descriptor { return image.Describe(image.OCILayer, b) }

// bytesOf is a source that has all of it.
func bytesOf(b []byte, from ...string) registry.BlobSource {
	return registry.BlobSource{From: from, Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}}
}

// What is pushed arrives, at every make of registry, and is not pushed twice.
func TestPush(t *testing.T) {
	for name, run := range makes {
		t.Run(name, func(t *testing.T) {
			g := run(t)(t)
			c := dial(t, registry.Options{})
			layer, config := random(300_000), []byte("{}")
			for _, b := range [][]byte{layer, config, {}} {
				got, err := c.PushBlob(t.Context(), g.ref, describe(b), bytesOf(b), nil)
				if want := (registry.PushOutcome{How: registry.Uploaded, Sent: int64(len(b))}); err != nil || got != want {
					t.Fatalf("got %+v, %v; want %+v", got, err, want)
				}
				g.has(t, repo+"/blobs/"+describe(b).Digest.String(), b)
			}
			body, d, err := image.BuildManifest(image.Describe(image.OCIConfig, config), []image.Descriptor{describe(layer)})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.PushManifest(t.Context(), g.ref, d, body); err != nil {
				t.Fatal(err)
			}
			g.has(t, repo+"/manifests/v1", body)
			byDigest := parse(t, g.host+"/other@"+d.Digest.String())
			for _, b := range [][]byte{layer, config} {
				if _, err := c.PushBlob(t.Context(), byDigest, describe(b), bytesOf(b), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.PushManifest(t.Context(), byDigest, d, body); err != nil {
				t.Fatal(err)
			}
			g.has(t, "other/manifests/"+d.Digest.String(), body)
			if got := g.methods(); got != "HEAD POST PUT HEAD POST PUT HEAD POST PUT PUT HEAD POST PUT HEAD POST PUT PUT" && name != "go-containerregistry" {
				t.Errorf("requests: %s", got)
			}

			g.proxy.Forget()
			absent := describe([]byte("absent"))
			for _, m := range []image.Descriptor{d, absent} {
				if has, err := c.HasManifest(t.Context(), g.ref, m); has != (m.Digest == d.Digest) || err != nil {
					t.Errorf("manifest %s: %t, %v", m.Digest, has, err)
				}
			}
			got, err := c.PushBlob(t.Context(), g.ref, describe(layer), registry.BlobSource{}, nil)
			if err != nil || got != (registry.PushOutcome{How: registry.Present}) {
				t.Errorf("again: got %+v, %v", got, err)
			}
			if has, err := c.HasBlob(t.Context(), g.ref, absent); has || err != nil {
				t.Errorf("a blob that is not there: %t, %v", has, err)
			}
			if got := g.methods(); got != "HEAD HEAD HEAD HEAD" {
				t.Errorf("requests: %s, want one for each question", got)
			}
		})
	}
}

// A blob is taken from another repository where the registry can do that, and else uploaded by what it
// began instead.
func TestMount(t *testing.T) {
	for name, run := range makes {
		t.Run(name, func(t *testing.T) {
			g := run(t)(t)
			c := dial(t, registry.Options{})
			b := random(100_000)
			if _, err := c.PushBlob(t.Context(), parse(t, g.host+"/base/image"), describe(b), bytesOf(b), nil); err != nil {
				t.Fatal(err)
			}
			g.proxy.Forget()
			got, err := c.PushBlob(t.Context(), g.ref, describe(b), bytesOf(b, repo, "base/image", "no/other"), nil)
			if err != nil {
				t.Fatal(err)
			}
			want := registry.PushOutcome{How: registry.Mounted, From: "base/image"}
			requests := []rt.Request{
				{Method: "HEAD", Path: "/v2/" + repo + "/blobs/" + describe(b).Digest.String()},
				{Method: "POST", Path: "/v2/" + repo + "/blobs/uploads/", Query: "from=base%2Fimage&mount=" + url.QueryEscape(describe(b).Digest.String())},
			}
			if name == "go-containerregistry" { // its blobs are in all repositories
				want, requests = registry.PushOutcome{How: registry.Present}, requests[:1]
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if diff := cmp.Diff(requests, g.proxy.Requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			g.has(t, repo+"/blobs/"+describe(b).Digest.String(), b)

			// What cannot be mounted is uploaded, with one request more for each that refuses.
			g.proxy.Forget()
			b = random(50_000)
			got, err = c.PushBlob(t.Context(), g.ref, describe(b), bytesOf(b, "base/image", "no/other"), nil)
			if want := (registry.PushOutcome{How: registry.Uploaded, Sent: 50_000}); err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
			if got := g.methods(); got != "HEAD POST PUT" {
				t.Errorf("requests: %s", got)
			}
		})
	}
}

// A registry that refuses to mount is asked for the next repository, and then to take an upload.
func TestMountRefused(t *testing.T) {
	g := distribution(t, rt.On("POST", "", rt.Times(2, rt.Status(http.StatusForbidden))))
	b := random(1000)
	faults := 0
	got, err := dial(t, registry.Options{}).PushBlob(t.Context(), g.ref, describe(b), bytesOf(b, "a", "b"), func(error) { faults++ })
	if err != nil || got.How != registry.Uploaded || faults != 2 {
		t.Errorf("got %+v, %v, %d faults", got, err, faults)
	}
	if got := g.methods(); got != "HEAD POST POST POST PUT" {
		t.Errorf("requests: %s", got)
	}
}

const mib = 1 << 20

// An uploadCase is a way in which an upload goes wrong.
type uploadCase struct {
	name   string
	size   int
	faults []rt.Fault
	asked  string
	debian string // of Debian's, which forgets an upload that broke within a chunk
	third  string // of go-containerregistry, which never tells how much it has; empty, as above: the same, -: this is not for it
	sent   int64  // bytes at most
	told   int    // of so many faults at least
}

func uploadCases() []uploadCase {
	put := func(f rt.Fault) rt.Fault { return rt.On("PUT", "", f) }
	patch := func(f rt.Fault) rt.Fault { return rt.On("PATCH", "", f) }
	status := func(code int) rt.Fault { return rt.Taken(rt.Status(code)) }
	inChunks := func() rt.Fault { return put(rt.Times(1, status(http.StatusNotImplemented))) }
	return []uploadCase{
		{
			name: "too large at once", size: 5 * mib, faults: []rt.Fault{rt.MostBody(2 * mib)},
			asked: "HEAD POST PUT PATCH PATCH PATCH PATCH PATCH PUT", sent: 15 * mib,
		},
		{
			name: "cut", size: 5 * mib, faults: []rt.Fault{put(rt.Times(1, rt.CutBody(3*mib)))},
			asked: "HEAD POST PUT GET PATCH PUT", sent: 10 * mib, told: 1,
			debian: "HEAD POST PUT GET HEAD POST PATCH PATCH PUT",
			third:  "HEAD POST PUT GET HEAD POST PATCH PATCH PUT",
		},
		{
			name: "cut again and again", size: 5 * mib, faults: []rt.Fault{rt.CutBody(2*mib - 7)},
			asked: "HEAD POST PUT GET PATCH GET PATCH PATCH PUT", sent: 13 * mib, told: 2,
			debian: "HEAD POST PUT GET HEAD POST PATCH GET POST PATCH PATCH PATCH PATCH PATCH PUT",
			third:  "HEAD POST PUT GET HEAD POST PATCH GET POST PATCH PATCH PATCH PATCH PATCH PUT",
		},
		{
			name: "a least size of chunks", size: 5 * mib,
			faults: []rt.Fault{rt.On("POST", "", rt.SetHeader("OCI-Chunk-Min-Length", "3000000"))},
			asked:  "HEAD POST PATCH PATCH PUT", sent: 5 * mib,
		},
		{name: "not at once", size: 5 * mib, faults: []rt.Fault{inChunks()}, asked: "HEAD POST PUT PATCH PATCH PUT", sent: 10 * mib},
		{
			name: "forgotten", size: mib, faults: []rt.Fault{put(rt.Times(1, status(http.StatusNotFound)))},
			asked: "HEAD POST PUT HEAD POST PUT", sent: 2 * mib, told: 1,
		},
		{
			name: "forgotten in chunks", size: 5 * mib, faults: []rt.Fault{inChunks(), patch(rt.Times(1, status(http.StatusNotFound)))},
			asked: "HEAD POST PUT PATCH HEAD POST PATCH PATCH PUT", sent: 13 * mib, told: 1,
		},
		{
			name: "busy", size: mib, faults: []rt.Fault{put(rt.Times(2, status(http.StatusServiceUnavailable)))},
			asked: "HEAD POST PUT GET PUT GET PUT", sent: 3 * mib, told: 2,
			third: "HEAD POST PUT GET HEAD POST PUT GET HEAD POST PUT",
		},
		{
			name: "too many requests", size: 1000, faults: []rt.Fault{rt.On("POST", "", rt.Times(1, rt.TooMany("1")))},
			asked: "HEAD POST POST PUT", sent: 1000, told: 1,
			debian: "-", third: "-", // no registry has a part in it, and it takes a second
		},
		{
			name: "an answer that is lost", size: mib, faults: []rt.Fault{put(rt.Times(1, rt.LoseAnswer()))},
			asked: "HEAD POST PUT GET HEAD", sent: mib, told: 1,
		},
		{
			name: "an answer to a chunk that is lost", size: 5 * mib, faults: []rt.Fault{inChunks(), patch(rt.Times(1, rt.LoseAnswer()))},
			asked: "HEAD POST PUT PATCH GET PATCH PATCH PATCH PUT", sent: 13 * mib, told: 1,
			debian: "HEAD POST PUT PATCH GET HEAD POST PATCH PATCH PATCH PATCH PATCH PUT",
			third:  "HEAD POST PUT PATCH GET HEAD POST PATCH PATCH PATCH PATCH PATCH PUT",
		},
		{
			name: "it stands elsewhere", size: 5 * mib,
			faults: []rt.Fault{inChunks(), patch(rt.Times(2, status(http.StatusRequestedRangeNotSatisfiable)))},
			asked:  "HEAD POST PUT PATCH GET PATCH GET PATCH PATCH PUT", sent: 15 * mib,
			third: "HEAD POST PUT PATCH GET HEAD POST PATCH GET POST PATCH PATCH PUT",
		},
		{
			name: "it says that it has less", size: 5 * mib, faults: []rt.Fault{inChunks(), patch(rt.Times(1, rt.SetHeader("Range", "0-99")))},
			asked: "HEAD POST PUT PATCH GET PATCH PUT", sent: 10 * mib, third: "-",
		},
		{
			name: "it does not say what it has", size: mib,
			faults: []rt.Fault{put(rt.Times(1, status(http.StatusServiceUnavailable))), rt.On("GET", "/uploads/", rt.SetHeader("Range", ""))},
			asked:  "HEAD POST PUT GET HEAD POST PUT", sent: 2 * mib, told: 2,
		},
		{
			name: "busy when asked what it has", size: mib,
			faults: []rt.Fault{put(rt.Times(1, status(http.StatusServiceUnavailable))), rt.On("GET", "/uploads/", rt.Times(1, rt.Status(http.StatusServiceUnavailable)))},
			asked:  "HEAD POST PUT GET GET PUT", sent: 2 * mib, told: 2, third: "HEAD POST PUT GET GET HEAD POST PUT",
		},
		{
			name: "pieces put together wrongly", size: mib,
			faults: []rt.Fault{put(rt.First(status(http.StatusServiceUnavailable), rt.Times(1, rt.Taken(rt.Answer(http.StatusBadRequest, nil, `{"errors":[{"code":"DIGEST_INVALID"}]}`)))))},
			asked:  "HEAD POST PUT GET PUT HEAD POST PUT", sent: 3 * mib, told: 2, third: "-",
		},
		{name: "a relative place", size: 1000, faults: []rt.Fault{relative}, asked: "HEAD POST PUT", sent: 1000},
		{name: "a single byte in chunks", size: 1, faults: []rt.Fault{inChunks()}, asked: "HEAD POST PUT PATCH PUT", sent: 2},
	}
}

// Whatever goes wrong, the blob arrives, and little is sent twice.
func TestUpload(t *testing.T) {
	for name, run := range makes {
		t.Run(name, func(t *testing.T) {
			begin := run(t)
			for i, tc := range uploadCases() {
				want := tc.asked
				if other := map[string]string{"debian": tc.debian, "go-containerregistry": tc.third}[name]; other != "" {
					want = other
				}
				if want == "-" {
					continue
				}
				t.Run(tc.name, func(t *testing.T) {
					t.Parallel()
					g := begin(t, tc.faults...)
					b := random(tc.size)
					b[0] = byte(i) // the registry may be the one of the case before
					var told []error
					got, err := dial(t, registry.Options{}).PushBlob(t.Context(), g.ref, describe(b), bytesOf(b), func(err error) { told = append(told, err) })
					if err != nil {
						t.Fatalf("%v, after %s", err, g.methods())
					}
					g.has(t, repo+"/blobs/"+describe(b).Digest.String(), b)
					if asked := g.methods(); asked != want {
						t.Errorf("requests: %s, want %s", asked, want)
					}
					if got.How != registry.Uploaded || got.Sent > tc.sent || len(told) < tc.told {
						t.Errorf("got %+v, told of %v; want at most %d bytes and %d faults", got, told, tc.sent, tc.told)
					}
				})
			}
		})
	}
}

// relative takes the host away from the places that the registry names.
func relative(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		if at, err := answer.Result().Location(); err == nil {
			w.Header().Set("Location", at.RequestURI())
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client may be gone
	})
}

// An upload that nothing comes of ends.
func TestUploadErrors(t *testing.T) {
	b := random(3 * mib)
	quota := `{"errors":[{"code":"DENIED","message":"the quota of 1 GiB\nis used up"}]}`
	broken := errors.New("the disk is gone")
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		source registry.BlobSource // zero: all of it
		kind   error
		want   string
		asked  string // empty: it depends on which of both hears of it first
	}{
		{
			name: "never at once", faults: []rt.Fault{rt.MostBody(1000)}, kind: errdefs.ErrUnknown, want: "413 Request Entity Too Large",
			asked: "HEAD POST PUT PATCH PATCH",
		},
		{
			name: "cut each time", faults: []rt.Fault{rt.CutBody(0)}, kind: errdefs.ErrUnavailable,
			asked: "HEAD POST PUT GET PATCH GET PATCH GET PATCH GET PATCH",
		},
		{
			name: "forgotten each time", faults: []rt.Fault{rt.On("PUT", "", rt.Taken(rt.Status(http.StatusNotFound)))}, kind: errdefs.ErrNotFound, want: "404 Not Found for blob",
			asked: "HEAD POST PUT HEAD POST PUT HEAD POST PUT HEAD POST PUT HEAD POST PUT HEAD",
		},
		{
			name: "quota", faults: []rt.Fault{rt.On("POST", "", rt.Answer(http.StatusForbidden, nil, quota))},
			kind: errdefs.ErrPermissionDenied, want: "403 Forbidden for blob " + describe(b).Digest.String() + " of " + repo + ": the quota of 1 GiB is used up",
			asked: "HEAD POST",
		},
		{name: "not allowed", faults: []rt.Fault{rt.On("POST", "", rt.Status(http.StatusMethodNotAllowed))}, kind: errdefs.ErrUnknown, want: "405", asked: "HEAD POST"},
		{name: "nowhere", faults: []rt.Fault{rt.SetHeader("Location", "")}, kind: errdefs.ErrUnknown, want: "does not say where", asked: "HEAD POST"},
		{
			name: "a lie", faults: []rt.Fault{rt.On("PUT", "", rt.SetHeader("Docker-Content-Digest", wrongDigest))},
			kind: errdefs.ErrDataLoss, want: "as " + wrongDigest, asked: "HEAD POST PUT",
		},
		{name: "other bytes", source: bytesOf(make([]byte, 3*mib)), kind: errdefs.ErrDataLoss, want: "400 Bad Request for blob", asked: "HEAD POST PUT"},
		{name: "too few bytes", source: bytesOf(b[:mib]), kind: errdefs.ErrDataLoss, want: "it ended 2097152 bytes too early"},
		{
			name: "a source that cannot be opened", kind: broken, asked: "HEAD POST",
			source: registry.BlobSource{Open: func(context.Context, int64) (io.ReadCloser, error) { return nil, broken }},
		},
		{
			name: "a source that breaks", kind: broken,
			source: registry.BlobSource{Open: func(context.Context, int64) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(bytes.NewReader(b[:mib]), iotest.ErrReader(broken))), nil
			}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := distribution(t, tc.faults...)
			if tc.source.Open == nil {
				tc.source = bytesOf(b)
			}
			_, err := dial(t, registry.Options{}).PushBlob(t.Context(), g.ref, describe(b), tc.source, nil)
			if !errors.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("got %v, want %v, with %q", err, tc.kind, tc.want)
			}
			if asked := g.methods(); tc.asked != "" && asked != tc.asked {
				t.Errorf("requests: %s, want %s", asked, tc.asked)
			}
		})
	}
}

// A push that is cancelled ends, and reads no more of its source.
func TestUploadCancelled(t *testing.T) {
	g := distribution(t)
	ctx, cancel := context.WithCancel(t.Context())
	closed := 0
	source := registry.BlobSource{Open: func(context.Context, int64) (io.ReadCloser, error) {
		return struct {
			io.Reader
			closer
		}{io.MultiReader(strings.NewReader("some"), readerFunc(func([]byte) (int, error) {
			cancel()
			<-ctx.Done()
			return 0, ctx.Err()
		})), func() { closed++ }}, nil
	}}
	_, err := dial(t, registry.Options{}).PushBlob(ctx, g.ref, describe(random(mib)), source, nil)
	if !errors.Is(err, context.Canceled) || closed != 1 {
		t.Errorf("got %v, closed %d times", err, closed)
	}
}

type closer func()

func (c closer) Close() error {
	c()
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Where an upload goes on at another host, neither credentials nor headers for the registry go along.
func TestUploadElsewhere(t *testing.T) {
	b := random(100_000)
	var stored []byte
	var seen http.Header
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || r.URL.Query().Get("digest") != describe(b).Digest.String() || r.URL.Query().Get("signature") != "a b+c" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		seen = r.Header
		stored, _ = io.ReadAll(r.Body) // what is missing is noticed below
		w.WriteHeader(http.StatusCreated)
	}))
	defer elsewhere.Close()
	guard := &rt.Guard{User: "me", Password: secret}
	g := distribution(t, guard.Basic(), rt.On("POST", "", rt.SetHeader("Location", elsewhere.URL+"/store?signature=a%20b%2Bc")))
	c := dial(t, registry.Options{Username: "me", Password: secret, HostsDirs: []string{hostsDir(t, g.host, `
server = "http://`+g.host+`"
[header]
X-Secret = "`+secret+`"
`)}})
	got, err := c.PushBlob(t.Context(), g.ref, describe(b), bytesOf(b), nil)
	if err != nil || got.How != registry.Uploaded || !bytes.Equal(stored, b) {
		t.Fatalf("got %+v, %v; %d bytes are there", got, err, len(stored))
	}
	if text := fmt.Sprint(seen); strings.Contains(text, secret) || seen.Get("Authorization") != "" {
		t.Errorf("sent along: %s", text)
	}
}

// Tokens that run out in the middle of an upload are renewed, and allow what is needed and no more.
func TestPushTokens(t *testing.T) {
	guard := &rt.Guard{User: "me", Password: secret, Lifetime: 2}
	g := distribution(t, rt.MostBody(mib), guard.Bearer())
	c := dial(t, registry.Options{Username: "me", Password: secret})
	b := random(4 * mib)
	got, err := c.PushBlob(t.Context(), g.ref, describe(b), bytesOf(b, "base/image"), nil)
	if err != nil || got.How != registry.Uploaded {
		t.Fatalf("got %+v, %v", got, err)
	}
	g.has(t, repo+"/blobs/"+describe(b).Digest.String(), b)
	scopes := map[string]bool{}
	tokens := 0
	for _, r := range g.proxy.Requests() {
		if r.Path == "/token" {
			query, err := url.ParseQuery(r.Query)
			if err != nil {
				t.Fatal(err)
			}
			scopes[strings.Join(query["scope"], " ")] = true
			tokens++
		}
	}
	want := map[string]bool{
		"repository:" + repo + ":pull,push":                            true,
		"repository:base/image:pull repository:" + repo + ":pull,push": true,
	}
	if diff := cmp.Diff(want, scopes); diff != "" {
		t.Errorf("scopes (-want +got):\n%s", diff)
	}
	if tokens < 4 {
		t.Errorf("%d tokens for all requests of an upload, each good for two", tokens)
	}
}

// Only a host with the capability is pushed to.
func TestPushHost(t *testing.T) {
	mirror, upstream := distribution(t), distribution(t)
	toml := `server = "http://` + upstream.host + `"
[host."http://` + mirror.host + `"]
capabilities = ["pull", "resolve"]
`
	c := dial(t, registry.Options{HostsDirs: []string{hostsDir(t, upstream.host, toml)}})
	b := random(1000)
	if _, err := c.PushBlob(t.Context(), upstream.ref, describe(b), bytesOf(b), nil); err != nil {
		t.Fatal(err)
	}
	if got := mirror.methods(); got != "" {
		t.Errorf("the mirror was asked: %s", got)
	}
	upstream.has(t, repo+"/blobs/"+describe(b).Digest.String(), b)

	// Where there is no such host, it is said so, and nothing is sent.
	toml = "fallback = false\n" + strings.SplitN(toml, "\n", 2)[1]
	c = dial(t, registry.Options{HostsDirs: []string{hostsDir(t, upstream.host, toml)}})
	_, err := c.PushBlob(t.Context(), upstream.ref, describe(b), bytesOf(b), nil)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), upstream.host) {
		t.Errorf("got %v", err)
	}
	if got := mirror.methods(); got != "" {
		t.Errorf("the mirror was asked: %s", got)
	}
}

// Uploads go over HTTP/2 as well, and their faults are found there too.
func TestPushHTTP2(t *testing.T) {
	h := third.New(third.Logger(log.New(io.Discard, "", 0)))
	g := &target{registry: h, proxy: rt.Wrap(h, rt.On("PUT", "", rt.Times(1, rt.CutBody(mib))))}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
			return
		}
		g.proxy.ServeHTTP(w, r)
	}))
	s.EnableHTTP2, s.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	g.at(t, s.Listener.Addr().String())
	c := dial(t, registry.Options{HostsDirs: []string{hostsDir(t, g.host, "server = \"https://"+g.host+"\"\nskip_verify = true\n")}})
	b := random(3 * mib)
	got, err := c.PushBlob(t.Context(), g.ref, describe(b), bytesOf(b), nil)
	if err != nil || got.How != registry.Uploaded {
		t.Fatalf("got %+v, %v", got, err)
	}
	g.has(t, repo+"/blobs/"+describe(b).Digest.String(), b)
	if asked := g.methods(); asked != "HEAD POST PUT GET HEAD POST PATCH PATCH PUT" {
		t.Errorf("requests: %s", asked)
	}
}

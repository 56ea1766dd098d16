package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	third "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// A slowServer takes the body of a request in portions, one every so often, and then thinks.
type slowServer struct {
	every time.Duration
	think time.Duration
	takes int // portions; negative: all
}

func (s *slowServer) RoundTrip(req *http.Request) (*http.Response, error) {
	wait := func(d time.Duration) error { return rate.Wait(req.Context(), d) }
	if req.Body != nil {
		for n := 0; ; n++ {
			if n == s.takes {
				if err := wait(time.Hour); err != nil {
					return nil, err
				}
			}
			_, err := req.Body.Read(make([]byte, 10))
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, err
			}
			if err := wait(s.every); err != nil {
				return nil, err
			}
		}
		if err := req.Body.Close(); err != nil {
			return nil, err
		}
	}
	httptrace.ContextClientTrace(req.Context()).WroteRequest(httptrace.WroteRequestInfo{})
	if err := wait(s.think); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

// A slowReader takes an hour for each portion.
type slowReader struct{ io.Reader }

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return s.Reader.Read(p)
}

// Servers have a time for each portion and one for the answer; a slow source costs them none of it.
func TestPatience(t *testing.T) {
	const s = time.Second
	body := func() io.Reader { return bytes.NewReader(make([]byte, 100)) }
	for _, tc := range []struct {
		name   string
		server slowServer
		body   io.Reader
		think  time.Duration
		want   error
		at     time.Duration
	}{
		{"all is well", slowServer{every: 29 * s, think: 29 * s, takes: -1}, body(), 0, nil, 319 * s},
		{"no byte is taken", slowServer{takes: 3}, body(), 0, errUntaken, 30 * s},
		{"no answer", slowServer{think: time.Hour}, nil, 0, errUnanswered, 30 * s},
		{"no answer to a body", slowServer{every: s, think: time.Hour, takes: -1}, body(), 0, errUnanswered, 40 * s},
		{"time to think", slowServer{think: 100 * s, takes: -1}, body(), 80 * s, nil, 100 * s},
		{"too much thinking", slowServer{think: time.Hour}, nil, 80 * s, errUnanswered, 110 * s},
		{"a slow source", slowServer{takes: -1}, slowReader{body()}, 0, nil, 11 * time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req, err := http.NewRequestWithContext(thinking(t.Context(), tc.think), http.MethodPut, "http://x/", tc.body)
				if err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				_, err = (&patience{&tc.server, 30 * s}).RoundTrip(req)
				if !errors.Is(err, tc.want) || time.Since(begun) != tc.at {
					t.Errorf("got %v after %s, want %v after %s", err, time.Since(begun), tc.want, tc.at)
				}
				if tc.want != nil && !isTimeout(err) {
					t.Errorf("%v is not a timeout", err)
				}
			})
		})
	}
}

// A server that stops taking bytes is found out, and the upload goes on.
func TestUploadStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		var mu sync.Mutex
		var methods []string
		store := third.New(third.Logger(log.New(io.Discard, "", 0)))
		s := &server{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			stall := r.Method == http.MethodPut && !slices.Contains(methods, http.MethodPut)
			methods = append(methods, r.Method)
			mu.Unlock()
			if stall {
				<-over
				panic(http.ErrAbortHandler) // the server closes at once
			}
			store.ServeHTTP(w, r)
		})}
		c, r := connect(t, Options{Stall: 10 * time.Second}, s)
		b := bytes.Repeat([]byte("some"), 1<<20)
		d := image.Describe(image.OCILayer, b)
		source := BlobSource{Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b[offset:])), nil
		}}
		var told []error
		begun := time.Now()
		got, err := c.PushBlob(t.Context(), r, d, source, func(err error) { told = append(told, err) })
		if err != nil || got.How != Uploaded {
			t.Fatalf("got %+v, %v", got, err)
		}
		if took := time.Since(begun); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("it took %v, want one stall", took)
		}
		if len(told) == 0 || !strings.Contains(told[0].Error(), "no byte was taken for too long") {
			t.Errorf("told of %v", told)
		}
		mu.Lock()
		asked := strings.Join(methods, " ")
		mu.Unlock()
		if asked != "HEAD POST PUT GET HEAD POST PATCH PATCH PUT" {
			t.Errorf("requests: %s", asked)
		}
		if has, err := c.HasBlob(t.Context(), r, d); !has || err != nil {
			t.Errorf("it is there: %t, %v", has, err)
		}
	})
}

// An answer that comes before all of a body was taken is not cut off by what is left of the body.
func TestPatienceEarlyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late func()
		var ctx context.Context
		early := roundTripper(func(req *http.Request) (*http.Response, error) {
			ctx = req.Context()
			late = func() {
				_, _ = req.Body.Read(make([]byte, 10)) // the transport does not look either
				httptrace.ContextClientTrace(ctx).WroteRequest(httptrace.WroteRequestInfo{})
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://x/", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&patience{early, time.Second}).RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		late()
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Errorf("cut off: %v", context.Cause(ctx))
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A request that is sent again has its source read again, and what is read of it counts.
func TestFeed(t *testing.T) {
	var u upload
	opened, closed := 0, 0
	f := &feed{ctx: t.Context(), offset: 2, length: 3, sent: &u.sent, source: BlobSource{
		Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			opened++
			return &counted{strings.NewReader("0123456789"[offset:]), &closed}, nil
		},
	}}
	first, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	second, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the body before can still be read")
	}
	got, err := io.ReadAll(second)
	if string(got) != "234" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	f.close()
	f.close()
	if opened != 2 || closed != 2 || u.sent.Load() != 5 || f.failed() != nil {
		t.Errorf("opened %d times, closed %d times, %d bytes, %v", opened, closed, u.sent.Load(), f.failed())
	}
}

// A source that fails is not held against the host.
func TestSourceFailure(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // it breaks off
		w.Header().Set("Location", "/upload")
		w.WriteHeader(map[string]int{"HEAD": http.StatusNotFound, "POST": http.StatusAccepted, "PUT": http.StatusCreated}[r.Method])
	}))
	defer s.Close()
	r, err := ref.Parse(strings.TrimPrefix(s.URL, "http://") + "/x")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is gone")
	for name, open := range map[string]func(context.Context, int64) (io.ReadCloser, error){
		"at once": func(context.Context, int64) (io.ReadCloser, error) { return nil, broken },
		"midway": func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), iotest.ErrReader(broken))), nil
		},
	} {
		c := New(Options{})
		d := image.Descriptor{Digest: digest.FromString("x"), Size: 2 << 20}
		if _, err := c.PushBlob(t.Context(), r, d, BlobSource{Open: open}, nil); !errors.Is(err, broken) {
			t.Errorf("%s: got %v", name, err)
		}
		e, err := c.pushHost(r)
		if err != nil {
			t.Fatal(err)
		}
		if e.health.failures > 0 {
			t.Errorf("%s: %d failures of the host", name, e.health.failures)
		}
		c.Close()
	}
}

type counted struct {
	io.Reader
	closed *int
}

func (c *counted) Close() error {
	*c.closed++
	return nil
}

func TestFollow(t *testing.T) {
	base := func(s string) url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return *u
	}
	for _, tc := range []struct {
		host, from, target string
		want               string // empty: an error
		kind               error
	}{
		{"https://reg/v2", "https://reg/v2/a/blobs/uploads/", "/v2/a/x?state=%2B", "https://reg/v2/a/x?state=%2B", nil},
		{"https://reg/v2", "https://reg/v2/a/blobs/uploads/", "x", "https://reg/v2/a/blobs/uploads/x", nil},
		{"https://reg/v2", "https://reg/v2/a", "https://REG:443/v2/x", "https://reg/v2/x", nil},
		{"https://reg:443/v2", "https://reg:443/v2/a", "https://reg/x", "https://reg:443/x", nil},
		{"http://reg:5000/v2", "http://reg:5000/v2/a", "https://reg:5000/x", "https://reg:5000/x", nil},
		{"https://reg/v2", "https://reg/v2/a", "https://reg:8443/x", "https://reg:8443/x", nil},
		{"https://reg/v2", "https://reg/v2/a", "https://me:secret@other/x#y", "https://other/x", nil},
		{"https://reg/v2", "https://reg/v2/a", "http://reg/x", "", errdefs.ErrFailedPrecondition},
		{"https://reg/v2", "https://reg/v2/a", "//other/x", "https://other/x", nil},
		{"https://reg/v2", "https://reg/v2/a", "file:///etc/passwd", "", errdefs.ErrInvalidArgument},
		{"https://reg/v2", "https://reg/v2/a", "https:///x", "", errdefs.ErrInvalidArgument},
		{"https://reg/v2", "https://reg/v2/a", "https://x/%zzsecret", "", errdefs.ErrInvalidArgument},
	} {
		from := base(tc.from)
		e := &endpoint{Host: hosts.Host{URL: base(tc.host)}}
		u, err := e.follow(&http.Response{Request: &http.Request{URL: &from}}, tc.target, "x")
		got := ""
		if err == nil {
			got = u.String()
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tc.target, err)
		}
		if got != tc.want || !errors.Is(err, tc.kind) {
			t.Errorf("%s from %s: got %q, %v; want %q, %v", tc.target, tc.from, got, err, tc.want, tc.kind)
		}
	}
}

func TestReferrersTagName(t *testing.T) {
	for d, want := range map[image.Digest]string{
		digest.FromString(""):        "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		digest.SHA512.FromString(""): "sha512-cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce",
	} {
		if got := referrersTag(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
}

// Whatever a server says of where to go on, how much it has and what it lists, what is made of it
// keeps within bounds.
func FuzzPushAnswer(f *testing.F) {
	f.Add(`</v2/x?last=a>; rel="next"`, "0-1023", []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add(`<a>; rel=first, <b>; title="x, <y>"; rel="prev next"`, "bytes=0-0", []byte(`{"schemaVersion":2,"manifests":[{"digest":"`+digest.FromString("").String()+`","size":0}],"x":1}`))
	f.Add(`<`, "0-9223372036854775807", []byte(`{}`))
	f.Add("", "0-", []byte(`{"schemaVersion":2,"mAnifests":[]}`))
	f.Fuzz(func(t *testing.T, link, status string, index []byte) {
		if target := nextLink([]string{link}); target != "" && !strings.Contains(link, "<"+target+">") {
			t.Errorf("%q leads to %q", link, target)
		}
		if n, ok := uploaded(status); n < 0 || !ok && n != 0 {
			t.Errorf("%q: %d bytes, %t", status, n, ok)
		}
		own := &endpoint{Host: hosts.Host{URL: url.URL{Scheme: "https", Host: "reg", Path: "/v2"}}}
		resp := &http.Response{Request: httptest.NewRequest(http.MethodGet, "https://reg/v2/x", nil)}
		if u, err := own.follow(resp, link, "x"); err == nil && (u.Scheme != "https" || u.Host == "" || u.User != nil) {
			t.Errorf("%q leads to %s", link, u)
		}
		// A list that is an index stays one, with one entry more.
		before, err := image.ParseDocument(index)
		if err != nil || !before.Index {
			return
		}
		entry := image.Describe(image.OCIManifest, []byte("x"))
		b, err := enlist(index, entry)
		if err != nil {
			t.Fatal(err)
		}
		after, err := image.ParseDocument(b)
		if err != nil || len(after.Manifests) != len(before.Manifests)+1 || after.Manifests[len(before.Manifests)].Digest != entry.Digest {
			t.Errorf("%s became %s: %v", index, b, err)
		}
	})
}

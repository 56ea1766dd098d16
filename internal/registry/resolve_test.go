package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

const wrongDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestResolve(t *testing.T) {
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		body   bool // it had to be fetched
		asked  []string
	}{
		{name: "one HEAD", asked: []string{"HEAD manifests"}},
		{
			name: "HEAD is not allowed", faults: []rt.Fault{rt.On("HEAD", "", rt.Status(405))},
			body: true, asked: []string{"HEAD manifests", "GET manifests"},
		},
		{
			name: "HEAD is forbidden", faults: []rt.Fault{rt.On("HEAD", "", rt.Status(403))},
			body: true, asked: []string{"HEAD manifests", "GET manifests"},
		},
		{
			name: "no digest", faults: []rt.Fault{rt.SetHeader("Docker-Content-Digest", "")},
			body: true, asked: []string{"HEAD manifests", "GET manifests"},
		},
		{
			name: "a malformed digest", faults: []rt.Fault{rt.On("HEAD", "", rt.SetHeader("Docker-Content-Digest", "sha256:12"))},
			body: true, asked: []string{"HEAD manifests", "GET manifests"},
		},
		{
			name: "no length", faults: []rt.Fault{rt.Chunked()},
			body: true, asked: []string{"HEAD manifests", "GET manifests"},
		},
		{
			name: "unavailable twice", faults: []rt.Fault{rt.Times(1, rt.Status(503)), rt.Times(1, rt.Status(500))},
			asked: []string{"HEAD manifests", "HEAD manifests", "HEAD manifests"},
		},
		{
			name: "too many requests", faults: []rt.Fault{rt.Times(2, rt.TooMany("0"))},
			asked: []string{"HEAD manifests", "HEAD manifests", "HEAD manifests"},
		},
		{
			name: "the document breaks off", faults: []rt.Fault{rt.On("HEAD", "", rt.Status(405)), rt.Times(1, rt.Cut(10))},
			body: true, asked: []string{"HEAD manifests", "GET manifests", "HEAD manifests", "GET manifests"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := serve(t, tc.faults...)
			c := dial(t, registry.Options{})
			got, err := c.Resolve(t.Context(), f.tag)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(f.root, got.Descriptor); diff != "" {
				t.Errorf("descriptor (-want +got):\n%s", diff)
			}
			if (got.Body != nil) != tc.body || tc.body && !bytes.Equal(got.Body, f.manifest) {
				t.Errorf("got a body of %d bytes, want one: %t", len(got.Body), tc.body)
			}
			if diff := cmp.Diff(tc.asked, asked(f.proxy)); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResolveDigest(t *testing.T) {
	f := serve(t)
	c := dial(t, registry.Options{})
	r, err := f.tag.WithDigest(f.root.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Resolve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != f.root.Digest {
		t.Errorf("got %s, want %s", got.Digest, f.root.Digest)
	}
	if got, want := f.proxy.Requests()[0].Path, "/v2/"+repo+"/manifests/"+f.root.Digest.String(); got != want {
		t.Errorf("asked for %s, want %s: the digest wins over the tag", got, want)
	}
}

// Every fault is an error of its kind, with one line that says what is wrong.
func TestResolveErrors(t *testing.T) {
	missing := func(f *fixture) string { return strings.Replace(f.tag.String(), ":v1", ":v2", 1) }
	pinned := func(f *fixture) string { return f.host + "/" + repo + "@" + f.root.Digest.String() }
	get := rt.On("HEAD", "", rt.Status(405))
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		ref    func(*fixture) string // nil: by tag
		kind   error
		want   string // in the message
		tries  int    // requests; 0: any number
	}{
		{name: "no such tag", ref: missing, kind: errdefs.ErrNotFound, want: "answered 404 Not Found for manifest v2 of " + repo, tries: 1},
		{name: "unauthorized", faults: []rt.Fault{rt.Status(401)}, kind: errdefs.ErrUnauthenticated, want: "it does not exist, or needs a login"},
		{name: "forbidden", faults: []rt.Fault{rt.Answer(403, nil, `{"errors":[{"code":"DENIED","message":"not\u001b for\nyou"}]}`)}, kind: errdefs.ErrPermissionDenied, want: "403 Forbidden for manifest v1 of " + repo + ": not for you"},
		{name: "a message of a megabyte", faults: []rt.Fault{rt.Answer(403, nil, `{"errors":[{"message":"`+strings.Repeat("x", 1<<20)+`"}]}`)}, kind: errdefs.ErrPermissionDenied},
		{name: "too many requests", faults: []rt.Fault{rt.TooMany("0")}, kind: errdefs.ErrUnavailable, want: "429 Too Many Requests", tries: 5},
		{name: "too many requests for an hour", faults: []rt.Fault{rt.TooMany("3600")}, kind: errdefs.ErrUnavailable, want: "429 Too Many Requests", tries: 1},
		{name: "unavailable", faults: []rt.Fault{rt.Status(502)}, kind: errdefs.ErrUnavailable, want: "502 Bad Gateway", tries: 5},
		{name: "not implemented", faults: []rt.Fault{rt.Status(501)}, kind: errdefs.ErrUnavailable, want: "501 Not Implemented", tries: 1},
		{name: "a teapot", faults: []rt.Fault{rt.Status(418)}, kind: errdefs.ErrUnknown, want: "418 I'm a teapot"},
		{name: "a web page", faults: []rt.Fault{rt.WebPage()}, kind: errdefs.ErrUnavailable, want: "a web page instead of manifest v1"},
		{name: "redirects in a circle", faults: []rt.Fault{rt.Redirect("{path}")}, kind: errdefs.ErrUnavailable, want: "redirects in a circle", tries: 1},
		{name: "redirects without an end", faults: []rt.Fault{rt.Redirect("{path}x")}, kind: errdefs.ErrUnavailable, want: "more than 10 redirects", tries: 10},
		{name: "a digest that lies", faults: []rt.Fault{get, rt.SetHeader("Docker-Content-Digest", wrongDigest)}, kind: errdefs.ErrDataLoss, want: "not what its header says"},
		{name: "a digest that lies of a pinned one", faults: []rt.Fault{rt.SetHeader("Docker-Content-Digest", wrongDigest)}, ref: pinned, kind: errdefs.ErrDataLoss, want: "not what its header says"},
		{name: "wrong bytes", faults: []rt.Fault{get, rt.WrongBytes()}, kind: errdefs.ErrDataLoss, want: "not what its header says"},
		{name: "wrong bytes of a pinned one", faults: []rt.Fault{rt.SetHeader("Docker-Content-Digest", ""), rt.WrongBytes()}, ref: pinned, kind: errdefs.ErrDataLoss, want: "hash to"},
		{name: "1 GB, and HEAD says so", faults: []rt.Fault{rt.SetHeader("Docker-Content-Digest", wrongDigest), rt.Huge(image.OCIManifest, 1<<30, true)}, kind: errdefs.ErrInvalidArgument, want: "at least 1073741824 bytes where at most 4194304 are read", tries: 1},
		{name: "1 GB, and GET says so", faults: []rt.Fault{get, rt.Huge(image.OCIManifest, 1<<30, true)}, kind: errdefs.ErrInvalidArgument, want: "at least 1073741824 bytes"},
		{name: "1 GB that nobody announces", faults: []rt.Fault{rt.Huge(image.OCIManifest, 1<<30, false)}, kind: errdefs.ErrInvalidArgument, want: "at least 4194305 bytes"},
		{name: "the document breaks off each time", faults: []rt.Fault{get, rt.Cut(10)}, kind: errdefs.ErrUnavailable, want: "closed too early", tries: 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := serve(t, tc.faults...)
			r := f.tag
			if tc.ref != nil {
				r = parse(t, tc.ref(f))
			}
			_, err := dial(t, registry.Options{}).Resolve(t.Context(), r)
			if !errors.Is(err, tc.kind) {
				t.Fatalf("got %v, want a %v", err, tc.kind)
			}
			if s := err.Error(); !strings.Contains(s, tc.want) || strings.ContainsAny(s, "\n\x1b") || len(s) > 600 {
				t.Errorf("got %q, want one short line with %q", s, tc.want)
			}
			if got := len(f.proxy.Requests()); tc.tries > 0 && got != tc.tries {
				t.Errorf("got %d requests, want %d: %q", got, tc.tries, asked(f.proxy))
			}
		})
	}
}

func TestResolveHang(t *testing.T) {
	f := serve(t, rt.Hang())
	c := dial(t, registry.Options{Stall: 20 * time.Millisecond})
	_, err := c.Resolve(t.Context(), f.tag)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no answer came in time") {
		t.Errorf("got %v, want an unavailable registry", err)
	}
	if got := len(f.proxy.Requests()); got != 3 {
		t.Errorf("got %d tries, want 3: each costs a whole stall", got)
	}
}

// A body that hangs in an error, or on the way to a redirect, ends too.
func TestResolveHangInError(t *testing.T) {
	page := http.Header{"Content-Length": {"100"}}
	f := serve(t, rt.On("GET", "", rt.Stall(2)), rt.Answer(403, page, strings.Repeat("x", 100)))
	c := dial(t, registry.Options{Stall: 20 * time.Millisecond})
	if _, err := c.Resolve(t.Context(), f.tag); !errdefs.IsPermissionDenied(err) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestResolveUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	c := dial(t, registry.Options{Backoff: time.Minute})
	_, err = c.Resolve(t.Context(), parse(t, dead+"/"+repo+":v1"))
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), dead+": manifest v1 of "+repo+": connection refused") {
		t.Errorf("got %v, want a refused connection", err)
	}
	if time.Since(begun) > 10*time.Second {
		t.Error("a server that never answered was waited for")
	}
}

func TestManifest(t *testing.T) {
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		edit   func(*image.Descriptor)
		kind   error // nil: it is fetched
		tries  int
	}{
		{name: "whole", tries: 1},
		{name: "broken off once", faults: []rt.Fault{rt.Times(1, rt.Cut(10))}, tries: 2},
		{name: "stalled once", faults: []rt.Fault{rt.Times(1, rt.Stall(10))}, tries: 2},
		{name: "chunked", faults: []rt.Fault{rt.Chunked()}, tries: 1},
		{name: "wrong bytes", faults: []rt.Fault{rt.SetHeader("Docker-Content-Digest", ""), rt.WrongBytes()}, kind: errdefs.ErrDataLoss, tries: 1},
		{name: "too short", faults: []rt.Fault{rt.SetHeader("Docker-Content-Digest", ""), rt.Short(10)}, kind: errdefs.ErrDataLoss, tries: 1},
		{name: "another size", edit: func(d *image.Descriptor) { d.Size++ }, kind: errdefs.ErrDataLoss, tries: 1},
		{name: "too large", edit: func(d *image.Descriptor) { d.Size = image.MaxDocument + 1 }, kind: errdefs.ErrInvalidArgument},
		{name: "no size", edit: func(d *image.Descriptor) { d.Size = -1 }, kind: errdefs.ErrInvalidArgument},
		{name: "no digest", edit: func(d *image.Descriptor) { d.Digest = "x/../y" }, kind: errdefs.ErrInvalidArgument},
		{name: "not there", edit: func(d *image.Descriptor) { d.Digest = wrongDigest }, kind: errdefs.ErrNotFound, tries: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := serve(t, tc.faults...)
			d := f.root
			if tc.edit != nil {
				tc.edit(&d)
			}
			b, err := dial(t, registry.Options{Stall: 300 * time.Millisecond}).Manifest(t.Context(), f.tag, d)
			switch {
			case tc.kind == nil && err != nil:
				t.Error(err)
			case tc.kind == nil && !bytes.Equal(b, f.manifest):
				t.Errorf("got %q, want %q", b, f.manifest)
			case tc.kind != nil && !errors.Is(err, tc.kind):
				t.Errorf("got %v, want a %v", err, tc.kind)
			}
			if got := len(f.proxy.Requests()); got != tc.tries {
				t.Errorf("got %d requests, want %d", got, tc.tries)
			}
		})
	}
}

// Mirrors are asked first, with the registry's name; what they do not have or give comes from
// the registry itself.
func TestMirrors(t *testing.T) {
	for _, tc := range []struct {
		name             string
		faults           []rt.Fault // of the mirror
		lines            string     // of the mirror in hosts.toml
		mirror, upstream int        // requests
	}{
		{name: "the mirror has it", mirror: 2},
		{name: "not found", faults: []rt.Fault{rt.Status(404)}, mirror: 2, upstream: 2},
		{name: "unavailable", faults: []rt.Fault{rt.Status(503)}, mirror: 2, upstream: 2},
		{name: "too many requests", faults: []rt.Fault{rt.TooMany("30")}, mirror: 1, upstream: 2},
		{name: "wrong bytes", faults: []rt.Fault{rt.On("GET", "", rt.WrongBytes())}, mirror: 2, upstream: 1},
		{name: "only pull", lines: `capabilities = ["pull"]`, mirror: 1, upstream: 1},
		{name: "only resolve", lines: `capabilities = ["resolve"]`, upstream: 2},
		{name: "only push", lines: `capabilities = ["push"]`, upstream: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mirror, upstream := serve(t, tc.faults...), serve(t)
			dir := hostsDir(t, "r.example", fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n%s\n", upstream.host, mirror.host, tc.lines))
			c := dial(t, registry.Options{HostsDirs: []string{dir}, Backoff: time.Minute})
			r := parse(t, "r.example/"+repo+":v1")
			got, err := c.Resolve(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Manifest(t.Context(), r, got.Descriptor); err != nil {
				t.Fatal(err)
			}
			if m, u := len(mirror.proxy.Requests()), len(upstream.proxy.Requests()); m != tc.mirror || u != tc.upstream {
				t.Errorf("got %d requests to the mirror and %d to the registry, want %d and %d", m, u, tc.mirror, tc.upstream)
			}
			for _, r := range append(mirror.proxy.Requests(), upstream.proxy.Requests()...) {
				if r.Query != "ns=r.example" {
					t.Errorf("%s %s has query %q, want ns=r.example", r.Method, r.Path, r.Query)
				}
			}
		})
	}
	f := serve(t)
	if _, err := dial(t, registry.Options{}).Resolve(t.Context(), f.tag); err != nil {
		t.Fatal(err)
	}
	if q := f.proxy.Requests()[0].Query; q != "" {
		t.Errorf("the registry itself was sent query %q", q)
	}
}

// The error is that of the host which got furthest, and tells of the others.
func TestMirrorErrors(t *testing.T) {
	one, two := serve(t, rt.Status(401)), serve(t, rt.Status(502))
	for _, tc := range []struct {
		first, server string
		kind          error
	}{
		{one.host, two.host, errdefs.ErrUnauthenticated},
		{two.host, one.host, errdefs.ErrUnauthenticated},
	} {
		dir := hostsDir(t, "r.example", fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", tc.server, tc.first))
		_, err := dial(t, registry.Options{HostsDirs: []string{dir}}).Resolve(t.Context(), parse(t, "r.example/"+repo+":v1"))
		if !errors.Is(err, tc.kind) || errdefs.IsUnavailable(err) {
			t.Errorf("got %v, want a %v", err, tc.kind)
		}
		for _, host := range []string{one.host, two.host} {
			if err == nil || !strings.Contains(err.Error(), host) {
				t.Errorf("%v does not tell of %s", err, host)
			}
		}
	}
	dir := hostsDir(t, "r.example", "server = \"http://"+one.host+"\"\ncapabilities = [\"push\"]\n")
	_, err := dial(t, registry.Options{HostsDirs: []string{dir}}).Resolve(t.Context(), parse(t, "r.example/"+repo+":v1"))
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a host to ask: got %v", err)
	}
	dir = hostsDir(t, "r.example", "sever = \"x\"\n")
	_, err = dial(t, registry.Options{HostsDirs: []string{dir}}).Resolve(t.Context(), parse(t, "r.example/"+repo+":v1"))
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "hosts.toml:1: unknown key sever") {
		t.Errorf("with a wrong hosts.toml: got %v", err)
	}
}

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// fetch reads the blob of a fixture from offset on.
func fetch(t *testing.T, f *fixture, o registry.Options, offset int64) (got []byte, faults []error, err error) {
	t.Helper()
	body, err := dial(t, o).Blob(t.Context(), f.tag, f.layer, offset, func(err error) { faults = append(faults, err) })
	if err != nil {
		return nil, faults, err
	}
	got, err = io.ReadAll(body)
	if err := body.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return got, faults, err
}

// Whatever goes wrong on the way, the bytes are right, and few are fetched twice.
func TestBlob(t *testing.T) {
	get := func(f rt.Fault) rt.Fault { return rt.On("GET", "/blobs/", f) }
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		stall  time.Duration
		offset int64
		asked  []string
	}{
		{name: "at once", asked: []string{"GET blobs"}},
		{name: "from an offset", offset: 299_999, asked: []string{"GET blobs bytes=299999-"}},
		{name: "nothing left", offset: 300_000},
		{name: "chunked", faults: []rt.Fault{rt.Chunked()}, asked: []string{"GET blobs"}},
		{
			name: "broken off each time", faults: []rt.Fault{get(rt.Cut(100_000))},
			asked: []string{"GET blobs", "GET blobs bytes=100000-", "GET blobs bytes=200000-"},
		},
		{
			name: "broken off once, chunked", faults: []rt.Fault{rt.Chunked(), rt.Times(1, rt.Cut(100_000))},
			asked: []string{"GET blobs", "GET blobs bytes=100000-"},
		},
		{
			name: "ended too early in good order", faults: []rt.Fault{rt.Times(1, rt.Short(100_000))},
			asked: []string{"GET blobs", "GET blobs bytes=100000-"},
		},
		{
			name: "stalled", faults: []rt.Fault{rt.Times(1, rt.Stall(100_000))}, stall: 300 * time.Millisecond,
			asked: []string{"GET blobs", "GET blobs bytes=100000-"},
		},
		{
			name: "hung", faults: []rt.Fault{rt.Times(1, rt.Hang())}, stall: 300 * time.Millisecond,
			asked: []string{"GET blobs", "GET blobs"},
		},
		{
			name: "unavailable in between", faults: []rt.Fault{rt.First(rt.Cut(100_000), rt.Times(2, rt.Status(503)))},
			asked: []string{"GET blobs", "GET blobs bytes=100000-", "GET blobs bytes=100000-", "GET blobs bytes=100000-"},
		},
		{
			name: "Range is ignored", faults: []rt.Fault{rt.IgnoreRange(), rt.Times(1, rt.Cut(100_000))},
			asked: []string{"GET blobs", "GET blobs bytes=100000-"},
		},
		{name: "Range is ignored from the start", faults: []rt.Fault{rt.IgnoreRange()}, offset: 100_000, asked: []string{"GET blobs bytes=100000-"}},
		{
			name: "said to be packed", faults: []rt.Fault{rt.SetHeader("Content-Encoding", "gzip")},
			asked: []string{"GET blobs"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := serve(t, tc.faults...)
			got, faults, err := fetch(t, f, registry.Options{Stall: tc.stall}, tc.offset)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, f.blob[tc.offset:]) {
				t.Errorf("got %d bytes, want %d, or others", len(got), len(f.blob[tc.offset:]))
			}
			if diff := cmp.Diff(tc.asked, asked(f.proxy)); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if want := max(len(tc.asked)-1, 0); len(faults) != want {
				t.Errorf("told of %d faults, want %d: %v", len(faults), want, faults)
			}
		})
	}
}

func TestBlobErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		stall  time.Duration
		offset int64
		edit   func(*image.Descriptor)
		kind   error
		want   string
		tries  int
	}{
		{name: "not there", edit: func(d *image.Descriptor) { d.Digest = wrongDigest }, kind: errdefs.ErrNotFound, want: "404 Not Found for blob " + wrongDigest + " of " + repo, tries: 1},
		{name: "an offset behind the end", offset: 300_001, kind: errdefs.ErrOutOfRange},
		{name: "a negative offset", offset: -1, kind: errdefs.ErrOutOfRange},
		{name: "no digest", edit: func(d *image.Descriptor) { d.Digest = "" }, kind: errdefs.ErrInvalidArgument},
		{name: "nothing comes", faults: []rt.Fault{rt.Cut(0)}, kind: errdefs.ErrUnavailable, want: "the connection was closed too early", tries: 5},
		{name: "nothing comes in time", faults: []rt.Fault{rt.Stall(0)}, stall: 50 * time.Millisecond, kind: errdefs.ErrUnavailable, tries: 3},
		{name: "too little comes each time", faults: []rt.Fault{rt.Trickle(rt.Pace{Bytes: 1, Every: 5 * time.Millisecond})}, stall: 50 * time.Millisecond, kind: errdefs.ErrUnavailable, want: "less than 1 KiB a second", tries: 3},
		{name: "nothing behind the first byte", faults: []rt.Fault{rt.IgnoreRange(), rt.Stall(1)}, stall: 50 * time.Millisecond, kind: errdefs.ErrUnavailable},
		{name: "unavailable", faults: []rt.Fault{rt.Status(500)}, kind: errdefs.ErrUnavailable, want: "500", tries: 5},
		{name: "too long, and said so", faults: []rt.Fault{rt.Longer("x", true)}, kind: errdefs.ErrDataLoss, want: "has more than the 300000 bytes", tries: 1},
		{name: "too long", faults: []rt.Fault{rt.Longer("x", false)}, kind: errdefs.ErrDataLoss, want: "has more than the 300000 bytes", tries: 1},
		{name: "a range from elsewhere", faults: []rt.Fault{rt.WrongRange("bytes 0-299999/300000")}, offset: 5, kind: errdefs.ErrDataLoss, want: `from byte 5 and answered with range "bytes 0-299999/300000"`, tries: 1},
		{name: "a range from nowhere", faults: []rt.Fault{rt.WrongRange("")}, offset: 5, kind: errdefs.ErrDataLoss, tries: 1},
		{name: "the host has less", edit: func(d *image.Descriptor) { d.Size++ }, kind: errdefs.ErrOutOfRange, want: "416", tries: 2},
		{name: "a web page", faults: []rt.Fault{rt.WebPage()}, kind: errdefs.ErrUnavailable, want: "a web page instead of blob"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := serve(t, tc.faults...)
			if tc.edit != nil {
				tc.edit(&f.layer)
			}
			got, _, err := fetch(t, f, registry.Options{Stall: tc.stall}, tc.offset)
			if !errors.Is(err, tc.kind) {
				t.Fatalf("got %v, want a %v", err, tc.kind)
			}
			if s := err.Error(); !strings.Contains(s, tc.want) || strings.Contains(s, "\n") {
				t.Errorf("got %q, want one line with %q", s, tc.want)
			}
			if int64(len(got)) > f.layer.Size {
				t.Errorf("got %d bytes of %d", len(got), f.layer.Size)
			}
			if n := len(f.proxy.Requests()); tc.tries > 0 && n != tc.tries {
				t.Errorf("got %d requests, want %d: %q", n, tc.tries, asked(f.proxy))
			}
		})
	}
}

// A host that breaks off for good, or has something else, is left for the next one, which goes on
// where the first one was.
func TestBlobNextHost(t *testing.T) {
	for _, tc := range []struct {
		name     string
		faults   []rt.Fault // of the mirror
		upstream []string
	}{
		{"broken off, then not found", []rt.Fault{rt.First(rt.Cut(100_000), rt.Status(404))}, []string{"GET blobs bytes=100000-"}},
		{"broken off, then unavailable", []rt.Fault{rt.First(rt.Cut(100_000), rt.Status(503))}, []string{"GET blobs bytes=100000-"}},
		{"broken off, then a wrong range", []rt.Fault{rt.First(rt.Cut(100_000), rt.WrongRange("bytes 7-9/10"))}, []string{"GET blobs bytes=100000-"}},
		{"stalled", []rt.Fault{rt.Stall(100_000)}, []string{"GET blobs bytes=100000-"}},
		{"too long", []rt.Fault{rt.Longer("x", true)}, []string{"GET blobs"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mirror, upstream := serve(t, tc.faults...), serve(t)
			dir := hostsDir(t, "r.example", fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", upstream.host, mirror.host))
			mirror.tag = parse(t, "r.example/"+repo+":v1")
			got, _, err := fetch(t, mirror, registry.Options{HostsDirs: []string{dir}, Stall: 300 * time.Millisecond}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, upstream.blob) {
				t.Errorf("got %d bytes, want %d, or others", len(got), len(upstream.blob))
			}
			if diff := cmp.Diff(tc.upstream, asked(upstream.proxy)); diff != "" {
				t.Errorf("requests to the registry (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBlobCancel(t *testing.T) {
	f := serve(t, rt.Stall(10))
	ctx, cancel := context.WithCancel(t.Context())
	body, err := dial(t, registry.Options{}).Blob(ctx, f.tag, f.layer, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := body.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if _, err := body.Read(make([]byte, 10)); err == nil {
		t.Error("a closed blob was read")
	}
}

func TestBlobReader(t *testing.T) {
	f := serve(t)
	body, err := dial(t, registry.Options{}).Blob(t.Context(), f.tag, f.layer, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := iotest.TestReader(body, f.blob); err != nil {
		t.Error(err)
	}
}

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// A noise is the same random bytes again and again, of a length that no part has, so that large
// blobs take no memory.
type noise struct{ size, at int64 }

var noisy = func() []byte {
	b := make([]byte, 1<<20+7)
	random := rand.NewChaCha8([32]byte{2})
	_, _ = random.Read(b) // it never fails
	return b
}()

func (n *noise) Read(p []byte) (int, error) {
	if n.at >= n.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.size-n.at)]
	k := copy(p, noisy[n.at%int64(len(noisy)):])
	n.at += int64(k)
	return k, nil
}

func (n *noise) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += n.at
	case io.SeekEnd:
		offset += n.size
	}
	n.at = offset
	return offset, nil
}

// A vast is a server with one large blob, which counts what it sends.
type vast struct {
	tag   ref.Reference
	layer image.Descriptor
	proxy *rt.Proxy

	mu   sync.Mutex
	sent int64
	open int
	most int
}

// serveVast serves a blob of size bytes behind faults, over a link.
func serveVast(t testing.TB, size int64, link rt.Link, faults ...rt.Fault) *vast {
	t.Helper()
	v := &vast{layer: image.Descriptor{MediaType: image.OCILayer, Digest: wrongDigest, Size: size}}
	v.proxy = rt.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(struct{ http.ResponseWriter }{w}, r, "", time.Time{}, &noise{size: size})
	}), faults...)
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		v.open++
		v.most = max(v.most, v.open)
		v.mu.Unlock()
		defer func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.open--
		}()
		v.proxy.ServeHTTP(&sent{w, v}, r)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	s := &http.Server{Handler: counted}
	done := make(chan error)
	go func() { done <- s.Serve(link.Listen(l)) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	v.tag = parse(t, host+"/"+repo+":v1")
	return v
}

// A sent counts what goes through it.
type sent struct {
	http.ResponseWriter
	v *vast
}

func (s *sent) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *sent) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	s.v.sent += int64(n)
	return n, err
}

// Write compares p with the noise that is next.
func (n *noise) Write(p []byte) (int, error) {
	for at := 0; at < len(p); {
		want := noisy[n.at%int64(len(noisy)):]
		want = want[:min(len(want), len(p)-at)]
		if !bytes.Equal(p[at:at+len(want)], want) {
			return at, fmt.Errorf("wrong bytes from %d on: %w", n.at, errdefs.ErrDataLoss)
		}
		at += len(want)
		n.at += int64(len(want))
	}
	return len(p), nil
}

// read reads the blob of v from offset on, and checks the bytes.
func (v *vast) read(t testing.TB, c *registry.Client, r ref.Reference, offset int64) (faults []error, err error) {
	t.Helper()
	body, err := c.Blob(t.Context(), r, v.layer, offset, func(err error) { faults = append(faults, err) })
	if err != nil {
		return faults, err
	}
	defer func() {
		if err := body.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	n, err := io.Copy(&noise{size: v.layer.Size, at: offset}, body)
	if err == nil && n != v.layer.Size-offset {
		err = fmt.Errorf("got %d bytes of %d", n, v.layer.Size-offset)
	}
	return faults, err
}

// total is what was sent, in bytes, and most how many answers there were at once.
func (v *vast) total() (sent int64, most int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sent, v.most
}

// slow is a link on which several connections bring more than one.
var slow = rt.Link{RTT: 2 * time.Millisecond, Rate: 40_000_000}

// bounded lets a fault happen to requests for a part alone.
func bounded(f rt.Fault) rt.Fault {
	return func(next http.Handler) http.Handler {
		spoilt := f(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if v := r.Header.Get("Range"); v != "" && !strings.HasSuffix(v, "-") {
				spoilt.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Whatever goes wrong, a large blob is right, and little of it is fetched twice.
func TestParts(t *testing.T) {
	const size = 50_000_003
	for _, tc := range []struct {
		name   string
		faults []rt.Fault
		offset int64
		stall  time.Duration
		alone  bool // over one connection
		asked  int  // requests; 0: any number
	}{
		{name: "at once", asked: 6},
		{name: "from an offset", offset: 12_345_678, asked: 5},
		{name: "too little left for parts", offset: 20_000_000, alone: true, asked: 1},
		{name: "broken off after 1 MB each time", faults: []rt.Fault{rt.Cut(1 << 20)}},
		{name: "broken off once", faults: []rt.Fault{rt.Times(1, rt.Cut(3_000_000))}, asked: 7},
		{name: "Range is ignored", faults: []rt.Fault{rt.IgnoreRange()}, alone: true, asked: 1},
		{name: "the end of a range is ignored", faults: []rt.Fault{endless()}, alone: true, asked: 1},
		{name: "ranges are wrong", faults: []rt.Fault{bounded(rt.WrongRange("bytes 7-9/10"))}, alone: true, asked: 2},
		{name: "parts are unavailable for a moment", faults: []rt.Fault{rt.First(rt.Chunked(), rt.Times(4, rt.Status(503)))}},
		{name: "parts stall", faults: []rt.Fault{rt.First(rt.Chunked(), rt.Times(2, rt.Stall(1_000_000)))}, stall: time.Second},
		{name: "chunked", faults: []rt.Fault{rt.Chunked()}, asked: 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			v := serveVast(t, size, slow, tc.faults...)
			faults, err := v.read(t, dial(t, registry.Options{Stall: tc.stall}), v.tag, tc.offset)
			if err != nil {
				t.Fatal(err)
			}
			sent, most := v.total()
			if want := size - tc.offset; sent < want || sent*10 > want*11 {
				t.Errorf("%d bytes were sent for %d", sent, want)
			}
			if tc.alone && most > 1 || !tc.alone && most < 2 {
				t.Errorf("%d answers at once at most, alone: %t", most, tc.alone)
			}
			if n := len(v.proxy.Requests()); tc.asked > 0 && n != tc.asked {
				t.Errorf("%d requests, want %d: %q", n, tc.asked, asked(v.proxy))
			}
			if tc.faults == nil && len(faults) > 0 {
				t.Errorf("faults: %v", faults)
			}
		})
	}
}

// endless lets the registry see ranges without an end.
func endless() rt.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			if v, _, ok := strings.Cut(r.Header.Get("Range"), "-"); ok {
				r.Header.Set("Range", v+"-")
			}
			next.ServeHTTP(w, r)
		})
	}
}

// A host that turns out not to know ranges when parts are under way is read to the end.
func TestPartsLost(t *testing.T) {
	t.Parallel()
	v := serveVast(t, 50_000_003, slow, rt.First(rt.Chunked(), rt.IgnoreRange()))
	if _, err := v.read(t, dial(t, registry.Options{}), v.tag, 0); err != nil {
		t.Fatal(err)
	}
	// The first part, one or two ahead that are given up, and all of it.
	if n := len(v.proxy.Requests()); n > 4 {
		t.Errorf("%d requests, want 4 at most: %q", n, asked(v.proxy))
	}
}

// Where the first host fails in the middle, the next one goes on from there.
func TestPartsNextHost(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault rt.Fault
	}{
		{"not found", rt.Status(404)},
		{"unavailable", rt.Status(503)},
		{"closed", rt.Cut(0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			const size = 50_000_003
			mirror, upstream := serveVast(t, size, slow, rt.First(rt.Chunked(), tc.fault)), serveVast(t, size, slow)
			dir := hostsDir(t, "r.example", fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", upstream.tag.Registry(), mirror.tag.Registry()))
			if _, err := upstream.read(t, dial(t, registry.Options{HostsDirs: []string{dir}}), parse(t, "r.example/"+repo+":v1"), 0); err != nil {
				t.Fatal(err)
			}
			for i, r := range upstream.proxy.Requests() {
				if r.Range == "" || strings.HasPrefix(r.Range, "bytes=0-") {
					t.Errorf("request %d to the registry is for %q, which the mirror had given", i, r.Range)
				}
			}
			fromMirror, _ := mirror.total()
			fromUpstream, _ := upstream.total()
			if sent := fromMirror + fromUpstream; sent < size || sent*10 > size*11 {
				t.Errorf("%d bytes were sent for %d", sent, size)
			}
		})
	}
}

// What cannot be had is an error, whichever connection finds out.
func TestPartsErrors(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault rt.Fault
		kind  error
	}{
		{"not found at once", rt.Status(404), errdefs.ErrNotFound},
		{"not found later", rt.First(rt.Chunked(), rt.Status(404)), errdefs.ErrNotFound},
		{"broken for good", rt.First(rt.Chunked(), rt.Cut(0)), errdefs.ErrUnavailable},
		{"too long", rt.First(rt.Chunked(), rt.WrongRange("bytes 8388608-16777215/50000004")), errdefs.ErrDataLoss},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			v := serveVast(t, 50_000_003, slow, tc.fault)
			if _, err := v.read(t, dial(t, registry.Options{}), v.tag, 0); !errors.Is(err, tc.kind) {
				t.Errorf("got %v, want a %v", err, tc.kind)
			}
		})
	}
}

// Several large blobs at once share the memory, and their readers can be closed anywhere.
func TestPartsTogether(t *testing.T) {
	t.Parallel()
	v := serveVast(t, 50_000_003, slow)
	c := dial(t, registry.Options{})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if i == 0 {
				body, err := c.Blob(t.Context(), v.tag, v.layer, 0, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.CopyN(io.Discard, body, 20_000_000); err != nil {
					t.Error(err)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
				if _, err := body.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("reading on: got %v", err)
				}
				return
			}
			if _, err := v.read(t, c, v.tag, 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if _, err := v.read(t, c, v.tag, 0); err != nil {
		t.Error(err)
	}
}

func TestPartsCancel(t *testing.T) {
	t.Parallel()
	v := serveVast(t, 50_000_003, slow, rt.First(rt.Chunked(), rt.Stall(1_000_000)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body, err := dial(t, registry.Options{}).Blob(ctx, v.tag, v.layer, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, cancel)
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

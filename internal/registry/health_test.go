package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// A server is one in memory, so that tests have a time of their own.
type server struct {
	handler http.Handler // nil: connections are taken, and nothing is ever answered

	conns chan net.Conn
	mu    sync.Mutex
	dials int
	seen  []time.Time // when requests came
}

func (s *server) Accept() (net.Conn, error) {
	conn, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *server) Close() error   { return nil }
func (s *server) Addr() net.Addr { return &net.TCPAddr{} }

func (s *server) dial(context.Context, string, string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	near, far := net.Pipe()
	if s.handler == nil {
		go func() { _, _ = io.Copy(io.Discard, far) }() // until the client gives up
		return near, nil
	}
	s.conns <- far
	return near, nil
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, time.Now())
	s.mu.Unlock()
	s.handler.ServeHTTP(w, r)
}

func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// connect makes a client whose only registry stands behind servers, in this order. It has to be
// called in the bubble of a test.
func connect(t *testing.T, o Options, servers ...*server) (*Client, ref.Reference) {
	t.Helper()
	r, err := ref.Parse("r.example/repo:v1")
	if err != nil {
		t.Fatal(err)
	}
	c := New(o)
	for i, s := range servers {
		h := hosts.Host{Capabilities: hosts.Pull | hosts.Resolve | hosts.Push, DialTimeout: 5 * time.Second}
		h.URL.Scheme, h.URL.Host, h.URL.Path = "http", fmt.Sprintf("host%d.example", i), "/v2"
		e, err := c.newEndpoint("r.example", h, i < len(servers)-1)
		if err != nil {
			t.Fatal(err)
		}
		e.transport.DialContext = s.dial
		c.registries["r.example"] = append(c.registries["r.example"], e)
		s.conns = make(chan net.Conn, 100)
		web := &http.Server{Handler: s}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = web.Serve(s)
		}()
		t.Cleanup(func() {
			c.Close()
			close(s.conns)
			_ = web.Close()
			<-done
		})
	}
	return c, r
}

var (
	smallBlob  = []byte("a small blob")
	smallLayer = image.Descriptor{MediaType: image.OCILayer, Digest: digest.FromBytes(smallBlob), Size: int64(len(smallBlob))}
)

// has answers with the small blob, whatever is asked for.
var has = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(smallBlob) })

// says answers with a status, and a Retry-After if there is one.
func says(status int, after string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
	}
}

// firstly answers n times with one handler, and then with the other.
func firstly(n int, one, other http.Handler) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n--
		h := other
		if n >= 0 {
			h = one
		}
		mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// take reads the small blob.
func take(ctx context.Context, c *Client, r ref.Reference) error {
	body, err := c.Blob(ctx, r, smallLayer, 0, nil)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		return err
	}
	if string(got) != string(smallBlob) {
		return fmt.Errorf("got %q: %w", got, errdefs.ErrDataLoss)
	}
	return nil
}

// takeMany reads the small blob n times at once, and tells how long that took.
func takeMany(t *testing.T, c *Client, r ref.Reference, n int) time.Duration {
	t.Helper()
	begun := time.Now()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if err := take(t.Context(), c, r); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

// A mirror that takes connections and never answers costs all transfers together its dial_timeout.
func TestDeadMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, good := &server{}, &server{handler: has}
		c, r := connect(t, Options{}, dead, good)
		if took := takeMany(t, c, r, 8); took != 5*time.Second {
			t.Errorf("8 blobs took %s, want the dial_timeout of 5s", took)
		}
		if took := takeMany(t, c, r, 8); took != 0 {
			t.Errorf("8 more took %s, want nothing", took)
		}
		if dead.dials != 1 || good.asked() != 16 {
			t.Errorf("%d connections to the mirror, %d requests to the registry; want 1 and 16", dead.dials, good.asked())
		}
		// After a while one of them looks whether it is back. The others do not wait for that.
		time.Sleep(leave)
		first := make(chan error)
		go func() { first <- take(t.Context(), c, r) }()
		synctest.Wait()
		if took := takeMany(t, c, r, 8); took != 0 || dead.dials != 2 {
			t.Errorf("later 8 took %s, want nothing; %d connections to the mirror", took, dead.dials)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

// Who waits for the first request to a mirror goes to it when that was answered.
func TestLiveMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			has(w, r)
		})
		mirror, upstream := &server{handler: firstly(1, slow, has)}, &server{handler: has}
		c, r := connect(t, Options{}, mirror, upstream)
		if took := takeMany(t, c, r, 8); took != time.Second {
			t.Errorf("took %s, want 1s", took)
		}
		if mirror.asked() != 8 || upstream.asked() != 0 {
			t.Errorf("%d requests to the mirror and %d to the registry, want 8 and none", mirror.asked(), upstream.asked())
		}
	})
}

// When the first request is given up by its caller, another takes its place.
func TestProbeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mirror, upstream := &server{handler: firstly(1, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), has)}, &server{handler: has}
		c, r := connect(t, Options{}, mirror, upstream)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := make(chan error)
		go func() { first <- take(ctx, c, r) }()
		synctest.Wait()
		if took := takeMany(t, c, r, 3); took != time.Second {
			t.Errorf("took %s, want 1s", took)
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the context", err)
		}
		if upstream.asked() != 0 {
			t.Error("the registry was asked, though nothing is wrong with the mirror")
		}
	})
}

// A pause that a server asks for holds for all transfers.
func TestRetryAfterIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{handler: firstly(1, says(http.StatusTooManyRequests, "20"), has)}
		c, r := connect(t, Options{}, s)
		first := make(chan error)
		go func() { first <- take(t.Context(), c, r) }()
		synctest.Wait()
		if took := takeMany(t, c, r, 4); took != 20*time.Second {
			t.Errorf("took %s, want 20s", took)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		for _, at := range s.seen[1:] {
			if early := at.Sub(s.seen[0]); early < 20*time.Second {
				t.Errorf("it was asked again after %s", early)
			}
		}
		// Who waits can give up.
		s.handler = firstly(1, says(http.StatusTooManyRequests, "50"), has)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := take(ctx, c, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the context", err)
		}
	})
}

// Nobody waits for longer than a minute: the host is left, without a request.
func TestRetryAfterTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := &server{handler: says(http.StatusTooManyRequests, "3600")}
		c, r := connect(t, Options{}, busy)
		for range 3 {
			err := take(t.Context(), c, r)
			var answer *Error
			if !errors.As(err, &answer) || answer.Status != http.StatusTooManyRequests || answer.RetryAfter != time.Hour {
				t.Errorf("got %v, want what it answered", err)
			}
		}
		if busy.asked() != 1 {
			t.Errorf("it was asked %d times, want once", busy.asked())
		}
		time.Sleep(time.Hour)
		busy.handler = has
		if err := take(t.Context(), c, r); err != nil {
			t.Errorf("after the hour: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		busy, free := &server{handler: says(http.StatusTooManyRequests, "3600")}, &server{handler: has}
		c, r := connect(t, Options{}, busy, free)
		if took := takeMany(t, c, r, 3); took != 0 || takeMany(t, c, r, 3) != 0 || free.asked() != 6 {
			t.Errorf("took %s, %d requests to the other host; want no time and 6", took, free.asked())
		}
	})
}

// A mirror that fails again and again is passed over for a while, and then tried again.
func TestErrorBudget(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"503":    says(http.StatusServiceUnavailable, ""),
		"resets": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mirror, upstream := &server{handler: firstly(1, has, fault)}, &server{handler: has}
				c, r := connect(t, Options{}, mirror, upstream)
				for range 10 {
					if err := take(t.Context(), c, r); err != nil {
						t.Fatal(err)
					}
				}
				// A request that broke off on a connection in use is sent once more by the transport.
				if n := mirror.asked(); n < 1+budget || n > 2+budget {
					t.Errorf("the mirror was asked %d times, want %d", n, 1+budget)
				}
				mirror.handler = has
				time.Sleep(leave)
				before := upstream.asked()
				if takeMany(t, c, r, 5); upstream.asked() != before {
					t.Error("the mirror is not asked though it is well")
				}
			})
		})
	}
}

// A mirror whose answers break off before the first byte, or fall silent, is passed over at once.
func TestBrokenBodies(t *testing.T) {
	for name, end := range map[string]func(*http.Request){
		"closed": func(*http.Request) { panic(http.ErrAbortHandler) },
		"silent": func(r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mirror := &server{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "12")
					w.WriteHeader(http.StatusOK)
					_ = http.NewResponseController(w).Flush()
					end(r)
				})}
				c, r := connect(t, Options{}, mirror, &server{handler: has})
				for range 5 {
					if err := take(t.Context(), c, r); err != nil {
						t.Fatal(err)
					}
				}
				if mirror.asked() != 1 {
					t.Errorf("the mirror was asked %d times, want once", mirror.asked())
				}
			})
		})
	}
}

// When every host is broken they are all asked, and the error tells of each.
func TestAllBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := &server{handler: says(503, "")}, &server{handler: says(502, "")}
		c, r := connect(t, Options{}, one, two)
		for range 2 {
			err := take(t.Context(), c, r)
			if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "502") {
				t.Errorf("got %v, want both hosts' answers", err)
			}
		}
		one.handler = has
		if err := take(t.Context(), c, r); err != nil {
			t.Errorf("when one is well again: %v", err)
		}
	})
}

// Hosts that are one server by scheme and address share what is known of it.
func TestHealthOf(t *testing.T) {
	c := New(Options{})
	at := func(scheme, host string) *health {
		h := hosts.Host{}
		h.URL.Scheme, h.URL.Host = scheme, host
		return c.health(h.URL)
	}
	if at("https", "m.example") != at("https", "m.example:443") || at("http", "[::1]") != at("http", "[::1]:80") {
		t.Error("the port of the scheme makes a difference")
	}
	if at("https", "m.example") == at("https", "m.example:8443") || at("https", "m.example") == at("http", "m.example") {
		t.Error("different servers are taken for one")
	}
}

package registrytest

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// A Fault stands in front of a registry and spoils its answers. Faults are composed: [On] says to
// which requests they happen, [Times] how often, and [Wrap] puts several in a row.
type Fault func(http.Handler) http.Handler

// A Request is one that a [Proxy] saw.
type Request struct {
	Method, Path, Query, Range string
}

// A Proxy notes the requests to a registry and lets faults happen to them.
type Proxy struct {
	next http.Handler

	mu  sync.Mutex
	log []Request
}

// Wrap puts faults in front of a registry; the first is the outermost. It suits
// [Options.Wrap] by way of a closure.
func Wrap(registry http.Handler, faults ...Fault) *Proxy {
	for i := len(faults) - 1; i >= 0; i-- {
		registry = faults[i](registry)
	}
	return &Proxy{next: registry}
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.log = append(p.log, Request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Range")})
	p.mu.Unlock()
	p.next.ServeHTTP(w, r)
}

// Requests lists the requests so far.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request(nil), p.log...)
}

// Forget empties the list of requests.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = nil
}

// On lets f happen only to requests of a method (empty: all) whose path has part in it.
func On(method, part string, f Fault) Fault {
	return func(next http.Handler) http.Handler {
		spoilt := f(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if (method == "" || r.Method == method) && strings.Contains(r.URL.Path, part) {
				spoilt.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Times lets f happen to the first n requests that come to it.
func Times(n int, f Fault) Fault {
	return func(next http.Handler) http.Handler {
		spoilt := f(next)
		var mu sync.Mutex
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			n--
			happens := n >= 0
			mu.Unlock()
			if happens {
				spoilt.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// First lets f happen to the first request that comes to it, and then to all others.
func First(f, then Fault) Fault {
	return func(next http.Handler) http.Handler {
		once := Times(1, func(http.Handler) http.Handler { return f(next) })
		return once(then(next))
	}
}

// Answer answers by itself, with a status, headers (may be nil) and a body.
func Answer(status int, header http.Header, body string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for name, values := range header {
				w.Header()[name] = values
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body)) // the client may be gone
		})
	}
}

// Status answers with a status and nothing else.
func Status(status int) Fault { return Answer(status, nil, "") }

// TooMany answers 429 and asks to be left alone for so many seconds.
func TooMany(retryAfter string) Fault {
	return Answer(http.StatusTooManyRequests, http.Header{"Retry-After": {retryAfter}}, "")
}

// WebPage answers with HTML, as a login page in between does.
func WebPage() Fault {
	return Answer(http.StatusOK, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, "<html>Please log in</html>")
}

// Redirect sends clients elsewhere. With {path} in the target stands the path that was asked for.
func Redirect(target string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.ReplaceAll(target, "{path}", r.URL.Path), http.StatusTemporaryRedirect)
		})
	}
}

// Hang takes requests and never answers.
func Hang() Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	}
}

// Huge answers with a document of size bytes, all spaces, as fast as they are taken. With length
// it says so beforehand.
func Huge(mediaType string, size int64, length bool) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			if length {
				w.Header().Set("Content-Length", decimal(size))
			}
			w.WriteHeader(http.StatusOK)
			if r.Method == http.MethodHead {
				return
			}
			page := []byte(strings.Repeat(" ", 32<<10))
			for sent := int64(0); sent < size; {
				n, err := w.Write(page[:min(int64(len(page)), size-sent)])
				if err != nil {
					return
				}
				sent += int64(n)
			}
		})
	}
}

// A Pace is how slowly bytes go.
type Pace struct {
	Bytes int // at a time
	Every time.Duration
}

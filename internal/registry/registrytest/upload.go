package registrytest

import (
	"io"
	"net/http"
	"net/http/httptest"
)

// The faults in this file spoil what clients send.

// CutBody closes the connection after n bytes of a request's body; the registry keeps what it got.
// Shorter bodies arrive.
func CutBody(n int64) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength <= n {
				next.ServeHTTP(w, r)
				return
			}
			r = r.Clone(r.Context())
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(r.Body, n), broken{}), r.Body}
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Taken lets f happen once the whole body was read. A server that answers before closes the
// connection soon, and who sends may hear of that first.
func Taken(f Fault) Fault {
	return func(next http.Handler) http.Handler {
		spoilt := f(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the client may be gone
			spoilt.ServeHTTP(w, r)
		})
	}
}

// MostBody answers 413 to requests whose body has more than n bytes.
func MostBody(n int64) Fault {
	return func(next http.Handler) http.Handler {
		spoilt := Taken(Status(http.StatusRequestEntityTooLarge))(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > n {
				spoilt.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// LoseAnswer lets the registry do what it is asked, and closes the connection instead of answering.
func LoseAnswer() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		})
	}
}

// SmallPages lets the registry give at most n entries of a list at once.
func SmallPages(n string) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			query := r.URL.Query()
			query.Set("n", n)
			r.URL.RawQuery = query.Encode()
			next.ServeHTTP(w, r)
		})
	}
}

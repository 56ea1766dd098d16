package registrytest

import (
	"net/http"
	"strconv"
	"time"
)

// The faults in this file let the registry answer, and spoil what it says.

// SetHeader lets the answer say value under name; an empty value removes it.
func SetHeader(name, value string) Fault {
	return editing(func(w *editor) {
		w.onHeader = func(h http.Header, _ *int) {
			if value == "" {
				h.Del(name)
				return
			}
			h.Set(name, value)
		}
	})
}

// Chunked takes away the length of the body.
func Chunked() Fault { return SetHeader("Content-Length", "") }

// Cut closes the connection after n bytes of the body.
func Cut(n int64) Fault {
	return editing(func(w *editor) {
		w.limit, w.atLimit = n, func(*http.Request) { panic(http.ErrAbortHandler) }
	})
}

// Stall sends n bytes of the body and then nothing until the client goes.
func Stall(n int64) Fault {
	return editing(func(w *editor) {
		w.limit, w.atLimit = n, func(r *http.Request) {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
	})
}

// Trickle sends the body slowly.
func Trickle(p Pace) Fault { return editing(func(w *editor) { w.pace = p }) }

// WrongBytes changes the first byte of every body.
func WrongBytes() Fault {
	return editing(func(w *editor) {
		w.onWrite = func(b []byte) []byte {
			if w.sent > 0 || len(b) == 0 {
				return b
			}
			b = append([]byte(nil), b...)
			b[0] ^= 0xff
			return b
		}
	})
}

// Short ends the body in good order after n bytes, as if that were all.
func Short(n int64) Fault {
	return editing(func(w *editor) {
		w.onHeader = func(h http.Header, status *int) {
			if *status < 300 {
				h.Set("Content-Length", decimal(n))
			}
		}
		w.onWrite = func(b []byte) []byte { return b[:max(min(int64(len(b)), n-w.sent), 0)] }
	})
}

// Longer sends more behind the body. With length the header counts it in.
func Longer(more string, length bool) Fault {
	return editing(func(w *editor) {
		w.onHeader = func(h http.Header, _ *int) {
			n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
			h.Del("Content-Length")
			if length && err == nil {
				h.Set("Content-Length", decimal(n+int64(len(more))))
			}
		}
		w.atEnd = more
	})
}

// IgnoreRange lets the registry see no Range, so that it answers 200 with all of it.
func IgnoreRange() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			r.Header.Del("Range")
			next.ServeHTTP(w, r)
		})
	}
}

// WrongRange lets answers to range requests say that they begin at another byte.
func WrongRange(contentRange string) Fault {
	return editing(func(w *editor) {
		w.onHeader = func(h http.Header, status *int) {
			if *status == http.StatusPartialContent {
				h.Set("Content-Range", contentRange)
			}
		}
	})
}

// editing makes a fault of what set does to the answer of each request.
func editing(set func(*editor)) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e := &editor{ResponseWriter: w, request: r, limit: -1}
			set(e)
			next.ServeHTTP(e, r)
			if e.atEnd != "" && r.Method != http.MethodHead {
				_, _ = e.ResponseWriter.Write([]byte(e.atEnd)) // the client may be gone
			}
		})
	}
}

// An editor changes an answer on its way. It hides that the writer below can read from files, so
// that every byte goes through Write.
type editor struct {
	http.ResponseWriter
	request *http.Request

	onHeader func(h http.Header, status *int)
	onWrite  func(b []byte) []byte
	limit    int64 // negative: none
	atLimit  func(*http.Request)
	pace     Pace
	atEnd    string

	begun bool
	sent  int64
}

// Unwrap lets a flush through.
func (e *editor) Unwrap() http.ResponseWriter { return e.ResponseWriter }

func (e *editor) WriteHeader(status int) {
	if e.begun {
		return
	}
	e.begun = true
	if e.onHeader != nil {
		e.onHeader(e.Header(), &status)
	}
	e.ResponseWriter.WriteHeader(status)
}

func (e *editor) Write(b []byte) (int, error) {
	e.WriteHeader(http.StatusOK)
	all := len(b)
	if e.onWrite != nil {
		b = e.onWrite(b)
	}
	for len(b) > 0 {
		n := len(b)
		if e.pace.Bytes > 0 {
			n = min(n, e.pace.Bytes)
		}
		if e.limit >= 0 {
			n = int(min(int64(n), e.limit-e.sent))
		}
		if n > 0 {
			if _, err := e.ResponseWriter.Write(b[:n]); err != nil {
				return 0, err
			}
		}
		e.sent += int64(n)
		b = b[n:]
		if e.pace.Bytes > 0 || e.sent == e.limit {
			e.flush()
		}
		if e.sent == e.limit && len(b) > 0 {
			e.atLimit(e.request)
		}
		e.rest()
	}
	return all, nil
}

func (e *editor) flush() {
	_ = http.NewResponseController(e.ResponseWriter).Flush() // a writer that cannot sends at once
}

// rest waits between two portions, or for the client's end.
func (e *editor) rest() {
	if e.pace.Every <= 0 {
		return
	}
	select {
	case <-time.After(e.pace.Every):
	case <-e.request.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
)

// An Error is an answer that is not what was asked for.
//
// By its status it is an [errdefs.ErrUnauthenticated] (401), [errdefs.ErrPermissionDenied] (403),
// [errdefs.ErrNotFound] (404), [errdefs.ErrUnavailable] (408, 429 and 5xx),
// [errdefs.ErrOutOfRange] (416) or [errdefs.ErrUnknown].
type Error struct {
	Host       string // that answered
	What       string // was asked for
	Status     int
	Code       string        // the registry's word for it, DIGEST_INVALID; empty: it has none
	Message    string        // what the registry says, cut to one short line
	RetryAfter time.Duration // how long it asks to be left alone; 0: it does not say

	knew bool // it was shown a user name and a password
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s answered %d %s for %s", e.Host, e.Status, http.StatusText(e.Status), e.What)
	if e.Message != "" {
		s += ": " + e.Message
	}
	switch {
	case e.Status != http.StatusUnauthorized:
	case e.knew:
		s += ": " + refusal
	default:
		// Registries do not tell strangers whether a repository exists.
		s += ": it does not exist, or needs a login"
	}
	return s
}

const refusal = "it refuses the user name or the password"

func (e *Error) Unwrap() error {
	switch {
	case e.Status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case e.Status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case e.Status == http.StatusNotFound:
		return errdefs.ErrNotFound
	case e.Status == http.StatusRequestedRangeNotSatisfiable:
		return errdefs.ErrOutOfRange
	case e.passing(), e.Status >= 500:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}

// passing tells whether another try may have another answer.
func (e *Error) passing() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return e.Status >= 500
}

// A NetworkError is a server that did not answer, or not to the end. It is an
// [errdefs.ErrUnavailable].
type NetworkError struct {
	Host   string
	What   string // was asked for
	Reason string
	Err    error // may quote URLs with secrets in them: not to be shown

	lasting bool // another try is of no use
	stalled bool // finding out took long
}

func (e *NetworkError) Error() string { return e.Host + ": " + e.What + ": " + e.Reason }

func (e *NetworkError) Unwrap() []error { return []error{errdefs.ErrUnavailable, e.Err} }

// maxErrorBody bounds what is read of an answer that is an error, in bytes, and maxMessage what is
// shown of it.
const (
	maxErrorBody = 8 << 10
	maxMessage   = 300
)

// answered makes an error of an answer, and closes it.
func answered(resp *http.Response, what string) error {
	e := &Error{Host: resp.Request.URL.Host, What: what, Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	_, _, e.knew = resp.Request.BasicAuth()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // as much of it as there is
	_ = resp.Body.Close()
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(b, &doc) == nil && len(doc.Errors) > 0 {
		first := doc.Errors[0]
		e.Code = oneLine(first.Code)
		if e.Message = first.Message; e.Message == "" {
			e.Message = first.Code
		}
	}
	e.Message = oneLine(e.Message)
	return e
}

// oneLine makes text from a server fit to be shown: no line breaks and no control characters.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// retryAfter reads how long a server asks to be left alone: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil {
		// More than a day is all the same, and cannot overflow.
		return time.Duration(min(max(n, 0), 24*60*60)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// failure makes an error of a request that had no answer. What err itself says is not told: it may
// quote URLs whose queries hold secrets.
func (e *endpoint) failure(err error, what string) error {
	var (
		answer  *Error
		network *NetworkError
	)
	switch { // the authorizer knows best; others may have got the same error
	case errors.As(err, &answer):
		told := *answer
		told.What += " for " + what
		return &told
	case errors.As(err, &network):
		told := *network
		told.What += " for " + what
		return &told
	case errdefs.IsUnauthorized(err), errdefs.IsInvalidArgument(err): // a rewrite rule that gives no repository
		return err
	}
	n := networkError(e.URL.Host, what, err)
	var dial *net.OpError
	if (e.front || errors.As(err, &dial) && dial.Op == "dial") && !e.health.known() {
		// A server that never answered is not waited for.
		n.lasting = true
	}
	return n
}

// broken makes an error of an answer that broke off.
func (e *endpoint) broken(err error, what string) error {
	n := networkError(e.URL.Host, what, err)
	n.lasting = false // it began well
	return n
}

func networkError(host, what string, err error) *NetworkError {
	n := &NetworkError{Host: host, What: what, Err: err, stalled: isTimeout(err)}
	n.Reason, n.lasting = explain(err)
	return n
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, errStalled) || errors.Is(err, errTrickle) || errors.As(err, &timeout) && timeout.Timeout()
}

// explain says in short why a server could not be talked to, and whether that will last.
func explain(err error) (reason string, lasting bool) {
	var (
		redirect  redirectError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		remote    *net.OpError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &redirect):
		return redirect.Error(), true
	case errors.As(err, &authority):
		return "its certificate is signed by an authority that is not trusted here; name it as ca in hosts.toml, or put it there as a .crt file", true
	case errors.As(err, &name):
		return "its certificate is for another name: " + oneLine(name.Error()), true
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + oneLine(invalid.Error()), true
	case errors.As(err, &remote) && remote.Op == "remote error":
		return "it refused the TLS connection: " + oneLine(innermost(remote).Error()), true
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, new(tls.RecordHeaderError)):
		return "it speaks plain HTTP where HTTPS was expected; --plain-http, or a URL with http:// in hosts.toml, allows that", true
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return "there is no such host", true
		}
		return "its address cannot be looked up", false
	case errors.Is(err, errStalled), errors.Is(err, errTrickle), errors.Is(err, errUntaken), errors.Is(err, errDead):
		return innermost(err).Error(), false
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", false
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset", false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed too early", false
	case isTimeout(err), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer came in time", false
	}
	return oneLine(innermost(err).Error()), false
}

// innermost is the first cause. What wraps it names URLs, whose queries may hold secrets.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

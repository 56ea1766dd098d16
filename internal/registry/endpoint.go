package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// An endpoint is one server behind a registry's name.
type endpoint struct {
	hosts.Host
	ns        string // the registry's name, for servers that stand in for it; else empty
	log       *slog.Logger
	transport *http.Transport
	auth      *authorizer

	reached     atomic.Bool // it has answered before
	otherScheme atomic.Bool // it turned out to speak OtherScheme
}

func (c *Client) newEndpoint(registry string, h hosts.Host) (*endpoint, error) {
	config, err := tlsConfig(h)
	if err != nil {
		return nil, fmt.Errorf("set up TLS for %s: %w", h.URL.Host, err)
	}
	e := &endpoint{Host: h, log: c.o.Log}
	own := h.URL.Host == registry || registry == "docker.io" && h.URL.Host == "registry-1.docker.io"
	if !own {
		e.ns = registry
	}
	e.transport = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: h.DialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   h.DialTimeout,
		ResponseHeaderTimeout: c.o.Stall,
		ForceAttemptHTTP2:     true,
		// As many as a pull has streams, so that none of them dials twice.
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		// Bytes are wanted as they are stored: their digest is that of the packed ones.
		DisableCompression: true,
	}
	e.auth = c.newAuthorizer(registry, h, own, &http.Client{Transport: &watchdog{e.transport, c.o.Stall}, CheckRedirect: e.checkRedirect})
	return e, nil
}

func tlsConfig(h hosts.Host) (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: h.SkipVerify}
	if len(h.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		for _, file := range h.CA {
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s holds no certificate: %w", file, errdefs.ErrInvalidArgument)
			}
		}
		config.RootCAs = pool
	}
	for _, pair := range h.Client {
		if pair.Key == "" {
			pair.Key = pair.Cert
		}
		cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pair.Cert, err)
		}
		config.Certificates = append(config.Certificates, cert)
	}
	return config, nil
}

// A request is what is asked of a repository.
type request struct {
	method string
	repo   string
	path   string      // below the repository: manifests/latest
	query  url.Values  // may be nil
	at     *url.URL    // instead of repo, path and query: where the server said that an upload goes on
	what   string      // the same for people: manifest latest of library/alpine
	header http.Header // may be nil
	scopes []string    // what a token must allow; nil: to pull from repo

	// body gives the bytes to send, and is asked again if they have to be sent again. nil: none.
	body   func() (io.ReadCloser, error)
	length int64 // of the body
}

// send sends a request and follows redirects. Whatever the status of the answer, err is nil; the
// caller closes its body. Errors are *[NetworkError], or *[Error] when credentials were refused.
func (e *endpoint) send(ctx context.Context, r request) (*http.Response, error) {
	scheme := e.URL.Scheme
	if e.otherScheme.Load() {
		scheme = e.OtherScheme
	}
	resp, err := e.sendAs(ctx, scheme, r)
	if e.OtherScheme != "" && scheme != e.OtherScheme && wrongScheme(scheme, resp, err) {
		if other, otherErr := e.sendAs(ctx, e.OtherScheme, r); otherErr == nil {
			e.otherScheme.Store(true)
			if resp != nil {
				_ = resp.Body.Close() // nothing of it is wanted
			}
			resp, err = other, nil
		}
	}
	if err != nil {
		return nil, e.failure(err, r.what)
	}
	e.reached.Store(true)
	return resp, nil
}

func (e *endpoint) sendAs(ctx context.Context, scheme string, r request) (*http.Response, error) {
	u := e.URL
	u.Scheme = scheme
	u.Path += "/" + r.repo + "/" + r.path
	query := maps.Clone(r.query)
	if e.ns != "" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("ns", e.ns)
	}
	u.RawQuery = query.Encode()
	if r.at != nil {
		u = *r.at
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, header := range []http.Header{e.Header, r.header} {
		for name, values := range header {
			req.Header[name] = values
		}
	}
	if r.body != nil {
		req.GetBody, req.ContentLength = r.body, r.length
		if req.Body, err = r.body(); err != nil {
			return nil, err
		}
	}
	scopes := r.scopes
	if scopes == nil {
		scopes = []string{auth.ScopeRepository(r.repo, auth.ActionPull)}
	}
	begun := time.Now()
	resp, err := e.auth.do(req, scopes...)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	e.log.DebugContext(ctx, "request", "method", r.method, "scheme", scheme, "host", u.Host, "path", u.Path,
		"range", req.Header.Get("Range"), "status", status, "duration", time.Since(begun))
	return resp, err
}

// wrongScheme tells whether an answer is that of a server that speaks the other scheme. Only a
// server that answers TLS with plain HTTP is spoken to so: a broken connection would be an easy way
// to have TLS dropped.
func wrongScheme(scheme string, resp *http.Response, err error) bool {
	if scheme == "https" {
		return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, new(tls.RecordHeaderError))
	}
	if err == nil {
		return resp.StatusCode == http.StatusBadRequest
	}
	return strings.Contains(err.Error(), "malformed HTTP response") ||
		errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// maxRedirects is how many redirects lead to an answer, at most.
const maxRedirects = 10

// A redirectError is a redirect that is not followed.
type redirectError string

func (e redirectError) Error() string { return string(e) }

// checkRedirect refuses circles and the way from https to http, and keeps what hosts.toml says to
// send to this server from others. The auth client does the same for credentials.
func (e *endpoint) checkRedirect(req *http.Request, via []*http.Request) error {
	for _, before := range via {
		if *before.URL == *req.URL {
			return redirectError("redirects in a circle")
		}
	}
	if len(via) >= maxRedirects {
		return redirectError(fmt.Sprintf("more than %d redirects", maxRedirects))
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return redirectError("redirects from https to http, at " + req.URL.Host)
	}
	if req.URL.Host != e.URL.Host {
		for name := range e.Header {
			req.Header.Del(name)
		}
	}
	return nil
}

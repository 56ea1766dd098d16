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
	"sync"
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
	client    *http.Client // without credentials
	auth      *authorizer

	health *health       // shared with all that talk to the same server
	front  bool          // others are asked when this one fails
	stall  time.Duration // see [Options]

	tagging sync.Mutex // held while the list of a manifest's referrers is changed

	otherScheme atomic.Bool // it turned out to speak OtherScheme
}

// newEndpoint makes the endpoint of a server behind registry. front tells whether there are others
// after it. c.mu is held.
func (c *Client) newEndpoint(registry string, h hosts.Host, front bool) (*endpoint, error) {
	config, err := tlsConfig(h)
	if err != nil {
		return nil, fmt.Errorf("set up TLS for %s (%s): %v: %w", h.URL.Host, h.Why, err, errdefs.ErrInvalidArgument)
	}
	e := &endpoint{Host: h, log: c.o.Log, health: c.health(h.URL), front: front, stall: c.o.Stall}
	own := h.URL.Host == registry || registry == "docker.io" && h.URL.Host == "registry-1.docker.io"
	if !own {
		e.ns = registry
	}
	e.transport = &http.Transport{
		Proxy:               proxy(h.Proxy),
		DialContext:         (&net.Dialer{Timeout: h.DialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: h.DialTimeout,
		ForceAttemptHTTP2:   true,
		// As many as a pull has at once, so that none of them dials twice.
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		// Bytes are wanted as they are stored: their digest is that of the packed ones.
		DisableCompression: true,
	}
	var transport http.RoundTripper = &watchdog{&patience{e.transport, c.o.Stall}, c.o.Stall}
	if c.line != nil {
		transport = &throttle{transport, c.line}
	}
	e.client = &http.Client{Transport: transport, CheckRedirect: e.checkRedirect}
	e.auth = c.newAuthorizer(registry, h, own, e.client)
	return e, nil
}

// hostPort is the address that u stands for, in one spelling.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// proxy finds out what a request goes through: u, nothing if u is empty, or what the environment says
// if it is nil.
func proxy(u *url.URL) func(*http.Request) (*url.URL, error) {
	switch {
	case u == nil:
		return http.ProxyFromEnvironment
	case *u == url.URL{}:
		return nil
	}
	return http.ProxyURL(u)
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
				return nil, fmt.Errorf("%s holds no certificate", file)
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
	repo   string      // empty: the registry itself
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
// caller closes its body. It waits if the server asked to be left alone for a while. Errors are
// *[NetworkError], or *[Error] when credentials were refused, or the wait would be too long.
func (e *endpoint) send(ctx context.Context, r request) (*http.Response, error) {
	pause, err := e.health.rest(ctx)
	if err != nil {
		return nil, err
	}
	if pause > 0 {
		return nil, &Error{Host: e.URL.Host, What: r.what, Status: http.StatusTooManyRequests, RetryAfter: pause}
	}
	probing := false
	if e.front && !e.health.known() {
		if probing, err = e.health.admit(ctx); err != nil {
			return nil, e.failure(err, r.what)
		}
		// What others can be asked instead is not waited for as long as the only one.
		ctx = thinking(ctx, min(e.DialTimeout-e.stall, 0))
	}
	resp, err := e.sendEither(ctx, r)
	if err != nil {
		err = e.failure(err, r.what)
	}
	e.health.learn(ctx, resp, err, probing)
	return resp, err
}

// sendEither sends a request by the scheme that the server speaks.
func (e *endpoint) sendEither(ctx context.Context, r request) (*http.Response, error) {
	scheme := e.URL.Scheme
	if e.otherScheme.Load() {
		scheme = e.OtherScheme
	}
	resp, err := e.sendAs(ctx, scheme, r)
	if r.at == nil && e.OtherScheme != "" && scheme != e.OtherScheme && wrongScheme(scheme, resp, err) {
		if other, otherErr := e.sendAs(ctx, e.OtherScheme, r); otherErr == nil {
			e.otherScheme.Store(true)
			if resp != nil {
				_ = resp.Body.Close() // nothing of it is wanted
			}
			resp, err = other, nil
		}
	}
	return resp, err
}

func (e *endpoint) sendAs(ctx context.Context, scheme string, r request) (*http.Response, error) {
	u := e.URL
	u.Scheme = scheme
	repo := r.repo
	if repo != "" {
		var err error
		if repo, err = e.Repo(repo); err != nil {
			return nil, err
		}
		u.Path += "/" + repo
	}
	u.Path += "/" + r.path
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
	away := r.at != nil && r.at.Host != e.URL.Host // no credentials go there, nor what hosts.toml says to send
	if !away {
		maps.Copy(req.Header, e.Header)
	}
	maps.Copy(req.Header, r.header)
	if r.body != nil {
		req.GetBody, req.ContentLength = r.body, r.length
		if req.Body, err = r.body(); err != nil {
			return nil, err
		}
	}
	scopes := r.scopes
	if scopes == nil {
		scopes = []string{auth.ScopeRepository(repo, auth.ActionPull)}
	}
	begun := time.Now()
	var resp *http.Response
	if away {
		resp, err = e.client.Do(req)
	} else {
		resp, err = e.auth.do(req, repo, scopes...)
	}
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

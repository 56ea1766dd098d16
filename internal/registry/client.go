// Package registry speaks the OCI distribution protocol: to pull, to push and to list.
//
// It owns how a registry is reached: which servers stand behind its name (see the package hosts),
// credentials, TLS, redirects, retries, and going on with a blob whose connection broke, at the
// same server or the next. What images are made of it leaves to others.
//
// What one request finds out about a server holds for all transfers of a [Client]: a pause that it
// asks for, and that it is broken or dead, so that others are asked in its place for a while.
//
// Invariants:
//   - An answer is untrusted: every read from it has a limit in bytes and in time.
//   - Manifests are given out only if they match the digest and size that were asked for. Blobs
//     are given out as they arrive, to be checked by whoever stores them.
//   - Uploads go to the first host that may be pushed to. No blob is held in memory.
//   - Credentials go to the server they belong to, and never to where it redirects; errors and
//     logs carry none.
package registry

import (
	"log/slog"
	"sync"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// Options tunes a [Client]. The zero value reaches public registries.
type Options struct {
	HostsDirs []string     // folders with one folder a registry, which holds its hosts.toml
	Tables    hosts.Tables // what config.toml says of registries
	PlainHTTP bool         // registries are spoken to without TLS; loopback ones are anyway

	// Username and Password are for the registries that references name, not for mirrors.
	Username, Password string
	UsernameFrom       string // where they come from, for people; empty: options
	// Credentials, if it is set, is asked before that, and files only when it has none.
	Credentials CredentialsFunc
	// AuthFiles are in docker's config.json format, asked in order. They may be absent.
	AuthFiles []string
	// HelperTimeout is how long a credential helper may take; 0: 30s.
	HelperTimeout time.Duration

	Stall     time.Duration // silence before a connection is given up; 0: 30s
	Backoff   time.Duration // the first pause before another try, doubled each time; 0: 250ms
	LimitRate int64         // bytes a second for all bodies received and sent, together; 0: no limit
	UserAgent string        // empty: stowage
	Log       *slog.Logger  // nil: nobody is told
}

// A Client talks to registries. Goroutines may share it; what it learns (tokens, connections)
// they share too.
type Client struct {
	o    Options
	line *rate.Limiter // nil: there is no limit
	room chan struct{} // see [parts]

	mu         sync.Mutex
	registries map[string][]*endpoint // by the name in references
	healths    map[string]*health     // by scheme and address
	blamed     map[image.Digest][]*endpoint
}

// New makes a client. It reads files and opens connections when they are needed.
func New(o Options) *Client {
	if o.Stall <= 0 {
		o.Stall = 30 * time.Second
	}
	if o.Backoff <= 0 {
		o.Backoff = 250 * time.Millisecond
	}
	if o.HelperTimeout <= 0 {
		o.HelperTimeout = 30 * time.Second
	}
	if o.UserAgent == "" {
		o.UserAgent = "stowage"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		o: o, room: make(chan struct{}, maxParts),
		registries: map[string][]*endpoint{}, healths: map[string]*health{}, blamed: map[image.Digest][]*endpoint{},
	}
	if o.LimitRate > 0 {
		c.line = rate.New(o.LimitRate)
	}
	return c
}

// A Manner is how somebody wants registries to be reached for one request. The zero value is as they are
// reached for others.
type Manner struct {
	Credentials CredentialsFunc // of whoever asks; nil: those of the client
	HostsDir    string          // in place of the client's; empty: those
	PlainHTTP   bool            // without TLS, whatever the client does
}

// IsZero tells whether there is nothing to it.
func (m Manner) IsZero() bool { return m.Credentials == nil && m.HostsDir == "" && !m.PlainHTTP }

// With is a client that reaches registries in another manner, and shares what c is given of the line and
// of parallel requests, but no tokens. The caller closes it.
func (c *Client) With(m Manner) *Client {
	o := c.o
	if m.Credentials != nil {
		o.Username, o.Password, o.UsernameFrom, o.Credentials = "", "", "", m.Credentials
	}
	if m.HostsDir != "" {
		o.HostsDirs, o.Tables.Mirrors = []string{m.HostsDir}, nil
	}
	o.PlainHTTP = o.PlainHTTP || m.PlainHTTP
	with := New(o)
	with.line, with.room = c.line, c.room
	return with
}

// Close drops the connections that nobody uses. The client may still be used.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range c.registries {
		for _, e := range list {
			e.transport.CloseIdleConnections()
		}
	}
}

// plan says how a registry is reached.
func (c *Client) plan(registry string) (hosts.Plan, error) {
	return hosts.Load(registry, hosts.Options{Dirs: c.o.HostsDirs, Tables: c.o.Tables, PlainHTTP: c.o.PlainHTTP})
}

// endpoints lists the servers behind the registry of r that may be asked for want, in order.
func (c *Client) endpoints(r ref.Reference, want hosts.Capabilities) ([]*endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, ok := c.registries[r.Registry()]
	if !ok {
		found, err := c.plan(r.Registry())
		if err != nil {
			return nil, err
		}
		for i, h := range found.Hosts {
			e, err := c.newEndpoint(r.Registry(), h, i < len(found.Hosts)-1)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		c.registries[r.Registry()] = list
	}
	var able []*endpoint
	for _, e := range list {
		if e.Capabilities.Has(want) {
			able = append(able, e)
		}
	}
	return able, nil
}

package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// An authorizer sends requests to one server, with the credentials that the server asks for. What it
// was asked for, and the tokens that it got, it keeps for the requests that follow.
type authorizer struct {
	client *http.Client // for requests
	tokens *tokenServer
	find   func(ctx context.Context, repo string) (credential, error)
	agent  string

	mu sync.Mutex
	// asked is how the server asked last, by the scheme of the request: whoever answers over http is
	// not told what was asked for over https.
	asked  map[string]challenge
	wants  map[string]string // by the scopes of a request: all that the server wants in its token
	grants map[string]*grant // by scheme, way of asking, repository and scopes
}

// A grant is the authorization for a repository and scopes. The fields below ready are for whoever
// took the one element out of it.
type grant struct {
	renewals atomic.Int64 // how many there were
	ready    chan struct{}

	found bool // cred was looked up
	cred  credential
	token token
	fault error // of the last renewal
}

// newAuthorizer makes the authorizer of a server behind registry, which sends with next. own tells
// whether it is the registry itself, and not one that stands in for it.
func (c *Client) newAuthorizer(registry string, h hosts.Host, own bool, next *http.Client) *authorizer {
	return &authorizer{
		client: withoutSecrets(next),
		tokens: &tokenServer{client: withoutSecrets(&http.Client{Transport: next.Transport, CheckRedirect: tokenRedirect}), agent: c.o.UserAgent},
		find:   c.newChain(registry, h, own).find, agent: c.o.UserAgent,
		asked: map[string]challenge{}, wants: map[string]string{}, grants: map[string]*grant{},
	}
}

// withoutSecrets makes a client that sends Authorization nowhere but to the origin of the first
// request. The standard library lets it go to other ports of a host.
func withoutSecrets(next *http.Client) *http.Client {
	c := *next
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		// The headers of each request are made anew from the first one's.
		left := func(r *http.Request) bool { return !sameOrigin(via[0].URL, r.URL) }
		if left(req) || slices.ContainsFunc(via, left) {
			req.Header.Del("Authorization")
		}
		return next.CheckRedirect(req, via)
	}
	return &c
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// maxSends is how often one request is sent, at most: without a token, with one that another request
// got, with a new one, and once more because the server wants a larger one.
const maxSends = 4

// do sends a request for a repository (empty: for none); scopes are what a token for it must allow,
// besides what the server says. A body that may have to be sent twice, because credentials are
// asked for only then, has a GetBody.
//
// A server that refuses what it took before is shown something new once.
func (a *authorizer) do(req *http.Request, repo string, scopes ...string) (*http.Response, error) {
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", a.agent)
	}
	if req.Header.Get("Authorization") != "" { // the hosts file says what to send
		return a.client.Do(req)
	}
	ctx := req.Context()
	scopes = auth.CleanScopes(scopes)
	value, fresh, err := a.authorization(ctx, req.URL, repo, scopes, "")
	for sends := 1; ; sends++ {
		if err != nil {
			return nil, err
		}
		if value != "" {
			req.Header.Set("Authorization", value)
		}
		resp, err := a.client.Do(req)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || sends == maxSends || !sameOrigin(req.URL, resp.Request.URL) {
			return resp, err
		}
		// Its connection may be wanted for the token.
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		_ = resp.Body.Close() // as much of it as there is
		if err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		more, err := a.learn(resp, scopes)
		if err != nil {
			return nil, err
		}
		if fresh && !more {
			return resp, nil
		}
		var next string
		if next, fresh, err = a.authorization(ctx, req.URL, repo, scopes, value); err != nil {
			return nil, err
		}
		if next == value {
			return resp, nil // there is nothing else to show
		}
		value = next
		if req, err = again(req); err != nil {
			return nil, err
		}
	}
}

// again makes a request that can be sent once more.
func again(req *http.Request) (*http.Request, error) {
	next := req.Clone(req.Context())
	if req.Body == nil || req.Body == http.NoBody {
		return next, nil
	}
	if req.GetBody == nil {
		return nil, errors.New("credentials were asked for after a body was sent that cannot be sent again")
	}
	body, err := req.GetBody()
	next.Body = body
	return next, err
}

// learn keeps what a server asks for. more tells that a token for scopes must allow more than was
// known.
func (a *authorizer) learn(resp *http.Response, scopes []string) (more bool, err error) {
	list, ok := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	c, found := choose(list)
	switch {
	case found:
	case !ok || slices.ContainsFunc(list, func(c challenge) bool { return c.scheme == "bearer" }):
		return false, &loginError{resp.Request.URL.Host, "its WWW-Authenticate header is malformed"}
	default:
		return false, nil // it asks for nothing, or for what is not known here
	}
	wanted := c.params["scope"]
	delete(c.params, "scope")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[resp.Request.URL.Scheme] = c
	key := strings.Join(scopes, " ")
	all := strings.Join(auth.CleanScopes(append(slices.Clone(scopes), strings.Fields(wanted)...)), " ")
	if all == key || all == a.wants[key] {
		return false, nil
	}
	a.wants[key] = all
	return true, nil
}

// authorization gives what to send as Authorization; empty: nothing. refused is what the server just
// did not take. fresh tells that it was made for this very request, so that there is no better.
func (a *authorizer) authorization(ctx context.Context, to *url.URL, repo string, scopes []string, refused string) (value string, fresh bool, err error) {
	asked, g, scopes := a.grant(to.Scheme, repo, scopes)
	if asked.scheme == "" {
		return "", false, nil
	}
	before := g.renewals.Load()
	select {
	case <-g.ready:
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
	defer func() { g.ready <- struct{}{} }()
	if value := g.value(asked.scheme); value != "" && value != refused && (asked.scheme == "basic" || time.Now().Before(g.token.renew)) {
		return value, false, nil
	}
	if g.fault != nil && g.renewals.Load() != before {
		return "", false, g.fault // it failed for all who waited
	}
	err = a.renew(ctx, g, asked, to, repo, scopes, refused)
	if g.fault = err; ctx.Err() != nil {
		g.fault = nil // that it gave up is nothing to the others
	}
	g.renewals.Add(1)
	return g.value(asked.scheme), true, err
}

// grant finds the grant for a repository and scopes, and with which scopes it is to be renewed.
func (a *authorizer) grant(scheme, repo string, scopes []string) (challenge, *grant, []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if all, ok := a.wants[strings.Join(scopes, " ")]; ok {
		scopes = strings.Fields(all)
	}
	asked := a.asked[scheme]
	key := strings.Join(append([]string{scheme, asked.scheme, repo}, scopes...), " ")
	g := a.grants[key]
	if g == nil {
		g = &grant{ready: make(chan struct{}, 1)}
		g.ready <- struct{}{}
		a.grants[key] = g
	}
	return asked, g, scopes
}

// value is what the grant puts into Authorization; empty: nothing.
func (g *grant) value(scheme string) string {
	switch {
	case scheme == "basic" && g.cred.Username != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(g.cred.Username+":"+g.cred.Password))
	case scheme == "bearer" && g.token.value != "":
		return "Bearer " + g.token.value
	}
	return ""
}

// renew looks for credentials, if those that are known were refused, and gets a token.
func (a *authorizer) renew(ctx context.Context, g *grant, asked challenge, to *url.URL, repo string, scopes []string, refused string) error {
	looked := false
	look := func() (err error) {
		g.cred, err = a.find(ctx, repo)
		g.found, looked = err == nil, true
		return err
	}
	if !g.found || refused != "" || asked.scheme == "basic" {
		if err := look(); err != nil {
			return err
		}
	}
	if asked.scheme == "basic" {
		if g.cred.Username == "" && g.cred.Credential != auth.EmptyCredential {
			return &loginError{to.Host, "it wants a user name and a password, and there is only a token"}
		}
		return nil
	}
	var err error
	g.token, err = a.tokens.fetch(ctx, asked.params, to, g.cred, scopes)
	if errdefs.IsUnauthorized(err) && !looked {
		// Helpers give passwords that last for hours.
		if err := look(); err != nil {
			return err
		}
		g.token, err = a.tokens.fetch(ctx, asked.params, to, g.cred, scopes)
	}
	return err
}

// A loginError reports a way to log in that is not taken. It is an [errdefs.ErrUnauthenticated].
type loginError struct{ host, why string }

func (e *loginError) Error() string { return fmt.Sprintf("%s: cannot log in: %s", e.host, e.why) }

func (e *loginError) Unwrap() error { return errdefs.ErrUnauthenticated }

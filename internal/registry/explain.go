package registry

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// An Explanation says how the images of a registry are reached, and why so. It holds no secrets.
type Explanation struct {
	Reference  string          `json:"reference"`
	Registry   string          `json:"registry"`
	Repository string          `json:"repository"`
	Source     string          `json:"source"` // the file or folder that says so; empty: none does
	Looked     []ExplainedLook `json:"looked"` // where that was looked for, in order
	Hosts      []ExplainedHost `json:"hosts"`  // in the order in which they are asked
}

// An ExplainedLook is a place where something could have been said of a registry.
type ExplainedLook struct {
	Path  string `json:"path"`
	Found string `json:"found"`
}

// An ExplainedHost is one server of an [Explanation].
type ExplainedHost struct {
	URL          string   `json:"url"`
	OtherScheme  string   `json:"otherScheme,omitempty"` // tried when the server does not speak that of URL
	Why          string   `json:"why"`                   // it is asked, and at this place
	Capabilities []string `json:"capabilities"`
	Repository   string   `json:"repository"` // under the name that it has there
	CA           []string `json:"ca,omitempty"`
	Client       []string `json:"client,omitempty"` // files with certificates and keys to show
	SkipVerify   bool     `json:"skipVerify"`
	Proxy        string   `json:"proxy,omitempty"`   // without its password; empty: none
	Headers      []string `json:"headers,omitempty"` // names alone
	DialTimeout  string   `json:"dialTimeout"`
	Credentials  string   `json:"credentials"` // where they come from
	Tried        []Trial  `json:"tried,omitempty"`
}

// A Trial is what a server answered to one request.
type Trial struct {
	Request  string        `json:"request"`
	Answer   string        `json:"answer"` // the status, or why there was none
	OK       bool          `json:"ok"`
	Duration time.Duration `json:"nanoseconds"`
}

// Explain says how r is reached. try has each server asked, with credentials, for its version and
// for the manifest. It never stops at a server that does not answer. Errors are those of files:
// [errdefs.ErrInvalidArgument].
func (c *Client) Explain(ctx context.Context, r ref.Reference, try bool) (*Explanation, error) {
	plan, err := c.plan(r.Registry())
	if err != nil {
		return nil, err
	}
	list, err := c.endpoints(r, 0)
	if err != nil {
		return nil, err
	}
	x := &Explanation{Reference: r.String(), Registry: r.Registry(), Repository: r.Repository(), Source: plan.Source}
	for _, l := range plan.Looked {
		x.Looked = append(x.Looked, ExplainedLook(l))
	}
	for _, e := range list {
		h := e.explain(ctx, r)
		if try {
			h.Tried = e.try(ctx, r)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		x.Hosts = append(x.Hosts, h)
	}
	return x, nil
}

func (e *endpoint) explain(ctx context.Context, r ref.Reference) ExplainedHost {
	h := ExplainedHost{
		URL: e.URL.String(), OtherScheme: e.OtherScheme, Why: e.Why, Capabilities: capabilities(e.Capabilities),
		CA: e.CA, SkipVerify: e.SkipVerify, Headers: slices.Sorted(maps.Keys(e.Header)), DialTimeout: e.DialTimeout.String(),
	}
	for _, pair := range e.Client {
		h.Client = append(h.Client, pair.Cert)
		if pair.Key != "" {
			h.Client = append(h.Client, pair.Key)
		}
	}
	var err error
	if h.Repository, err = e.Repo(r.Repository()); err != nil {
		h.Repository = err.Error()
	}
	if e.transport.Proxy != nil {
		req := &http.Request{URL: &e.URL}
		if through, err := e.transport.Proxy(req); err != nil {
			h.Proxy = "the environment names one that is no URL"
		} else if through != nil {
			h.Proxy = through.Redacted()
		}
	}
	switch cred, err := e.auth.find(ctx, h.Repository); {
	case e.Header.Get("Authorization") != "":
		h.Credentials = "the header Authorization above"
	case err != nil:
		h.Credentials = err.Error()
	case cred.RefreshToken != "":
		h.Credentials = "an identity token from " + cred.source
	case cred.AccessToken != "":
		h.Credentials = "a registry token from " + cred.source
	case cred.Username != "":
		h.Credentials = "a password from " + cred.source
	default:
		h.Credentials = cred.source
	}
	return h
}

// try asks a server for its version, and for a manifest.
func (e *endpoint) try(ctx context.Context, r ref.Reference) []Trial {
	want := r.Digest().String()
	if want == "" {
		want = r.Tag()
	}
	manifest := manifestRequest(r, want)
	manifest.method = http.MethodHead
	return []Trial{
		e.trial(ctx, "GET /v2/", pingRequest()),
		e.trial(ctx, "HEAD manifest", manifest),
	}
}

func (e *endpoint) trial(ctx context.Context, name string, r request) Trial {
	begun := time.Now()
	resp, err := e.send(ctx, r)
	t := Trial{Request: name, Duration: time.Since(begun)}
	var network *NetworkError
	switch {
	case errors.As(err, &network) && network.Host == e.URL.Host: // not of its token server
		t.Answer = network.Reason
		return t
	case err != nil:
		t.Answer = err.Error()
		return t
	}
	_ = resp.Body.Close() // the status is all that is wanted
	t.Answer, t.OK = oneLine(resp.Status), resp.StatusCode == http.StatusOK
	return t
}

// capabilities are named as in hosts.toml.
func capabilities(c hosts.Capabilities) []string {
	list := []string{}
	for _, named := range []struct {
		hosts.Capabilities
		name string
	}{{hosts.Pull, "pull"}, {hosts.Resolve, "resolve"}, {hosts.Push, "push"}, {hosts.Referrers, "referrers"}} {
		if c.Has(named.Capabilities) {
			list = append(list, named.name)
		}
	}
	return list
}

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

const (
	// tagsPage is how many tags are asked for at once, as many as registries usually give.
	tagsPage = 1000
	// maxTags is how many tags a repository may have to be listed.
	maxTags = 1_000_000
)

// Tags lists the tags of the repository that r names, each once, in the registry's order. It asks for
// more as they are taken. An error ends the list.
//
// Errors are those of [Client.Resolve]; [errdefs.ErrInvalidArgument] also when the list is malformed,
// leads in a circle, or has more than a million tags.
func (c *Client) Tags(ctx context.Context, r ref.Reference) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		req := request{
			method: http.MethodGet, repo: r.Repository(), path: "tags/list", what: "tags of " + r.Repository(),
			query: url.Values{"n": {strconv.Itoa(tagsPage)}},
		}
		var host *endpoint // that began the list: others may have another order
		linked := false    // it says itself where the list goes on
		seen := map[string]bool{}
		for {
			var page []string
			var next *url.URL
			ask := func(e *endpoint) (err error) {
				page, next, err = e.tags(ctx, req)
				host = e
				return err
			}
			var err error
			if host == nil {
				err = c.try(ctx, r, hosts.Pull|hosts.Resolve, ask)
			} else {
				err = c.persist(ctx, host, func() error { return ask(host) })
			}
			if err != nil {
				yield("", err)
				return
			}
			before := len(seen)
			for _, tag := range page {
				if seen[tag] {
					continue
				}
				if _, err := r.WithTag(tag); err != nil {
					yield("", fmt.Errorf("%s: %s: %w", host.URL.Host, req.what, err))
					return
				}
				if len(seen) == maxTags {
					yield("", fmt.Errorf("%s: more than %d %s: %w", host.URL.Host, maxTags, req.what, errdefs.ErrInvalidArgument))
					return
				}
				seen[tag] = true
				if !yield(tag, nil) {
					return
				}
			}
			switch {
			case next != nil && len(seen) == before:
				yield("", errCircle(host, req.what))
				return
			case next != nil:
				req.at, linked = next, true
			case linked || len(page) < tagsPage || len(seen) == before:
				return
			default:
				// Some registries keep to n and do not say that there is more.
				req.query.Set("last", page[len(page)-1])
			}
		}
	}
}

// tags asks one host for one page.
func (e *endpoint) tags(ctx context.Context, req request) ([]string, *url.URL, error) {
	resp, err := e.send(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	body, next, err := e.page(resp, req.what)
	if answer := new(Error); errors.As(err, &answer) && answer.Status == http.StatusBadRequest && req.query.Has("n") {
		// The registry gives fewer at once, and rather than that it gives none.
		req.query = nil
		return e.tags(ctx, req)
	}
	if err != nil {
		return nil, nil, err
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, nil, fmt.Errorf("%s: %s: not a list of tags: %w", e.URL.Host, req.what, errdefs.ErrInvalidArgument)
	}
	return list.Tags, next, nil
}

// page reads one page of a list, and where the next is; nil: this is the last.
func (e *endpoint) page(resp *http.Response, what string) ([]byte, *url.URL, error) {
	body, err := e.read(resp, what)
	if err != nil {
		return nil, nil, err
	}
	target := nextLink(resp.Header.Values("Link"))
	if target == "" {
		return body, nil, nil
	}
	next, err := e.follow(resp, target, what)
	if err != nil {
		return nil, nil, err
	}
	if next.Host != e.URL.Host {
		return nil, nil, fmt.Errorf("%s: %s go on at another host, %s: %w", e.URL.Host, what, oneLine(next.Host), errdefs.ErrFailedPrecondition)
	}
	if query := next.Query(); e.ns != "" && !query.Has("ns") {
		query.Set("ns", e.ns)
		next.RawQuery = query.Encode()
	}
	return body, next, nil
}

// follow reads a URL that a host answers with, which may be relative.
func (e *endpoint) follow(resp *http.Response, target, what string) (*url.URL, error) {
	from := resp.Request.URL
	u, err := from.Parse(target)
	switch {
	case err != nil, u.Host == "", u.Scheme != "https" && u.Scheme != "http":
		// The error would quote the URL, which may hold secrets.
		return nil, fmt.Errorf("%s: %s: it says to go on at what is not a URL: %w", from.Host, what, errdefs.ErrInvalidArgument)
	case from.Scheme == "https" && u.Scheme != "https":
		return nil, fmt.Errorf("%s: %s: it says to go on without TLS, at %s: %w", from.Host, what, oneLine(u.Host), errdefs.ErrFailedPrecondition)
	}
	u.User, u.Fragment = nil, ""
	if hostPort(u) == hostPort(&e.URL) {
		u.Host = e.URL.Host // one spelling, by which it is known that credentials may go there
	}
	return u, nil
}

// nextLink finds the target of the link to the next page, as RFC 8288 writes it; empty: there is
// none.
func nextLink(values []string) string {
	for _, v := range values {
		for {
			_, rest, ok := strings.Cut(v, "<")
			if !ok {
				break
			}
			target, rest, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			quoted := false
			end := strings.IndexFunc(rest, func(c rune) bool {
				if c == '"' {
					quoted = !quoted
				}
				return c == ',' && !quoted
			})
			if end < 0 {
				end = len(rest)
			}
			for param := range strings.SplitSeq(rest[:end], ";") {
				name, value, _ := strings.Cut(param, "=")
				kinds := strings.Fields(strings.ToLower(strings.Trim(strings.TrimSpace(value), `"`)))
				if strings.EqualFold(strings.TrimSpace(name), "rel") && slices.Contains(kinds, "next") {
					return target
				}
			}
			v = rest[end:]
		}
	}
	return ""
}

func errCircle(e *endpoint, what string) error {
	return fmt.Errorf("%s: %s lead in a circle: %w", e.URL.Host, what, errdefs.ErrInvalidArgument)
}

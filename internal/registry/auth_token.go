package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// maxToken bounds the answer of a token server, in bytes: twice the token, of a size that
	// fits into a header.
	maxToken = 128 << 10
	// defaultLife is how long a token lives whose server does not say, by the token specification.
	defaultLife = time.Minute
	// maxLife is when even a token that lives longer is renewed.
	maxLife = 24 * time.Hour
)

// A token is what a registry takes in place of a password for a while.
type token struct {
	value string
	renew time.Time // from when it is not used any more: a little before it runs out
}

// A tokenServer gives tokens, as the distribution project's token specification has it: to a user
// with a password by GET, or by POST where there is no GET, and for an identity token by POST.
// https://distribution.github.io/distribution/spec/auth/
type tokenServer struct {
	client *http.Client
	agent  string
}

// fetch gets a token with which the server of to takes requests. params are those of its challenge.
func (s *tokenServer) fetch(ctx context.Context, params map[string]string, to *url.URL, cred credential, scopes []string) (token, error) {
	if cred.AccessToken != "" {
		return token{cred.AccessToken, time.Now().Add(maxLife)}, nil
	}
	secret := cred.RefreshToken != "" || cred.Username != ""
	realm, err := checkRealm(params["realm"], to, secret)
	if err != nil {
		return token{}, &loginError{to.Host, err.Error()}
	}
	begun := time.Now()
	var resp *http.Response
	if cred.RefreshToken != "" {
		resp, err = s.post(ctx, realm, params["service"], scopes, url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {cred.RefreshToken},
		})
	} else {
		resp, err = s.get(ctx, realm, params["service"], scopes, cred)
		if err == nil && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed) {
			_ = resp.Body.Close() // nothing of it is wanted
			if !secret {
				return token{}, &loginError{to.Host, "its token server gives nothing to strangers"}
			}
			resp, err = s.post(ctx, realm, params["service"], scopes, url.Values{
				"grant_type": {"password"}, "username": {cred.Username}, "password": {cred.Password},
			})
		}
	}
	if err != nil {
		return token{}, networkError(realm.Host, "a token", err)
	}
	return readToken(resp, begun)
}

func (s *tokenServer) get(ctx context.Context, realm *url.URL, service string, scopes []string, cred credential) (*http.Response, error) {
	u := *realm
	q := u.Query()
	if service != "" {
		q.Set("service", service)
	}
	for _, scope := range scopes {
		q.Add("scope", scope)
	}
	if cred.Username != "" {
		q.Set("account", cred.Username)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", s.agent)
	if cred.Username != "" {
		req.SetBasicAuth(cred.Username, cred.Password)
	}
	return s.client.Do(req)
}

func (s *tokenServer) post(ctx context.Context, realm *url.URL, service string, scopes []string, form url.Values) (*http.Response, error) {
	form.Set("client_id", s.agent)
	if service != "" {
		form.Set("service", service)
	}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.client.Do(req)
}

// checkRealm decides whether a token may be asked for where a server says, and whether a secret may
// go there: only over TLS, or within this machine, or to a server that is itself spoken to without
// TLS.
func checkRealm(realm string, server *url.URL, secret bool) (*url.URL, error) {
	u, err := url.Parse(realm)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Opaque != "":
		return nil, errors.New("the realm that it names is no address of a token server")
	case u.Scheme == "https":
	case u.Scheme != "http":
		return nil, fmt.Errorf("the realm that it names is neither https nor http, but %s", oneLine(u.Scheme))
	case server.Scheme == "https":
		return nil, fmt.Errorf("it is spoken to over https, and the realm that it names is http, at %s", oneLine(u.Host))
	case secret && !loopback(u) && !strings.EqualFold(u.Hostname(), server.Hostname()):
		return nil, fmt.Errorf("the realm that it names is another server without TLS, at %s: no password is sent there", oneLine(u.Host))
	}
	u.Fragment = ""
	return u, nil
}

// loopback tells whether a server is on this machine.
func loopback(u *url.URL) bool {
	return u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
}

// tokenRedirect keeps identity tokens and passwords from other servers than the realm.
func tokenRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= maxRedirects:
		return redirectError(fmt.Sprintf("more than %d redirects", maxRedirects))
	case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
		return redirectError("redirects from https to http, at " + req.URL.Host)
	case req.Body != nil && !sameOrigin(via[0].URL, req.URL):
		return redirectError("redirects with a secret to another server, " + req.URL.Host)
	}
	return nil
}

// readToken reads the answer of a token server to a request that was sent at begun.
func readToken(resp *http.Response, begun time.Time) (token, error) {
	host := resp.Request.URL.Host
	if resp.StatusCode != http.StatusOK {
		return token{}, answered(resp, "a token")
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is of no use
	if mediaType(resp) == "text/html" {
		return token{}, noToken(host, "it answered with a web page, as proxies and login pages do")
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		n := networkError(host, "a token", err)
		n.lasting = false // it began well
		return token{}, n
	}
	t, ok := parseToken(body, begun)
	if !ok {
		return token{}, noToken(host, "it answered with something else")
	}
	return t, nil
}

func noToken(host, why string) error {
	return &NetworkError{Host: host, What: "a token", Reason: why, Err: errdefs.ErrUnavailable, lasting: true}
}

// parseToken reads a token and when to renew it: when nine tenths of its life are over, by our
// clock. The time at which the server says that it was issued counts only if it makes sense by
// that clock: tokens may come from a cache, and clocks may differ.
func parseToken(body []byte, begun time.Time) (token, bool) {
	var answer struct {
		Token    string
		Access   string  `json:"access_token"`
		Expires  seconds `json:"expires_in"`
		IssuedAt string  `json:"issued_at"`
	}
	if len(body) > maxToken || json.Unmarshal(body, &answer) != nil {
		return token{}, false
	}
	t := token{value: cmp.Or(answer.Token, answer.Access)}
	if t.value == "" || strings.ContainsFunc(t.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return token{}, false
	}
	life := min(time.Duration(answer.Expires), maxLife)
	if life <= 0 {
		life = defaultLife
	}
	if issued, err := time.Parse(time.RFC3339, answer.IssuedAt); err == nil && issued.Before(begun) && begun.Before(issued.Add(life)) {
		begun = issued
	}
	t.renew = begun.Add(life * 9 / 10)
	return t, true
}

// seconds are read from a number, also one in quotes. What is no number is as good as none.
type seconds time.Duration

// UnmarshalJSON never fails.
func (s *seconds) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err == nil && n > 0 {
		*s = seconds(min(n, maxLife.Seconds()) * float64(time.Second))
	}
	return nil
}

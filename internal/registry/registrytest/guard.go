package registrytest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// A Guard asks for credentials in front of a registry.
type Guard struct {
	User, Password string
	// Passwords are those of single repositories, which do not take Password.
	Passwords    map[string]string
	RefreshToken string // taken by POST; empty: none is
	Token        string // taken as it is, for everything; empty: none is
	Anonymous    bool   // tokens are given to strangers too
	PostOnly     bool   // tokens are given by POST alone
	// Lifetime is for how many requests a token holds; 0: for ever.
	Lifetime int
	// ExpiresIn is what is told of that, in seconds; 0: nothing.
	ExpiresIn float64

	mu     sync.Mutex
	tokens map[string]*given
	asked  []string // how tokens were asked for: method and scope
	denied int
}

// given is a token that was given out.
type given struct {
	used   int
	scopes []string // for which it holds
}

// Basic asks for the user and password of g with every request.
func (g *Guard) Basic() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || !g.knows(user, password, []string{scope(r)}) {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				g.refuse(w)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Bearer asks for a token, which it gives out itself under /token: by GET for user and password, by
// POST for a refresh token, or for user and password.
func (g *Guard) Bearer() Fault {
	g.tokens = map[string]*given{}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				g.token(w, r)
				return
			}
			if !g.holds(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), scope(r)) {
				scheme := "http"
				if r.TLS != nil {
					scheme = "https"
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s://%s/token",service="test",scope="%s"`, scheme, r.Host, scope(r)))
				g.refuse(w)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Asked lists how tokens were asked for: the method and the scopes of each request.
func (g *Guard) Asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.asked...)
}

// Denied is how many requests were refused, those for tokens included.
func (g *Guard) Denied() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.denied
}

// knows tells whether a user may have all of scopes.
func (g *Guard) knows(user, password string, scopes []string) bool {
	for _, s := range scopes {
		want := g.Password
		if parts := strings.Split(s, ":"); len(parts) == 3 && g.Passwords[parts[1]] != "" {
			want = g.Passwords[parts[1]]
		}
		if password != want {
			return false
		}
	}
	return user == g.User
}

func (g *Guard) holds(token, scope string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Token != "" && token == g.Token {
		return true
	}
	t, ok := g.tokens[token]
	if !ok || g.Lifetime > 0 && t.used >= g.Lifetime || scope != "" && !slices.ContainsFunc(t.scopes, func(s string) bool { return covers(s, scope) }) {
		return false
	}
	t.used++
	return true
}

// covers tells whether a token for a scope does for another.
func covers(has, want string) bool {
	actions := func(s string) (string, []string) {
		i := strings.LastIndexByte(s, ':') + 1
		return s[:i], strings.Split(s[i:], ",")
	}
	hasName, hasActions := actions(has)
	wantName, wantActions := actions(want)
	return hasName == wantName && !slices.ContainsFunc(wantActions, func(a string) bool { return !slices.Contains(hasActions, a) })
}

func (g *Guard) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	scopes := strings.Fields(strings.Join(r.Form["scope"], " "))
	user, password, basic := r.BasicAuth()
	if r.FormValue("grant_type") == "password" {
		user, password = r.PostFormValue("username"), r.PostFormValue("password")
	}
	g.mu.Lock()
	g.asked = append(g.asked, strings.TrimSpace(r.Method+" "+strings.Join(scopes, " ")))
	g.mu.Unlock()
	switch {
	case r.Method == http.MethodPost && g.RefreshToken != "" && r.PostFormValue("refresh_token") == g.RefreshToken:
	case r.Method == http.MethodGet && g.PostOnly:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case r.Method == http.MethodGet && !basic && g.Anonymous:
	case (r.Method == http.MethodPost) == !basic && g.knows(user, password, scopes):
	default:
		g.refuse(w)
		return
	}
	token := rand.Text()
	g.mu.Lock()
	g.tokens[token] = &given{scopes: scopes}
	g.mu.Unlock()
	answer := map[string]any{"token": token, "access_token": token}
	if g.ExpiresIn != 0 {
		answer["expires_in"] = g.ExpiresIn
	}
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}

// scope is what a token for r must allow.
func scope(r *http.Request) string {
	repo := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if name, _, ok := strings.Cut(repo, part); ok {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				return "repository:" + name + ":pull,push"
			}
			return "repository:" + name + ":pull"
		}
	}
	return ""
}

func (g *Guard) refuse(w http.ResponseWriter) {
	g.mu.Lock()
	g.denied++
	g.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`))
}

package registrytest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// A Guard asks for credentials in front of a registry.
type Guard struct {
	User, Password string
	RefreshToken   string // taken by POST; empty: none is
	Anonymous      bool   // tokens are given to strangers too
	// Lifetime is for how many requests a token holds; 0: for ever.
	Lifetime int

	mu     sync.Mutex
	tokens map[string]int // how often each was used
	asked  []string       // how tokens were asked for: method and scope
}

// Basic asks for the user and password of g with every request.
func (g *Guard) Basic() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || user != g.User || password != g.Password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				refuse(w)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Bearer asks for a token, which it gives out itself under /token: by GET for user and password, by
// POST for a refresh token.
func (g *Guard) Bearer() Fault {
	g.tokens = map[string]int{}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				g.token(w, r)
				return
			}
			if !g.holds(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
				scheme := "http"
				if r.TLS != nil {
					scheme = "https"
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s://%s/token",service="test",scope="%s"`, scheme, r.Host, scope(r)))
				refuse(w)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Asked lists how tokens were asked for: the method and the scope of each request.
func (g *Guard) Asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.asked...)
}

func (g *Guard) holds(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	used, ok := g.tokens[token]
	if !ok || g.Lifetime > 0 && used >= g.Lifetime {
		return false
	}
	g.tokens[token]++
	return true
}

func (g *Guard) token(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, r.Method+" "+r.FormValue("scope"))
	user, password, given := r.BasicAuth()
	switch {
	case r.Method == http.MethodPost && g.RefreshToken != "" && r.FormValue("refresh_token") == g.RefreshToken:
	case r.Method == http.MethodGet && given && user == g.User && password == g.Password:
	case r.Method == http.MethodGet && !given && g.Anonymous:
	default:
		refuse(w)
		return
	}
	token := rand.Text()
	g.tokens[token] = 0
	_ = json.NewEncoder(w).Encode(map[string]string{"token": token, "access_token": token}) // the client may be gone
}

// scope is what a token for r must allow.
func scope(r *http.Request) string {
	repo := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/"} {
		if name, _, ok := strings.Cut(repo, part); ok {
			return "repository:" + name + ":pull"
		}
	}
	return ""
}

func refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`))
}

package registrytest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What a registry and its token server have agreed on.
const (
	tokenService = "stowage test registry"
	tokenIssuer  = "stowage test issuer"
)

// TokenOptions tunes a [TokenServer].
type TokenOptions struct {
	Certificate *Certificate // of the server, over TLS, and what tokens are signed with
	// ExpiresIn is what clients are told of the life of a token, in seconds; 0: nothing. The registry
	// takes each for five minutes.
	ExpiresIn float64
	PostOnly  bool // tokens are given by POST alone
}

// A TokenServer gives tokens that a registry in another process takes: to [User] with [Password] for
// everything, to strangers for pulling from repositories below public/, and for the refresh token
// [TokenServer.Refresh].
type TokenServer struct {
	Realm   string // URL
	Refresh string // a token that stands for user and password

	o      TokenOptions
	server *http.Server
	done   chan error

	mu    sync.Mutex
	asked []string
}

// NewTokenServer runs a token server on a free port of 127.0.0.1 until Close.
func NewTokenServer(o TokenOptions) (*TokenServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start token server: %w", err)
	}
	s := &TokenServer{
		Realm: "https://" + listener.Addr().String() + "/token", Refresh: rand.Text(), o: o,
		done: make(chan error, 1),
	}
	s.server = &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{o.Certificate.leaf}},
	}
	go func() { s.done <- s.server.ServeTLS(listener, "", "") }()
	return s, nil
}

// Close drops all connections and waits for the server to end.
func (s *TokenServer) Close() error {
	err := s.server.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Asked lists how tokens were asked for: the method, the way, and the scopes of each request.
func (s *TokenServer) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *TokenServer) serve(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.URL.Path != "/token" || r.Form.Get("service") != tokenService {
		http.Error(w, "no such service", http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodGet && s.o.PostOnly {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	user, password, given := r.BasicAuth()
	way := "anonymous"
	switch r.PostForm.Get("grant_type") {
	case "password":
		user, password, given = r.PostForm.Get("username"), r.PostForm.Get("password"), true
		way = "password"
	case "refresh_token":
		way = "refresh_token"
		if given = r.PostForm.Get("refresh_token") == s.Refresh; given {
			user, password = User, Password
		}
	default:
		if given {
			way = "basic"
		}
	}
	scopes := strings.Fields(strings.Join(r.Form["scope"], " "))
	s.mu.Lock()
	s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+way+" "+strings.Join(scopes, " ")))
	s.mu.Unlock()
	if way != "anonymous" && (!given || user != User || password != Password) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)) // the client may be gone
		return
	}
	token, err := s.sign(user, scopes)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer := map[string]any{"token": token, "access_token": token, "issued_at": time.Now().UTC().Format(time.RFC3339)}
	if s.o.ExpiresIn != 0 {
		answer["expires_in"] = s.o.ExpiresIn
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}

// sign makes a JSON web token for what a user may have of scopes, as the distribution project's
// token specification has it.
func (s *TokenServer) sign(user string, scopes []string) (string, error) {
	type resource struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	access := []resource{}
	for _, scope := range scopes {
		kind, rest, _ := strings.Cut(scope, ":")
		i := strings.LastIndexByte(rest, ':')
		if i < 0 {
			continue
		}
		a := resource{kind, rest[:i], strings.Split(rest[i+1:], ",")}
		if user == "" {
			a.Actions = []string{"pull"}
		}
		if user != "" || strings.HasPrefix(a.Name, "public/") {
			access = append(access, a)
		}
	}
	now := time.Now()
	header, headErr := json.Marshal(map[string]any{
		"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.o.Certificate.leaf.Certificate[0])},
	})
	claims, claimErr := json.Marshal(map[string]any{
		"iss": tokenIssuer, "aud": tokenService, "sub": user, "jti": rand.Text(), "access": access,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	r, v, signErr := ecdsa.Sign(rand.Reader, s.o.Certificate.key, sum[:])
	if err := errors.Join(headErr, claimErr, signErr); err != nil {
		return "", err
	}
	signature := make([]byte, 64) // r and s, 32 bytes each: RFC 7518, section 3.4
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

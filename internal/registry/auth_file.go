package registry

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxAuthFile bounds a file with credentials, in bytes.
const maxAuthFile = 1 << 20

// hubKey is under what docker files the credentials of docker.io.
const hubKey = "https://index.docker.io/v1/"

// errMalformed is said of credentials in place of what a parser says, which may quote them.
var errMalformed = errors.New("they are malformed")

// An authFile is docker's config.json, or auth.json of podman and skopeo.
type authFile struct {
	name    string
	Auths   map[string]json.RawMessage // by what docker or podman call a server
	Store   string                     `json:"credsStore"`  // helper for all servers
	Helpers map[string]string          `json:"credHelpers"` // by server
}

// readAuthFile reads a file that may be absent: it then says nothing.
func readAuthFile(name string) (*authFile, error) {
	f := &authFile{name: name}
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(file, maxAuthFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxAuthFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxAuthFile)
	}
	return f, f.parse(b)
}

func (f *authFile) parse(b []byte) error {
	if strings.TrimSpace(string(b)) == "" {
		return nil // docker takes an empty file for an absent one
	}
	if err := json.Unmarshal(b, f); err != nil {
		return errMalformed
	}
	return nil
}

// A place is where in an authFile the credentials of a server are.
type place struct {
	key    string // as it stands in the file
	helper string // whom to ask; empty: the file has them itself
	server string // what to ask the helper for
}

// places lists where the credentials for a repository of a server are, the first that has some
// counts: those of the longest path first, and of one path, what a helper knows.
func (f *authFile) places(server, repo string) []place {
	var list []place
	path := server
	if repo != "" {
		path += "/" + repo
	}
	for {
		if key, ok := findKey(f.Helpers, path); ok {
			list = append(list, place{key, f.Helpers[key], helperKey(path)})
		}
		key, ok := findKey(f.Auths, path)
		if f.Store != "" && (ok || path == server) {
			list = append(list, place{cmp.Or(key, path), f.Store, helperKey(path)})
		}
		if ok {
			list = append(list, place{key: key})
		}
		if path == server {
			return list
		}
		path = path[:strings.LastIndexByte(path, '/')]
	}
}

// helper is the one that keeps the credentials of a server; empty: there is none.
func (f *authFile) helper(server string) string {
	if key, ok := findKey(f.Helpers, server); ok {
		return f.Helpers[key]
	}
	return f.Store
}

// keys lists the keys under which credentials of the server itself are filed.
func (f *authFile) keys(server string) []string {
	var list []string
	for key := range f.Auths {
		if normalKey(key) == server {
			list = append(list, key)
		}
	}
	slices.Sort(list)
	return list
}

// findKey finds the key that means path: the one that is written like it, or else the first.
func findKey[V any](m map[string]V, path string) (string, bool) {
	if _, ok := m[path]; ok {
		return path, true
	}
	best, found := "", false
	for key := range m {
		if normalKey(key) == path && (!found || key < best) {
			best, found = key, true
		}
	}
	return best, found
}

// normalKey is what a key stands for: a server, or a server and a path. Docker used to write URLs,
// of which only the server counts; podman writes paths.
func normalKey(key string) string {
	rest, isURL := strings.CutPrefix(key, "https://")
	if !isURL {
		rest, isURL = strings.CutPrefix(key, "http://")
	}
	server, path, _ := strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	if server = serverName(server); path == "" || isURL || path == "v1" || path == "v2" {
		return server
	}
	return server + "/" + path
}

// serverName is under what the credentials of a server are looked up.
func serverName(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// helperKey is how helpers call what others call path.
func helperKey(path string) string {
	if path == "docker.io" {
		return hubKey
	}
	return path
}

// entry reads the credentials that the file itself has under a key.
func (f *authFile) entry(key string) (auth.Credential, error) {
	var e struct{ Auth, Username, Password, IdentityToken, RegistryToken string }
	if err := json.Unmarshal(f.Auths[key], &e); err != nil {
		return auth.EmptyCredential, errMalformed
	}
	if e.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return auth.EmptyCredential, errMalformed
		}
		// Docker pads what it encodes with zeros.
		e.Username, e.Password = user, strings.Trim(password, "\x00")
	}
	return auth.Credential{
		Username: e.Username, Password: e.Password, RefreshToken: e.IdentityToken, AccessToken: e.RegistryToken,
	}, nil
}

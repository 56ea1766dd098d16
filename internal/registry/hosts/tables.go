package hosts

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// An Auth is what a file says to log in to a host with: a name and a password, or a token.
type Auth struct {
	Username, Password, IdentityToken string
	Source                            string // file:line
}

// Tables are what config.toml says of registries: the registry section of containerd's, or of
// stowage's own. The zero value says nothing.
type Tables struct {
	// Dirs is config_path: folders with one folder a registry. Where it is set there are no Mirrors.
	Dirs []string
	// Mirrors are by registry. "*" is for those without an entry. A registry that has mirrors is not
	// looked for in folders.
	Mirrors map[string]Mirror

	configs map[string]hostConfig // by host, and port if it has one
	header  http.Header           // for every host
	file    string
	dirsAt  string // file:line of Dirs
}

// A Mirror lists the servers that are asked before the registry itself.
type Mirror struct {
	hosts []Host
	at    string // file:line
}

// hostConfig is what a table says of a host, wherever that was found.
type hostConfig struct {
	auth *Auth
	tls  *tlsTable
	at   string // file:line
}

// merge adds what a file says that is read later. It has the last word.
func (t *Tables) merge(later Tables) {
	if later.Dirs != nil {
		t.Dirs, t.dirsAt = later.Dirs, later.dirsAt
	}
	maps.Copy(t.Mirrors, later.Mirrors)
	for name, c := range later.configs {
		old := t.configs[name]
		if c.auth == nil {
			c.auth = old.auth
		}
		if c.tls == nil {
			c.tls = old.tls
		}
		t.configs[name] = c
	}
	if t.header == nil {
		t.header = http.Header{}
	}
	maps.Copy(t.header, later.header)
}

// check refuses what containerd does.
func (t *Tables) check() error {
	if t.dirsAt == "" || len(t.Mirrors) == 0 {
		return nil
	}
	name := slices.Min(slices.Collect(maps.Keys(t.Mirrors)))
	return &ParseError{File: t.file, Reason: fmt.Sprintf("mirrors at %s and folders of hosts at %s exclude each other", t.Mirrors[name].at, t.dirsAt)}
}

// mirrors lists the hosts of a registry that the tables name, the registry itself among them, and
// tells where they do.
func (t *Tables) mirrors(registry string) (list []Host, source string, ok bool) {
	m, ok := t.Mirrors[registry]
	if !ok {
		if m, ok = t.Mirrors["*"]; !ok {
			return nil, "", false
		}
	}
	itself := false
	for _, h := range m.hosts {
		if h.URL.Host == registry || registry == "docker.io" && h.URL.Host == dockerHub {
			h.Capabilities, itself = all, true
		}
		list = append(list, h)
	}
	if !itself {
		list = append(list, Host{Why: "the registry itself, after the mirrors at " + m.at})
	}
	return list, m.at, true
}

// complete adds to h what the tables say of its server, where nothing closer did.
func (t *Tables) complete(h *Host) {
	c, ok := t.configs[h.URL.Host]
	if !ok && h.URL.Host == dockerHub {
		c = t.configs["docker.io"]
	}
	used := false
	if c.auth != nil && h.Auth == nil {
		used, h.Auth = true, c.auth
	}
	if c.tls != nil && !h.explicitTLS {
		used, h.explicitTLS, h.SkipVerify = true, true, c.tls.SkipVerify
		if c.tls.CAFile != "" {
			h.CA = []string{c.tls.CAFile}
		}
		if c.tls.CertFile != "" {
			h.Client = []KeyPair{{Cert: c.tls.CertFile, Key: c.tls.KeyFile}}
		}
	}
	if used {
		h.Why += "; configs table at " + c.at
	}
	if len(t.header) > 0 {
		header := t.header.Clone()
		maps.Copy(header, h.Header)
		h.Header = header
	}
}

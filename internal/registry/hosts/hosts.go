// Package hosts finds out which servers stand behind a registry's name, and how each of them is to
// be spoken to.
//
// It reads the folders that containerd and docker users have: <dir>/<registry>/hosts.toml, and
// the certificates that docker lays out there; and the registry section of config.toml. What is
// configured wrongly is an error that names the file, the line and the reason; it is never passed over.
// doc/registries.md says what may stand in the files. The package reads them and opens no connection.
package hosts

import (
	"net"
	"net/http"
	"net/url"
	"time"
)

// DefaultDialTimeout is how long a connection may take to be made.
const DefaultDialTimeout = 30 * time.Second

// Capabilities say what a host is asked for.
type Capabilities uint8

// What a host may be asked for.
const (
	Pull      Capabilities = 1 << iota // manifests by digest, and blobs
	Resolve                            // what a tag stands for now
	Push                               // to take uploads
	Referrers                          // what refers to a manifest

	all = Pull | Resolve | Push | Referrers
)

// Has tells whether c includes all of want.
func (c Capabilities) Has(want Capabilities) bool { return c&want == want }

// A KeyPair is a client certificate in PEM files. An empty Key is in the file of Cert.
type KeyPair struct{ Cert, Key string }

// A Host is one server that can be asked for the images of a registry.
type Host struct {
	// URL is what the paths of requests are appended to, usually https://host:port/v2.
	URL url.URL
	// OtherScheme, if set, is tried when the server turns out not to speak that of URL.
	OtherScheme  string
	Capabilities Capabilities
	CA           []string  // PEM files believed in beside the system's
	Client       []KeyPair // what to show to a server that asks
	SkipVerify   bool      // believe any certificate
	Header       http.Header
	DialTimeout  time.Duration
	Proxy        *url.URL  // what it is reached through: empty: nothing; nil: what the environment says
	Rewrite      []Rewrite // see [Host.Repo]
	Auth         *Auth     // what a file says to log in with; nil: nothing

	Why string // it is asked, and at this place: for people

	explicitTLS  bool   // something was said about certificates
	final        bool   // what it may be asked for is asked of none after it
	passwordFile string // where the password of Auth is
}

// Options tunes [Load].
type Options struct {
	Dirs      []string // folders with one folder a registry; the first that has one counts
	Tables    Tables   // what config.toml says; its mirrors come before Dirs
	PlainHTTP bool     // the registry itself is spoken to without TLS
}

// A Plan says how a registry is reached.
type Plan struct {
	Registry string // as it stands in references: docker.io, host:port
	Source   string // the file or folder that says so; empty: none does
	Looked   []Look // where that was looked for, in order; the last may be Source
	Hosts    []Host // in the order in which they are to be asked
}

// A Look is a place where something could have been said of a registry.
type Look struct{ Path, Found string }

// Load finds out how a registry is reached. The plan's Looked is filled in even with an error.
func Load(registry string, o Options) (Plan, error) {
	plan := Plan{Registry: registry}
	list, source, ok := o.Tables.mirrors(registry)
	if ok {
		plan.Source = source
		plan.Looked = append(plan.Looked, Look{source, "mirrors"})
	} else {
		if o.Tables.Mirrors != nil {
			plan.Looked = append(plan.Looked, Look{o.Tables.file, "no mirrors of it"})
		}
		dir, looked, err := find(o.Dirs, registry)
		plan.Looked = append(plan.Looked, looked...)
		if err != nil {
			return plan, err
		}
		if dir != "" {
			if list, plan.Source, err = read(dir); err != nil {
				return plan, err
			}
			found := "hosts"
			switch {
			case plan.Source != dir:
			case list[0].explicitTLS:
				found = "certificates"
			default:
				found = "neither hosts.toml nor certificates"
			}
			plan.Looked = append(plan.Looked, Look{plan.Source, found})
		}
	}
	if len(list) == 0 {
		list = []Host{{Why: "the registry itself, as nothing says otherwise"}}
	}
	plan.Hosts = settle(list, registry, o)
	return plan, nil
}

// settle fills in what files leave open.
func settle(list []Host, registry string, o Options) []Host {
	for i := range list {
		h := &list[i]
		if h.URL.Host == "" {
			h.upstream(registry, o)
		}
		if h.DialTimeout == 0 {
			h.DialTimeout = DefaultDialTimeout
		}
		// Whoever configures certificates for an http:// URL means https, if the server can.
		if h.URL.Scheme == "http" && h.explicitTLS && h.URL.Port() != "80" {
			h.URL.Scheme, h.OtherScheme = "https", "http"
		}
		o.Tables.complete(h)
	}
	var able []Host
	var taken Capabilities
	for _, h := range list {
		h.Capabilities &^= taken
		if h.final {
			taken |= h.Capabilities
		}
		if h.Capabilities != 0 {
			able = append(able, h)
		}
	}
	return able
}

// dockerHub is the server behind docker.io.
const dockerHub = "registry-1.docker.io"

// upstream makes h the registry itself. What is said of certificates stays.
func (h *Host) upstream(registry string, o Options) {
	h.URL = url.URL{Scheme: "https", Host: registry, Path: "/v2"}
	h.Capabilities = all
	_, port, _ := net.SplitHostPort(registry)
	if registry == "docker.io" {
		h.URL.Host = dockerHub
	}
	o.Tables.complete(h)
	switch {
	case registry == "docker.io":
	case o.PlainHTTP:
		h.URL.Scheme = "http"
	case loopback(registry):
		if port != "" && port != "443" {
			h.URL.Scheme = "http"
		}
		if port != "80" && !h.explicitTLS {
			h.SkipVerify = true
			if h.URL.Scheme == "http" {
				h.OtherScheme = "https"
			}
		}
	}
}

// loopback tells whether a registry is on this machine.
func loopback(registry string) bool {
	name := registry
	if host, _, err := net.SplitHostPort(registry); err == nil {
		name = host
	}
	return name == "localhost" || net.ParseIP(name).IsLoopback()
}

// Package hosts finds out which servers stand behind a registry's name, and how each of them is to
// be spoken to.
//
// It reads the folders that containerd and docker users have: <dir>/<registry>/hosts.toml, and
// the certificates that docker lays out there. What is configured wrongly is an error that names the
// file, the line and the reason; it is never passed over. The package reads files and opens no
// connection.
package hosts

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
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

	Why string // it is asked, and at this place: for people

	// explicitTLS is set when something was said about certificates.
	explicitTLS bool
}

// Options tunes [Load].
type Options struct {
	Dirs      []string // folders with one folder a registry; the first that has one counts
	PlainHTTP bool     // the registry itself is spoken to without TLS
}

// A Plan says how a registry is reached.
type Plan struct {
	Registry string // as it stands in references: docker.io, host:port
	Source   string // the file that says so; empty: none does
	Hosts    []Host // in the order in which they are to be asked
}

// Load finds out how a registry is reached.
func Load(registry string, o Options) (Plan, error) {
	plan := Plan{Registry: registry}
	dir, err := find(o.Dirs, registry)
	if err != nil {
		return plan, err
	}
	plan.Source = dir
	plan.Hosts, err = load(dir, registry, o)
	return plan, err
}

func load(dir, registry string, o Options) (_ []Host, err error) {
	var list []Host
	if dir != "" {
		if list, err = read(dir); err != nil {
			return nil, err
		}
	}
	if len(list) == 0 {
		list = []Host{{}}
	}
	if last := &list[len(list)-1]; last.URL.Host == "" {
		last.upstream(registry, o.PlainHTTP)
	}
	for i := range list {
		h := &list[i]
		if h.DialTimeout == 0 {
			h.DialTimeout = DefaultDialTimeout
		}
		// Whoever configures certificates for an http:// URL means https, if the server can.
		if h.URL.Scheme == "http" && h.explicitTLS && h.URL.Port() != "80" {
			h.URL.Scheme, h.OtherScheme = "https", "http"
		}
	}
	return list, nil
}

// upstream makes h the registry itself. What the file says of certificates stays.
func (h *Host) upstream(registry string, plain bool) {
	h.URL = url.URL{Scheme: "https", Host: registry, Path: "/v2"}
	h.Capabilities = all
	_, port, _ := net.SplitHostPort(registry)
	switch {
	case registry == "docker.io":
		h.URL.Host = "registry-1.docker.io"
	case plain:
		h.URL.Scheme = "http"
	case Loopback(registry):
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

// Loopback tells whether a registry is on this machine.
func Loopback(registry string) bool {
	name := registry
	if host, _, err := net.SplitHostPort(registry); err == nil {
		name = host
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Unmap().IsLoopback()
}

package hosts_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// A view is what a host comes to, of ours or of containerd's: not which files were named, but what
// was in them.
type view struct {
	// Schemes are those that are tried. Where there are two, containerd begins with https, and we
	// with http if the registry is on loopback and nothing is said of certificates: most there have none.
	Schemes  string
	Host     string
	Path     string // as it is asked for
	Can      hosts.Capabilities
	Insecure bool
	Client   []string // the certificates shown
	Header   http.Header
	Hasty    bool // a dial has no time at all: a timeout cannot be seen otherwise
	roots    *x509.CertPool
}

func (v view) url() string { return v.Schemes + "://" + v.Host + v.Path }

// The same files, asked of containerd's parser and of ours. Where refused is set, we report an error
// that begins so; where differs is, both answers are written down; theirs is what containerd makes of it.
var sameAsContainerd = []struct {
	name     string
	registry string            // empty: r.example
	files    map[string]string // below one folder, or below two where names begin with 1/ and 2/
	plain    bool

	refused string
	differs string // why
	ours    string // URLs
	theirs  string // URLs, or error
}{
	// Without files.
	{name: "no file"},
	{name: "no file, port", registry: "r.example:5000"},
	{name: "no file, plain", plain: true},
	{name: "no file, docker.io", registry: "docker.io"},
	{name: "no file, docker.io, plain", registry: "docker.io", plain: true},
	{name: "no file, localhost", registry: "localhost"},
	{name: "no file, localhost and port", registry: "localhost:5000"},
	{name: "no file, localhost, plain", registry: "localhost:5000", plain: true},
	{name: "no file, localhost and http's port", registry: "localhost:80"},
	{name: "no file, localhost and https' port", registry: "localhost:443"},
	{name: "no file, 127.0.0.0/8", registry: "127.8.9.1:5000"},
	{name: "no file, IPv6 loopback", registry: "[::1]:5000"},
	{name: "no file, IPv6 loopback without port", registry: "[::1]"},
	{name: "no file, IPv6", registry: "[2001:db8::1]:5000"},
	{name: "no file, IPv4 in IPv6", registry: "[::ffff:127.0.0.1]:5000"},
	{name: "no file, a name like localhost", registry: "localhost.example:5000"},

	// Which folder.
	{name: "underscores before colon", registry: "r.example:5000", files: map[string]string{"r.example_5000_/hosts.toml": `server = "a.example"`, "r.example:5000/hosts.toml": `server = "b.example"`}},
	{name: "colon before default", registry: "r.example:5000", files: map[string]string{"r.example:5000/hosts.toml": `server = "b.example"`, "_default/hosts.toml": `server = "c.example"`}},
	{name: "default", registry: "r.example:5000", files: map[string]string{"r.example/hosts.toml": `server = "a.example"`, "_default/hosts.toml": `server = "c.example"`}},
	{name: "IPv6 with underscores", registry: "[2001:db8::1]:5000", files: map[string]string{"[2001:db8::1]_5000_/hosts.toml": `server = "a.example"`}},
	{name: "IPv6 with colons", registry: "[2001:db8::1]:5000", files: map[string]string{"[2001:db8::1]:5000/hosts.toml": `server = "a.example"`}},
	{name: "IPv6 without port", registry: "[2001:db8::1]", files: map[string]string{"[2001:db8:_1]_/hosts.toml": `server = "a.example"`}},
	{name: "the first of two folders that has one", files: map[string]string{"1/_default/hosts.toml": `server = "a.example"`, "2/r.example/hosts.toml": `server = "b.example"`}},
	{name: "the second of two folders", files: map[string]string{"1/s.example/hosts.toml": `server = "a.example"`, "2/r.example/hosts.toml": `server = "b.example"`}},
	{name: "docker.io by its name in references", registry: "docker.io", files: map[string]string{"docker.io/hosts.toml": `[host."https://m.example"]`, "registry-1.docker.io/hosts.toml": `server = "b.example"`}},
	{name: "a file for a folder", files: map[string]string{"r.example": ""}, refused: "find hosts of r.example: ", theirs: "error"},

	// Server, hosts, and their order.
	{name: "an empty file", files: map[string]string{"r.example/hosts.toml": ""}},
	{name: "only comments", files: map[string]string{"r.example/hosts.toml": "# nothing\n", "r.example/ca.crt": "CA"}},
	{name: "server alone", files: map[string]string{"r.example/hosts.toml": `server = "https://up.example"`}},
	{name: "server without scheme", files: map[string]string{"r.example/hosts.toml": `server = "up.example:8443"`}},
	{name: "server of IPv6 without scheme", files: map[string]string{"r.example/hosts.toml": `server = "[2001:db8::2]:8443"`}},
	{name: "server by http", files: map[string]string{"r.example/hosts.toml": `server = "http://up.example"`}},
	{name: "hosts in the file's order, server last", files: map[string]string{"r.example/hosts.toml": "server = \"https://up.example\"\n[host.\"https://z.example\"]\n[host.\"http://a.example:5000\"]\n[host.\"m.example\"]\n"}},
	{name: "hosts without server", files: map[string]string{"r.example/hosts.toml": "[host.\"https://z.example\"]\n[host.\"https://a.example\"]\n"}},
	{name: "hosts without server, docker.io", registry: "docker.io", files: map[string]string{"docker.io/hosts.toml": "[host.\"https://z.example\"]\n"}},
	{name: "hosts without server, localhost", registry: "localhost:5000", files: map[string]string{"localhost:5000/hosts.toml": "[host.\"https://z.example\"]\n"}},
	{name: "the registry among its hosts", files: map[string]string{"r.example/hosts.toml": "[host.\"https://r.example\"]\n"}},
	{name: "a table within a host's comes first", files: map[string]string{"r.example/hosts.toml": "[host.\"https://b.example\".header]\nx-a = \"1\"\n[host.\"https://b.example\"]\n[host.\"https://a.example\"]\n"}},
	{
		name: "a host in two places", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\n[host.\"b.example\"]\n[host.\"a.example\"]\n[host.\"b.example\".header]\nx-a = \"1\"\n"},
		differs: "nobody is asked twice", ours: "https://b.example/v2 https://a.example/v2 https://up.example/v2",
		theirs: "https://b.example/v2 https://a.example/v2 https://b.example/v2 https://up.example/v2",
	},
	{
		name: "hosts in an inline table", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\nhost = {\"b.example\" = {}}\n"},
		refused: "D/r.example/hosts.toml:2: host b.example has no header of its own", theirs: "https://up.example/v2",
	},
	{
		name: "hosts as dotted keys", files: map[string]string{"r.example/hosts.toml": "host.\"b.example\".ca = \"x\"\n"},
		refused: "D/r.example/hosts.toml:1: host b.example has no header of its own", theirs: "https://r.example/v2",
	},
	{
		name: "upper case", files: map[string]string{"r.example/hosts.toml": "Server = \"up.example\"\n[Host.\"b.example\"]\n"},
		refused: "D/r.example/hosts.toml: host is not written in lower case", theirs: "https://up.example/v2",
	},

	// Paths.
	{name: "a path", files: map[string]string{"r.example/hosts.toml": `server = "https://up.example/a/b"`}},
	{name: "a path that ends in a slash", files: map[string]string{"r.example/hosts.toml": `server = "https://up.example/a/"`}},
	{name: "a slash", files: map[string]string{"r.example/hosts.toml": `server = "https://up.example/"`}},
	{name: "a path with v2", files: map[string]string{"r.example/hosts.toml": `server = "https://up.example/a/v2/"`}},
	{name: "a path with dots", files: map[string]string{"r.example/hosts.toml": `server = "https://up.example/a/../b"`}},
	{name: "override_path", files: map[string]string{"r.example/hosts.toml": "server = \"https://up.example/a\"\noverride_path = true"}},
	{name: "override_path without a path", files: map[string]string{"r.example/hosts.toml": "[host.\"https://m.example\"]\noverride_path = true"}},
	{name: "override_path of a mirror", files: map[string]string{"r.example/hosts.toml": "[host.\"https://m.example/v2/hub\"]\noverride_path = true"}},
	{name: "a path without scheme", files: map[string]string{"r.example/hosts.toml": `server = "up.example/a"`}},

	// Capabilities.
	{name: "capabilities", files: map[string]string{"r.example/hosts.toml": "[host.\"https://a.example\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"https://b.example\"]\ncapabilities = [\"Push\", \"referrers\"]\n"}},
	{name: "no capabilities are all", files: map[string]string{"r.example/hosts.toml": "[host.\"https://a.example\"]\ncapabilities = []\n"}},
	{name: "capabilities of the server", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\ncapabilities = [\"pull\"]\n"}},
	{name: "capabilities of no server", files: map[string]string{"r.example/hosts.toml": "capabilities = [\"pull\"]\n"}},
	{
		name: "an unknown capability", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\ncapabilities = [\"psuh\"]\n"},
		refused: "D/r.example/hosts.toml:2: unknown capability", theirs: "https://r.example/v2",
	},

	// TLS.
	{name: "a ca", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\nca = \"ca.pem\"", "r.example/ca.pem": "CA"}},
	{name: "several cas, relative ones too", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\nca = [\"ca.pem\", \"../other.pem\"]", "r.example/ca.pem": "CA", "other.pem": "PAIR"}},
	{name: "a ca of no server", files: map[string]string{"r.example/hosts.toml": "ca = \"ca.pem\"", "r.example/ca.pem": "CA"}},
	{name: "a client", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\nclient = \"pair.pem\"", "r.example/pair.pem": "PAIR"}},
	{name: "several clients", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\nclient = [\"pair.pem\", \"again.pem\"]", "r.example/pair.pem": "PAIR", "r.example/again.pem": "PAIR"}},
	{name: "pairs", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\nclient = [[\"c.pem\", \"k.pem\"], \"pair.pem\"]", "r.example/c.pem": "CERT", "r.example/k.pem": "KEY", "r.example/pair.pem": "PAIR"}},
	{
		name: "a pair with an empty key", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\nclient = [[\"pair.pem\", \"\"]]", "r.example/pair.pem": "PAIR"},
		differs: "containerd takes the empty name for the folder, and fails at it", ours: "https://a.example/v2 https://r.example/v2", theirs: "error",
	},
	{name: "skip_verify", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\nskip_verify = true\n[host.\"b.example\"]\nskip_verify = false\n"}},
	{name: "http with certificates", files: map[string]string{"r.example/hosts.toml": "[host.\"http://a.example:5000\"]\nskip_verify = true\n[host.\"http://b.example\"]\nskip_verify = false\n"}},
	{name: "http at its own port with certificates", files: map[string]string{"r.example/hosts.toml": "[host.\"http://a.example:80\"]\nskip_verify = true\n"}},
	{name: "plain with certificates", plain: true, files: map[string]string{"r.example/ca.crt": "CA"}},
	{
		name: "localhost with a ca", registry: "localhost:5000", files: map[string]string{"localhost:5000/ca.crt": "CA"},
		differs: "who says what to believe is taken at his word, on loopback too; containerd verifies nothing there",
		ours:    "http+https://localhost:5000/v2", theirs: "http+https://localhost:5000/v2",
	},
	{
		name: "no such type of ca", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\nca = 3"},
		refused: "D/r.example/hosts.toml:2: ca is neither", theirs: "https://r.example/v2",
	},
	{
		name: "a triple", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\nclient = [[\"a\", \"b\", \"c\"]]"},
		refused: "D/r.example/hosts.toml:2: client is a list with an item of 3 files", theirs: "https://r.example/v2",
	},

	// docker's layout.
	{name: "certs.d, ca", files: map[string]string{"r.example/ca.crt": "CA", "r.example/b.crt": "PAIR", "r.example/README": "no"}},
	{name: "certs.d, pair", files: map[string]string{"r.example/me.cert": "CERT", "r.example/me.key": "KEY"}},
	{name: "certs.d, key in the certificate's file", files: map[string]string{"r.example/me.cert": "PAIR"}},
	{name: "certs.d, several", files: map[string]string{"r.example/a.cert": "PAIR", "r.example/me.cert": "CERT", "r.example/me.key": "KEY", "r.example/ca.crt": "CA"}},
	{name: "certs.d, a folder that looks like a file", files: map[string]string{"r.example/ca.crt/x": ""}},
	{name: "certs.d beside hosts.toml", files: map[string]string{"r.example/hosts.toml": `server = "up.example"`, "r.example/ca.crt": "CA"}},
	{name: "certs.d beside an empty hosts.toml", files: map[string]string{"r.example/hosts.toml": "", "r.example/ca.crt": "CA"}},

	// The rest.
	{name: "header", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\n[header]\nx-one = \"1\"\nX-Two = [\"2\", \"3\"]\n[host.\"a.example\".header]\nx-three = \"\"\n"}},
	{name: "dial_timeout", files: map[string]string{"r.example/hosts.toml": "[host.\"a.example\"]\ndial_timeout = \"1ns\"\n[host.\"b.example\"]\ndial_timeout = \"1m\"\n"}},
	{
		name: "dial_timeout without unit", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\ndial_timeout = \"5\"\n"},
		refused: `D/r.example/hosts.toml:2: dial_timeout is "5"`, theirs: "https://r.example/v2",
	},
	{
		name: "dial_timeout of nothing", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\ndial_timeout = \"0s\"\n"},
		refused: `D/r.example/hosts.toml:2: dial_timeout is "0s"`, theirs: "https://up.example/v2", // and waits for ever
	},
	{
		name: "a header with a line in it", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\n[header]\nx-a = \"1\\n2\"\n"},
		refused: "D/r.example/hosts.toml:3: header x-a has a control character", theirs: "https://up.example/v2", // and fails at each request
	},
	{
		name: "what is not TOML", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\n[host\n", "r.example/ca.crt": "CA"},
		refused: "D/r.example/hosts.toml:2: ", theirs: "https://r.example/v2",
	},
	{
		name: "an unknown key", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\nskip_verfy = true\n"},
		refused: "D/r.example/hosts.toml:2: unknown key skip_verfy", theirs: "https://up.example/v2",
	},
	{
		name: "a wrong type", files: map[string]string{"r.example/hosts.toml": "server = \"up.example\"\nskip_verify = \"yes\"\n"},
		refused: "D/r.example/hosts.toml:2: ", theirs: "https://r.example/v2",
	},
	{
		name: "another scheme", files: map[string]string{"r.example/hosts.toml": "[host.\"ftp://a.example\"]\n"},
		refused: `D/r.example/hosts.toml:1: "ftp://a.example" is neither http nor https`, theirs: "https://ftp:/a.example/v2 https://r.example/v2",
	},
	{
		name: "a name that begins with http", files: map[string]string{"r.example/hosts.toml": "[host.\"httpd.example\"]\n"},
		refused: `D/r.example/hosts.toml:1: "httpd.example" is not a URL`, theirs: ":///httpd.example/v2 https://r.example/v2",
	},
	{
		name: "a password in a URL", files: map[string]string{"r.example/hosts.toml": "server = \"https://me:secret@up.example\"\n"},
		refused: "D/r.example/hosts.toml:1: the URL of up.example has more", theirs: "https://up.example/v2", // and no password
	},
	{
		name: "a query in a URL", files: map[string]string{"r.example/hosts.toml": "server = \"https://up.example/?a=b\"\n"},
		refused: "D/r.example/hosts.toml:1: the URL of up.example has more", theirs: "https://up.example/v2",
	},
	{
		name: "an empty host", files: map[string]string{"r.example/hosts.toml": "[host.\"\"]\n"},
		refused: "D/r.example/hosts.toml:1: a host without a URL", theirs: "https://r.example/v2",
	},
}

func TestSameAsContainerd(t *testing.T) {
	pems := makePEMs(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nothing was accepted
	for _, tc := range sameAsContainerd {
		t.Run(tc.name, func(t *testing.T) {
			files := map[string]string{}
			for name, text := range tc.files {
				files[name] = cmp.Or(pems[text], text)
			}
			root := write(t, files)
			dirs := []string{root}
			if _, err := os.Stat(filepath.Join(root, "1")); err == nil {
				dirs = []string{filepath.Join(root, "1"), filepath.Join(root, "2")}
			}
			registry := cmp.Or(tc.registry, "r.example")
			theirs, theirErr := askContainerd(t, dirs, registry, tc.plain, l.Addr().String())
			plan, err := hosts.Load(registry, hosts.Options{Dirs: dirs, PlainHTTP: tc.plain})

			if tc.theirs != "" {
				got := "error"
				if theirErr == nil {
					got = urls(theirs)
				}
				if got != tc.theirs {
					t.Errorf("containerd: got %s (%v), want %s", got, theirErr, tc.theirs)
				}
			} else if theirErr != nil {
				t.Fatalf("containerd: %v", theirErr)
			}
			if tc.refused != "" {
				if want := strings.Replace(tc.refused, "D/", root+"/", 1); err == nil || !strings.HasPrefix(err.Error(), want) || !errdefs.IsInvalidArgument(err) {
					t.Errorf("got %v, want an invalid argument, %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ours := views(t, plan.Hosts)
			if tc.differs != "" {
				if got := urls(ours); got != tc.ours {
					t.Errorf("got %s, want %s", got, tc.ours)
				}
				if samePools(ours, theirs) && gocmp.Equal(ours, theirs, gocmp.AllowUnexported(view{}), gocmp.Comparer(func(a, b *x509.CertPool) bool { return true })) {
					t.Error("containerd says the same")
				}
				return
			}
			if diff := gocmp.Diff(theirs, ours, gocmp.FilterPath(func(p gocmp.Path) bool { return p.Last().String() == ".roots" }, gocmp.Ignore())); diff != "" {
				t.Errorf("(-containerd +ours):\n%s", diff)
			} else if !samePools(ours, theirs) {
				t.Error("other authorities are believed in")
			}
		})
	}
}

func urls(list []view) string {
	var all []string
	for _, v := range list {
		all = append(all, v.url())
	}
	return strings.Join(all, " ")
}

func samePools(a, b []view) bool {
	for i := range a {
		if i >= len(b) || !a[i].roots.Equal(b[i].roots) {
			return false
		}
	}
	return len(a) == len(b)
}

// views tells what our hosts come to.
func views(t *testing.T, list []hosts.Host) []view {
	t.Helper()
	var out []view
	for _, h := range list {
		v := view{
			Schemes: h.URL.Scheme, Host: h.URL.Host, Path: path.Clean("/" + h.URL.Path), Can: h.Capabilities,
			Insecure: h.SkipVerify, Header: h.Header, Hasty: h.DialTimeout <= time.Nanosecond,
		}
		if h.OtherScheme != "" {
			v.Schemes = "http+https"
		}
		if len(h.CA) > 0 {
			pool, err := x509.SystemCertPool()
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range h.CA {
				b, err := os.ReadFile(file)
				if err != nil || !pool.AppendCertsFromPEM(b) {
					t.Fatalf("%s: %v", file, err)
				}
			}
			v.roots = pool
		}
		for _, pair := range h.Client {
			cert, err := tls.LoadX509KeyPair(pair.Cert, cmp.Or(pair.Key, pair.Cert))
			if err != nil {
				t.Fatal(err)
			}
			v.Client = append(v.Client, string(cert.Certificate[0]))
		}
		out = append(out, v)
	}
	return out
}

// askContainerd tells what containerd's hosts come to. Timeouts show at a dial to address.
func askContainerd(t *testing.T, dirs []string, registry string, plain bool, address string) ([]view, error) {
	t.Helper()
	transports := map[*http.Client]*http.Transport{} // as they are before another is put around them
	o := config.HostOptions{
		HostDir: func(host string) (dir string, err error) {
			for _, root := range dirs {
				if dir, err = config.HostDirFromRoot(root)(host); dir != "" || err != nil && !errdefs.IsNotFound(err) {
					break
				}
			}
			return dir, err
		},
		UpdateClient: func(c *http.Client) error {
			transports[c] = c.Transport.(*http.Transport)
			return nil
		},
	}
	if plain {
		o.DefaultScheme = "http"
	}
	list, err := config.ConfigureHosts(t.Context(), o)(registry)
	if err != nil {
		return nil, err
	}
	var out []view
	for _, h := range list {
		tr := transports[h.Client]
		v := view{Schemes: h.Scheme, Host: h.Host, Path: path.Clean("/" + h.Path), Insecure: tr.TLSClientConfig.InsecureSkipVerify, roots: tr.TLSClientConfig.RootCAs}
		if h.Client.Transport != tr {
			v.Schemes = "http+https"
		}
		for theirs, ours := range map[docker.HostCapabilities]hosts.Capabilities{
			docker.HostCapabilityPull: hosts.Pull, docker.HostCapabilityResolve: hosts.Resolve,
			docker.HostCapabilityPush: hosts.Push, docker.HostCapabilityReferrers: hosts.Referrers,
		} {
			if h.Capabilities.Has(theirs) {
				v.Can |= ours
			}
		}
		for _, cert := range tr.TLSClientConfig.Certificates {
			v.Client = append(v.Client, string(cert.Certificate[0]))
		}
		for name, values := range h.Header {
			if v.Header == nil {
				v.Header = http.Header{}
			}
			v.Header[http.CanonicalHeaderKey(name)] = values
		}
		conn, err := tr.DialContext(context.Background(), "tcp", address)
		if err == nil {
			_ = conn.Close() // nothing was sent
		}
		var timeout net.Error
		v.Hasty = errors.As(err, &timeout) && timeout.Timeout()
		out = append(out, v)
	}
	return out, nil
}

// makePEMs makes what the tables' files stand for.
func makePEMs(t *testing.T) map[string]string {
	t.Helper()
	make1 := func(serial int64) (cert, key string) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(serial), IsCA: true, BasicConstraintsValid: true}
		c, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		b, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))
	}
	ca, _ := make1(1)
	cert, key := make1(2)
	return map[string]string{"CA": ca, "CERT": cert, "KEY": key, "PAIR": cert + key}
}

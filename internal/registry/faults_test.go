package registry_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// selfSigned makes a certificate for 127.0.0.1 that is its own authority, and a file of it.
func selfSigned(t *testing.T, notAfter time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// A server whose certificate is not to be believed is not asked, and the error says what is wrong.
func TestBadCertificates(t *testing.T) {
	f := serve(t)
	good, ca := selfSigned(t, time.Now().Add(time.Hour))
	expired, expiredCA := selfSigned(t, time.Now().Add(-time.Hour))
	_, otherCA := selfSigned(t, time.Now().Add(time.Hour))
	for _, tc := range []struct {
		name string
		cert tls.Certificate
		ca   string // empty: none is named
		want string // in the error; empty: it works
	}{
		{"self-signed and trusted", good, ca, ""},
		{"self-signed", good, "", "signed by an authority that is not trusted here; name it as ca in hosts.toml"},
		{"another authority", good, otherCA, "signed by an authority that is not trusted here"},
		{"expired", expired, expiredCA, "its certificate is not valid: x509: certificate has expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host, _ := secure(t, f.registry, &tls.Config{Certificates: []tls.Certificate{tc.cert}})
			toml := "server = \"https://" + host + "\"\n"
			if tc.ca != "" {
				toml += "ca = \"" + tc.ca + "\"\n"
			}
			_, err := dial(t, registry.Options{HostsDirs: []string{hostsDir(t, "r.example", toml)}}).Resolve(t.Context(), parse(t, "r.example/"+repo+":v1"))
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// packed answers with gzip, though nobody asked for it.
func packed(length bool) rt.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			plain := httptest.NewRecorder()
			next.ServeHTTP(plain, r)
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = plain.Body.WriteTo(z) // into memory
			_ = z.Close()
			for name, values := range plain.Header() {
				w.Header()[name] = values
			}
			w.Header().Del("Content-Length")
			w.Header().Set("Content-Encoding", "gzip")
			if length {
				w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
			}
			w.WriteHeader(plain.Code)
			_, _ = w.Write(b.Bytes()) // the client may be gone
		})
	}
}

// Bytes that were packed for the way are not those that are stored: they are refused.
func TestPackedForTheWay(t *testing.T) {
	for _, length := range []bool{true, false} {
		f := serve(t, rt.On("GET", "", packed(length)))
		got, _, err := fetch(t, f, registry.Options{}, 0)
		if !errdefs.IsDataLoss(err) || len(got) > 0 {
			t.Errorf("length %t: got %d bytes, %v", length, len(got), err)
		}
		if !length && !strings.Contains(err.Error(), "packed blob "+f.layer.Digest.String()) {
			t.Errorf("got %v, want to be told why", err)
		}
		if _, err := dial(t, registry.Options{}).Manifest(t.Context(), f.tag, f.root); !errdefs.IsDataLoss(err) {
			t.Errorf("length %t: a manifest: %v", length, err)
		}
	}
}

// Whoever finds the bytes of a blob wrong is led to the next host, until there is none.
func TestBlame(t *testing.T) {
	mirror, upstream := serve(t, rt.On("GET", "/blobs/", rt.WrongBytes())), serve(t)
	dir := hostsDir(t, "r.example", fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", upstream.host, mirror.host))
	c, r := dial(t, registry.Options{HostsDirs: []string{dir}}), parse(t, "r.example/"+repo+":v1")
	wrong := errors.New("wrong bytes")
	read := func() (right bool, blame func(error) (error, bool)) {
		t.Helper()
		body, err := c.Blob(t.Context(), r, mirror.layer, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(got, upstream.blob), body.(interface{ Blame(error) (error, bool) }).Blame
	}
	right, blame := read()
	told, again := blame(wrong)
	if right || !again || !errors.Is(told, wrong) || !strings.Contains(told.Error(), mirror.host) {
		t.Errorf("first: right %t, told %v, again %t; want the mirror named", right, told, again)
	}
	for range 2 {
		if right, _ := read(); !right {
			t.Error("the mirror was asked again")
		}
	}
	_, blame = read()
	if told, again := blame(wrong); again || !strings.Contains(told.Error(), upstream.host) {
		t.Errorf("at the end: told %v, again %t; want the registry named", told, again)
	}
	// All are blamed: who tries again all the same begins at the mirror.
	if right, _ := read(); right {
		t.Error("the mirror is never asked again")
	}
}

// A proxy that is configured for a host gets its requests.
func TestProxyOfHost(t *testing.T) {
	f := serve(t)
	var mu sync.Mutex
	var seen []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.URL.Host)
		mu.Unlock()
		f.registry.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	dir := hostsDir(t, "r.example", "server = \"http://far.example\"\nproxy = \""+proxy.URL+"\"\n")
	c := dial(t, registry.Options{HostsDirs: []string{dir}})
	if _, err := c.Resolve(t.Context(), parse(t, "r.example/"+repo+":v1")); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0] != "far.example" {
		t.Errorf("the proxy was asked for %q, want far.example once", seen)
	}
}

// A host that keeps repositories under other names is asked for those, in paths and in scopes.
func TestRewrite(t *testing.T) {
	g := &rt.Guard{Anonymous: true}
	f := serve(t, g.Bearer())
	dir := hostsDir(t, "r.example", "server = \"http://"+f.host+"\"\n[rewrite]\n\"^team/(.*)\" = \"library/$1\"\n")
	c := dial(t, registry.Options{HostsDirs: []string{dir}})
	r := parse(t, "r.example/team/fixture:v1")
	found, err := c.Resolve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Manifest(t.Context(), r, found.Descriptor); err != nil {
		t.Error(err)
	}
	for _, got := range g.Asked() {
		if !strings.Contains(got, "repository:"+repo+":pull") {
			t.Errorf("a token was asked for %q, want %s", got, repo)
		}
	}
}

// The address of a registry may be that of an IPv6 host.
func TestIPv6(t *testing.T) {
	f := serve(t)
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: f.registry}}
	s.Start()
	defer s.Close()
	found, err := dial(t, registry.Options{}).Resolve(t.Context(), parse(t, l.Addr().String()+"/"+repo+":v1"))
	if err != nil || found.Digest != f.root.Digest {
		t.Errorf("got %s, %v", found.Digest, err)
	}
}

// A host whose IPv6 address takes no connection is reached at its IPv4 address, long before the time
// that a connection may take is over.
func TestDeadIPv6(t *testing.T) {
	f := serve(t)
	var l net.Listener
	for l == nil { // until a port is free at both
		l, _ = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", deaf(t)))
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: f.registry}}
	s.Start()
	t.Cleanup(s.Close)
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go answer(theirs, map[byte][]byte{1: {127, 0, 0, 1}, 28: net.IPv6loopback})
		return ours, nil
	}}
	t.Cleanup(func() { net.DefaultResolver = before })
	dir := hostsDir(t, "r.example", fmt.Sprintf("server = \"http://two.example:%d\"\ndial_timeout = \"1h\"\n", l.Addr().(*net.TCPAddr).Port))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	found, err := dial(t, registry.Options{HostsDirs: []string{dir}}).Resolve(ctx, parse(t, "r.example/"+repo+":v1"))
	if err != nil || found.Digest != f.root.Digest {
		t.Errorf("got %s, %v", found.Digest, err)
	}
}

// deaf makes a port of [::1] that a connection to is never made: its queue is full.
func deaf(t *testing.T) (port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // nothing was written to it
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte(net.IPv6loopback)}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = name.(*unix.SockaddrInet6).Port
	for range 100 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("[::1]:%d", port), 200*time.Millisecond)
		if err != nil {
			if late := net.Error(nil); !errors.As(err, &late) || !late.Timeout() {
				t.Fatal(err)
			}
			return port
		}
		t.Cleanup(func() { _ = c.Close() }) // nothing was written to it
	}
	t.Fatal("the queue of a listener has no end")
	return 0
}

// answer is a DNS server for whatever name, which knows addresses by the type of their records.
func answer(c net.Conn, addresses map[byte][]byte) {
	defer func() { _ = c.Close() }() // who asked has the answer, or is gone
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return
	}
	m := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, m); err != nil {
		return
	}
	// A header of 12 bytes, and a question: a name that ends with 0, a type and a class (RFC 1035).
	m = m[:12+bytes.IndexByte(m[12:], 0)+5]
	address := addresses[m[len(m)-3]]
	copy(m[2:], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0})
	// The name, as where it stands before; type, class, and a time to live; the address.
	m = append(m, 0xc0, 12, 0, m[len(m)-3], 0, 1, 0, 0, 0, 60, 0, byte(len(address)))
	m = append(m, address...)
	binary.BigEndian.PutUint16(length[:], uint16(len(m)))
	_, _ = c.Write(append(length[:], m...)) // who asked may be gone
}

// A server that speaks HTTP/2 is spoken to in it, over one connection.
func TestHTTP2(t *testing.T) {
	f := serve(t)
	var mu sync.Mutex
	from := map[string]int{}
	host, ca := secure(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.Proto+" "+r.RemoteAddr]++
		mu.Unlock()
		f.registry.ServeHTTP(w, r)
	}), nil)
	c := dial(t, registry.Options{HostsDirs: []string{hostsDir(t, "r.example", "server = \"https://"+host+"\"\nca = \""+ca+"\"\n")}})
	r := parse(t, "r.example/"+repo+":v1")
	if _, err := c.Resolve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			body, err := c.Blob(t.Context(), r, f.layer, 0, nil)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(body)
			if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, f.blob) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	for connection, n := range from {
		if len(from) != 1 || !strings.HasPrefix(connection, "HTTP/2") || n != 6 {
			t.Errorf("requests by connection: %v, want 6 over one of HTTP/2", from)
		}
	}
}

package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// An authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign("an authority", true)
	return a
}

func (a *authority) sign(name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// certificate is one that the authority signs for a name.
func (a *authority) certificate(name string) tls.Certificate {
	cert, key := a.sign(name, false)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// files writes a certificate of the daemon, and who signs those of clients.
func (a *authority) files(dir string) Certificates {
	a.t.Helper()
	cert, key := a.sign("the daemon", false)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	c := Certificates{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	for name, block := range map[string]*pem.Block{
		c.Cert: {Type: "CERTIFICATE", Bytes: cert.Raw}, c.Key: {Type: "EC PRIVATE KEY", Bytes: der}, c.CA: {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return c
}

// By TCP come those alone whose certificate the authority has signed; new files count at once.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ours, others := newAuthority(t), newAuthority(t)
	config, err := ours.files(dir).Config()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := newDaemon(Options{TLS: config, Log: slog.New(slog.NewTextHandler(&log, nil))})
	does(d, "test.Works", func(context.Context) error { return nil })
	l, err := Listen(t.Context(), Addresses{Socket: socket(t), TCP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	end := start(t, func(ctx context.Context) error { return d.run(ctx, l) })
	ask := func(daemon *authority, certificates ...tls.Certificate) codes.Code {
		t.Helper()
		pool := x509.NewCertPool()
		pool.AddCert(daemon.cert)
		conn, err := grpc.NewClient(l.API[1].Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: certificates})))
		if err != nil {
			t.Fatal(err)
		}
		err = invoke(conn, "/test.Works/Do", 0)
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		return status.Code(err)
	}
	if code := ask(ours, ours.certificate("somebody")); code != codes.OK {
		t.Errorf("a client of the authority: %s", code)
	}
	if code := ask(ours); code != codes.Unavailable {
		t.Errorf("without a certificate: %s, want unavailable", code)
	}
	if code := ask(ours, others.certificate("somebody else")); code != codes.Unavailable {
		t.Errorf("a client of another authority: %s, want unavailable", code)
	}
	others.files(dir)
	if code := ask(others, others.certificate("somebody else")); code != codes.OK {
		t.Errorf("a client of the new authority: %s", code)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, `peer="CN=somebody"`) || strings.Count(got, "a client was not let in") < 2 {
		t.Errorf("the log:\n%s", got)
	}
}

func TestTLSRefuses(t *testing.T) {
	for _, spoil := range []func(*Certificates){
		func(c *Certificates) { c.Cert = c.Key },
		func(c *Certificates) { c.Key = "/none" },
		func(c *Certificates) { c.CA = "/none" },
		func(c *Certificates) { c.CA = c.Key },
	} {
		c := newAuthority(t).files(t.TempDir())
		spoil(&c)
		if _, err := c.Config(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v, want invalid argument", c, err)
		}
	}
}

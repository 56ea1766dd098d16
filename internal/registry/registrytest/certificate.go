package registrytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// A Certificate is that of a server on 127.0.0.1 and localhost, signed by an authority of its own,
// in PEM files.
type Certificate struct {
	CA, Cert, Key string // names of files

	authority *x509.Certificate
	leaf      tls.Certificate
	key       *ecdsa.PrivateKey // of leaf
}

// NewCertificate makes an authority and a certificate, and writes them below dir.
func NewCertificate(dir string) (*Certificate, error) {
	c := &Certificate{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server-key.pem")}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
			BasicConstraintsValid: true,
		}
	}
	ca := template(1, "stowage test authority")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	caKey, caErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	server := template(2, "stowage test server")
	server.KeyUsage, server.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	server.IPAddresses, server.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, []string{"localhost"}
	key, keyErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(caErr, keyErr); err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	caBytes, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	if c.authority, err = x509.ParseCertificate(caBytes); err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, server, c.authority, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	c.leaf = tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}
	c.key = key
	return c, errors.Join(writePEM(c.CA, "CERTIFICATE", caBytes), writePEM(c.Cert, "CERTIFICATE", leaf), writePEM(c.Key, "PRIVATE KEY", keyBytes))
}

// Client makes a client that believes in the authority.
func (c *Certificate) Client() *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(c.authority)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func writePEM(name, kind string, b []byte) error {
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600)
}

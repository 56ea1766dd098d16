package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// Certificates are the files, in PEM, by which a daemon and its clients over TCP know each other.
type Certificates struct {
	Cert, Key string // of the daemon
	CA        string // signs those of clients
}

// Config makes a configuration that lets clients in whose certificates CA has signed. The files are
// read for every connection, so that new ones count at once; a connection fails that finds them broken.
// Errors: [errdefs.ErrInvalidArgument] if they are so now.
func (c Certificates) Config() (*tls.Config, error) {
	if _, err := c.read(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.read() },
	}, nil
}

func (c Certificates) read() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate of the daemon: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("read the certificate of those who sign for clients: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it: %w", c.CA, errdefs.ErrInvalidArgument)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, nil
}

package config

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// Server is the section of the daemon.
type Server struct {
	// Address is the unix socket that it listens on.
	Address string `toml:"address"`
	// Group may use the socket besides its owner, by name or number; empty: the group of the daemon.
	Group string `toml:"group"`
	// Plugin is another socket, for a containerd that has the store as its plugin; empty: none.
	Plugin string `toml:"plugin"`
	// Metrics is host:port, or unix: and the name of a socket, where metrics are answered; empty: nowhere.
	Metrics string `toml:"metrics"`
	// TCP is host:port for clients with a certificate; empty: none. It takes the three files.
	TCP     string `toml:"tcp_address"`
	TLSCert string `toml:"tls_cert"` // of the daemon, in PEM
	TLSKey  string `toml:"tls_key"`
	TLSCA   string `toml:"tls_ca"` // signs those of clients
	// Fetch has the daemon fetch what clients did not ask to pull: blobs that they left out of their images
	// because the layers are unpacked, and for who reads them those that were evicted or are lazy.
	Fetch bool `toml:"fetch"`
	// Grace is for how long transfers may go on when the daemon is told to end.
	Grace Duration `toml:"grace"`
}

// Doctor is the section that says when the daemon looks for damage.
type Doctor struct {
	// Schedule is the time from one search to the next; 0: never.
	Schedule Duration `toml:"schedule"`
}

func (s *Server) check() error {
	if s.Grace < 0 {
		return fmt.Errorf("grace %s is below zero: %w", time.Duration(s.Grace), errdefs.ErrInvalidArgument)
	}
	if s.TCP != "" && (s.TLSCert == "" || s.TLSKey == "" || s.TLSCA == "") {
		return fmt.Errorf("tcp_address takes tls_cert, tls_key and tls_ca: clients have to prove who they are: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// defaultAddress is where the daemon of a user listens.
func defaultAddress(getenv func(string) string, uid int) string {
	if run := getenv("XDG_RUNTIME_DIR"); uid != 0 && filepath.IsAbs(run) {
		return filepath.Join(run, "stowage/stowage.sock")
	}
	return "/run/stowage/stowage.sock"
}

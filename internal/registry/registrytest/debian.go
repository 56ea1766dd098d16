package registrytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A Process is Debian's docker-registry, running as a process of its own.
type Process struct {
	Registry

	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{} // closed when the process has ended; err is set then
	err  error
}

// ProcessOptions tunes [StartDebianWith]. The zero value asks for nothing, over plain HTTP.
type ProcessOptions struct {
	Certificate *Certificate // it speaks TLS; nil: it does not
	Htpasswd    bool         // it asks for User and Password
	Tokens      *TokenServer // it asks for a token of this server; nil: it does not
}

// What a registry with ProcessOptions.Htpasswd asks for.
const (
	User     = "me"
	Password = "correct-horse"

	htpasswd = User + ":$2y$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n"
)

// StartDebian runs docker-registry on a free port of 127.0.0.1, keeping its blobs, its
// configuration and its log below dir, and waits until it answers. ctx bounds the wait.
func StartDebian(ctx context.Context, dir string) (*Process, error) {
	return StartDebianWith(ctx, dir, ProcessOptions{})
}

// StartDebianWith is [StartDebian] for a registry that asks for more. It is filled by one that
// does not, which has the same dir and was stopped before.
func StartDebianWith(ctx context.Context, dir string, o ProcessOptions) (*Process, error) {
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("start docker-registry (Debian package docker-registry): %w", err)
	}
	host, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("start docker-registry: %w", err)
	}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf(configText, filepath.Join(dir, "registry"), host)
	if c := o.Certificate; c != nil {
		text += fmt.Sprintf("  tls:\n    certificate: %s\n    key: %s\n", c.Cert, c.Key)
	}
	if o.Htpasswd {
		users := filepath.Join(dir, "htpasswd")
		text += fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n", users)
		err = os.WriteFile(users, []byte(htpasswd), 0o600)
	}
	if s := o.Tokens; s != nil {
		text += fmt.Sprintf("auth:\n  token:\n    realm: %s\n    service: %s\n    issuer: %s\n    rootcertbundle: %s\n", s.Realm, tokenService, tokenIssuer, s.o.Certificate.CA)
	}
	if err := errors.Join(err, os.WriteFile(config, []byte(text), 0o600)); err != nil {
		return nil, fmt.Errorf("start docker-registry: %w", err)
	}

	p := &Process{Registry: Registry{Host: host}, done: make(chan struct{})}
	p.cmd = exec.Command(binary, "serve", config)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	// A test that panics must not leave a registry behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start docker-registry: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.ready(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("start docker-registry: %w", err), p.Stop())
	}
	return p, nil
}

// Stop kills the registry and waits for its end. It reports a registry that had ended by itself.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return fmt.Errorf("docker-registry ended by itself: %w\n%s", p.err, p.log.Bytes())
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("stop docker-registry: %w", err)
	}
	<-p.done
	return nil
}

func (p *Process) ready(ctx context.Context, o ProcessOptions) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client, base := http.DefaultClient, "http://"+p.Host+"/v2/"
	if o.Certificate != nil {
		client, base = o.Certificate.Client(), "https://"+p.Host+"/v2/"
		defer client.CloseIdleConnections()
	}
	want := http.StatusOK
	if o.Htpasswd || o.Tokens != nil {
		want = http.StatusUnauthorized
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close() // the status is all that is wanted
			if resp.StatusCode == want {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return errors.New("it ended before it answered")
		case <-tick.C:
		}
	}
}

// freePort finds an address that nobody listens on. Another process may take it first; then
// the registry ends at once and says so.
func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

const configText = `version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: false
validation:
  disabled: true
http:
  addr: %s
  secret: loopback
`

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

// StartDebian runs docker-registry on a free port of 127.0.0.1, keeping its blobs, its
// configuration and its log below dir, and waits until it answers. ctx bounds the wait.
func StartDebian(ctx context.Context, dir string) (*Process, error) {
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
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
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
	if err := p.ready(ctx); err != nil {
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

func (p *Process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := send(ctx, http.MethodGet, "http://"+p.Host+"/v2/", "", 0, nil)
		if err == nil && resp.StatusCode == http.StatusOK {
			return nil
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
http:
  addr: %s
  secret: loopback
validation:
  disabled: true
`

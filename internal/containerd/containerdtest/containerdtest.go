// Package containerdtest runs a real containerd beside tests.
package containerdtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A Process is a containerd with folders of its own, and without CRI.
type Process struct {
	Address string // of its socket
	Root    string // its root folder

	dir  string
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{} // closed when the process has ended; err is set then
	err  error
}

// Options tunes [Start]. The zero value is containerd as it comes.
type Options struct {
	// Isolated has a namespace know of a blob only what was written there, whatever others have.
	Isolated bool
	// Plugin is the socket of what is its content store, and its snapshotter called stowage; empty: it
	// has those that it comes with.
	Plugin string
}

// Start runs the containerd on PATH, or the one that STOWAGE_CONTAINERD names, and waits until it listens.
// ctx bounds the wait.
func Start(ctx context.Context, o Options) (*Process, error) {
	binary, err := exec.LookPath(cmp.Or(os.Getenv("STOWAGE_CONTAINERD"), "containerd"))
	if err != nil {
		return nil, fmt.Errorf("start containerd (Debian package containerd): %w", err)
	}
	dir, err := os.MkdirTemp("", "ctrd") // short: the path of a socket has 107 bytes at most
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	p := &Process{Address: filepath.Join(dir, "sock"), Root: filepath.Join(dir, "root"), dir: dir, done: make(chan struct{})}
	policy := "shared"
	if o.Isolated {
		policy = "isolated"
	}
	config, content, plugins := filepath.Join(dir, "config.toml"), "", ""
	if o.Plugin != "" {
		content, plugins = `, "io.containerd.content.v1.content"`, fmt.Sprintf(pluginsText, o.Plugin)
	}
	text := fmt.Sprintf(configText, p.Root, filepath.Join(dir, "state"), content, p.Address, policy) + plugins
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd: %w", err), os.RemoveAll(dir))
	}
	p.cmd = exec.Command(binary, "--config", config)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	// A test that panics must not leave it behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd: %w", err), os.RemoveAll(dir))
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.ready(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd: %w\n%s", err, p.log.Bytes()), p.Stop())
	}
	return p, nil
}

// Stop kills it, waits for its end, and removes its folders. It reports one that had ended by itself.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return errors.Join(fmt.Errorf("containerd ended by itself: %w\n%s", p.err, p.log.Bytes()), os.RemoveAll(p.dir))
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("stop containerd: %w", err)
	}
	<-p.done
	return os.RemoveAll(p.dir)
}

func (p *Process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Address)
		if err == nil {
			return conn.Close()
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

const configText = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.tracing"%s]
[grpc]
  address = %q
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = %q
`

const pluginsText = `
[proxy_plugins.stowage]
  type = "snapshot"
  address = %[1]q
[proxy_plugins.stowage-content]
  type = "content"
  address = %[1]q
`

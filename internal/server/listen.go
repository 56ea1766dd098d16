package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Addresses say where a daemon is reached.
type Addresses struct {
	Socket string // a unix socket, unless systemd has made one
	Group  string // may use the sockets, by name or number; empty: the group of the process
	Plugin string // another unix socket, for a containerd that has the store as its plugin; empty: none
	TCP    string // host:port, for those with a certificate; empty: nowhere
	// Metrics is host:port, or unix: and the name of a socket; empty: nowhere.
	Metrics string
}

// Listeners are where requests come in. [Serve] closes them.
type Listeners struct {
	API    []net.Listener
	Plugin net.Listener // see [Addresses]; nil: none
	Debug  net.Listener // of metrics and profiles; nil: none
}

// Listen makes the listeners of a daemon. Sockets are for their owner and a group; folders are made
// that are not there, and a socket that a killed daemon left is replaced. Errors:
// [errdefs.ErrFailedPrecondition] if somebody listens there already.
func Listen(ctx context.Context, a Addresses) (l *Listeners, err error) {
	l = &Listeners{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.API, err = activation.Listeners(); err != nil {
		return l, fmt.Errorf("take the sockets of systemd: %w", err)
	}
	if len(l.API) == 0 {
		if err := l.add(listenUnix(ctx, a.Socket, a.Group)); err != nil {
			return l, err
		}
	}
	if a.TCP != "" {
		if err := l.add(listenTCP(ctx, a.TCP)); err != nil {
			return l, err
		}
	}
	if a.Plugin != "" {
		if l.Plugin, err = listenUnix(ctx, a.Plugin, a.Group); err != nil {
			return l, err
		}
	}
	switch name, local := strings.CutPrefix(a.Metrics, "unix:"); {
	case local:
		l.Debug, err = listenUnix(ctx, name, a.Group)
	case a.Metrics != "":
		l.Debug, err = listenTCP(ctx, a.Metrics)
	}
	return l, err
}

func (l *Listeners) add(one net.Listener, err error) error {
	if err == nil {
		l.API = append(l.API, one)
	}
	return err
}

// Address is the first one that requests come in by.
func (l *Listeners) Address() string { return l.API[0].Addr().String() }

// Close closes all of them.
func (l *Listeners) Close() error {
	var err error
	for _, one := range append(l.API, l.Plugin, l.Debug) {
		if one != nil {
			err = errors.Join(err, one.Close())
		}
	}
	return err
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

func listenUnix(ctx context.Context, name, group string) (net.Listener, error) {
	name = strings.TrimPrefix(name, "unix://")
	if err := os.MkdirAll(filepath.Dir(name), 0o711); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := removeStale(ctx, name); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	l, err := (&net.ListenConfig{Control: ownersOnly}).Listen(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := share(name, group); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, errors.Join(err, l.Close()))
	}
	return l, nil
}

// ownersOnly has the file of a socket made with mode 0600: Linux takes it from the socket. So nobody
// else comes in before [share].
func ownersOnly(_, _ string, c syscall.RawConn) error {
	var mode error
	return errors.Join(c.Control(func(fd uintptr) { mode = unix.Fchmod(int(fd), 0o600) }), mode)
}

// share opens a socket to a group.
func share(name, group string) error {
	if group != "" {
		id, err := groupID(group)
		if err != nil {
			return err
		}
		if err := os.Chown(name, -1, id); err != nil {
			return err
		}
	}
	return os.Chmod(name, 0o660)
}

func groupID(group string) (int, error) {
	if id, err := strconv.Atoi(group); err == nil {
		return id, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group %s: %w", group, errdefs.ErrNotFound)
	}
	return strconv.Atoi(g.Gid)
}

// removeStale removes a socket that nobody listens on.
func removeStale(ctx context.Context, name string) error {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is a file that is no socket: %w", errdefs.ErrFailedPrecondition)
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", name)
	if err == nil {
		return errors.Join(fmt.Errorf("somebody listens there already: %w", errdefs.ErrFailedPrecondition), c.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(name)
}

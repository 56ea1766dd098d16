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
	"golang.org/x/sys/unix"
)

// Listen makes a unix socket for its owner and for a group, by name or number; empty: for the group
// of the process. The folder is made if it is not there. A socket that a killed daemon left is
// replaced. Errors: [errdefs.ErrFailedPrecondition] if somebody listens there already.
func Listen(ctx context.Context, name, group string) (net.Listener, error) {
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

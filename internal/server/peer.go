package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// A process is who is at the other end of a unix socket, as the kernel says.
type process struct {
	credentials.CommonAuthInfo
	unix.Ucred
}

// AuthType implements [credentials.AuthInfo].
func (process) AuthType() string { return "unix" }

// LogValue implements [slog.LogValuer].
func (p process) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("pid", int(p.Pid)), slog.Int("uid", int(p.Uid)), slog.Int("gid", int(p.Gid)))
}

// A doorkeeper finds out who connects: by the kernel on unix sockets, where the file's mode has let
// them in, and by their certificates on others.
type doorkeeper struct {
	credentials.TransportCredentials
	log *slog.Logger
}

// keepDoor makes the credentials of a server. A nil config lets nobody in who does not come by a
// unix socket.
func keepDoor(config *tls.Config, log *slog.Logger) doorkeeper {
	if config == nil {
		config = &tls.Config{} // which has no certificate
	}
	return doorkeeper{credentials.NewTLS(config), log}
}

// ServerHandshake implements [credentials.TransportCredentials].
func (d doorkeeper) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	local, ok := c.(*net.UnixConn)
	if !ok {
		c, info, err := d.TransportCredentials.ServerHandshake(c)
		if err != nil {
			d.log.Warn("a client was not let in", "reason", err)
			return nil, nil, err
		}
		d.log.Info("a client connected", "peer", name(info))
		return c, info, nil
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var who *unix.Ucred
	var whoErr error
	if err := errors.Join(raw.Control(func(fd uintptr) {
		who, whoErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}), whoErr); err != nil {
		return nil, nil, fmt.Errorf("ask who connects: %w", err)
	}
	p := process{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, *who}
	d.log.Info("a client connected", "peer", p)
	return c, p, nil
}

// Clone implements [credentials.TransportCredentials].
func (d doorkeeper) Clone() credentials.TransportCredentials {
	return doorkeeper{d.TransportCredentials.Clone(), d.log}
}

// ClientHandshake implements [credentials.TransportCredentials]: no client has a doorkeeper.
func (d doorkeeper) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errdefs.ErrNotImplemented
}

// caller is who sent a request, for logs.
func caller(ctx context.Context) any {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	return name(p.AuthInfo)
}

// name is what logs say of a client.
func name(info credentials.AuthInfo) any {
	if t, ok := info.(credentials.TLSInfo); ok && len(t.State.PeerCertificates) > 0 {
		return t.State.PeerCertificates[0].Subject.String()
	}
	return info
}

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// soon has a client try again soon when a daemon is away.
var soon = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond},
	MinConnectTimeout: 20 * time.Second,
})

// A served is a daemon of a rig's store, as a process.
type served struct {
	rig     *rig
	cmd     *exec.Cmd
	address string
	log     *bytes.Buffer // read it after the end
	conn    *grpc.ClientConn
}

// socket is the name of a socket in a folder of its own: names of test folders are too long.
func (r *rig) socket() string {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "stowage")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			r.t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

// serve starts a daemon with the flags, and waits until it answers.
func (r *rig) serve(flags ...string) *served {
	r.t.Helper()
	address := r.socket()
	return r.await(address, r.command(append([]string{"serve", "--address", address, "--metrics", "unix:" + address + "m"}, flags...)...))
}

// await starts a command that serves, and waits until it answers.
func (r *rig) await(address string, cmd *exec.Cmd) *served {
	r.t.Helper()
	s := &served{rig: r, cmd: cmd, address: address, log: new(bytes.Buffer)}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.stop(syscall.SIGKILL)
		}
	})
	conn, err := grpc.NewClient("unix://"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()), soon)
	if err != nil {
		r.t.Fatal(err)
	}
	s.conn = conn
	r.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			r.t.Error(err)
		}
	})
	if _, err := versionapi.NewVersionClient(s.conn).Version(r.t.Context(), &emptypb.Empty{}, grpc.WaitForReady(true)); err != nil {
		r.t.Fatalf("the daemon does not answer: %v", err)
	}
	return s
}

// get asks the daemon over HTTP, where its metrics and profiles are.
func (s *served) get(path string) string {
	s.rig.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.address+"m")
	}}}
	res, err := client.Get("http://stowage" + path)
	if err != nil {
		s.rig.t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		s.rig.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		s.rig.t.Fatalf("%s: %s: %s", path, res.Status, b)
	}
	return string(b)
}

// stop sends a signal and returns the exit status; -1: killed.
func (s *served) stop(sig syscall.Signal) int {
	s.rig.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.rig.t.Error(err)
	}
	_ = s.cmd.Wait() // the status says it
	return s.cmd.ProcessState.ExitCode()
}

// A daemon and commands work on one root side by side. SIGTERM ends it, and a killed one leaves
// nothing that the next has to be told of.
func TestServe(t *testing.T) {
	r := newRig(t, 0)
	r.push("app", "1", 20_000)
	s := r.serve()
	r.must("pull", "-q", r.host+"/app:1")
	if got := s.get("/metrics"); !strings.Contains(got, `stowage_requests_total{code="OK",method="/containerd.services.version.v1.Version/Version"} 1`) {
		t.Errorf("metrics:\n%s", got)
	}
	if status := s.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("status %d after SIGTERM: %s", status, s.log)
	}
	if _, err := os.Lstat(s.address); !os.IsNotExist(err) {
		t.Errorf("the socket after SIGTERM: %v, want not exist", err)
	}
	s = r.serve()
	if _, out, status := r.run("serve", "--address", s.address+"2"); status != exitRefused || !strings.Contains(out, "serves it on "+s.address) {
		t.Errorf("a second daemon on the root: status %d, %s", status, out)
	}
	if _, out, status := r.run("serve", "--root", t.TempDir(), "--address", s.address); status != exitRefused || !strings.Contains(out, "somebody listens there already") {
		t.Errorf("a second daemon on the socket: status %d, %s", status, out)
	}
	s.stop(syscall.SIGKILL)
	if out := r.must("doctor"); strings.Contains(out, "daemon.json") {
		t.Errorf("doctor after SIGKILL: %s", out)
	}
	t.Setenv("CONTAINERD_ADDRESS", "/where/nobody/listens") // which is for commands that use a daemon
	s = r.serve()
	if status := s.stop(syscall.SIGINT); status != 0 {
		t.Errorf("status %d after SIGINT: %s", status, s.log)
	}
}

// Systemd makes the socket, starts the daemon with it, and is told when it is ready and when it ends.
// The socket is systemd's: it stays.
func TestServeActivated(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	address := r.socket()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", address)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	systemd, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "unixgram", address+"n")
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.command()
	cmd.Path = "/bin/sh"
	cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", r.bin, "serve", "--address", "/not/this/one"}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+address+"n")
	cmd.ExtraFiles = []*os.File{socket}
	s := r.await(address, cmd)
	if b, err := os.ReadFile(filepath.Join(r.root, "daemon.json")); err != nil || !strings.Contains(string(b), `"`+address+`"`) {
		t.Errorf("daemon.json: %s, %v, want %s", b, err, address)
	}
	if status := s.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("status %d: %s", status, s.log)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		b := make([]byte, 100)
		if n, _, err := systemd.ReadFrom(b); err != nil || string(b[:n]) != want {
			t.Errorf("systemd was told %q, %v, want %s", b[:n], err, want)
		}
	}
	if _, err := os.Lstat(address); err != nil {
		t.Errorf("the socket after the end: %v", err)
	}
	if err := errors.Join(socket.Close(), l.Close(), systemd.Close()); err != nil {
		t.Error(err)
	}
}

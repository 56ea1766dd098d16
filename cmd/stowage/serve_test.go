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

// A served is a daemon of a rig's store, as a process.
type served struct {
	rig     *rig
	cmd     *exec.Cmd
	address string
	log     *bytes.Buffer // read it after the end
	conn    *grpc.ClientConn
}

// serve starts a daemon with the flags, and waits until it answers.
func (r *rig) serve(flags ...string) *served {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "stowage") // names of sockets are short
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			r.t.Error(err)
		}
	})
	s := &served{rig: r, address: filepath.Join(dir, "s"), log: new(bytes.Buffer)}
	s.cmd = r.command(append([]string{"serve", "--address", s.address, "--metrics", "unix:" + s.address + "m"}, flags...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.stop(syscall.SIGKILL)
		}
	})
	s.conn, err = grpc.NewClient("unix://"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}}))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := s.conn.Close(); err != nil {
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

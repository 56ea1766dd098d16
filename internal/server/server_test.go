package server

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	version "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage"
)

// socket is the name of a socket in a folder of its own: names of test folders are too long.
func socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stowage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

func newStore(t testing.TB) *stowage.Store {
	t.Helper()
	store, err := stowage.Open(filepath.Join(t.TempDir(), "store"), stowage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func listen(t testing.TB, name string) net.Listener {
	t.Helper()
	l, err := listenUnix(t.Context(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start runs serve in the background. end ends it, and returns what it did.
func start(t testing.TB, serve func(context.Context) error) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = serve(ctx)
	}()
	end = func() error {
		cancel()
		<-done
		return err
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return end
}

func dial(t testing.TB, name string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+name, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// A store is offered to owner and group, with health; when the context ends so does everything,
// watches as well, and the socket is gone.
func TestServe(t *testing.T) {
	store := newStore(t)
	name := socket(t)
	l := listen(t, name)
	end := start(t, func(ctx context.Context) error {
		return Serve(ctx, store, &Listeners{API: []net.Listener{l}}, Options{Version: "v", Grace: time.Hour})
	})
	if info, err := os.Stat(name); err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("the socket is %v, %v, want mode 0660", info, err)
	}
	conn := dial(t, name)
	v, err := version.NewVersionClient(conn).Version(t.Context(), &emptypb.Empty{})
	if err != nil || v.Version != "v" {
		t.Errorf("version: %v, %v", v, err)
	}
	health := grpc_health_v1.NewHealthClient(conn)
	if res, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v, want serving", res, err)
	}
	watch, err := health.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(name); !os.IsNotExist(err) {
		t.Errorf("the socket after the end: %v, want not exist", err)
	}
}

func TestDrain(t *testing.T) {
	for _, c := range []struct {
		name  string
		grace time.Duration
		want  codes.Code
	}{
		{"what ends within the grace time", time.Hour, codes.OK},
		{"what does not", time.Millisecond, codes.Unavailable},
		{"no grace time", 0, codes.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDaemon(Options{Grace: c.grace})
			began, letGo := make(chan struct{}), make(chan struct{})
			does(d, "test.Work", func(ctx context.Context) error {
				close(began)
				select {
				case <-letGo:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			name := socket(t)
			l := listen(t, name)
			end := start(t, func(ctx context.Context) error { return d.run(ctx, &Listeners{API: []net.Listener{l}}) })
			conn := dial(t, name)
			did := make(chan error, 1)
			go func() { did <- invoke(conn, "/test.Work/Do", 0) }()
			<-began
			if c.want == codes.OK {
				go func() {
					<-d.ends
					close(letGo)
				}()
			}
			if err := end(); err != nil {
				t.Error(err)
			}
			if err := <-did; status.Code(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// A context that has ended before a listener is served ends it too.
func TestServeEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := listen(t, socket(t))
	if err := newDaemon(Options{}).run(ctx, &Listeners{API: []net.Listener{l}}); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v, want a closed listener", err)
	}
}

func TestListen(t *testing.T) {
	name := socket(t)
	l := listen(t, name)
	if _, err := listenUnix(t.Context(), name, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second daemon: %v, want failed precondition", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as if it was killed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := listenUnix(t.Context(), "unix://"+name, "12345")
	if err != nil {
		t.Fatal(err)
	}
	if gid := groupOf(t, name); os.Getuid() == 0 && gid != 12345 {
		t.Errorf("the group is %d, want 12345", gid)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), name, "no such group"); !errdefs.IsNotFound(err) {
		t.Errorf("a group that is not there: %v, want not found", err)
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), name, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a file that is no socket: %v, want failed precondition", err)
	}
}

func groupOf(t *testing.T, name string) int {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Gid)
}

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// running starts a daemon whose log is returned, to be read after the end.
func running(t *testing.T, prepare func(*daemon)) (name string, end func() error, log *bytes.Buffer) {
	t.Helper()
	log = new(bytes.Buffer)
	d := newDaemon(Options{Log: slog.New(slog.NewJSONHandler(log, nil))})
	prepare(d)
	name = socket(t)
	l := listen(t, name)
	return name, start(t, func(ctx context.Context) error { return d.run(ctx, &Listeners{API: []net.Listener{l}}) }), log
}

// does adds a service whose one method, Do, is a function.
func does(d *daemon, name string, do func(context.Context) error) {
	d.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: name, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(srv any, ctx context.Context, dec func(any) error, with grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.BytesValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			return with(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + name + "/Do"}, func(ctx context.Context, _ any) (any, error) {
				return &emptypb.Empty{}, do(ctx)
			})
		}}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return do(stream.Context()) },
		}},
	}, nil)
}

// invoke calls a method with a message of so many bytes.
func invoke(conn *grpc.ClientConn, method string, size int) error {
	return conn.Invoke(context.Background(), method, &wrapperspb.BytesValue{Value: make([]byte, size)}, &emptypb.Empty{})
}

// A request that panics ends with an error, and the daemon goes on; its log says who asked.
func TestPanic(t *testing.T) {
	name, end, log := running(t, func(d *daemon) {
		does(d, "test.Panics", func(context.Context) error { panic("the reason") })
		does(d, "test.Works", func(context.Context) error { return nil })
	})
	conn := dial(t, name)
	if err := invoke(conn, "/test.Panics/Do", 0); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "the reason") {
		t.Errorf("a method that panics: %v, want internal without the reason", err)
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Panics/Stream")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.Internal {
		t.Errorf("a stream that panics: %v, want internal", err)
	}
	if err := invoke(conn, "/test.Works/Do", 0); err != nil {
		t.Error(err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	said := map[string]int{}
	for line := range strings.Lines(log.String()) {
		var row struct {
			Msg, Method, Panic, Stack string
			Peer                      *struct{ PID, UID int }
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		switch {
		case row.Msg == "a request panicked" && (row.Panic != "the reason" || !strings.Contains(row.Stack, "guard_test.go")):
			t.Errorf("the log does not say why: %s", line)
		case row.Peer != nil && (row.Peer.PID != os.Getpid() || row.Peer.UID != os.Getuid()):
			t.Errorf("the log has another peer: %s", line)
		case row.Msg == "request" && (row.Peer == nil || !strings.HasPrefix(row.Method, "/test.Panics/")):
			t.Errorf("the log says more or less than what went wrong: %s", line)
		}
		said[row.Msg]++
	}
	if said["a request panicked"] != 2 || said["request"] != 2 || said["a client connected"] != 1 {
		t.Errorf("the log has %v", said)
	}
}

// Messages and requests over the limits are refused, and the daemon goes on.
func TestLimits(t *testing.T) {
	busy, free := make(chan struct{}), make(chan struct{})
	name, _, _ := running(t, func(d *daemon) {
		d.slots = make(chan struct{}, 1)
		does(d, "test.Works", func(context.Context) error { return nil })
		does(d, "test.Waits", func(context.Context) error {
			close(busy)
			<-free
			return nil
		})
	})
	conn := dial(t, name)
	if err := invoke(conn, "/test.Works/Do", maxMessage); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message over the limit: %v, want resource exhausted", err)
	}
	if err := invoke(conn, "/test.Works/Do", maxMessage-100); err != nil {
		t.Errorf("a message below the limit: %v", err)
	}
	did := make(chan error, 1)
	go func() { did <- invoke(conn, "/test.Waits/Do", 0) }()
	<-busy
	if err := invoke(conn, "/test.Works/Do", 0); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one request too many: %v, want resource exhausted", err)
	}
	close(free)
	if err := <-did; err != nil {
		t.Error(err)
	}
	if err := invoke(conn, "/test.Works/Do", 0); err != nil {
		t.Errorf("when others have ended: %v", err)
	}
}

// Who does not come by a unix socket needs a certificate.
func TestNobodyByTCP(t *testing.T) {
	d := newDaemon(Options{})
	does(d, "test.Works", func(context.Context) error { return nil })
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	start(t, func(ctx context.Context) error { return d.run(ctx, &Listeners{API: []net.Listener{l}}) })
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	if err := invoke(conn, "/test.Works/Do", 0); status.Code(err) != codes.Unavailable {
		t.Errorf("without a certificate: %v, want unavailable", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

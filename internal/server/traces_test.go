package server

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	version "github.com/containerd/containerd/api/services/version/v1"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A traceCollector remembers the spans that it was sent, as SERVICE NAME, and the traces they are in.
type traceCollector struct {
	collector.UnimplementedTraceServiceServer
	mu     sync.Mutex
	spans  []string
	traces []string
}

func (c *traceCollector) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.ResourceSpans {
		service := ""
		for _, a := range r.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range r.ScopeSpans {
			for _, span := range scope.Spans {
				c.spans = append(c.spans, service+" "+span.Name)
				c.traces = append(c.traces, string(span.TraceId))
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestTraces has a collector on loopback, which is told of requests and not of health checks, by the
// end of the daemon at the latest. A request goes on in the trace of its client.
func TestTraces(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got, g := &traceCollector{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(g, got)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())

	store := newStore(t)
	name := socket(t)
	api := listen(t, name)
	end := start(t, func(ctx context.Context) error {
		return Serve(ctx, store, &Listeners{API: []net.Listener{api}}, Options{Trace: true})
	})
	conn := dial(t, name)
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01")
	if _, err := version.NewVersionClient(conn).Version(ctx, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"stowage containerd.services.version.v1.Version/Version"}; !slices.Equal(got.spans, want) {
		t.Fatalf("the collector got %q, want %q", got.spans, want)
	}
	if want := "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"; got.traces[0] != want {
		t.Errorf("the span is in the trace %x, want %x", got.traces[0], want)
	}
}

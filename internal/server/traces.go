package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// traces makes a span of each request, and sends them, over OTLP, to where the variables of
// OpenTelemetry say; health checks and watches, which are no work, have none. A request that comes with a
// trace goes on in it. What it returns ends it, when no request is under way any more, and sends what is
// left within 5 seconds.
func traces(ctx context.Context, version string, log *slog.Logger) (grpc.ServerOption, func(), error) {
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("send traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "stowage"), attribute.String("service.version", version),
	), resource.WithFromEnv()) // whose OTEL_SERVICE_NAME goes before ours
	if err != nil {
		return nil, nil, fmt.Errorf("send traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces were not sent", "reason", err) }))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	handler := otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(tag *stats.RPCTagInfo) bool {
			return !watches[tag.FullMethodName] && tag.FullMethodName != healthCheck
		}),
	)
	end := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("traces were not sent", "reason", err)
		}
	}
	return grpc.StatsHandler(handler), end, nil
}

const healthCheck = "/grpc.health.v1.Health/Check"

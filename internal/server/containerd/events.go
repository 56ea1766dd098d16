package containerd

import (
	"context"
	"fmt"
	"strings"

	events "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/metadata"
)

// maxEvent bounds what a client may publish, in bytes: who does not listen fast enough has it kept.
const maxEvent = 64 << 10

// eventsService tells who wants to know of what happens in the store, and of what other clients say.
// What other processes do to the store beside the daemon is not seen.
type eventsService struct {
	events.UnimplementedEventsServer
	server *Server
}

func registerEvents(r grpc.ServiceRegistrar, s *Server) {
	events.RegisterEventsServer(r, &eventsService{server: s})
}

// Publish tells of an event, as of now, in the namespace of the request.
func (e *eventsService) Publish(ctx context.Context, req *events.PublishRequest) (*emptypb.Empty, error) {
	store, err := e.server.in(ctx)
	if err != nil {
		return nil, err
	}
	return e.tell(&types.Envelope{Timestamp: timestamppb.Now(), Namespace: store.Namespace(), Topic: req.Topic, Event: req.Event})
}

// Forward tells of an event that somebody else saw.
func (e *eventsService) Forward(_ context.Context, req *events.ForwardRequest) (*emptypb.Empty, error) {
	if err := metadata.CheckNamespace(req.Envelope.GetNamespace()); err != nil {
		return nil, err
	}
	if req.Envelope.Timestamp == nil {
		return nil, fmt.Errorf("the event has no time: %w", errdefs.ErrInvalidArgument)
	}
	return e.tell(req.Envelope)
}

func (e *eventsService) tell(env *types.Envelope) (*emptypb.Empty, error) {
	if n := proto.Size(env); n > maxEvent {
		return nil, fmt.Errorf("an event of %d bytes, where %d are allowed: %w", n, maxEvent, errdefs.ErrInvalidArgument)
	}
	path, ok := strings.CutPrefix(env.Topic, "/")
	for part := range strings.SplitSeq(path, "/") {
		ok = ok && metadata.CheckNamespace(part) == nil // of which topics are made, too
	}
	if !ok {
		return nil, fmt.Errorf("topic %.100q: want /NAME/NAME…: %w", env.Topic, errdefs.ErrInvalidArgument)
	}
	e.server.exchange.publish(env)
	return &emptypb.Empty{}, nil
}

// Subscribe sends the events to come that a filter matches: all, if there is none. Headers are sent as
// soon as none is missed. A client that does not keep up is told that it lost some:
// [errdefs.ErrResourceExhausted].
func (e *eventsService) Subscribe(req *events.SubscribeRequest, stream events.Events_SubscribeServer) error {
	chosen, err := filter.Parse(req.Filters...)
	if err != nil {
		return err
	}
	q := e.server.exchange.subscribe()
	defer e.server.exchange.leave(q)
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		env, err := q.next(stream.Context())
		if err != nil {
			return err
		}
		if !chosen.Match(eventFields(env)) {
			continue
		}
		if err := stream.Send(env); err != nil {
			return err
		}
	}
}

// eventFields are what filters look at: event.… is a field of the event itself.
func eventFields(env *types.Envelope) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "namespace":
			return env.Namespace, env.Namespace != ""
		case "topic":
			return env.Topic, env.Topic != ""
		case "event":
			if event, ok := unpacked(env.Event).(interface{ Field([]string) (string, bool) }); ok {
				return event.Field(path[1:])
			}
		}
		return "", false
	}
}

// unpacked decodes an event of a kind that we know; others are nil. Containerd names kinds without
// the host that comes first in other type URLs.
func unpacked(event *anypb.Any) proto.Message {
	name := event.GetTypeUrl()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name[strings.LastIndexByte(name, '/')+1:]))
	if err != nil {
		return nil
	}
	m := kind.New().Interface()
	if proto.Unmarshal(event.GetValue(), m) != nil {
		return nil
	}
	return m
}

// packed encodes an event as containerd does.
func packed(event proto.Message) (*anypb.Any, error) {
	b, err := proto.Marshal(event)
	return &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: b}, err
}

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	streaming "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage"
)

const (
	// maxStreams bounds the streams that are open at once: a transfer has four at most.
	maxStreams = 1024
	// maxStreamID bounds the bytes of a stream's ID.
	maxStreamID = 256
)

// streamingService takes the streams that the requests of other services name: those of transfers.
type streamingService struct {
	streaming.UnimplementedStreamingServer
	server *Server
}

func registerStreaming(r grpc.ServiceRegistrar, s *Server) {
	streaming.RegisterStreamingServer(r, &streamingService{server: s})
}

// Stream keeps a stream, under the ID that its first message gives, until whoever asked for it is done
// with it, or the client is.
func (s *streamingService) Stream(srv streaming.Streaming_StreamServer) error {
	store, err := s.server.in(srv.Context())
	if err != nil {
		return err
	}
	first, err := srv.Recv()
	if err != nil {
		return err
	}
	var begin streaming.StreamInit
	if err := first.UnmarshalTo(&begin); err != nil {
		return fmt.Errorf("the first message of a stream says what it is: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	open := &stream{srv: srv, done: make(chan struct{})}
	remove, err := s.server.streams.add(streamKey{store.Namespace(), begin.ID}, open)
	if err != nil {
		return err
	}
	defer remove()
	ready, err := packed(&emptypb.Empty{})
	if err != nil {
		return err
	}
	if err := srv.Send(ready); err != nil {
		return err
	}
	select {
	case <-open.done:
	case <-srv.Context().Done():
		if !remove() {
			<-open.done // somebody has it, and is told by it that it is over
		}
	}
	return nil
}

// A streamKey names a stream of a namespace.
type streamKey struct{ namespace, id string }

// streams are those that nobody has asked for yet.
type streams struct {
	mu    sync.Mutex
	count int // with those that somebody has
	byKey map[streamKey]*stream
}

// add keeps a stream until remove is called, which tells whether nobody asked for it.
func (s *streams) add(k streamKey, open *stream) (remove func() bool, err error) {
	if k.id == "" || len(k.id) > maxStreamID {
		return nil, fmt.Errorf("stream ID of %d bytes, want 1 to %d: %w", len(k.id), maxStreamID, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.byKey[k] != nil:
		return nil, fmt.Errorf("stream %s: %w", k.id, errdefs.ErrAlreadyExists)
	case s.count >= maxStreams:
		return nil, fmt.Errorf("%d streams are open: %w", s.count, errdefs.ErrResourceExhausted)
	case s.byKey == nil:
		s.byKey = map[streamKey]*stream{}
	}
	s.byKey[k] = open
	s.count++
	var once sync.Once
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		once.Do(func() { s.count-- })
		waiting := s.byKey[k] == open
		if waiting {
			delete(s.byKey, k)
		}
		return waiting
	}, nil
}

// take gives a stream to who asks for it first, and closes it.
func (s *streams) take(store *stowage.Store, id string) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := streamKey{store.Namespace(), id}
	open := s.byKey[k]
	if open == nil {
		return nil, fmt.Errorf("stream %.256q: %w", id, errdefs.ErrNotFound)
	}
	delete(s.byKey, k)
	return open, nil
}

// A stream carries messages both ways. One goroutine at a time sends, and one receives.
type stream struct {
	srv  streaming.Streaming_StreamServer
	once sync.Once
	done chan struct{}
}

// Close ends the stream, and with it what waits for a message. The client sees its end once all that
// was sent is there.
func (s *stream) Close() { s.once.Do(func() { close(s.done) }) }

func (s *stream) send(m proto.Message) error {
	a, err := packed(m)
	if err != nil {
		return err
	}
	return s.srv.Send(a)
}

// recv reads the next message into m. Errors: [io.EOF] after the last; [errdefs.ErrInvalidArgument]
// for one of another type.
func (s *stream) recv(m proto.Message) error {
	a, err := s.srv.Recv()
	if err != nil {
		return err
	}
	return fromAny(a, m)
}

// until has the stream end with ctx, unless stop is called before.
func (s *stream) until(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, s.Close)
}

// fromAny unwraps a message of the type of m.
func fromAny(a *anypb.Any, m proto.Message) error {
	if err := a.UnmarshalTo(m); err != nil {
		return fmt.Errorf("message %.200q: %v: %w", a.GetTypeUrl(), err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ended tells whether an error is the end of what a client sends.
func ended(err error) bool { return errors.Is(err, io.EOF) }

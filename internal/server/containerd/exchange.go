package containerd

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

// maxBehind is how much is kept for a subscriber that does not keep up, in bytes: some 10,000 events.
const maxBehind = 2 << 20

// An exchange gives events to all subscribers, and waits for none.
type exchange struct {
	mu          sync.Mutex
	subscribers map[*queue]bool
}

func newExchange() *exchange { return &exchange{subscribers: map[*queue]bool{}} }

func (x *exchange) subscribe() *queue {
	q := &queue{more: make(chan struct{}, 1)}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.subscribers[q] = true
	return q
}

func (x *exchange) leave(q *queue) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.subscribers, q)
}

// publish takes over an event, which is not changed any more.
func (x *exchange) publish(env *types.Envelope) {
	size := proto.Size(env)
	x.mu.Lock()
	defer x.mu.Unlock()
	for q := range x.subscribers {
		q.add(env, size)
	}
}

// A queue is what a subscriber has not had yet.
type queue struct {
	more chan struct{} // holds one when there is something

	mu   sync.Mutex
	list []*types.Envelope
	size int // bytes of what came since the list was empty
	lost bool
}

func (q *queue) add(env *types.Envelope, size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size += size; q.size > maxBehind {
		q.lost = true
	}
	if !q.lost {
		q.list = append(q.list, env)
	}
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// next waits for an event. Once some were lost, it says so.
func (q *queue) next(ctx context.Context) (*types.Envelope, error) {
	for {
		q.mu.Lock()
		if len(q.list) > 0 {
			env := q.list[0]
			q.list = q.list[1:]
			if q.size -= proto.Size(env); len(q.list) == 0 {
				q.list = nil // the array behind it
			}
			q.mu.Unlock()
			return env, nil
		}
		lost := q.lost
		q.mu.Unlock()
		if lost {
			return nil, fmt.Errorf("events came faster than they were taken, and some were lost: %w", errdefs.ErrResourceExhausted)
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

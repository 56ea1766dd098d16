package containerd

import (
	"context"
	"sync"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/transfer"

	"github.com/stowage/stowage"
)

// maxWaiting bounds how many steps wait for a client that is slow to read them. Beyond that the news of
// blobs that have advanced is dropped, of which there will be more.
const maxWaiting = 256

// A notifier tells a client of progress, so that the work does not wait for it.
type notifier struct {
	stream *stream

	mu      sync.Mutex
	waiting []*transfer.Progress
	over    bool
	wake    chan struct{} // holds a token when there is something to do
	done    chan struct{}
}

// notify begins to tell a client through a stream, which is over with ctx.
func notify(ctx context.Context, s *stream) *notifier {
	n := &notifier{stream: s, wake: make(chan struct{}, 1), done: make(chan struct{})}
	stop := s.until(ctx)
	go func() {
		defer close(n.done)
		defer s.Close()
		defer stop()
		n.send()
	}()
	return n
}

func (n *notifier) tell(p *transfer.Progress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) >= maxWaiting && p.Progress < p.Total {
		return
	}
	n.waiting = append(n.waiting, p)
	n.poke()
}

func (n *notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// send tells what there is to tell, until that is over or the client is gone.
func (n *notifier) send() {
	for {
		n.mu.Lock()
		list, over := n.waiting, n.over
		n.waiting = nil
		n.mu.Unlock()
		for _, p := range list {
			if n.stream.send(p) != nil {
				n.mu.Lock()
				n.waiting = nil
				n.mu.Unlock()
				return
			}
		}
		if over {
			return
		}
		select {
		case <-n.wake:
		case <-n.stream.done:
			return
		}
	}
}

// end tells the last of it.
func (n *notifier) end() {
	n.mu.Lock()
	n.over = true
	n.poke()
	n.mu.Unlock()
	<-n.done
}

// What moving a blob is called.
const (
	pulling   = "downloading"
	pushing   = "uploading"
	importing = "importing"
)

// sink tells of blobs in containerd's words. They stand below the image called root, which may be empty.
func (t *transferring) sink(r *transfer.OCIRegistry, root, moving string) stowage.ProgressSink {
	return func(e stowage.ProgressEvent) {
		event, offset := "", e.Offset
		switch e.Kind {
		case stowage.Resolving:
			t.say("Resolving from %s", registryName(r))
			return
		case stowage.Resolved:
			t.say("Pulling from %s", registryName(r))
			t.tell(&transfer.Progress{Event: "fetching image content", Name: root, Desc: &types.Descriptor{Digest: e.Digest}})
			return
		case stowage.Warning:
			t.say("%s", e.Message)
			return
		case stowage.Started, stowage.Advanced:
			event = moving
		case stowage.Waiting:
			event = "waiting"
		case stowage.Done, stowage.Fetched:
			event, offset = "complete", e.Total
		case stowage.Reused, stowage.Existing, stowage.Mounted:
			event, offset = "already exists", e.Total
		default:
			return
		}
		what := e.What
		if what == "" || what == "blob" {
			what = "unknown"
		}
		p := &transfer.Progress{
			Event: event, Name: what + "-" + e.Digest, Progress: offset, Total: e.Total,
			Desc: &types.Descriptor{Digest: e.Digest, Size: e.Total},
		}
		if root != "" {
			p.Parents = []string{root}
		}
		t.tell(p)
	}
}

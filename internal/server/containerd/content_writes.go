package containerd

import (
	"context"
	"fmt"
	"sync"
	"time"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/metadata"
)

// maxWrites bounds the blobs that clients are writing or have left unfinished. Each costs two files,
// and one that is being written an open one. A node that pulls everything at once has some hundreds.
const maxWrites = 4096

// writes are the blobs that clients of all namespaces are writing or have left unfinished.
type writes struct {
	content content.Store
	most    int // how many there can be

	mu     sync.Mutex
	of     map[string]*written // by the key of the ingest
	listed time.Time           // when the disk was last asked; zero: what earlier processes have left is not known
}

// written is the state of one write. What is not known of one that an earlier process has left, what it
// was to become, is empty.
type written struct {
	ns, ref          string
	offset, total    int64 // total 0: not known
	expected         digest.Digest
	started, updated time.Time
	busy             bool // a client is writing it
	aborted          bool // and another does not want it any more
}

func newWrites(s content.Store, most int) *writes {
	return &writes{content: s, most: most, of: map[string]*written{}}
}

// begin makes the caller the one who writes under a key. Errors: [errdefs.ErrUnavailable] while
// another does; [errdefs.ErrResourceExhausted].
func (w *writes) begin(ctx context.Context, key string) (*written, error) {
	ns, ref, _ := metadata.CutIngestKey(key)
	if w.stale(key) {
		if err := w.list(ctx); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.of[key]
	switch {
	case at == nil && len(w.of) >= w.most:
		return nil, fmt.Errorf("write %s: %d blobs are being written or were left unfinished: %w", ref, w.most, errdefs.ErrResourceExhausted)
	case at == nil:
		now := time.Now()
		at = &written{ns: ns, ref: ref, started: now, updated: now}
		w.of[key] = at
	case at.busy:
		return nil, fmt.Errorf("write %s: another client does, since %s: %w", ref, at.started.Format(time.RFC3339), errdefs.ErrUnavailable)
	}
	at.busy, at.aborted = true, false
	return at, nil
}

// stale tells whether the disk is to be asked before a write begins. Clients that are refused ask again
// and again, and it takes a while to list all.
func (w *writes) stale(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	full := w.of[key] == nil && len(w.of) >= w.most
	return w.listed.IsZero() || full && time.Since(w.listed) > time.Second
}

// end says that a client has left what it wrote, or that nothing is left of it.
func (w *writes) end(key string, at *written, left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at.busy = false
	if !left {
		delete(w.of, key)
	}
}

// note has f change the state of a write.
func (w *writes) note(at *written, f func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.aborted {
		return fmt.Errorf("write %s: it was aborted: %w", at.ref, errdefs.ErrAborted)
	}
	f()
	return nil
}

// list looks which writes were left unfinished: other processes may have left some or have thrown some
// away.
func (w *writes) list(ctx context.Context) error {
	list, err := w.content.Ingests(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, in := range list {
		ns, ref, ok := metadata.CutIngestKey(in.Key)
		if !ok {
			continue
		}
		there[in.Key] = true
		at := w.of[in.Key]
		if at == nil {
			at = &written{ns: ns, ref: ref, started: in.StartedAt, updated: in.UpdatedAt}
			w.of[in.Key] = at
		}
		if !at.busy {
			at.offset = in.Offset
		}
	}
	for key, at := range w.of {
		if !at.busy && !there[key] {
			delete(w.of, key)
		}
	}
	w.listed = time.Now()
	return nil
}

// find lists the writes of a namespace that match.
func (w *writes) find(ctx context.Context, ns string, match func(*written) bool) ([]*api.Status, error) {
	if err := w.list(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*api.Status
	for _, at := range w.of {
		if at.ns == ns && !at.aborted && match(at) {
			list = append(list, &api.Status{
				Ref: at.ref, Offset: at.offset, Total: at.total, Expected: at.expected.String(),
				StartedAt: timestamppb.New(at.started), UpdatedAt: timestamppb.New(at.updated),
			})
		}
	}
	return list, nil
}

// Status describes a write of the namespace.
func (c *contentService) Status(ctx context.Context, req *api.StatusRequest) (*api.StatusResponse, error) {
	store, err := c.server.in(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.writes.find(ctx, store.Namespace(), func(at *written) bool { return at.ref == req.Ref })
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		own, err := c.own(ctx, digest.Digest(req.Ref))
		if err == nil && own == nil {
			err = fmt.Errorf("write %s: %w", req.Ref, errdefs.ErrNotFound)
		}
		return &api.StatusResponse{Status: own}, err
	}
	return &api.StatusResponse{Status: list[0]}, nil
}

// own is how far the store itself has come with a blob that it brings, for whichever namespace; nil: it
// does not.
func (c *contentService) own(ctx context.Context, d digest.Digest) (*api.Status, error) {
	if content.Validate(d) != nil {
		return nil, nil
	}
	in, err := c.server.store.Content().Status(ctx, d.String())
	if errdefs.IsNotFound(err) || err == nil && !in.Busy {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.Status{
		Ref: d.String(), Offset: in.Offset, Total: max(in.Size, 0), Expected: d.String(),
		StartedAt: timestamppb.New(in.StartedAt), UpdatedAt: timestamppb.New(in.UpdatedAt),
	}, nil
}

// ListStatuses lists the writes of the namespace that the filters match.
func (c *contentService) ListStatuses(ctx context.Context, req *api.ListStatusesRequest) (*api.ListStatusesResponse, error) {
	store, err := c.server.in(ctx)
	if err != nil {
		return nil, err
	}
	wanted, err := filter.Parse(req.Filters...)
	if err != nil {
		return nil, err
	}
	list, err := c.writes.find(ctx, store.Namespace(), func(at *written) bool {
		return wanted.Match(func(path []string) (string, bool) { return at.ref, path[0] == "ref" })
	})
	if err != nil {
		return nil, err
	}
	return &api.ListStatusesResponse{Statuses: list}, nil
}

// Abort throws away what was written under a ref of the namespace. Who is writing it is told so with its
// next message.
func (c *contentService) Abort(ctx context.Context, req *api.AbortRequest) (*emptypb.Empty, error) {
	store, err := c.server.in(ctx)
	if err != nil {
		return nil, err
	}
	key, err := metadata.IngestKey(store.Namespace(), req.Ref)
	if err != nil {
		return nil, err
	}
	if err := c.writes.abort(ctx, key); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (w *writes) abort(ctx context.Context, key string) error {
	if w.interrupt(key) {
		return nil
	}
	if err := w.content.Abort(ctx, key); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.of[key]; at != nil && !at.busy { // nobody has begun anew
		delete(w.of, key)
	}
	return nil
}

// interrupt aborts a write of a client that is at it.
func (w *writes) interrupt(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.of[key]
	if at == nil || !at.busy {
		return false
	}
	at.aborted = true
	return true
}

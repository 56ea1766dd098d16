package containerd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

const (
	// writeChunk bounds the bytes of one message.
	writeChunk = 1 << 20
	// askAgain is how often one who waits for a writer in another process looks whether it has ended,
	// from short to long.
	askAgain, askAtLeast = 10 * time.Millisecond, time.Second
)

// An ingest is a write under way at the peer, who keeps its lock for as long as the stream is open.
type ingest struct {
	c      *Client
	key    string
	want   content.Want
	offset int64
	stream contentapi.Content_WriteClient
	cancel context.CancelFunc // of stream
	ended  chan struct{}      // closed when it has ended
	begun  time.Time
	done   bool
}

// Begin implements [content.Store]. What another process left goes on only where the key is the
// digest: of others the peer does not say what they were to become.
func (c *Client) Begin(ctx context.Context, key string, want content.Want) (content.Ingest, error) {
	in, err := c.begin(ctx, key, want)
	if err != nil {
		return nil, fmt.Errorf("begin ingest %s: %w", key, err)
	}
	return in, nil
}

func (c *Client) begin(ctx context.Context, key string, want content.Want) (*ingest, error) {
	if err := content.ValidateIngest(key, want); err != nil {
		return nil, err
	}
	if err := c.underLease(ctx); err != nil {
		return nil, err
	}
	in := &ingest{c: c, key: key, want: want, begun: time.Now()}
	for pause := askAgain; ; pause = min(2*pause, askAtLeast) {
		if err := c.takeKey(ctx, in); err != nil {
			return nil, err
		}
		err := in.open(ctx)
		if err == nil {
			return in, nil
		}
		c.freeKey(in)
		if errdefs.IsAlreadyExists(err) {
			dropped, dropErr := c.dropEmpty(ctx, want.Digest)
			if dropErr != nil {
				return nil, dropErr
			}
			if dropped {
				continue
			}
		}
		if !want.Wait || !c.locked(err) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dropEmpty removes a record whose bytes are gone, which would keep the blob from being written.
func (c *Client) dropEmpty(ctx context.Context, d digest.Digest) (dropped bool, err error) {
	_, err = c.Info(ctx, d)
	if !c.lost(ctx, d, err) {
		return false, nil
	}
	if err := c.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return false, err
	}
	return true, nil
}

// takeKey makes in the one writer in this process, so that only one of it asks the peer for its lock.
func (c *Client) takeKey(ctx context.Context, in *ingest) error {
	for {
		c.mu.Lock()
		other := c.writers[in.key]
		if other == nil {
			c.writers[in.key], in.ended = in, make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		if !in.want.Wait {
			return fmt.Errorf("another writer has it: %w", errdefs.ErrUnavailable)
		}
		select {
		case <-other.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Client) freeKey(in *ingest) {
	c.mu.Lock()
	delete(c.writers, in.key)
	c.mu.Unlock()
	close(in.ended)
}

// open begins the write at the peer.
func (in *ingest) open(ctx context.Context) error {
	// The stream lives longer than ctx, whose end matters only while it is opened.
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	in.cancel = cancel
	first := &contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: in.key, Expected: in.want.Digest.String()}
	if in.key == in.want.Digest.String() {
		first.Total = max(in.want.Size, 0) // others may be left from one that had another
	}
	var m *contentapi.WriteContentResponse
	var err error
	if in.stream, err = in.c.blobs.Write(live); err == nil {
		m, err = in.ask(first)
	} else {
		err = native(err)
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		return err
	}
	if hashes := digest.Digest(m.Digest).Algorithm(); m.Digest != "" && hashes != in.want.Algorithm() {
		err := fmt.Errorf("the peer keeps blobs under %s alone: %w", hashes, errdefs.ErrNotImplemented)
		return errors.Join(err, in.hangUp(), in.c.abort(ctx, in.key))
	}
	in.offset = m.Offset
	in.c.mu.Lock()
	left, known := in.c.kept[in.key]
	delete(in.c.kept, in.key)
	in.c.mu.Unlock()
	goesOn := in.key == in.want.Digest.String() && (!known || left.Same(in.want)) || known && left.Same(in.want)
	if in.offset > 0 && (!goesOn || in.want.Size >= 0 && in.offset > in.want.Size) {
		if err := in.truncate(); err != nil {
			return errors.Join(err, in.hangUp())
		}
	}
	return nil
}

// ask sends one message and waits for the answer.
func (in *ingest) ask(m *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	if err := in.stream.Send(m); err != nil {
		// The reason is what would have been answered.
		if _, err := in.stream.Recv(); err != nil {
			return nil, native(err)
		}
		return nil, native(err)
	}
	r, err := in.stream.Recv()
	return r, native(err)
}

// truncate throws away the bytes: containerd does so before a write at the beginning.
func (in *ingest) truncate() error {
	m, err := in.ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: in.key})
	if err == nil && m.Offset != 0 {
		err = fmt.Errorf("the peer still has %d bytes of it: %w", m.Offset, errdefs.ErrFailedPrecondition)
	}
	in.offset = 0
	return err
}

// Key implements [content.Ingest].
func (in *ingest) Key() string { return in.key }

// Want implements [content.Ingest].
func (in *ingest) Want() content.Want { return in.want }

// Offset implements [content.Ingest].
func (in *ingest) Offset() int64 { return in.offset }

func (in *ingest) usable() error {
	if in.done {
		return fmt.Errorf("ingest %s has ended: %w", in.key, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// WriteAt implements [content.Ingest].
func (in *ingest) WriteAt(p []byte, off int64) (n int, err error) {
	if err := errors.Join(in.usable(), in.want.Room(in.offset, off, len(p))); err != nil {
		return 0, fmt.Errorf("write ingest %s: %w", in.key, err)
	}
	for chunk := range slices.Chunk(p, writeChunk) {
		m, err := in.ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: in.key, Offset: in.offset, Data: chunk})
		if err == nil && m.Offset != in.offset+int64(len(chunk)) {
			err = fmt.Errorf("the peer has %d bytes of it, not %d: %w", m.Offset, in.offset+int64(len(chunk)), errdefs.ErrDataLoss)
		}
		if err != nil {
			return n, fmt.Errorf("write ingest %s: %w", in.key, err)
		}
		n += len(chunk)
		in.offset = m.Offset
	}
	return n, nil
}

// Reset implements [content.Ingest].
func (in *ingest) Reset() error {
	err := in.usable()
	if err == nil && in.offset > 0 {
		err = in.truncate()
	}
	if err != nil {
		return fmt.Errorf("reset ingest %s: %w", in.key, err)
	}
	return nil
}

// Digest implements [content.Ingest]. The peer hashes, and is asked; empty: it does not answer.
func (in *ingest) Digest() digest.Digest {
	if in.done {
		return ""
	}
	m, err := in.ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: in.key})
	if err != nil {
		return ""
	}
	return digest.Digest(m.Digest)
}

// Close implements [content.Ingest].
func (in *ingest) Close() error {
	if in.done {
		return nil
	}
	if in.offset == 0 {
		return in.Abort()
	}
	in.c.mu.Lock()
	in.c.kept[in.key] = in.want
	in.c.mu.Unlock()
	err := in.hangUp()
	in.end()
	return err
}

// Abort implements [content.Ingest].
func (in *ingest) Abort() error {
	if in.done {
		return nil
	}
	err := in.hangUp()
	if abortErr := in.c.abort(context.Background(), in.key); !errdefs.IsNotFound(abortErr) {
		err = errors.Join(err, abortErr)
	}
	in.end()
	return err
}

// hangUp ends the stream, and with it the peer's lock, which is free when this returns.
func (in *ingest) hangUp() error {
	defer in.cancel()
	if err := in.stream.CloseSend(); err != nil {
		return native(err)
	}
	for {
		if _, err := in.stream.Recv(); err != nil {
			return nil // its last answer has come; whatever went wrong was told before
		}
	}
}

func (in *ingest) end() {
	in.done = true
	in.c.freeKey(in)
}

// Commit implements [content.Store].
func (c *Client) Commit(ctx context.Context, ingests ...content.Ingest) error {
	var errs []error
	for _, i := range ingests {
		if err := c.commit(ctx, i); err != nil {
			errs = append(errs, fmt.Errorf("commit ingest %s: %w", i.Key(), err))
		}
	}
	return errors.Join(errs...)
}

func (c *Client) commit(ctx context.Context, i content.Ingest) error {
	in, ok := i.(*ingest)
	if !ok || in.c != c {
		return errors.Join(fmt.Errorf("it is not of this store: %w", errdefs.ErrInvalidArgument), i.Close())
	}
	if err := in.usable(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, in.Close())
	}
	stop := context.AfterFunc(ctx, in.cancel)
	defer stop()
	got := in.Digest()
	if got == "" {
		return errors.Join(fmt.Errorf("the peer does not answer: %w", errdefs.ErrUnavailable), ctx.Err(), in.Close())
	}
	switch err := in.want.Check(in.offset, got); {
	case errdefs.IsOutOfRange(err):
		return errors.Join(err, in.Close())
	case err != nil:
		return errors.Join(err, in.Abort())
	}
	_, err := in.ask(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Ref: in.key, Offset: in.offset, Total: in.offset, Expected: got.String(),
	})
	switch {
	case errdefs.IsAlreadyExists(err):
		return in.Abort() // another brought the same bytes
	case err != nil:
		return errors.Join(err, in.Close())
	}
	err = in.hangUp()
	in.end()
	return err
}

// Ingests implements [content.Store]. Of those of other processes the peer does not say whether they
// have a writer: for this one they have none.
func (c *Client) Ingests(ctx context.Context) ([]content.Status, error) {
	r, err := c.blobs.ListStatuses(ctx, &contentapi.ListStatusesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", native(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []content.Status
	for _, s := range r.Statuses {
		list = append(list, c.status(s))
	}
	return list, nil
}

// Status implements [content.Store]; see Ingests.
func (c *Client) Status(ctx context.Context, key string) (content.Status, error) {
	err := content.ValidateIngest(key, content.Want{})
	var r *contentapi.StatusResponse
	if err == nil {
		r, err = c.blobs.Status(ctx, &contentapi.StatusRequest{Ref: key})
		err = native(err)
	}
	if err != nil {
		return content.Status{}, fmt.Errorf("ingest %s: %w", key, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status(r.Status), nil
}

// status is what the peer says of an ingest, with what is known here; c.mu is held.
func (c *Client) status(s *contentapi.Status) content.Status {
	st := content.Status{
		Key: s.Ref, Offset: s.Offset, Size: s.Total, Digest: digest.Digest(s.Expected),
		StartedAt: s.StartedAt.AsTime(), UpdatedAt: s.UpdatedAt.AsTime(),
	}
	if st.Size == 0 {
		st.Size = -1
	}
	if content.Validate(digest.Digest(st.Key)) == nil {
		st.Digest = digest.Digest(st.Key)
	}
	if w := c.writers[st.Key]; w != nil {
		st.Busy, st.Size, st.Digest = true, w.want.Size, w.want.Digest
	}
	return st
}

// Abort implements [content.Store]. A writer in another process is not asked.
func (c *Client) Abort(ctx context.Context, key string) error {
	err := content.ValidateIngest(key, content.Want{})
	c.mu.Lock()
	if err == nil && c.writers[key] != nil {
		err = fmt.Errorf("a writer has it: %w", errdefs.ErrUnavailable)
	}
	c.mu.Unlock()
	if err == nil {
		err = c.abort(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("abort ingest %s: %w", key, err)
	}
	return nil
}

func (c *Client) abort(ctx context.Context, key string) error {
	_, err := c.blobs.Abort(ctx, &contentapi.AbortRequest{Ref: key})
	return native(err)
}

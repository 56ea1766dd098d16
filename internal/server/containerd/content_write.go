package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/metadata"
)

// Write takes the bytes of a blob, message by message. They are kept when the client leaves before its
// end, for it to go on with.
func (c *contentService) Write(stream api.Content_WriteServer) (err error) {
	ctx := stream.Context()
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	store, err := c.server.in(ctx)
	if err != nil {
		return err
	}
	defer store.Writing()()
	w, err := c.open(ctx, store, req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	for {
		res, err := w.take(ctx, req)
		if err != nil {
			return err
		}
		if err := stream.Send(res); err != nil || req.Action == api.WriteAction_COMMIT {
			return err
		}
		if req, err = stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A writer is one client that writes a blob.
type writer struct {
	*written
	writes *writes
	store  *stowage.Store
	key    string
	lease  string
	in     content.Ingest // nil: there is none yet, or no more
	floor  int64          // bytes of the disk that it leaves free
	room   int64          // what it may write before it looks how many there are
	again  bool           // something was left of it, which the lease may list

	// A blob that another namespace has need not be written. Until it is, nobody may collect it.
	from digest.Digest
	hold *metadata.Hold // nil: it is another that is written
}

// open begins or resumes what the first message of a stream asks for. A blob that the namespace has
// is [errdefs.ErrAlreadyExists], and one that the store itself is just bringing [errdefs.ErrUnavailable].
func (c *contentService) open(ctx context.Context, store *stowage.Store, req *api.WriteContentRequest) (_ *writer, err error) {
	key, err := metadata.IngestKey(store.Namespace(), req.Ref)
	if err == nil {
		err = checkWrite(req)
	}
	if err != nil {
		return nil, err
	}
	w := &writer{writes: c.writes, store: store, key: key, lease: lease(ctx), floor: c.server.o.Floor}
	expected := digest.Digest(req.Expected)
	if err := w.refuseKnown(ctx, expected); err != nil {
		return nil, err
	}
	own, err := c.own(ctx, expected)
	if own != nil {
		err = fmt.Errorf("write %s: the blob is being fetched, since %s: %w", req.Ref, own.StartedAt.AsTime().Format(time.RFC3339), errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	if w.lease != "" {
		// Before any byte, so that it is not found out at the end.
		if _, err := store.Metadata().Lease(ctx, store.Namespace(), w.lease); err != nil {
			return nil, err
		}
	}
	if w.written, err = c.writes.begin(ctx, key); err != nil {
		return nil, err
	}
	if err := w.begin(ctx, expected, req.Total); err != nil {
		c.writes.end(key, w.written, false)
		return nil, err
	}
	return w, nil
}

// checkWrite tells whether a message makes sense at all.
func checkWrite(req *api.WriteContentRequest) error {
	if req.Offset < 0 || req.Total < 0 {
		return fmt.Errorf("write at %d of %d bytes: %w", req.Offset, req.Total, errdefs.ErrInvalidArgument)
	}
	if req.Expected == "" {
		return nil
	}
	return content.Validate(digest.Digest(req.Expected))
}

// refuseKnown is [errdefs.ErrAlreadyExists] for a blob that the namespace has, which the lease then
// keeps.
func (w *writer) refuseKnown(ctx context.Context, d digest.Digest) error {
	if d == "" {
		return nil
	}
	known, err := w.knows(ctx, d)
	if known && w.lease != "" {
		err = w.store.Metadata().AddToLease(ctx, w.store.Namespace(), w.lease, metadata.LeaseResources{Digests: []digest.Digest{d}})
		if err == nil {
			known, err = w.knows(ctx, d) // a collection may have come before
		}
	}
	if !known || err != nil {
		return err
	}
	return fmt.Errorf("blob %s: %w", d, errdefs.ErrAlreadyExists)
}

// knows tells whether the namespace has a blob. One whose bytes were lost can be brought again.
func (w *writer) knows(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := w.store.Metadata().Blob(ctx, w.store.Namespace(), d)
	if err == nil {
		_, err = w.store.Content().Info(ctx, d)
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// begin takes what there is of a blob: all of it, if another namespace has it and it is of the size
// that is expected, or else what was written before.
func (w *writer) begin(ctx context.Context, expected digest.Digest, total int64) error {
	shared, size, err := w.share(ctx, expected, total)
	if err != nil {
		return err
	}
	if shared {
		return w.writes.note(w.written, func() { w.offset, w.total, w.expected = size, total, expected })
	}
	if err := w.beginIngest(ctx, expected); err != nil {
		return err
	}
	w.again = w.in.Offset() > 0 || w.offset > 0
	if total > 0 && w.total > 0 && total != w.total {
		if err := w.in.Reset(); err != nil { // it was to become something else
			return errors.Join(err, w.in.Close())
		}
	}
	offset := w.in.Offset()
	return w.writes.note(w.written, func() {
		if w.offset = offset; offset == 0 {
			w.started = time.Now()
			w.updated = w.started
		}
		if w.expected = expected; total > 0 {
			w.total = total
		}
	})
}

// beginIngest makes w the writer of the ingest. What it is expected to become is not told to the store:
// the client may change its mind until the end. Only another algorithm than usual has to be known from
// the beginning.
func (w *writer) beginIngest(ctx context.Context, expected digest.Digest) (err error) {
	want := content.Want{Size: -1}
	if expected != "" && expected.Algorithm() != want.Algorithm() {
		want.Digest = expected
	}
	w.in, err = w.store.Content().Begin(ctx, w.key, want)
	return err
}

// share takes the blob of another namespace, or of a transfer that has not come to its end, if there is
// one and it is of the size that is expected.
func (w *writer) share(ctx context.Context, d digest.Digest, total int64) (ok bool, size int64, err error) {
	here := func() (bool, int64, error) {
		b, err := w.store.Content().Info(ctx, d)
		if errdefs.IsNotFound(err) {
			return false, 0, nil
		}
		return err == nil && b.Settled && (total == 0 || total == b.Size), b.Size, err
	}
	if d == "" {
		return false, 0, nil
	}
	if ok, _, err := here(); !ok || err != nil {
		return false, 0, err
	}
	hold, err := w.store.Metadata().Hold(ctx, w.store.Namespace(), d)
	if err != nil {
		return false, 0, err
	}
	defer func() {
		if ok {
			w.from, w.hold = d, hold
		} else {
			err = errors.Join(err, hold.Release(context.WithoutCancel(ctx)))
		}
	}()
	return here() // a collection may have come before
}

// take does what one message says.
func (w *writer) take(ctx context.Context, req *api.WriteContentRequest) (*api.WriteContentResponse, error) {
	if err := checkWrite(req); err != nil {
		return nil, err
	}
	if d := digest.Digest(req.Expected); d != "" && d != w.expected {
		if err := w.refuseKnown(ctx, d); err != nil {
			return nil, errors.Join(err, w.drop())
		}
	}
	err := w.writes.note(w.written, func() {
		if req.Total > 0 {
			w.total = req.Total
		}
		if req.Expected != "" {
			w.expected = digest.Digest(req.Expected)
		}
	})
	if err != nil {
		return nil, errors.Join(err, w.drop())
	}
	switch req.Action {
	case api.WriteAction_STAT:
	case api.WriteAction_WRITE, api.WriteAction_COMMIT:
		if err := w.write(ctx, req.Data, req.Offset); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("write action %d: %w", req.Action, errdefs.ErrInvalidArgument)
	}
	res := &api.WriteContentResponse{
		Action: req.Action, Offset: w.offset, Total: w.total, Digest: w.digest().String(),
		StartedAt: timestamppb.New(w.started), UpdatedAt: timestamppb.New(w.updated),
	}
	if req.Action == api.WriteAction_COMMIT {
		return res, w.commit(ctx, req.Labels)
	}
	return res, nil
}

// digest is that of the bytes so far.
func (w *writer) digest() digest.Digest {
	if w.in == nil {
		return w.from
	}
	return w.in.Digest()
}

// write appends p. An offset of zero starts anew; any other must be where the next byte goes.
func (w *writer) write(ctx context.Context, p []byte, offset int64) error {
	switch {
	case offset == w.offset && len(p) == 0:
		return nil
	case offset != w.offset && offset != 0:
		return fmt.Errorf("write %s at %d where %d comes next: %w", w.ref, offset, w.offset, errdefs.ErrOutOfRange)
	case w.in == nil:
		if err := w.unshare(ctx, offset); err != nil {
			return err
		}
	case offset < w.offset:
		if err := w.in.Reset(); err != nil {
			return err
		}
	}
	if err := w.leave(len(p)); err != nil {
		return err
	}
	_, err := w.in.WriteAt(p, offset)
	now, at := time.Now(), w.in.Offset()
	return errors.Join(err, w.writes.note(w.written, func() { w.offset, w.updated = at, now }))
}

// leave refuses n more bytes when there is little left of the disk: some streams never end.
func (w *writer) leave(n int) error {
	if w.room -= int64(n); w.room >= 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(w.store.Root(), &st); err != nil {
		return fmt.Errorf("write %s: space of the disk: %w", w.ref, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < w.floor {
		return fmt.Errorf("write %s: the disk has only %d bytes left: %w", w.ref, free, errdefs.ErrResourceExhausted)
	}
	w.room = 16 << 20
	return nil
}

// unshare writes to an ingest of its own what is not to become the blob of another namespace after all:
// nothing, or all of it.
func (w *writer) unshare(ctx context.Context, size int64) error {
	if err := w.beginIngest(ctx, ""); err != nil {
		return err
	}
	if err := w.in.Reset(); err != nil || size == 0 {
		return err
	}
	r, err := w.store.Content().Open(ctx, w.from)
	if err != nil {
		return err
	}
	_, err = content.Copy(ctx, appender{w.in}, r, w.from)
	return errors.Join(err, r.Close())
}

// An appender writes to the end of an ingest.
type appender struct{ content.Ingest }

func (a appender) Write(p []byte) (int, error) { return a.WriteAt(p, a.Offset()) }

// commit makes what was written a blob of the namespace. What is not what was expected is
// [errdefs.ErrFailedPrecondition], and is kept.
func (w *writer) commit(ctx context.Context, labels map[string]string) (err error) {
	if w.total > 0 && w.total != w.offset {
		return fmt.Errorf("commit %s: it has %d bytes where %d were expected: %w", w.ref, w.offset, w.total, errdefs.ErrFailedPrecondition)
	}
	d := w.digest()
	if w.expected != "" && w.expected != d {
		return fmt.Errorf("commit %s: its digest is %s where %s was expected: %w", w.ref, d, w.expected, errdefs.ErrFailedPrecondition)
	}
	if ofPlugin(ctx) {
		pinned := map[string]string{metadata.PinLabel: "plugin"}
		maps.Copy(pinned, labels)
		labels = pinned
	}
	meta, ns := w.store.Metadata(), w.store.Namespace()
	batch := metadata.Batch{Blobs: []metadata.Blob{{Digest: d, Size: w.offset, Labels: labels}}, Lease: w.lease}
	if err := batch.Check(); err != nil {
		return err
	}
	// Nothing may collect it between its bytes and its row.
	if w.in != nil {
		if err := w.release(ctx); err != nil {
			return err
		}
		if w.hold, err = meta.Hold(ctx, ns, d); err != nil {
			return err
		}
	}
	batch.Release = w.hold
	if err := w.refuseKnown(ctx, d); err != nil {
		return errors.Join(err, w.drop())
	}
	if w.in != nil {
		if err := w.store.Content().Commit(ctx, w.in); err != nil {
			return err
		}
		w.in = nil
	}
	ctx = context.WithoutCancel(ctx)
	if _, err := meta.Apply(ctx, ns, batch); err != nil || w.lease == "" || !w.again {
		return err
	}
	err = meta.RemoveFromLease(ctx, ns, w.lease, metadata.LeaseResources{Ingests: []string{w.ref}})
	if errdefs.IsNotFound(err) { // it has ended since
		return nil
	}
	return err
}

// drop throws away what was written.
func (w *writer) drop() error {
	if w.in == nil {
		return nil
	}
	in := w.in
	w.in = nil
	return in.Abort()
}

func (w *writer) release(ctx context.Context) error {
	if w.hold == nil {
		return nil
	}
	hold := w.hold
	w.hold = nil
	return hold.Release(context.WithoutCancel(ctx))
}

// close ends the write, and keeps what was neither committed nor aborted.
func (w *writer) close(ctx context.Context) error {
	err := w.release(ctx)
	if w.writes.note(w.written, func() {}) != nil {
		err = errors.Join(err, w.drop())
	}
	left := w.in != nil && w.in.Offset() > 0
	if w.in != nil {
		err = errors.Join(err, w.in.Close())
	}
	if left && w.lease != "" { // as long as it was written, nothing could collect it
		under := metadata.LeaseResources{Ingests: []string{w.ref}}
		leaseErr := w.store.Metadata().AddToLease(context.WithoutCancel(ctx), w.store.Namespace(), w.lease, under)
		if !errdefs.IsNotFound(leaseErr) {
			err = errors.Join(err, leaseErr)
		}
	}
	w.writes.end(w.key, w.written, left)
	return err
}

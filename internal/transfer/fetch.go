package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/unpack"
)

// A Registry is what a pull asks of registries; *[registry.Client] answers it.
type Registry interface {
	blobs
	Resolve(ctx context.Context, r ref.Reference) (registry.Resolved, error)
	Manifest(ctx context.Context, r ref.Reference, d image.Descriptor) ([]byte, error)
}

// blobs is what a fetcher asks for.
type blobs interface {
	// Blob reads d from offset to its end, over as many connections as it takes. If the reader has a
	// method Blame, it is a [blamer].
	Blob(ctx context.Context, r ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error)
}

// flushEvery bounds what a power cut can cost a pull that takes long: what is whole is made
// durable at least this often, and otherwise once, at the end.
const flushEvery = time.Minute

// Count is a number of blobs and their bytes.
type Count struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

func (c *Count) add(n int64) { c.Blobs++; c.Bytes += n }

// A fetcher brings blobs from a registry into the content store, each written and hashed as it
// arrives. What others are fetching at the same time is waited for and watched, not fetched again.
type fetcher struct {
	content content.Store
	from    blobs
	source  ref.Reference
	streams int
	small   int // see [lanes]
	sink    progress.Sink
	unpack  *unpacking // nil: nothing is unpacked on the way

	mu      sync.Mutex
	fetched Count
	reused  Count
	absent  []image.Digest   // optional blobs that the registry does not have
	busy    []need           // blobs that another writer has
	waits   map[string]need  // those of them that are waited for, by the key of their ingest
	whole   []content.Ingest // done, and not yet committed
	flushed time.Time
}

// run brings every one of blobs. It never waits for another writer while it keeps one waiting:
// first it fetches what nobody else does and commits that, then it turns to the rest. So two
// pulls that share blobs in a different order cannot wait for each other.
func (f *fetcher) run(ctx context.Context, blobs []need) (err error) {
	f.flushed = time.Now()
	defer func() {
		// Whatever went wrong, what is whole stays: on a full disk a commit still finds room.
		err = errors.Join(err, f.flush(context.WithoutCancel(ctx)))
	}()
	err = eachBlob(ctx, f.streams, f.small, blobs, func(ctx context.Context, b need) error {
		in, err := f.fetch(ctx, b, false)
		if in == nil {
			return err
		}
		return f.keep(ctx, in)
	})
	if err != nil {
		return err
	}
	if err := f.flush(ctx); err != nil {
		return err
	}
	if len(f.busy) == 0 {
		return nil
	}
	f.waits = map[string]need{}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { f.watch(ctx, ended) })
	defer watching.Wait()
	defer close(ended)
	return par.Each(ctx, f.streams, f.busy, func(ctx context.Context, b need) error {
		f.tell(progress.Waiting, b, 0)
		f.wait(b, true)
		in, err := f.fetch(ctx, b, true)
		if in == nil {
			return err
		}
		return f.content.Commit(ctx, in)
	})
}

// wait says whether a blob is being waited for.
func (f *fetcher) wait(b need, waits bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if waits {
		f.waits[b.Digest.String()] = b
	} else {
		delete(f.waits, b.Digest.String())
	}
}

// watchEvery is how often those who have the blobs that are waited for are looked at.
const watchEvery = 250 * time.Millisecond

// watch tells how far others have come with the blobs that are waited for, until ended is closed.
func (f *fetcher) watch(ctx context.Context, ended <-chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	told := map[string]int64{}
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for key, b := range f.waited() {
			// It is only looked at: whoever waits is told what is wrong.
			in, err := f.content.Status(ctx, key)
			if err != nil || in.Offset <= told[key] {
				continue
			}
			f.mu.Lock()
			if _, ok := f.waits[key]; ok {
				told[key] = in.Offset
				f.tell(progress.Advanced, b, in.Offset)
			}
			f.mu.Unlock()
		}
	}
}

func (f *fetcher) waited() map[string]need {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.waits)
}

// eachBlob does something for every blob, for as many at once as there are streams. Unless small is 0, that
// many small ones go beside them.
func eachBlob(ctx context.Context, streams, small int, blobs []need, do func(context.Context, need) error) error {
	if small == 0 {
		return par.Each(ctx, streams, blobs, do)
	}
	var little, large []need
	for _, b := range blobs {
		if b.Size < smallSize {
			little = append(little, b)
		} else {
			large = append(large, b)
		}
	}
	lanes := []func(context.Context) error{
		func(ctx context.Context) error { return par.Each(ctx, streams, large, do) },
		func(ctx context.Context) error { return par.Each(ctx, small, little, do) },
	}
	return par.Each(ctx, len(lanes), lanes, func(ctx context.Context, lane func(context.Context) error) error { return lane(ctx) })
}

// keep adds a whole ingest to those to be committed, and commits them when it is time.
func (f *fetcher) keep(ctx context.Context, in content.Ingest) error {
	f.mu.Lock()
	f.whole = append(f.whole, in)
	due := time.Since(f.flushed) >= flushEvery
	f.mu.Unlock()
	if due {
		return f.flush(ctx)
	}
	return nil
}

func (f *fetcher) flush(ctx context.Context) error {
	f.mu.Lock()
	batch := f.whole
	f.whole = nil
	f.flushed = time.Now()
	f.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	f.sink.Send(progress.Event{Kind: progress.Flushing, Count: len(batch)})
	return f.content.Commit(ctx, batch...)
}

// fetch brings one blob into an ingest, whole and checked. It returns nil with no error when
// there is nothing to commit: the blob is there, or is left to its other writer.
func (f *fetcher) fetch(ctx context.Context, b need, wait bool) (content.Ingest, error) {
	in, err := begin(ctx, f.content, b.Digest.String(), content.Want{Digest: b.Digest, Size: b.Size, Wait: wait})
	if wait {
		f.wait(b, false)
	}
	switch {
	case errdefs.IsAlreadyExists(err):
		f.tell(progress.Reused, b, b.Size)
		f.mu.Lock()
		f.reused.add(b.Size)
		f.mu.Unlock()
		return nil, nil
	case !wait && errdefs.IsUnavailable(err):
		f.mu.Lock()
		f.busy = append(f.busy, b)
		f.mu.Unlock()
		return nil, nil
	case err != nil:
		return nil, err
	}
	f.tell(progress.Started, b, in.Offset())
	var layer *unpack.Stream
	if in.Offset() == 0 { // otherwise its beginning would have to be read back
		if layer, err = f.unpack.stream(ctx, b); err != nil {
			return nil, errors.Join(err, in.Close())
		}
	}
	resumed, err := f.complete(ctx, in, layer, b)
	var mismatch *content.MismatchError
	if errors.As(err, &mismatch) || isBad(err) {
		return nil, failed(b, errors.Join(err, in.Abort()))
	}
	if b.optional && errdefs.IsNotFound(err) {
		f.mu.Lock()
		f.absent = append(f.absent, b.Digest)
		f.mu.Unlock()
		return nil, in.Abort()
	}
	if err != nil {
		return nil, failed(b, errors.Join(err, in.Close()))
	}
	f.tell(progress.Done, b, b.Size)
	f.mu.Lock()
	f.fetched.Blobs++
	f.fetched.Bytes += b.Size - resumed
	f.mu.Unlock()
	return in, nil
}

// complete brings the bytes that in lacks, unpacks them on the way unless layer is nil, and ends
// layer. Wrong bytes are thrown away, with what was unpacked of them, as long as another host can be
// asked for the right ones. It returns how many of the bytes were there before.
func (f *fetcher) complete(ctx context.Context, in content.Ingest, layer *unpack.Stream, b need) (resumed int64, err error) {
	resumed = in.Offset()
	var bad error // what the layer failed with
	blame := blamer(noBlame)
	for {
		next, err := f.fill(ctx, in, layer, b)
		if next != nil {
			blame = next
		}
		switch {
		case bad == nil && isBad(err):
			// Either the layer is bad or its bytes are wrong. All of them tell which.
			bad, layer = endStream(layer, err), nil
			continue
		case err != nil:
			return resumed, endStream(layer, err)
		case in.Digest() == b.Digest && bad != nil:
			return resumed, bad
		case in.Digest() == b.Digest:
			return resumed, endStream(layer, nil)
		}
		// When bytes were kept, those or the new ones are wrong, and nothing tells which. One try
		// from the start decides it.
		again := resumed > 0
		err = &content.MismatchError{Want: b.Digest, Got: in.Digest()}
		if !again {
			err, again = blame(err)
		}
		err, layer, bad = endStream(layer, err), nil, nil
		if !again {
			return resumed, err
		}
		retrying(f.sink, b)(err)
		if err := in.Reset(); err != nil {
			return resumed, err
		}
		resumed = 0
	}
}

// failed says what became of a blob.
func failed(b need, err error) error {
	var layer *unpack.LayerError
	if errors.As(err, &layer) {
		return err // which says so itself
	}
	return &blobError{b, err}
}

// A blobError says which blob was not fetched.
type blobError struct {
	need need
	error
}

func (e *blobError) Error() string {
	return fmt.Sprintf("fetch %s %s: %v", e.need.what, e.need.Digest, e.error)
}

func (e *blobError) Unwrap() error { return e.error }

// A blamer is told that what was read is wrong. It says who gave it, and whether the next one to read
// the blob would ask somebody else.
type blamer func(err error) (told error, again bool)

func noBlame(err error) (error, bool) { return err, false }

// blamerOf finds out whom to tell. What does not come from a registry has nobody.
func blamerOf(body io.Reader) blamer {
	if from, ok := body.(interface{ Blame(error) (error, bool) }); ok {
		return from.Blame
	}
	return noBlame
}

// fill reads what in lacks, and unpacks it on the way unless layer is nil. The blamer is that of what
// it read, or nil.
func (f *fetcher) fill(ctx context.Context, in content.Ingest, layer *unpack.Stream, b need) (blamer, error) {
	if in.Offset() == b.Size {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := f.from.Blob(ctx, f.source, b.Descriptor, in.Offset(), retrying(f.sink, b))
	if err != nil {
		return nil, err
	}
	var also io.Writer
	if layer != nil {
		also = layer
	}
	err = pump(ctx, in, also, body, b.Size, func(offset int64) { f.tell(progress.Advanced, b, offset) })
	if err != nil {
		// What still comes is not waited for.
		cancel()
	}
	return blamerOf(body), errors.Join(err, body.Close())
}

func (f *fetcher) tell(kind progress.Kind, b need, offset int64) {
	f.sink.Send(progress.Event{Kind: kind, Digest: b.Digest.String(), What: b.what, Offset: offset, Total: b.Size})
}

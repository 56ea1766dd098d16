package transfer

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"

	"github.com/stowage/stowage/internal/content"
)

const (
	// chunk is what is read, hashed and written at a time. Below 256 KiB the calls begin to
	// show, above it the processor's caches are left.
	chunk = 256 << 10
	// ahead is how many chunks are under way: one read, one written, one unpacked, and one that
	// waits before each of the latter two.
	ahead = 5
	// tellEvery spaces out the progress of one blob.
	tellEvery = 100 * time.Millisecond
)

// pump writes what is left of r to in, which must end up with size bytes, unless that is
// negative: unknown. Unless it is nil, also gets the same bytes. While one chunk is hashed and
// written the next one is read, and the one before goes to also, so that a single large layer
// keeps source, disk and processors busy. After an error of in or also, r is read no further than
// the chunk that is under way.
func pump(ctx context.Context, in content.Ingest, also io.Writer, r io.Reader, size int64, tell func(offset int64)) error {
	if size >= 0 && size-in.Offset() <= chunk {
		return pumpSmall(in, also, r, size)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	full, free := make(chan []byte, ahead), make(chan []byte, ahead)
	for range ahead {
		free <- make([]byte, chunk)
	}
	var readErr error
	go func() {
		defer close(full)
		for buf := range free {
			if readErr = ctx.Err(); readErr != nil {
				return
			}
			n, err := io.ReadFull(r, buf[:chunk])
			if n > 0 {
				full <- buf[:n]
			}
			if err != nil {
				if !atEnd(err) {
					readErr = err
				}
				return
			}
		}
	}()
	written := make(chan []byte, ahead)
	var alsoErr error
	var rest sync.WaitGroup
	rest.Go(func() {
		for buf := range written {
			if also != nil && alsoErr == nil {
				if _, alsoErr = also.Write(buf); alsoErr != nil {
					cancel()
				}
			}
			free <- buf
		}
	})
	var writeErr error
	told := time.Now()
	for buf := range full {
		if writeErr == nil {
			if _, writeErr = in.WriteAt(buf, in.Offset()); writeErr != nil {
				cancel()
			}
		}
		if now := time.Now(); now.Sub(told) >= tellEvery {
			told = now
			tell(in.Offset())
		}
		written <- buf
	}
	close(written)
	rest.Wait()
	if err := cmp.Or(writeErr, alsoErr); err != nil {
		return err
	}
	return ended(in, size, readErr)
}

// pumpSmall is [pump] for what fits into one chunk.
func pumpSmall(in content.Ingest, also io.Writer, r io.Reader, size int64) error {
	// One byte more than is expected, to see whether there is one.
	buf := make([]byte, size-in.Offset()+1)
	n, err := io.ReadFull(r, buf)
	if n > 0 {
		if _, err := in.WriteAt(buf[:n], in.Offset()); err != nil {
			return err
		}
		if also != nil {
			if _, err := also.Write(buf[:n]); err != nil {
				return err
			}
		}
	}
	if atEnd(err) {
		err = nil
	}
	return ended(in, size, err)
}

// atEnd tells whether the source ended. Errors that wrap these, as that of a lost connection, are
// failures and not ends.
func atEnd(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

func ended(in content.Ingest, size int64, readErr error) error {
	if readErr == nil && size >= 0 && in.Offset() != size {
		return &content.SizeError{Digest: in.Want().Digest, Want: size, Got: in.Offset()}
	}
	return readErr
}

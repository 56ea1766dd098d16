package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
)

const (
	// window is how many bytes a client may send ahead of what was read. It is more than containerd
	// allows: 64 KiB take a round trip for every two messages.
	window = 1 << 20
	// maxWindow bounds what a client may ask for at once.
	maxWindow = 1 << 30
	// maxChunk bounds the bytes of one message to a client.
	maxChunk = 1 << 20
	// lastWord is for how long a client may take to say that it has read the end.
	lastWord = time.Second
)

// A byteReader reads the bytes that a client sends through a stream, at its own pace.
type byteReader struct {
	stream *stream
	room   int    // bytes that the client may send now
	rest   []byte // of the last message
	err    error
}

// Read implements [io.Reader].
func (r *byteReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.err = r.next()
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *byteReader) next() error {
	if r.room <= window/2 {
		// A client that has sent all of it may be gone: what it sent is still to be read.
		if err := r.stream.send(&transfer.WindowUpdate{Update: int32(window - r.room)}); err == nil {
			r.room = window
		}
	}
	var m transfer.Data
	if err := r.stream.recv(&m); err != nil {
		if ended(err) {
			return io.EOF
		}
		return fmt.Errorf("read from the client: %w", err)
	}
	r.rest = m.Data
	r.room = max(0, r.room-len(m.Data))
	return nil
}

// A byteWriter sends bytes to a client through a stream, as many as it asks for. The caller ends it.
type byteWriter struct {
	stream *stream
	buffer []byte

	mu      sync.Mutex
	changed *sync.Cond
	room    int64 // bytes that the client asked for and were not sent
	grants  int   // how many times it asked
	err     error // why it asks no more
	asking  sync.WaitGroup
}

func newByteWriter(s *stream) *byteWriter {
	w := &byteWriter{stream: s}
	w.changed = sync.NewCond(&w.mu)
	w.asking.Go(w.listen)
	return w
}

// listen hears what the client asks for, until the stream ends.
func (w *byteWriter) listen() {
	for {
		var m transfer.WindowUpdate
		err := w.stream.recv(&m)
		if err == nil && m.Update < 0 {
			err = fmt.Errorf("window of %d bytes: %w", m.Update, errdefs.ErrInvalidArgument)
		}
		w.mu.Lock()
		w.err = err
		w.room = min(w.room+int64(m.Update), maxWindow)
		w.grants++
		w.changed.Broadcast()
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Write implements [io.Writer].
func (w *byteWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		room, _, err := w.await(func(room int64, _ int) bool { return room > 0 })
		if err != nil {
			return n, err
		}
		// What is sent fills what was asked for, so that the client asks again, see end.
		size := int(min(room, maxChunk))
		some := min(size-min(size, len(w.buffer)), len(p))
		w.buffer = append(w.buffer, p[:some]...)
		p, n = p[some:], n+some
		if len(w.buffer) >= size {
			if err := w.flush(size); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush sends the first bytes of the buffer.
func (w *byteWriter) flush(size int) error {
	if err := w.stream.send(&transfer.Data{Data: w.buffer[:size]}); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	w.buffer = append(w.buffer[:0], w.buffer[size:]...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room -= int64(size)
	return nil
}

// await waits until ok says that enough was asked for, or nothing will be any more.
func (w *byteWriter) await(ok func(room int64, grants int) bool) (room int64, grants int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ok(w.room, w.grants) && w.err == nil {
		w.changed.Wait()
	}
	if !ok(w.room, w.grants) {
		return 0, 0, fmt.Errorf("the client reads no more: %w", errors.Join(w.err, context.Canceled))
	}
	return w.room, w.grants, nil
}

// end sends what is left, unless that is worthless because of failed, and closes the stream. Clients do
// not wait for the end of the stream, but for the answer to their request, and may then close what they
// write to: so that one waits for a client to ask for more, which it does once it has taken the last.
func (w *byteWriter) end(failed error) error {
	defer w.asking.Wait()
	defer w.stream.Close()
	if failed != nil {
		return failed
	}
	for len(w.buffer) > 0 {
		room, grants, err := w.await(func(room int64, _ int) bool { return room > 0 })
		if err != nil {
			return err
		}
		if err := w.flush(int(min(room, maxChunk, int64(len(w.buffer))))); err != nil {
			return err
		}
		if len(w.buffer) == 0 {
			timeout := time.AfterFunc(lastWord, w.stream.Close)
			_, _, err := w.await(func(_ int64, now int) bool { return now > grants })
			if timeout.Stop() && err != nil {
				return err
			}
		}
	}
	return nil
}

package unpack

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
)

// A Stream unpacks a layer from the bytes of its blob as they arrive. It has one writer, and
// ends with Close or Abort.
type Stream struct {
	run   *Run
	blob  image.Digest
	job   *job
	in    chan []byte   // closed at the end
	cut   bool          // the end of in is not that of the blob
	back  chan struct{} // the piece has been read
	ended chan struct{} // closed when nobody reads any more, and got and err are set
	got   image.Digest
	err   error
}

// Stream begins to unpack the layer that blob is, whose bytes the caller is about to have. DiffID
// may be empty: then it is found out, and an archive that names its layers last can be unpacked
// in one pass all the same. It returns nil when there is nothing to do: the layer is unpacked
// already, or is just being unpacked by somebody else, or the driver must know what is below.
// [Run.Add] sees to the layer in any case.
func (r *Run) Stream(ctx context.Context, blob, diffID image.Digest) (*Stream, error) {
	if !r.driver().Alone() {
		return nil, nil
	}
	s := &Stream{run: r, blob: blob, in: make(chan []byte), back: make(chan struct{}, 1), ended: make(chan struct{})}
	var err error
	if diffID == "" {
		// Its own blob's digest keeps others from it well enough: what is found out to be
		// there already is thrown away.
		s.job, err = r.begin(ctx, blob, "", false)
	} else {
		s.job, err = r.claim(ctx, diffID, nil)
	}
	if errdefs.IsUnavailable(err) || s.job == nil {
		if errdefs.IsUnavailable(err) {
			err = nil
		}
		return nil, err
	}
	go func() {
		defer close(s.ended)
		s.job.res, s.got, s.err = r.u.pass(ctx, &pieceReader{s: s}, diffID, func(ctx context.Context, in io.Reader) (layer.Result, error) {
			return r.driver().Unpack(ctx, s.job.folder.Path, in, r.u.options())
		})
	}()
	return s, nil
}

// Write hands on the next bytes of the blob; the caller may use p again when it returns. An error
// is that of the unpacking: the layer is bad, or the disk full.
func (s *Stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case s.in <- p:
	case <-s.ended:
		return 0, &LayerError{s.blob, s.err}
	}
	select {
	case <-s.back:
		return len(p), nil
	case <-s.ended: // before the end of the bytes, so there is an error
		return 0, &LayerError{s.blob, s.err}
	}
}

// Close says that all bytes were handed on and are those of the blob, and waits for the end of
// the unpacking. Afterwards the layer counts among those of the run.
func (s *Stream) Close() error {
	close(s.in)
	<-s.ended
	if s.err != nil {
		return &LayerError{s.blob, errors.Join(s.err, s.job.drop())}
	}
	return s.run.take(s)
}

// Abort throws away what was unpacked.
func (s *Stream) Abort() error {
	s.cut = true
	close(s.in)
	<-s.ended
	return s.job.drop()
}

// take adds the layer of a stream to those of the run, unless it came in another blob before.
func (r *Run) take(s *Stream) error {
	j := s.job
	_, err := r.u.Snapshots.Layer(context.Background(), s.got)
	if !errdefs.IsNotFound(err) {
		return errors.Join(err, j.drop())
	}
	j.diffID = s.got
	return r.gain(j)
}

// A pieceReader reads what is written to a stream.
type pieceReader struct {
	s    *Stream
	rest []byte
}

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		piece, ok := <-r.s.in
		if !ok {
			if r.s.cut {
				return 0, errEnded
			}
			return 0, io.EOF
		}
		r.rest = piece
	}
	n := copy(p, r.rest)
	if r.rest = r.rest[n:]; len(r.rest) == 0 {
		r.s.back <- struct{}{}
	}
	return n, nil
}

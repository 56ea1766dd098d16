package layer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// A sum stands for what a file of a known size holds, wherever it has holes.
type sum [sha256.Size]byte

// A summer makes sums. What it hashes are the pieces that are not zeros, [HoleSize] long and at
// multiples of it, each with its offset. Not for concurrent use.
type summer struct {
	hash  hash.Hash
	piece []byte // of the file from at on, as far as it is known
	at    int64
	read  []byte
}

func (s *summer) begin() {
	if s.hash == nil {
		s.hash, s.piece = sha256.New(), make([]byte, 0, HoleSize)
	}
	s.hash.Reset()
	s.piece, s.at = s.piece[:0], 0
}

// add takes bytes at an offset that is not before the end of those it has.
func (s *summer) add(b []byte, off int64) {
	for len(b) > 0 {
		if start := off &^ (HoleSize - 1); start != s.at {
			s.flush()
			s.at = start
		}
		if gap := int(off-s.at) - len(s.piece); gap > 0 {
			from := len(s.piece)
			s.piece = s.piece[:from+gap]
			clear(s.piece[from:])
		}
		n := min(len(b), HoleSize-len(s.piece))
		s.piece = append(s.piece, b[:n]...)
		b, off = b[n:], off+int64(n)
	}
}

// flush hashes the piece, without the zeros at its end.
func (s *summer) flush() {
	n := len(s.piece)
	for n > 0 && s.piece[n-1] == 0 {
		n--
	}
	if n > 0 {
		var head [16]byte
		binary.LittleEndian.PutUint64(head[:], uint64(s.at))
		binary.LittleEndian.PutUint64(head[8:], uint64(n))
		s.hash.Write(head[:])
		s.hash.Write(s.piece[:n])
	}
	s.piece = s.piece[:0]
}

func (s *summer) end() (sum sum) {
	s.flush()
	s.hash.Sum(sum[:0])
	return sum
}

// of reads a regular file of a tree.
func (s *summer) of(ctx context.Context, t Tree, n *Node) (_ sum, err error) {
	s.begin()
	if n.Size == 0 {
		return s.end(), nil
	}
	f, err := t.Open(n)
	if err != nil {
		return sum{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if s.read == nil {
		s.read = make([]byte, compareSize)
	}
	err = eachRun(f, n.Size, func(off, end int64) error {
		for off < end {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := s.read[:min(compareSize, end-off)]
			if got, err := f.ReadAt(b, off); got < len(b) {
				return cutShort(err)
			}
			s.add(b, off)
			off += int64(len(b))
		}
		return nil
	})
	if err != nil {
		return sum{}, fmt.Errorf("read %s: %w", quote(n.Path), err)
	}
	return s.end(), nil
}

// entry reads the content that comes next in a tar.
func (s *summer) entry(tar *tarstream.Reader, e *tarstream.Entry) (sum, error) {
	s.begin()
	var chunk []byte
	for _, run := range e.Data {
		for off, end := run.Offset, run.Offset+run.Length; off < end; {
			if len(chunk) == 0 {
				var err error
				if chunk, err = tar.Chunk(); err != nil {
					if err == io.EOF {
						err = io.ErrUnexpectedEOF
					}
					return sum{}, err
				}
			}
			n := min(int64(len(chunk)), end-off)
			s.add(chunk[:n], off)
			chunk, off = chunk[n:], off+n
		}
	}
	return s.end(), nil
}

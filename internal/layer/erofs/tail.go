package erofs

import (
	"fmt"
	"io"
	"math/bits"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// minChunkBits is the smallest chunk of a file with holes: 4 KiB, as blocks of other filesystems.
const minChunkBits = 3

// place finds out where the chunks of a file are, and puts behind the tar what is not in it block
// by block.
func (k *keeper) place(e *tarstream.Entry, content []tarstream.Run) (chunkBits uint8, extents string, err error) {
	whole := wholeBits(e.Size)
	switch {
	case countChunks(e.Size, whole) > maxFileChunks:
		return 0, "", fmt.Errorf("%d bytes are more than a file can have: %w", e.Size, errdefs.ErrResourceExhausted)
	case e.Size == 0:
		return 0, "", nil
	case len(content) == 0:
		return whole, string(appendExtent(nil, countChunks(e.Size, whole), 0)), nil
	case content[0].Length == e.Size:
		return whole, string(appendExtent(nil, countChunks(e.Size, whole), inTar(e.Offset/blockSize))), nil
	}
	// The largest chunks that holes fill, but not so small that there would be too many.
	var edges int64
	for _, run := range content {
		edges |= run.Offset
		if end := run.Offset + run.Length; end < e.Size {
			edges |= end
		}
	}
	limit := max(1, min(maxFileChunks, k.chunks))
	chunkBits = uint8(min(max(minChunkBits, bits.TrailingZeros64(uint64(edges))-blockBits), int(whole)))
	for chunkBits < whole && countChunks(e.Size, chunkBits) > limit {
		chunkBits++
	}
	k.chunks -= countChunks(e.Size, chunkBits)
	list := extentList{chunkBits: chunkBits}
	stored := storedRuns{runs: e.Data, at: e.Offset}
	chunk := int64(blockSize) << chunkBits
	for from := int64(0); from < e.Size; from += chunk {
		to := min(from+chunk, e.Size)
		for len(content) > 0 && content[0].Offset+content[0].Length <= from {
			content = content[1:]
		}
		if len(content) == 0 || content[0].Offset >= to {
			list.add(0)
			continue
		}
		stored.skip(from)
		if at, ok := stored.find(from, to); ok && at%blockSize == 0 {
			list.add(inTar(at / blockSize))
			continue
		}
		list.add(inTail(k.tail.blocks))
		if err := k.tail.add(stored, from, to); err != nil {
			return 0, "", err
		}
	}
	return chunkBits, string(list.done()), nil
}

// storedRuns are the runs of a file that stand one after another in the tar.
type storedRuns struct {
	runs []tarstream.Run
	at   int64 // where the first one is
}

// skip drops the runs that end before off.
func (s *storedRuns) skip(off int64) {
	for len(s.runs) > 0 && s.runs[0].Offset+s.runs[0].Length <= off {
		s.at += s.runs[0].Length
		s.runs = s.runs[1:]
	}
}

// find tells where a part of the file is in the tar, when the first run has all of it.
func (s *storedRuns) find(from, to int64) (at int64, ok bool) {
	run := s.runs[0]
	return s.at + from - run.Offset, run.Offset <= from && to <= run.Offset+run.Length
}

// An extentList puts the chunks of a file together.
type extentList struct {
	chunkBits uint8
	encoded   []byte
	chunks    int64  // of the last extent
	begin     uint64 // as a record has it
}

// add puts the next chunk on the list.
func (l *extentList) add(at uint64) {
	next := l.begin
	if next > 0 {
		next += 2 * uint64(l.chunks<<l.chunkBits)
	}
	if l.chunks > 0 && at == next {
		l.chunks++
		return
	}
	l.encoded = l.done()
	l.chunks, l.begin = 1, at
}

// done gives the list.
func (l *extentList) done() []byte {
	if l.chunks == 0 {
		return l.encoded
	}
	return appendExtent(l.encoded, l.chunks, l.begin)
}

// A tail is what is to stand behind a tar whose end is not known yet. It is a file without a name
// until then. What is not written to it are zeros that take no room.
type tail struct {
	dir    string
	from   *os.File // the tar so far
	file   *os.File // nil as long as there is nothing
	blocks int64
}

// add puts a part of a file at the end.
func (t *tail) add(stored storedRuns, from, to int64) error {
	if t.file == nil {
		var err error
		if t.file, err = os.CreateTemp(t.dir, "tail-"); err != nil {
			return err
		}
		if err := os.Remove(t.file.Name()); err != nil {
			return err
		}
	}
	at := t.blocks * blockSize
	for len(stored.runs) > 0 && stored.runs[0].Offset < to {
		run := stored.runs[0]
		begin, end := max(from, run.Offset), min(to, run.Offset+run.Length)
		part := io.NewSectionReader(t.from, stored.at+begin-run.Offset, end-begin)
		if _, err := io.Copy(io.NewOffsetWriter(t.file, at+begin-from), part); err != nil {
			return err
		}
		stored.skip(end)
		if end == to {
			break
		}
	}
	t.blocks += blocksOf(to - from)
	return nil
}

// move appends everything to a tar, which ends where its last block does.
func (t *tail) move(tar *os.File, size layerSize) error {
	if err := tar.Truncate(size.blocks * blockSize); err != nil || t.file == nil {
		return err
	}
	end := size.tail() * blockSize
	for at := int64(0); ; {
		from, err := unix.Seek(int(t.file.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("seek", err)
		}
		if at, err = unix.Seek(int(t.file.Fd()), from, unix.SEEK_HOLE); err != nil {
			return os.NewSyscallError("seek", err)
		}
		part := io.NewSectionReader(t.file, from, at-from)
		if _, err := io.Copy(io.NewOffsetWriter(tar, end+from), part); err != nil {
			return err
		}
	}
}

func (t *tail) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

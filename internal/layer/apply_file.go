package layer

import (
	"encoding/binary"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// HoleSize is what becomes a hole when it is zeros: pieces of this size at multiples of it. Most
// filesystems would make smaller ones too, at the price of a map that is longer than the zeros.
const HoleSize = 64 << 10

// smallFile is up to which size a file is made in one go by one maker.
const smallFile = pieceSize / 2

// A file is a regular file that is being made.
type file struct {
	object // its folder has a user for each file
	want   attributes
	xattrs []tarstream.Xattr
	size   int64
	at     int // of a small one's content in its batch

	written atomic.Int64 // the end of what was written
	pending atomic.Int32 // pieces not written yet, and one for the reader
}

// putFile makes a regular file with the content that comes next in the tar.
func (a *applier) putFile(dir *folder, name string, e *tarstream.Entry) error {
	if _, err := a.open(dir); err != nil {
		return err
	}
	f := &file{
		object: object{dir: dir, name: name, entry: a.number(), fd: -1},
		want:   attributes{e.Mode, e.UID, e.GID, e.ModTime},
		xattrs: keptXattrs(e.Xattrs),
		size:   e.Size,
	}
	a.result.Inodes++
	dir.users.Add(1)
	whole := len(e.Data) == 0 && e.Size == 0 || len(e.Data) == 1 && e.Data[0].Length == e.Size
	if whole && e.Size <= smallFile {
		return a.putSmall(f)
	}
	return a.putLarge(f, e.Data)
}

func (a *applier) putSmall(f *file) error {
	c := &a.crew
	if b := c.batch; b != nil && (len(b.small) == batchFiles || b.used+int(f.size) > len(b.buf)) {
		c.flush()
	}
	if c.batch == nil {
		b, err := c.take()
		if err != nil {
			return err
		}
		c.batch = b
	}
	b := c.batch
	f.at = b.used
	if _, err := io.ReadFull(a.tar, b.buf[f.at:f.at+int(f.size)]); err != nil {
		return err
	}
	b.used += int(f.size)
	b.small = append(b.small, f)
	return nil
}

// putLarge opens a file and hands its pieces to the crew, which writes while the next ones are
// read.
func (a *applier) putLarge(f *file, data []tarstream.Run) (err error) {
	f.pending.Store(1)
	defer func() {
		if ended := a.release(f); err == nil {
			err = ended
		}
	}()
	if err := a.createFile(f); err != nil {
		return err
	}
	for _, run := range data {
		for off, end := run.Offset, run.Offset+run.Length; off < end; {
			b, err := a.crew.take()
			if err != nil {
				return err
			}
			// Pieces begin at multiples of HoleSize, so that the holes do not depend on them.
			b.used = int(min(end-off, pieceSize-off%HoleSize))
			b.off = off
			if _, err := io.ReadFull(a.tar, b.buf[:b.used]); err != nil {
				return err
			}
			off += int64(b.used)
			b.large = f
			f.pending.Add(1)
			a.crew.send(b)
			if a.crew.failed.Load() {
				return errCrew
			}
		}
	}
	return nil
}

// makeSmall makes a whole file.
func (a *applier) makeSmall(f *file, content []byte) error {
	if err := a.createFile(f); err != nil {
		return err
	}
	err := a.writePiece(f, content, 0)
	if err == nil {
		err = a.finishFile(f)
	}
	if closed := unix.Close(f.fd); err == nil && closed != nil {
		err = fault("close", f.path(), closed)
	}
	return err
}

// release says that a piece of a large file is written, or left out as all was in vain. After the
// last one the file is finished.
func (a *applier) release(f *file) error {
	if f.pending.Add(-1) > 0 {
		return nil
	}
	defer f.dir.users.Add(-1)
	if f.fd < 0 {
		return nil
	}
	var err error
	if !a.crew.void(f.entry + 1) {
		err = a.finishFile(f)
	}
	if closed := unix.Close(f.fd); err == nil && closed != nil {
		err = fault("close", f.path(), closed)
	}
	return err
}

// createFile opens a new file. What has its name comes from the layers below, or from an entry
// before that is made by now.
func (a *applier) createFile(f *file) error {
	mode := f.want.mode & 0o777
	if len(f.xattrs) > 0 {
		mode |= 0o600 // so that we may set them
	}
	err := a.replacing(f.dir, f.name, func() (err error) {
		f.fd, err = unix.Openat(f.dir.fd, f.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		f.fd = -1
		return fault("create", f.path(), err)
	}
	return nil
}

// writePiece writes what is not to be a hole.
func (a *applier) writePiece(f *file, b []byte, off int64) error {
	for len(b) > 0 {
		// Up to the next hole, and over it.
		n := 0
		hole := holeAt(b, off)
		for hole == 0 && n < len(b) {
			n += int(min(int64(len(b)-n), HoleSize-(off+int64(n))%HoleSize))
			hole = holeAt(b[n:], off+int64(n))
		}
		if err := a.write(f, b[:n], off); err != nil {
			return err
		}
		n += hole
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// holeAt says how much at the beginning of b, which is for the offset off, is to be a hole.
func holeAt(b []byte, off int64) int {
	n := 0
	for len(b)-n >= HoleSize && (off+int64(n))%HoleSize == 0 && zeros(b[n:n+HoleSize]) {
		n += HoleSize
	}
	return n
}

// zeros looks at the middle first, where files rarely are zero by chance.
func zeros(b []byte) bool {
	if b[len(b)/2] != 0 {
		return false
	}
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true // the length is a multiple of 8
}

func (a *applier) write(f *file, b []byte, off int64) error {
	if err := writeAt(f.fd, b, off); err != nil {
		return fault("write", f.path(), err)
	}
	a.crew.stored.Add(int64(len(b)))
	off += int64(len(b))
	for end := f.written.Load(); off > end && !f.written.CompareAndSwap(end, off); end = f.written.Load() {
	}
	return nil
}

// finishFile sets all that a file has beside its content.
func (a *applier) finishFile(f *file) error {
	if f.written.Load() < f.size { // it ends in a hole
		if err := unix.Ftruncate(f.fd, f.size); err != nil {
			return fault("extend", f.path(), err)
		}
	}
	now, err := a.created(&f.object, f.want.mode)
	if err != nil {
		return err
	}
	return a.finish(&f.object, now, f.want, f.xattrs)
}

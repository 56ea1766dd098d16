package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A realDir is the root of a folder on disk that a tree is read from.
type realDir struct {
	fd  int // O_PATH
	dev uint64
	id  string // what it is called in a FileID
}

func openRealDir(name string) (*realDir, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// What the folder is, and not how it was named: it may have several names.
	return &realDir{fd: fd, dev: st.Dev, id: fmt.Sprintf("%x.%x", st.Dev, st.Ino)}, nil
}

// fileID names a file in the folder. Inodes are numbered by device, of which there are several
// beneath one folder where it is of a filesystem with subvolumes, or itself an overlay.
func (d *realDir) fileID(st *unix.Stat_t) FileID {
	if st.Dev != d.dev {
		return FileID{Tree: fmt.Sprintf("%s@%x", d.id, st.Dev), Inode: st.Ino}
	}
	return FileID{Tree: d.id, Inode: st.Ino}
}

// open opens what is at a clean path. No link is followed on the way, not even one that comes
// there meanwhile, and no mount is entered where the kernel can tell. The caller closes the
// descriptor.
func (d *realDir) open(path string, flags int) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat2(d.fd, path, &how)
		return err
	})
	switch err {
	case unix.ENAMETOOLONG: // deeper than the kernel takes at once
	case unix.ENOSYS, unix.EPERM: // before Linux 5.6, or a filter of that time
	default:
		return fd, err
	}
	parent, base := split(path)
	dir, err := openStepwise(d.fd, parent)
	if err != nil {
		return -1, err
	}
	err = retry(func() (err error) {
		fd, err = unix.Openat(dir, base, flags, 0)
		return err
	})
	if closed := unix.Close(dir); err == nil && closed != nil {
		return -1, errors.Join(closed, unix.Close(fd))
	}
	return fd, err
}

// openParent opens the folder that a path is in, for its path only.
func (d *realDir) openParent(path string) (int, error) {
	parent, _ := split(path)
	return d.open(parent, unix.O_PATH|unix.O_DIRECTORY)
}

// absent tells whether a name leads nowhere, be it because of what is on the way.
func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) ||
		errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG)
}

// withKind gives an error of the kernel its kind.
func withKind(err error) error {
	switch {
	case absent(err):
		return errdefs.ErrNotFound
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("something is mounted there: %w", errdefs.ErrFailedPrecondition)
	}
	return err
}

// A nodeReader reads what there is to know of a name in a folder, into buffers that it keeps. Not
// for concurrent use.
type nodeReader struct {
	marks    string // the prefix of xattrs that are marks; empty: none are
	noListAt bool   // the kernel has no listxattrat
	names    []byte
	value    []byte
}

// attr fills in what lstat does not tell. Marks are the xattrs that are overlay's own, without
// their prefix; nil when there are none.
func (r *nodeReader) attr(dir int, name string, st *unix.Stat_t) (a Attr, marks map[string]string, err error) {
	a = Attr{Mode: st.Mode, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Unix())}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		a.Size = st.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		a.Major, a.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFLNK:
		target, err := fill(&r.value, func(b []byte) (int, error) {
			n, err := unix.Readlinkat(dir, name, b)
			if n == len(b) { // it may have been cut
				return 0, unix.ERANGE
			}
			return n, err
		})
		if err != nil {
			return a, nil, err
		}
		a.Target = string(target)
	}
	a.Xattrs, marks, err = r.xattrs(dir, name)
	return a, marks, err
}

func (r *nodeReader) xattrs(dir int, name string) (xattrs, marks map[string]string, err error) {
	names, err := fill(&r.names, func(b []byte) (int, error) { return r.list(dir, name, b) })
	if err == unix.ENOTSUP {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	path := procName(dir, name)
	for len(names) > 0 {
		var first []byte
		first, names, _ = bytes.Cut(names, []byte{0})
		key := string(first)
		value, err := fill(&r.value, func(b []byte) (int, error) { return unix.Lgetxattr(path, key, b) })
		if err == unix.ENODATA {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, nil, fmt.Errorf("xattr %s: %w", key, err)
		}
		switch {
		case r.marks != "" && strings.HasPrefix(key, r.marks):
			set(&marks, key[len(r.marks):], string(value))
		case Keeps(key):
			set(&xattrs, key, string(value))
		}
	}
	return xattrs, marks, nil
}

// list is llistxattr, by the call that takes a folder and a name (Linux 6.13) where there is one:
// the way through /proc takes twice as long, and most files have none.
func (r *nodeReader) list(dir int, name string, b []byte) (int, error) {
	if r.noListAt {
		return unix.Llistxattr(procName(dir, name), b)
	}
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(p)), unix.AT_SYMLINK_NOFOLLOW,
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.ENOSYS, unix.EPERM:
		r.noListAt = true
		return r.list(dir, name, b)
	}
	return 0, errno
}

// procName leads to a name in an open folder: by a link that the kernel makes, and which is no
// name of a file, and one more step that calls of the kind of lgetxattr do not follow.
func procName(dir int, name string) string { return procPath(dir) + "/" + name }

// set makes a map with its first key.
func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

// fill calls get with a buffer that grows until the answer fits, which is 64 KiB at most.
func fill(buffer *[]byte, get func([]byte) (int, error)) ([]byte, error) {
	for {
		if *buffer == nil {
			*buffer = make([]byte, 512)
		}
		n, err := get(*buffer)
		if err == nil {
			return (*buffer)[:n], nil
		}
		if err != unix.ERANGE || len(*buffer) > 1<<16 {
			return nil, err
		}
		*buffer = make([]byte, 4*len(*buffer))
	}
}

// A diskFile is the content of a file on disk, by its descriptor.
type diskFile int

// ReadAt implements [io.ReaderAt].
func (f diskFile) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		m, err := unix.Pread(int(f), b[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}

// Close implements [io.Closer].
func (f diskFile) Close() error { return unix.Close(int(f)) }

// Data implements [File].
func (f diskFile) Data(off int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f), off, unix.SEEK_DATA)
	if err == nil {
		end, err = unix.Seek(int(f), start, unix.SEEK_HOLE)
	}
	if err == unix.ENXIO { // only a hole is left, or nothing
		return 0, 0, io.EOF
	}
	return start, end, err
}

// mayHaveHoles is from which size on a file is asked for holes.
const mayHaveHoles = 64 << 10

// eachRun tells the runs of bytes that a file of that size has between its holes, in order.
func eachRun(f File, size int64, use func(start, end int64) error) error {
	if size > 0 && size < mayHaveHoles {
		return use(0, size)
	}
	for off := int64(0); off < size; {
		start, end, err := f.Data(off)
		if err == io.EOF { // a hole, unless the file became shorter
			if n, err := f.ReadAt(make([]byte, 1), size-1); n < 1 {
				return cutShort(err)
			}
			return nil
		}
		if err == nil && start < size {
			err = use(start, min(end, size))
		}
		if err != nil {
			return err
		}
		off = end
	}
	return nil
}

package layer

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SetAttr gives an open folder the attributes a. Overlay's own xattrs stay.
func SetAttr(f *os.File, a Attr) error {
	fd := int(f.Fd())
	fail := func(op string, err error) error { return &fs.PathError{Op: op, Path: f.Name(), Err: err} }
	if err := unix.Fchown(fd, int(a.UID), int(a.GID)); err != nil {
		return fail("chown", err)
	}
	if err := unix.Fchmod(fd, a.Mode&^unix.S_IFMT); err != nil {
		return fail("chmod", err)
	}
	old, err := listXattrs(fd)
	if err != nil {
		return fail("listxattr", err)
	}
	for _, name := range old {
		if _, stays := a.Xattrs[name]; stays || !Keeps(name) || kernels(name) {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fail("removexattr "+name, err)
		}
	}
	for name, value := range a.Xattrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !kernels(name) {
			return fail("setxattr "+name, err)
		}
	}
	return SetTime(f, a.ModTime)
}

// SetTime says when an open folder was last changed.
func SetTime(f *os.File, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
}

// HasAttr tells whether an open folder has the attributes a.
func HasAttr(f *os.File, a Attr) (bool, error) {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Mode != a.Mode || st.Uid != a.UID || st.Gid != a.GID || !time.Unix(st.Mtim.Unix()).Equal(a.ModTime) {
		return false, nil
	}
	names, err := listXattrs(fd)
	if err != nil {
		return false, &fs.PathError{Op: "listxattr", Path: f.Name(), Err: err}
	}
	left := len(a.Xattrs)
	for _, name := range names {
		if !Keeps(name) {
			continue
		}
		want, ok := a.Xattrs[name]
		if !ok {
			return false, nil
		}
		left--
		value := make([]byte, len(want)+1)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil || string(value[:n]) != want {
			if errors.Is(err, unix.ERANGE) {
				err = nil
			}
			return false, err
		}
	}
	return left == 0, nil
}

// kernels tells whether an xattr is made by the kernel, as its own policy says.
func kernels(name string) bool {
	return name == "security.selinux" || name == "security.ima" || name == "security.evm"
}

package layer

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

func isACL(name string) bool { return name == accessACL || name == defaultACL }

// opaqueXattr marks a folder of a stack that hides what the layers below have in it.
func (f Form) opaqueXattr() string {
	if f == UserOverlay {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// keptXattrs are those of an entry that trees have, for longer than the entry is valid.
func keptXattrs(xattrs []tarstream.Xattr) []tarstream.Xattr {
	var kept []tarstream.Xattr
	for _, x := range xattrs {
		if Keeps(x.Name) {
			kept = append(kept, x)
		}
	}
	return kept
}

func sortedXattrs(xattrs map[string]string) []tarstream.Xattr {
	var sorted []tarstream.Xattr
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		if Keeps(name) {
			sorted = append(sorted, tarstream.Xattr{Name: name, Value: xattrs[name]})
		}
	}
	return sorted
}

// setXattr sets an extended attribute, or notes that it cannot be had.
func (a *applier) setXattr(o *object, x tarstream.Xattr) error {
	err := o.setXattr(x.Name, x.Value)
	switch {
	case err == nil:
		return nil
	case err == unix.ENOSPC && !a.full(): // more than the filesystem keeps of one file
	case slices.Contains(xattrRefused, err):
	default:
		return fault("set the xattr "+clip(x.Name)+" of", o.path(), err)
	}
	return a.lose(o, LostXattr, clip(x.Name)+": "+err.Error())
}

// xattrRefused are the answers to an attribute that the filesystem does not have, that is none, or
// that we may not set.
var xattrRefused = []error{
	unix.EOPNOTSUPP, unix.EPERM, unix.EACCES, unix.EINVAL, unix.ERANGE, unix.E2BIG, unix.EOVERFLOW,
}

// full says whether the filesystem has no room left.
func (a *applier) full() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(a.root.fd, &st) != nil || st.Bavail == 0
}

// clearXattrs takes all extended attributes from an open file.
func clearXattrs(fd int) error {
	names, err := listXattrs(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		if kernels(name) {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && err != unix.ENODATA {
			return err
		}
	}
	return nil
}

func listXattrs(fd int) ([]string, error) {
	for {
		size, err := unix.Flistxattr(fd, nil)
		if err == unix.EOPNOTSUPP || err == nil && size == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		b := make([]byte, size)
		size, err = unix.Flistxattr(fd, b)
		if err == unix.ERANGE { // there are more now
			continue
		}
		if err != nil || size == 0 {
			return nil, err
		}
		return strings.Split(strings.TrimSuffix(string(b[:size]), "\x00"), "\x00"), nil
	}
}

// takeDefaultACL removes the default ACL of a folder, which may be open for its path only, and
// returns it. New files would get theirs from it.
func takeDefaultACL(fd int) ([]byte, error) {
	path := procPath(fd)
	b := make([]byte, 64<<10) // the most that Linux takes
	n, err := unix.Getxattr(path, defaultACL, b)
	switch err {
	case nil:
		return slices.Clone(b[:n]), unix.Removexattr(path, defaultACL)
	case unix.ENODATA, unix.EOPNOTSUPP:
		return nil, nil
	default:
		return nil, err
	}
}

// openReal opens a folder that is open for its path only, or is in dir, for more.
func openReal(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// makeMutable takes the flags from a file or folder that keep it from being changed or removed. It
// says whether there were any.
func makeMutable(dir int, name string) (changed bool, err error) {
	at, err := openPath(dir, name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.Close(at)) }()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return false, err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return false, nil // opening others can do something, and they have no flags
	}
	fd, err := unix.Open(procPath(at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return false, nil // a filesystem without flags
	}
	const fixed = 0x10 | 0x20 // immutable and append-only, for which package unix has no names
	if flags&fixed == 0 {
		return false, nil
	}
	return true, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^fixed))
}

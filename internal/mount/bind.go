package mount

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// bind shows source at place, whose path is at. Flags add to those that the source has: what it
// forbids stays forbidden, as it must in a user namespace, where such flags are locked.
func (r route) bind(source string, f flags, options []string, place *os.File, at string) error {
	if len(options) > 0 {
		return fmt.Errorf("options %q, which a bind does not have: %w", options, errdefs.ErrInvalidArgument)
	}
	if !r.old {
		if err := bindTree(source, f, place); !errors.Is(err, unix.ENOSYS) {
			return err
		}
	}
	return bindOld(source, f, place, at)
}

// bindTree makes a copy of the mounts at source (Linux 5.2), changes the flags of all of it
// (5.12) and attaches it.
func bindTree(source string, f flags, place *os.File) error {
	recursive := 0
	if f&unix.MS_REC != 0 {
		recursive = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive))
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	tree := os.NewFile(uintptr(fd), source)
	clr, set := f.attributes()
	if clr|set != 0 {
		attr := &unix.MountAttr{Attr_clr: clr, Attr_set: set}
		if err := unix.MountSetattr(fd, "", uint(unix.AT_EMPTY_PATH|recursive), attr); err != nil {
			return errors.Join(os.NewSyscallError("mount_setattr", err), tree.Close())
		}
	}
	return attach(tree, place)
}

// bindOld binds with mount(2), which ignores all other flags at first and wants a second call
// for them. That one replaces the flags, of the topmost mount alone, so that those that the
// source has are repeated.
func bindOld(source string, f flags, place *os.File, at string) error {
	const rec = unix.MS_BIND | unix.MS_REC
	if err := unix.Mount(source, byFD(place), "", unix.MS_BIND|uintptr(f&rec), ""); err != nil {
		return &os.PathError{Op: "bind", Path: source, Err: err}
	}
	if f&^rec == 0 {
		return nil
	}
	if err := remount(at, f&^rec); err != nil {
		return errors.Join(err, os.NewSyscallError("umount", unix.Unmount(at, unix.UMOUNT_NOFOLLOW)))
	}
	return nil
}

func remount(at string, f flags) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(at, &stat); err != nil {
		return &os.PathError{Op: "statfs", Path: at, Err: err}
	}
	for _, pair := range []struct{ has, flag flags }{
		{unix.ST_RDONLY, unix.MS_RDONLY},
		{unix.ST_NOSUID, unix.MS_NOSUID},
		{unix.ST_NODEV, unix.MS_NODEV},
		{unix.ST_NOEXEC, unix.MS_NOEXEC},
		{stNoSymFollow, unix.MS_NOSYMFOLLOW},
		{unix.ST_NODIRATIME, unix.MS_NODIRATIME},
	} {
		if flags(stat.Flags)&pair.has != 0 {
			f |= pair.flag
		}
	}
	switch has := stat.Flags; {
	case f&atimes != 0: // another one is asked for
	case has&unix.ST_NOATIME != 0:
		f |= unix.MS_NOATIME
	case has&unix.ST_RELATIME != 0:
		f |= unix.MS_RELATIME
	default:
		f |= unix.MS_STRICTATIME
	}
	return os.NewSyscallError("remount", unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|uintptr(f), ""))
}

const stNoSymFollow = 0x2000 // ST_NOSYMFOLLOW of statfs(2)

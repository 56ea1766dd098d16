package layer

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// An object is something on disk that gets its attributes.
type object struct {
	dir   *folder // that it is in, open; nil for the root
	name  string
	entry int64 // that it comes from
	fd    int   // it itself, open for more than its path; -1: it is reached by its name
	link  bool  // it is a symbolic link, which has no mode
}

func (o *object) path() string {
	if o.dir == nil {
		return "."
	}
	return join(o.dir.path(), o.name)
}

func (o *object) stat(st *unix.Stat_t) error {
	if o.fd >= 0 {
		return unix.Fstat(o.fd, st)
	}
	return unix.Fstatat(o.dir.fd, o.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

func (o *object) chown(uid, gid uint32) error {
	if o.fd >= 0 {
		return unix.Fchown(o.fd, int(uid), int(gid))
	}
	return unix.Fchownat(o.dir.fd, o.name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

func (o *object) chmod(mode uint32) error {
	if o.fd >= 0 {
		return unix.Fchmod(o.fd, mode)
	}
	return o.opened(func(path string) error { return unix.Chmod(path, mode) })
}

func (o *object) setXattr(name, value string) error {
	if o.fd >= 0 {
		return unix.Fsetxattr(o.fd, name, []byte(value), 0)
	}
	return o.opened(func(path string) error { return unix.Setxattr(path, name, []byte(value), 0) })
}

func (o *object) setTime(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	both := []unix.Timespec{ts, ts}
	if o.fd < 0 {
		return unix.UtimesNanoAt(o.dir.fd, o.name, both, unix.AT_SYMLINK_NOFOLLOW)
	}
	// Without a path, which is futimens, for which there is no call in package unix.
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(o.fd), 0, uintptr(unsafe.Pointer(&both[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// opened calls f with a path that leads to the object whatever becomes of its name.
func (o *object) opened(f func(path string) error) error {
	fd, err := openPath(o.dir.fd, o.name)
	if err != nil {
		return err
	}
	err = f(procPath(fd))
	if closed := unix.Close(fd); err == nil {
		err = closed
	}
	return err
}

// An owner is who new files of a folder belong to: us, or the group of the folder, as its mode or
// the mount say. The first file tells.
type owner struct {
	known atomic.Bool
	ids   atomic.Uint64
}

// created is what a new object has, given the mode that it was made with.
func (a *applier) created(o *object, mode uint32) (attributes, error) {
	who := &o.dir.owner
	if !who.known.Load() {
		var st unix.Stat_t
		if err := o.stat(&st); err != nil {
			return attributes{}, fault("look at", o.path(), err)
		}
		who.ids.Store(uint64(st.Uid)<<32 | uint64(st.Gid))
		who.known.Store(true)
	}
	ids := who.ids.Load()
	return attributes{mode: mode & 0o777 &^ a.umask, uid: uint32(ids >> 32), gid: uint32(ids)}, nil
}

// finish gives an object all that it has beside its content: what is lost on the way comes first,
// and the time last.
func (a *applier) finish(o *object, now, want attributes, xattrs []tarstream.Xattr) error {
	owned := now.uid == want.uid && now.gid == want.gid
	if !owned {
		var err error
		if owned, err = a.chown(o, want); err != nil {
			return err
		}
	}
	for _, x := range xattrs {
		if !isACL(x.Name) {
			if err := a.setXattr(o, x); err != nil {
				return err
			}
		}
	}
	if !o.link && (now.mode != want.mode || len(xattrs) > 0) {
		if err := a.chmod(o, want.mode, owned); err != nil {
			return err
		}
	}
	for _, x := range xattrs { // a mode that is set later would change them
		if isACL(x.Name) {
			if err := a.setXattr(o, x); err != nil {
				return err
			}
		}
	}
	if err := o.setTime(want.mtime); err != nil {
		return fault("set the time of", o.path(), err)
	}
	return nil
}

// chown says whether an object belongs to whom it should.
func (a *applier) chown(o *object, want attributes) (owned bool, err error) {
	switch err := o.chown(want.uid, want.gid); err {
	case nil:
		return true, nil
	case unix.EPERM, unix.EINVAL, unix.EOVERFLOW: // the latter two: the user namespace has no such id
		return false, a.lose(o, LostOwner, fmt.Sprintf("%d:%d", want.uid, want.gid))
	default:
		return false, fault("change the owner of", o.path(), err)
	}
}

const special = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

// chmod sets a mode. What does not belong to whom it should does not run with its owner's rights.
func (a *applier) chmod(o *object, mode uint32, owned bool) error {
	allowed := mode
	if !owned {
		allowed &^= unix.S_ISUID | unix.S_ISGID
	}
	err := o.chmod(allowed)
	if err == unix.EPERM && allowed&special != 0 {
		allowed &^= special
		err = o.chmod(allowed)
	}
	if err != nil {
		return fault("change the mode of", o.path(), err)
	}
	if allowed&unix.S_ISGID != 0 { // which is left out silently where it is not allowed
		var st unix.Stat_t
		if err := o.stat(&st); err != nil {
			return fault("look at", o.path(), err)
		}
		allowed = st.Mode & 0o7777
	}
	if lost := mode &^ allowed & special; lost != 0 {
		return a.lose(o, LostMode, fmt.Sprintf("%04o", lost))
	}
	return nil
}

func (a *applier) lose(o *object, kind Kind, detail string) error {
	return a.losses.Add(o.entry, Loss{Kind: kind, Path: o.path(), Detail: detail, Count: 1})
}

// umask reads the process's umask, which cannot be asked for without changing it for a moment.
func umask() uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o777 // so that every mode is set
	}
	_, rest, _ := strings.Cut(string(status), "\nUmask:")
	line, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(line), 8, 32)
	if err != nil {
		return 0o777
	}
	return uint32(mask)
}

// procPath names an open file so that calls without a form for descriptors, or for those of
// O_PATH, reach it and nothing else: it leads to the file itself, also when that is a link.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func chmodPath(fd int, mode uint32) error { return unix.Chmod(procPath(fd), mode) }

// openPath opens whatever has a name in a folder, without touching it.
func openPath(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// replacing makes something new of that name in an open folder, for which make is to fail with
// EEXIST while there is something. That is removed.
func (a *applier) replacing(dir *folder, name string, make func() error) error {
	err := a.mutably(dir, make)
	// Someone else might put something there again and again.
	for range 3 {
		if err != unix.EEXIST {
			break
		}
		if err := removeAt(dir.fd, name); err != nil {
			return fmt.Errorf("remove what is there: %w", err)
		}
		err = a.mutably(dir, make)
	}
	return err
}

// mutably does something in an open folder, also when that is immutable.
func (a *applier) mutably(dir *folder, do func() error) error {
	err := retry(do)
	if err == unix.EPERM && a.o.Form == Whole {
		if changed, flagErr := makeMutable(dir.fd, "."); flagErr == nil && changed {
			err = retry(do)
		}
	}
	return err
}

// retry repeats what a signal interrupted.
func retry(do func() error) error {
	for {
		if err := do(); err != unix.EINTR {
			return err
		}
	}
}

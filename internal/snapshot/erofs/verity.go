package erofs

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seal has the kernel check every read of a file against a tree of hashes from now on, where the
// filesystem can (ext4 with the feature verity, btrfs, f2fs). Then nothing, not even the disk, can
// change the file without reads of it failing.
func seal(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: 4096}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg)))
	switch errno {
	case 0, unix.EEXIST:
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.EINVAL, unix.EROFS, unix.EPERM, unix.EACCES:
		// Not on this filesystem, or its blocks have another size, or not for us.
	default:
		err = fmt.Errorf("seal %s: %w", name, errno)
	}
	return errors.Join(err, f.Close())
}

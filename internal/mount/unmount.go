package mount

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Unmount takes away all mounts that are stacked at target, and waits until each is gone.
// Unmounting a writable overlay without the option "volatile"
// flushes the whole filesystem beneath it.
//
// Errors: [errdefs.ErrNotFound] when nothing is mounted there, or nothing is there;
// [errdefs.ErrFailedPrecondition] when something still uses a mount, or other mounts stand
// beneath it; those above it are gone then. [errdefs.ErrInvalidArgument] when target is a symbolic
// link, which is not followed. [errdefs.ErrPermissionDenied].
func Unmount(target string) error {
	for n := 0; ; n++ {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case !errors.Is(err, unix.EINVAL):
			return fmt.Errorf("unmount %s: %w", target, kinded(err))
		}
		// EINVAL: a link, no mount, or one that a user namespace was born with and cannot take
		// away.
		info, err := os.Lstat(target)
		if err != nil {
			return fmt.Errorf("unmount: %w", kinded(err))
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return fmt.Errorf("unmount %s: a symbolic link: %w", target, errdefs.ErrInvalidArgument)
		}
		switch _, mounted, err := At(target); {
		case err != nil:
			return err
		case mounted:
			return fmt.Errorf("unmount %s: mounted outside of this user namespace: %w",
				target, errdefs.ErrPermissionDenied)
		case n == 0:
			return fmt.Errorf("unmount %s: nothing is mounted there: %w", target, errdefs.ErrNotFound)
		}
		return nil
	}
}

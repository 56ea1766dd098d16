package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open gives the folder that mounts come to, made as [All] makes them. It is attached nowhere, so that
// nobody else sees it, and it goes when the file is closed, or with the process (Linux 5.2).
// On the way there it is mounted for a moment in a folder that Open makes in dir.
func Open(mounts []Mount, dir string) (root *os.File, err error) {
	at, err := os.MkdirTemp(dir, ".mount-")
	if err != nil {
		return nil, fmt.Errorf("open mounts: %w", err)
	}
	defer func() {
		if err = errors.Join(err, os.Remove(at)); err != nil && root != nil {
			err = errors.Join(err, root.Close())
			root = nil
		}
	}()
	if err := All(mounts, at); err != nil {
		return nil, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		err = &os.PathError{Op: "open_tree", Path: at, Err: err}
	} else {
		root = os.NewFile(uintptr(fd), at)
	}
	list, listErr := Beneath(at)
	err = errors.Join(err, listErr)
	for _, m := range list {
		err = errors.Join(err, os.NewSyscallError("umount", unix.Unmount(m.Target, unix.UMOUNT_NOFOLLOW)))
	}
	return root, err
}

// Path is a name that leads to a folder of [Open], for this process and as long as it is open.
func Path(root *os.File) string { return byFD(root) }

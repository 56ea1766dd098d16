package layer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Usage tells what a folder and all beneath it take on disk: bytes in blocks, and inodes. A file
// counts once however many names it has. What is mounted in it is not counted, and neither is
// what goes away meanwhile.
func Usage(dir string) (size, inodes int64, err error) {
	size, inodes, err = usage(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("usage of %s: %w", dir, withKind(err))
	}
	return size, inodes, nil
}

func usage(dir string) (size, inodes int64, err error) {
	root, err := openRealDir(dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(root.fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(root.fd, &st); err != nil {
		return 0, 0, err
	}
	size, inodes = st.Blocks*512, 1
	linked := map[uint64]struct{}{}
	folders := []string{"."}
	for len(folders) > 0 {
		path := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		fd, err := root.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
		if absent(err) || errors.Is(err, unix.EXDEV) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("open %s: %w", quote(path), err)
		}
		folder := os.NewFile(uintptr(fd), path)
		names, err := folder.Readdirnames(-1)
		for _, name := range names {
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != root.dev {
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				folders = append(folders, join(path, name))
			} else if st.Nlink > 1 {
				if _, ok := linked[st.Ino]; ok {
					continue
				}
				linked[st.Ino] = struct{}{}
			}
			size += st.Blocks * 512
			inodes++
		}
		if err := errors.Join(err, folder.Close()); err != nil {
			return 0, 0, fmt.Errorf("list %s: %w", quote(path), err)
		}
	}
	return size, inodes, nil
}

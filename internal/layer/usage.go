package layer

import (
	"errors"
	"fmt"
	"os"
	"time"

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
	linked := map[uint64]struct{}{}
	err = walk(dir, func(_ int, _, _ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if _, ok := linked[st.Ino]; ok {
				return nil
			}
			linked[st.Ino] = struct{}{}
		}
		size += st.Blocks * 512
		inodes++
		return nil
	})
	return size, inodes, err
}

// A Survey is what can be told of a folder, and all beneath it, without reading its files.
type Survey struct {
	Size    int64     // bytes of files, holes not counted, each file counted once
	Changed time.Time // when anything there last changed, be it a name, a mode or content
	Path    string    // of what changed last
}

// Look surveys a folder. What is mounted in it is left out, and so is what goes away meanwhile.
func Look(dir string) (s Survey, err error) {
	linked := map[uint64]struct{}{}
	err = walk(dir, func(folder int, name, path string, st *unix.Stat_t) error {
		if at := time.Unix(st.Ctim.Unix()); at.After(s.Changed) {
			s.Changed, s.Path = at, path
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil
		}
		if st.Nlink > 1 {
			if _, ok := linked[st.Ino]; ok {
				return nil
			}
			linked[st.Ino] = struct{}{}
		}
		size := st.Size
		if size >= mayHaveHoles && st.Blocks*512 < size {
			size, err = dataSize(folder, name, size)
		}
		s.Size += size
		return err
	})
	if err != nil {
		return Survey{}, fmt.Errorf("look at %s: %w", dir, withKind(err))
	}
	return s, nil
}

// dataSize is how much of a file is not holes.
func dataSize(folder int, name string, size int64) (data int64, err error) {
	fd, err := unix.Openat(folder, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	f := diskFile(fd)
	err = eachRun(f, size, func(start, end int64) error {
		data += end - start
		return nil
	})
	return data, errors.Join(err, f.Close())
}

// walk visits a folder and all beneath it, each name with the open folder that it is in; of the
// first that is itself, with the name ".". Mounts are not entered.
func walk(dir string, visit func(folder int, name, path string, st *unix.Stat_t) error) (err error) {
	root, err := openRealDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(root.fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(root.fd, &st); err != nil {
		return err
	}
	if err := visit(root.fd, ".", ".", &st); err != nil {
		return err
	}
	folders := []string{"."}
	for len(folders) > 0 {
		path := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		fd, err := root.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
		if absent(err) || errors.Is(err, unix.EXDEV) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", quote(path), err)
		}
		folder := os.NewFile(uintptr(fd), path)
		names, err := folder.Readdirnames(-1)
		for _, name := range names {
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != root.dev {
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				folders = append(folders, join(path, name))
			}
			if visitErr := visit(fd, name, join(path, name), &st); visitErr != nil {
				return errors.Join(visitErr, folder.Close())
			}
		}
		if err := errors.Join(err, folder.Close()); err != nil {
			return fmt.Errorf("list %s: %w", quote(path), err)
		}
	}
	return nil
}

package layertest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// page is how fine holes are looked at, in bytes.
const page = 4096

// Describe tells all that can be seen of a tree, a line for each path in their order, so that two
// trees are alike if and only if the lines are: type, permissions, owner, time of modification,
// and as it may be size, digest and data of the content, target, device, xattrs in hexadecimal.
// Files with several names in the tree have the first of them in each line; names elsewhere, such
// as in a folder beneath a mount, do not count.
func Describe(root string) ([]string, error) {
	var lines []string
	links := map[[2]uint64][]int{} // the lines of files that may have several names
	names := map[int]string{}      // of those lines
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%q %s", name, attributesOf(&st))
		details, err := detailsOf(path, &st)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			file := [2]uint64{st.Dev, st.Ino}
			links[file] = append(links[file], len(lines))
			names[len(lines)] = name
		}
		lines = append(lines, line+details)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", root, err)
	}
	for _, same := range links {
		first := slices.MinFunc(same, func(a, b int) int { return strings.Compare(names[a], names[b]) })
		for _, i := range same {
			if len(same) > 1 {
				lines[i] += fmt.Sprintf(" same=%q", names[first])
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func attributesOf(st *unix.Stat_t) string {
	kind := map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "dir", unix.S_IFLNK: "link", unix.S_IFIFO: "fifo",
		unix.S_IFCHR: "char", unix.S_IFBLK: "block", unix.S_IFSOCK: "socket",
	}[st.Mode&unix.S_IFMT]
	modified := time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano)
	return fmt.Sprintf("%s %04o %d:%d %s", kind, st.Mode&0o7777, st.Uid, st.Gid, modified)
}

func detailsOf(path string, st *unix.Stat_t) (string, error) {
	var details string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content, err := contentOf(path, st.Size)
		if err != nil {
			return "", err
		}
		details = content
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		details = fmt.Sprintf(" target=%q", target)
	case unix.S_IFCHR, unix.S_IFBLK:
		details = fmt.Sprintf(" device=%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	}
	xattrs, err := xattrsOf(path)
	if err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		details += fmt.Sprintf(" %s=%x", name, xattrs[name])
	}
	return details, nil
}

// contentOf is a digest of a file, and which of its pages are stored.
func contentOf(path string, size int64) (content string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	var runs [][2]int64 // of pages
	for at := int64(0); ; {
		begin, end, err := dataAt(f, at)
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		at = end
		begin, end = begin/page, (min(end, size)+page-1)/page
		if last := len(runs) - 1; last >= 0 && begin <= runs[last][1] {
			runs[last][1] = end
		} else {
			runs = append(runs, [2]int64{begin, end})
		}
	}
	return fmt.Sprintf(" size=%d sha256=%x pages=%v", size, h.Sum(nil)[:8], runs), nil
}

// dataAt is the next run of bytes that are stored, at or after off. It is io.EOF behind the last.
func dataAt(f *os.File, off int64) (begin, end int64, err error) {
	begin, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
	return begin, end, err
}

// xattrsOf reads all xattrs of what is at a path, links not followed.
func xattrsOf(path string) (map[string]string, error) {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	xattrs := map[string]string{}
	value := make([]byte, 1<<16)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("get xattr %s: %w", name, err)
		}
		xattrs[name] = string(value[:n])
	}
	return xattrs, nil
}

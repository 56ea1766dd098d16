package stowage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
)

// A disk is what the files of a store take: bytes in blocks, as du counts them. A file counts once
// however many names it has.
type disk struct {
	blobs   map[Digest]int64
	folders map[metadata.SnapshotFolder]int64
	rest    map[string]int64 // by kind: all that is neither
	mounted int64            // below mounts within folders of snapshots, which are on no disk
}

// The kinds of rest. What belongs to a snapshotter beside its folders has its name.
const (
	restContent    = "content" // the folders of blobs themselves
	restIngests    = "ingests"
	restQuarantine = "quarantine"
	restMetadata   = "metadata"
	restOther      = "other"
)

// readDisk walks over the files of the store. What goes away meanwhile is not counted. After an
// error what could be read is there.
func (s *Store) readDisk() (*disk, error) {
	d := &disk{blobs: map[Digest]int64{}, folders: map[metadata.SnapshotFolder]int64{}, rest: map[string]int64{}}
	var failed []error
	err := walkDisk(s.root, func(path string, size int64, folder bool) (enter bool) {
		parts := strings.Split(path, "/")
		switch {
		case parts[0] == "content" && len(parts) == 4 && parts[1] == "blobs" && !folder:
			if b := Digest(parts[2] + ":" + parts[3]); content.Validate(b) == nil {
				d.blobs[b] = size
				return false
			}
			d.rest[restContent] += size
		case parts[0] == "content" && len(parts) > 1 && parts[1] == "ingest":
			d.rest[restIngests] += size
		case parts[0] == "content" && len(parts) > 1 && parts[1] == "quarantine":
			d.rest[restQuarantine] += size
		case parts[0] == "content":
			d.rest[restContent] += size
		case parts[0] == "metadata":
			d.rest[restMetadata] += size
		case parts[0] == "snapshots" && len(parts) == 3 && folder && parts[2] != "busy":
			size, _, err := layer.Usage(filepath.Join(s.root, path))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = append(failed, err)
			}
			d.folders[metadata.SnapshotFolder{Snapshotter: parts[1], Folder: parts[2]}] = size
			return false
		case parts[0] == "snapshots" && len(parts) > 1:
			d.rest[parts[1]] += size
		default:
			d.rest[restOther] += size
		}
		return true
	})
	failed = append(failed, err)
	mounts, err := mount.Beneath(filepath.Join(s.root, "snapshots"))
	failed = append(failed, err)
	for _, m := range mounts {
		// A snapshotter's whole folder may be a disk of its own, which was walked.
		if rel, err := filepath.Rel(filepath.Join(s.root, "snapshots"), m.Target); err == nil && strings.Count(rel, "/") >= 2 {
			size, _, err := layer.Usage(m.Target)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = append(failed, err)
			}
			d.mounted += size
		}
	}
	return d, errors.Join(failed...)
}

// total is what all takes together.
func (d *disk) total() int64 {
	n := d.mounted
	for _, size := range d.blobs {
		n += size
	}
	for _, size := range d.folders {
		n += size
	}
	for _, size := range d.rest {
		n += size
	}
	return n
}

// walkDisk calls f for root, which is ".", and for all beneath it, with what each takes. Folders
// come before what is in them, and are entered if f says so.
func walkDisk(root string, f func(path string, size int64, folder bool) (enter bool)) error {
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return fmt.Errorf("usage of %s: %w", root, err)
	}
	f(".", st.Blocks*512, true)
	type inode struct{ dev, ino uint64 }
	linked := map[inode]bool{}
	var failed []error
	for folders := []string{"."}; len(folders) > 0; {
		path := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		err := eachName(filepath.Join(root, path), func(folder int, name string) {
			if unix.Fstatat(folder, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				return // it is gone
			}
			isFolder := st.Mode&unix.S_IFMT == unix.S_IFDIR
			if !isFolder && st.Nlink > 1 {
				file := inode{uint64(st.Dev), st.Ino}
				if linked[file] {
					return
				}
				linked[file] = true
			}
			name = filepath.Join(path, name)
			if f(name, st.Blocks*512, isFolder) && isFolder {
				folders = append(folders, name)
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("usage of %s: %w", filepath.Join(root, path), err))
		}
	}
	return errors.Join(failed...)
}

// namesAtOnce bounds the memory for a folder of hundreds of thousands of blobs.
const namesAtOnce = 4096

// eachName calls f for the entries of a folder.
func eachName(dir string, f func(folder int, name string)) (err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	for {
		names, err := folder.Readdirnames(namesAtOnce)
		for _, name := range names {
			f(int(folder.Fd()), name)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill tells how many bytes of the store's filesystem are in use, and how many there are as far as
// they can be used.
func (s *Store) fill() (used, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, 0, fmt.Errorf("space of %s: %w", s.root, err)
	}
	used = int64(st.Blocks-st.Bfree) * st.Bsize
	return used, used + int64(st.Bavail)*st.Bsize, nil
}

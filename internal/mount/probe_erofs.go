package mount

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ProbeErofs tries whether this process can mount erofs images with blocks of 512 bytes that are
// files on the filesystem of dir, and whether it can without loop devices. It mounts a tiny one,
// attached nowhere; dir holds it in a file without a name.
//
// An error says in words what does not work. File-backed it takes a fraction of a millisecond.
func ProbeErofs(dir string) (fileBacked bool, err error) { return route{}.probeErofs(dir) }

func (r route) probeErofs(dir string) (fileBacked bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("erofs on %s (%s): %w", dir, filesystem(dir), kinded(err))
		}
	}()
	file, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := os.Remove(file.Name()); err != nil {
		return false, err
	}
	if _, err := file.Write(emptyErofs()); err != nil {
		return false, err
	}
	image := erofsImage{source: byFD(file)}
	if !r.loops {
		mount, err := image.detached(0)
		if err == nil {
			return true, errors.Join(wantNames(int(mount.Fd()), ".", ""), mount.Close())
		}
		if !errors.Is(err, unix.ENOTBLK) {
			return false, firstNamespaceOnly(err)
		}
	}
	mount, err := image.detachedLoops(0)
	if err != nil {
		return false, fmt.Errorf("files cannot be mounted, nor loop devices: %w", firstNamespaceOnly(err))
	}
	return false, errors.Join(wantNames(int(mount.Fd()), ".", ""), mount.Close())
}

// firstNamespaceOnly tells who may mount an erofs, when this process may not.
func firstNamespaceOnly(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("only root outside of user namespaces may mount it: %w", err)
	}
	return err
}

// emptyErofs is an image of four blocks of 512 bytes: two that erofs leaves free, the superblock,
// and an empty root folder.
func emptyErofs() []byte {
	const (
		blockBits = 9
		super     = 1024
		root      = 1536
		inode     = 32 // bytes, of a compact one; also the unit of inode numbers
	)
	le := binary.LittleEndian
	image := make([]byte, 4<<blockBits)

	s := image[super:]
	le.PutUint32(s[0:], 0xe0f5e1e2) // magic
	s[12] = blockBits
	le.PutUint16(s[14:], root/inode) // number of the root inode, counted from block 0
	le.PutUint64(s[16:], 1)          // inodes
	le.PutUint32(s[36:], 4)          // blocks

	i := image[root:]
	le.PutUint16(i[0:], 2<<1)               // compact; data follow the inode
	le.PutUint16(i[4:], unix.S_IFDIR|0o755) // mode
	le.PutUint16(i[6:], 2)                  // links
	le.PutUint32(i[20:], 1)                 // inode number for stat

	// The folder's data: entries of 12 bytes (inode, offset of the name, type), then the names.
	d := i[inode:]
	const entries, isDir = 2 * 12, 2
	le.PutUint64(d[0:], root/inode)
	le.PutUint16(d[8:], entries)
	d[10] = isDir
	le.PutUint64(d[12:], root/inode)
	le.PutUint16(d[20:], entries+1)
	d[22] = isDir
	size := entries + copy(d[entries:], "...") // "." and ".."
	le.PutUint32(i[8:], uint32(size))
	return image
}

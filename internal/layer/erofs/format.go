package erofs

import (
	"encoding/binary"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// What an image is made of, as the kernel's erofs_fs.h defines it. Numbers are little-endian.
const (
	blockBits = 9
	// blockSize is that of a tar, so that any of its files can be a device's blocks.
	blockSize = 1 << blockBits

	superOffset  = 1024
	superSize    = 128
	slotSize     = 128 // of a device
	inodeSize    = 64  // with nanoseconds and ids of 32 bits: an extended one
	inodeAlign   = 32  // an inode's number is its place in the image, in such steps
	direntSize   = 12
	chunkRefSize = 8

	superMagic = 0xe0f5e1e2

	compatChecksum = 0x1
	compatMtime    = 0x2

	incompatChunks  = 0x4
	incompatDevices = 0x8

	layoutPlain  = 0 // content in blocks of the image
	layoutInline = 2 // content behind the inode
	layoutChunks = 4 // addresses of chunks behind the inode
	extended     = 1

	chunkRefs = 0x20 // addresses that name a device
	noBlock   = 1<<32 - 1

	// maxDevices is how many layers an image can have: the root stands behind them, and its
	// number has 16 bits.
	maxDevices = 1 << 13
)

// A superblock is what differs between the superblocks of our images. There is nothing in it
// that two images of the same layers could differ in.
type superblock struct {
	root   uint64 // its inode's number
	inodes int64
	blocks int64 // of the image
	layers []layerSize
}

// encode gives the first blocks of an image: the superblock and the devices.
func (s superblock) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, headBlocks(len(s.layers))*blockSize)
	sb := b[superOffset:]
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = blockBits
	le.PutUint16(sb[14:], uint16(s.root))
	le.PutUint64(sb[16:], uint64(s.inodes))
	le.PutUint32(sb[36:], uint32(s.blocks))
	incompat := uint32(incompatChunks)
	if len(s.layers) > 0 {
		incompat |= incompatDevices
		le.PutUint16(sb[86:], uint16(len(s.layers)))
		le.PutUint16(sb[88:], (superOffset+superSize)/slotSize)
	}
	le.PutUint32(sb[80:], incompat)
	for i, layer := range s.layers {
		slot := sb[superSize+i*slotSize:]
		le.PutUint32(slot[64:], uint32(layer.blocks))
	}
	// Of the block that the superblock begins, without the last inversion.
	le.PutUint32(sb[4:], ^crc32.Checksum(sb[:blockSize], castagnoli))
	return b
}

// headBlocks is how many blocks are before the inodes.
func headBlocks(devices int) int64 {
	return blocksOf(int64(superOffset + superSize + devices*slotSize))
}

// encode appends an inode. The layout's word is an address, a device's number, or how large
// chunks are.
func (n *inode) encode(b []byte, layout uint16, xattrSize int, word uint32, size int64) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, extended|layout<<1)
	words := 0
	if xattrSize > 0 {
		words = (xattrSize-xattrHeaderSize)/xattrEntrySize + 1
	}
	b = le.AppendUint16(b, uint16(words))
	b = le.AppendUint16(b, n.mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(size))
	b = le.AppendUint32(b, word)
	b = le.AppendUint32(b, n.number)
	b = le.AppendUint32(b, n.uid)
	b = le.AppendUint32(b, n.gid)
	b = le.AppendUint64(b, uint64(n.sec))
	b = le.AppendUint32(b, n.nsec)
	b = le.AppendUint32(b, n.links)
	return append(b, make([]byte, 16)...)
}

// encodeDevice gives the number of a device as Linux has it in 32 bits.
func encodeDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// decodeDevice is the way back.
func decodeDevice(device uint32) (major, minor uint32) {
	return device >> 8 & 0xfff, device&0xff | device>>12&^0xff
}

// direntType is the type of a file as folders have it.
func direntType(mode uint16) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFLNK:
		return 7
	}
	return 0
}

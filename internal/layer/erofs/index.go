package erofs

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// An image is laid out in three parts: the superblock with the devices; the inodes, with what is
// small behind each of them; and the blocks of larger folders and links. Inodes are in the order
// of the tree, so that those of one folder are side by side, as they are read.
type image struct {
	*tree
	out *bufio.Writer
	at  int64 // in the image, of what is written next
	buf []byte
	// next is the block for the content of the next inode that has it in blocks.
	next int64
}

// A body is what belongs to an inode besides its attributes.
type body struct {
	layout  uint16
	content int // bytes, of a folder or link
	xattrs  int // bytes
	refs    int // bytes of the addresses of chunks
}

// size is that of the inode with all that stands behind it.
func (b body) size() int64 {
	size := int64(inodeSize + b.xattrs)
	switch b.layout {
	case layoutInline:
		size += int64(b.content)
	case layoutChunks:
		size = alignUp(size, chunkRefSize) + int64(b.refs)
	}
	return size
}

// body tells what belongs to an inode.
func (n *inode) body() body {
	var b body
	b.xattrs, _ = checkXattrs(n.xattrs)
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		if n.size > 0 {
			b.layout = layoutChunks
			b.refs = int(countChunks(n.size, n.bits)) * chunkRefSize
		}
		return b
	case unix.S_IFDIR:
		b.content = listSize(n.folder.list)
	case unix.S_IFLNK:
		b.content = len(n.text)
	default:
		return b
	}
	// The kernel wants what is inline in one block, and that of a link in the inode's.
	if inodeSize+b.xattrs+b.content <= blockSize {
		b.layout = layoutInline
	}
	return b
}

// writeImage writes a tree as an image. The trees of the same layers make the same image.
func writeImage(ctx context.Context, w io.Writer, t *tree) error {
	img := &image{tree: t, out: bufio.NewWriterSize(w, 256<<10)}
	head := img.layOut()
	if head.blocks > maxBlocks {
		return fmt.Errorf("the image is larger than %d blocks: %w", maxBlocks, errdefs.ErrResourceExhausted)
	}
	img.buf = head.encode()
	if err := img.flush(); err != nil {
		return err
	}
	for i, n := range img.inodes {
		if i%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := img.writeInode(n); err != nil {
			return err
		}
	}
	for i, n := range img.inodes {
		if i%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := img.writeBlocks(n); err != nil {
			return err
		}
	}
	// A loop device would leave out what does not fill a block.
	if err := img.skip(head.blocks * blockSize); err != nil {
		return err
	}
	return img.out.Flush()
}

// layOut gives every inode its address.
func (img *image) layOut() superblock {
	at := headBlocks(len(img.layers)) * blockSize
	var blocks int64
	for _, n := range img.inodes {
		b := n.body()
		size := b.size()
		// An inode does not cross the end of a block, nor does what is inline.
		whole := int64(inodeSize)
		if b.layout == layoutInline {
			whole = size
		}
		if at%blockSize+whole > blockSize {
			at = alignUp(at, blockSize)
		}
		n.address = uint64(at) / inodeAlign
		at = alignUp(at+size, inodeAlign)
		if b.layout == layoutPlain {
			blocks += blocksOf(int64(b.content))
		}
	}
	img.next = blocksOf(at)
	return superblock{
		root:   img.root.address,
		inodes: int64(len(img.inodes)),
		blocks: img.next + blocks,
		layers: img.layers,
	}
}

// writeInode writes an inode and what stands behind it.
func (img *image) writeInode(n *inode) error {
	b := n.body()
	if err := img.skip(int64(n.address) * inodeAlign); err != nil {
		return err
	}
	var word uint32
	size := n.size
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		if b.layout == layoutChunks {
			word = chunkRefs | uint32(n.bits)
		}
	case unix.S_IFDIR, unix.S_IFLNK:
		size = int64(b.content)
		if b.layout == layoutPlain {
			word = uint32(img.next)
			img.next += blocksOf(size)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		word = n.device
	}
	img.buf = n.encode(img.buf, b.layout, b.xattrs, word, size)
	img.buf = encodeXattrs(img.buf, n.xattrs)
	switch b.layout {
	case layoutInline:
		img.content(n)
	case layoutChunks:
		img.pad(chunkRefSize)
		img.refs(n)
	}
	return img.flush()
}

// writeBlocks writes the content of an inode that has it in blocks.
func (img *image) writeBlocks(n *inode) error {
	if b := n.body(); b.layout != layoutPlain || b.content == 0 {
		return nil
	}
	if err := img.skip(alignUp(img.at, blockSize)); err != nil {
		return err
	}
	img.content(n)
	img.pad(blockSize)
	return img.flush()
}

// content appends what is in a folder or link.
func (img *image) content(n *inode) {
	if n.folder != nil {
		img.buf = encodeList(img.buf, n.folder.list)
	} else {
		img.buf = append(img.buf, n.text...)
	}
}

// refs appends the addresses of a file's chunks: 16 bits that are 0, the device, the block.
func (img *image) refs(n *inode) {
	device := uint16(n.layer + 1)
	for e := range eachExtent(n.text, img.layers[n.layer].tail()) {
		for i := range e.chunks {
			ref := uint64(noBlock) << 32
			if e.block >= 0 {
				ref = uint64(e.block+i<<n.bits)<<32 | uint64(device)<<16
			}
			img.buf = binary.LittleEndian.AppendUint64(img.buf, ref)
		}
	}
}

// pad fills up what is being put together with zeros.
func (img *image) pad(align int) {
	img.buf = append(img.buf, make([]byte, alignUp(len(img.buf), align)-len(img.buf))...)
}

// flush writes what was put together.
func (img *image) flush() error {
	n, err := img.out.Write(img.buf)
	img.at += int64(n)
	img.buf = img.buf[:0]
	return err
}

// skip writes zeros up to a place.
func (img *image) skip(to int64) error {
	img.buf = append(img.buf, make([]byte, to-img.at)...)
	return img.flush()
}

// A folder's content is blocks of names: first the dirents, 12 bytes each, that say where a name
// begins, then the names. The last block ends with its last name.

// blockNames is how many names of a list go into its first block, and how many bytes they take.
func blockNames(list []dirent) (names, size int) {
	for _, d := range list {
		more := direntSize + len(d.name)
		if size+more > blockSize {
			break
		}
		size += more
		names++
	}
	return names, size
}

// listSize is how many bytes a folder's content takes.
func listSize(list []dirent) int {
	size := 0
	for {
		n, last := blockNames(list)
		if list = list[n:]; len(list) == 0 {
			return size + last
		}
		size += blockSize
	}
}

// encodeList appends a folder's content.
func encodeList(b []byte, list []dirent) []byte {
	le := binary.LittleEndian
	for {
		n, size := blockNames(list)
		at := n * direntSize
		for _, d := range list[:n] {
			b = le.AppendUint64(b, d.address)
			b = le.AppendUint16(b, uint16(at))
			b = append(b, direntType(d.mode), 0)
			at += len(d.name)
		}
		for _, d := range list[:n] {
			b = append(b, d.name...)
		}
		if list = list[n:]; len(list) == 0 {
			return b
		}
		b = append(b, make([]byte, blockSize-size)...)
	}
}

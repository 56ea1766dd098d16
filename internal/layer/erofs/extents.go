package erofs

import (
	"encoding/binary"
	"iter"
)

// A file's content is told chunk by chunk, all of which have blockSize<<chunkBits bytes, but for
// the last one. A record keeps runs of chunks: how many, and where the first of them begins. That
// is 0 for a hole, and otherwise 1 more than twice its block, plus 1 when blocks are counted from
// the end of the tar on, which nobody knew when the record was written.

// Limits of chunks.
const (
	maxChunkBits = 31
	// maxBlocks is how many blocks a device may have; the last address stands for holes.
	maxBlocks = 1<<32 - 1
	// maxFileChunks and maxLayerChunks bound the index, 8 bytes a chunk: files of an
	// archive can have holes of any size for nothing. Beyond, chunks get larger, and holes
	// that do not fill one are no longer seen as such.
	maxFileChunks  = 1 << 16
	maxLayerChunks = 1 << 22
)

// An extent is some chunks of a file that follow each other, also where they are kept.
type extent struct {
	chunks int64
	block  int64 // of the data file, or -1 for a hole
}

// appendExtent adds one to the extents of a record; block is as record keeps it.
func appendExtent(b []byte, chunks int64, block uint64) []byte {
	b = binary.AppendUvarint(b, uint64(chunks))
	return binary.AppendUvarint(b, block)
}

// Where an extent begins, as a record keeps it.
func inTar(block int64) uint64  { return 1 + 2*uint64(block) }
func inTail(block int64) uint64 { return 2 + 2*uint64(block) }

// eachExtent gives the extents of a record that was checked. The tail is the block at which what
// is behind the tar begins.
func eachExtent(extents string, tail int64) iter.Seq[extent] {
	return func(yield func(extent) bool) {
		for d := (decoder{rest: extents}); d.rest != ""; {
			e := extent{chunks: int64(d.uint()), block: -1}
			if at := d.uint(); at > 0 {
				e.block = int64((at - 1) / 2)
				if at%2 == 0 {
					e.block += tail
				}
			}
			if !yield(e) {
				return
			}
		}
	}
}

// checkExtents tells whether the extents are those of a file of that size in a data file of that
// many blocks, whose tail begins as given.
func checkExtents(extents string, chunkBits uint8, size, tail, blocks int64) bool {
	if size < 0 || chunkBits > maxChunkBits {
		return false
	}
	left := countChunks(size, chunkBits)
	if left > maxFileChunks {
		return false
	}
	size = blocksOf(size)
	for d := (decoder{rest: extents}); d.rest != ""; {
		chunks, at := d.uint(), d.uint()
		if d.bad || chunks == 0 || chunks > uint64(left) || at > 2*maxBlocks {
			return false
		}
		left -= int64(chunks)
		n := min(int64(chunks)<<chunkBits, size)
		size -= n
		if at > 0 {
			end := int64((at-1)/2) + n
			if at%2 == 0 {
				end += tail
			}
			if end > blocks {
				return false
			}
		}
	}
	return left == 0
}

// countChunks is how many chunks a file of that size has.
func countChunks(size int64, chunkBits uint8) int64 {
	return (blocksOf(size) + 1<<chunkBits - 1) >> chunkBits
}

// blocksOf is how many blocks so many bytes take.
func blocksOf(size int64) int64 {
	n := size / blockSize
	if size%blockSize != 0 {
		n++
	}
	return n
}

// wholeBits is the size of a chunk that has all of a file, if there is one.
func wholeBits(size int64) uint8 {
	bits := uint8(0)
	for bits < maxChunkBits && countChunks(size, bits) > 1 {
		bits++
	}
	return bits
}

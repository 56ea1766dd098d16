package layer

import "io"

// A Tree is a filesystem as its layers make it, read without being mounted. Paths are relative to
// the root, clean and without ".."; "." is the root. Links are not followed: a path through one,
// or through anything else that is not a folder, is [errdefs.ErrNotFound]. Several goroutines may
// use it at once. Close gives back what it holds.
type Tree interface {
	Lookup(path string) (*Node, error)
	// List gives what is in a folder, ordered by the bytes of its names.
	List(dir *Node) ([]*Node, error)
	// Open reads a regular file. The caller closes it.
	Open(n *Node) (File, error)
	io.Closer
}

// A Node is what a tree has at a path.
type Node struct {
	Path string
	Attr
	// File tells hard links: two nodes of one tree that are the same file have the same one.
	// Zero for what has one name only, and for folders.
	File FileID
	// Same tells what is unchanged: nodes of two trees that have the same one are alike, for a
	// folder with all beneath it. Zero: not known.
	Same FileID
}

// A FileID is a file among those of all trees of one driver.
type FileID struct {
	Tree  string // where it is kept
	Inode uint64
}

// A File is the content of a regular file.
type File interface {
	io.ReaderAt
	io.Closer
	// Data tells the next run of bytes at or after off, as SEEK_DATA and SEEK_HOLE do; what is
	// between runs reads as zeros. It ends with io.EOF.
	Data(off int64) (start, end int64, err error)
}

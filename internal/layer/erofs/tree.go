package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// Open reads the stack of layers, which are folders of [WriteLayer], bottom first, as a tree. It
// is in memory, less than 200 bytes for each entry besides names; the data files stay open until
// the tree is closed. Errors: as [WriteIndex].
func Open(layers []string) (layer.Tree, error) {
	m, err := openMerged(layers)
	if err != nil {
		return nil, fmt.Errorf("open erofs layers: %w", err)
	}
	return m, nil
}

func openMerged(layers []string) (*merged, error) {
	t, err := merge(context.Background(), layers)
	if err != nil {
		return nil, err
	}
	m := &merged{tree: t}
	for i, name := range Devices(layers) {
		f, err := os.Open(name)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		m.files = append(m.files, f)
		m.ids = append(m.ids, strings.Join(layers[:i+1], ":"))
	}
	return m, nil
}

// A merged is a [layer.Tree] of layers.
type merged struct {
	*tree
	files []*os.File
	// ids name the layers together with those below: the same ones make the same inodes, with
	// the same numbers, and what no layer above touches stays as it is.
	ids []string
}

func (m *merged) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	m.files = nil
	return errors.Join(errs...)
}

// Lookup implements [layer.Tree].
func (m *merged) Lookup(path string) (*layer.Node, error) {
	n := m.find(path)
	if n == nil {
		return nil, fmt.Errorf("%q: %w", path, errdefs.ErrNotFound)
	}
	return m.node(path, n), nil
}

// List implements [layer.Tree].
func (m *merged) List(dir *layer.Node) ([]*layer.Node, error) {
	n := m.find(dir.Path)
	if n == nil || n.folder == nil {
		return nil, fmt.Errorf("list %q: no folder: %w", dir.Path, errdefs.ErrNotFound)
	}
	nodes := make([]*layer.Node, 0, len(n.folder.list)-2)
	for _, d := range n.folder.list {
		switch {
		case d.name == "." || d.name == "..":
		case dir.Path == ".":
			nodes = append(nodes, m.node(d.name, d.inode))
		default:
			nodes = append(nodes, m.node(joinPath(dir.Path, d.name), d.inode))
		}
	}
	return nodes, nil
}

// Open implements [layer.Tree].
func (m *merged) Open(node *layer.Node) (layer.File, error) {
	n := m.find(node.Path)
	if n == nil || n.mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("open %q: no file: %w", node.Path, errdefs.ErrNotFound)
	}
	f := &file{size: n.size}
	off := int64(0)
	for e := range eachExtent(n.text, m.layers[n.layer].tail()) {
		length := min(e.chunks*blockSize<<n.bits, n.size-off)
		if e.block >= 0 {
			f.data = m.files[n.layer]
			f.parts = append(f.parts, part{off, off + length, e.block * blockSize})
		}
		off += length
	}
	return f, nil
}

// find gives what is at a path, or nil.
func (m *merged) find(path string) *inode {
	n := m.root
	if path == "." {
		return n
	}
	for base := range strings.SplitSeq(path, "/") {
		if n.folder == nil || base == "." || base == ".." {
			return nil
		}
		list := n.folder.list
		i, ok := slices.BinarySearchFunc(list, base, func(d dirent, base string) int {
			return strings.Compare(d.name, base)
		})
		if !ok {
			return nil
		}
		n = list[i].inode
	}
	return n
}

func (m *merged) node(path string, n *inode) *layer.Node {
	node := &layer.Node{Path: path, Attr: layer.Attr{
		Mode:    uint32(n.mode),
		UID:     n.uid,
		GID:     n.gid,
		ModTime: time.Unix(n.sec, int64(n.nsec)),
	}}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		node.Size = n.size
	case unix.S_IFLNK:
		node.Target = n.text
	case unix.S_IFCHR, unix.S_IFBLK:
		node.Major, node.Minor = decodeDevice(n.device)
	}
	if n.xattrs != "" {
		node.Xattrs = map[string]string{}
		for name, value := range eachXattr(n.xattrs) {
			node.Xattrs[name] = value
		}
	}
	if len(m.ids) > 0 {
		node.Same = layer.FileID{Tree: m.ids[n.layer], Inode: uint64(n.number)}
	}
	if n.folder == nil && n.links > 1 {
		node.File = node.Same
	}
	return node
}

// A file is one of a layer's. The tree owns what it reads from.
type file struct {
	data  *os.File
	size  int64
	parts []part // what is not holes
}

// A part of a file, and where it is in the data.
type part struct{ start, end, at int64 }

func (f *file) Close() error { return nil }

// next gives the first part that ends behind off.
func (f *file) next(off int64) int {
	i, _ := slices.BinarySearchFunc(f.parts, off, func(p part, off int64) int {
		if p.end <= off {
			return -1
		}
		return 1
	})
	return i
}

// ReadAt implements [io.ReaderAt].
func (f *file) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, errdefs.ErrInvalidArgument)
	}
	n := 0
	for n < len(b) && off < f.size {
		want := b[n:min(int64(len(b)), int64(n)+f.size-off)]
		got := len(want)
		switch i := f.next(off); {
		case i == len(f.parts):
			clear(want)
		case f.parts[i].start > off:
			got = int(min(int64(got), f.parts[i].start-off))
			clear(want[:got])
		default:
			p := f.parts[i]
			var err error
			got, err = f.data.ReadAt(want[:min(int64(got), p.end-off)], p.at+off-p.start)
			if got == 0 {
				if err == io.EOF {
					err = fmt.Errorf("%s is too short: %w", f.data.Name(), errdefs.ErrDataLoss)
				}
				return n, err
			}
		}
		n += got
		off += int64(got)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Data implements [layer.File].
func (f *file) Data(off int64) (start, end int64, err error) {
	i := f.next(off)
	if i == len(f.parts) || off >= f.size {
		return 0, 0, io.EOF
	}
	start = max(off, f.parts[i].start)
	// Parts may be one run that is kept in pieces.
	for end = f.parts[i].end; i+1 < len(f.parts) && f.parts[i+1].start == end; i++ {
		end = f.parts[i+1].end
	}
	return start, end, nil
}

package erofs

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An inode is a file, folder or else in memory. There is one for each entry: its size matters.
type inode struct {
	sec     int64
	size    int64
	text    string // of a symbolic link, its target; of a file, its extents
	xattrs  string // as a record has them
	folder  *folder
	address uint64 // where it is in an image, once that is laid out
	number  uint32 // from 1 on, in the order of the entries; layers on top leave it as it is
	nsec    uint32
	uid     uint32
	gid     uint32
	device  uint32 // number of a device, as an image has it
	links   uint32 // names, once they are counted
	layer   int32  // that made it; of a folder, the last one that changed anything in it
	mode    uint16 // st_mode
	bits    uint8  // log2 of the blocks in a chunk
}

// A folder is what only inodes of folders have.
type folder struct {
	parent *inode // the root's is itself
	names  map[string]name
	// list is what replaces names when the tree is whole: all of them, with "." and "..", in
	// the order of their bytes.
	list  []dirent
	depth int32 // below the root
	// pruned is the last layer that made the folder or hid all that was in it: there is nothing
	// of the layers below left for that layer to hide.
	pruned int32
}

// A dirent is one name in a folder of a tree that is whole.
type dirent struct {
	name string
	*inode
}

// A name is one in a folder.
type name struct {
	*inode
	layer int32 // that brought it
}

// A tree is what layers come to.
type tree struct {
	root   *inode
	layers []layerSize
	inodes []*inode // folder by folder, the root first; those of a folder by their names
}

// finish counts links and gives everything its order.
func (m *merger) finish() *tree {
	t := &tree{root: m.root, layers: m.layers, inodes: []*inode{m.root}}
	m.root.links = 2
	// The inodes are also the queue of folders to go through.
	for next := 0; next < len(t.inodes); next++ {
		dir := t.inodes[next]
		f := dir.folder
		if f == nil {
			continue
		}
		f.list = make([]dirent, 0, len(f.names)+2)
		f.list = append(f.list, dirent{".", dir}, dirent{"..", f.parent})
		for base, n := range f.names {
			f.list = append(f.list, dirent{base, n.inode})
		}
		f.names = nil
		slices.SortFunc(f.list, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
		for _, d := range f.list {
			switch {
			case d.name == "." || d.name == "..":
				continue
			case d.folder != nil:
				d.links = 2
				dir.links++
			default:
				d.links++
			}
			if d.folder != nil || d.links == 1 {
				t.inodes = append(t.inodes, d.inode)
			}
		}
	}
	return t
}

// describe gives an inode the attributes of an entry.
func (n *inode) describe(r *record) {
	n.mode = uint16(r.mode | fileType(r.kind))
	n.uid, n.gid = r.uid, r.gid
	n.sec, n.nsec = r.sec, r.nsec
	n.device = encodeDevice(r.major, r.minor)
	n.xattrs = r.xattrs
	switch r.kind {
	case kindFile:
		n.size, n.bits, n.text = r.size, r.chunkBits, r.extents
	case kindSymlink:
		n.size, n.text = int64(len(r.target)), r.target
	}
}

func fileType(kind byte) uint32 {
	switch kind {
	case kindDir:
		return unix.S_IFDIR
	case kindSymlink:
		return unix.S_IFLNK
	case kindChar:
		return unix.S_IFCHR
	case kindBlock:
		return unix.S_IFBLK
	case kindFifo:
		return unix.S_IFIFO
	}
	return unix.S_IFREG
}

// reset gives a folder the attributes of one that nothing is known of.
func (n *inode) reset() {
	n.mode = unix.S_IFDIR | 0o755
	n.uid, n.gid, n.sec, n.nsec, n.xattrs = 0, 0, 0, 0, ""
}

// within tells whether a folder is top or beneath it.
func (n *inode) within(top *inode) bool {
	for ; n != top; n = n.folder.parent {
		if n == n.folder.parent {
			return false
		}
	}
	return true
}

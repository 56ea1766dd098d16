package erofs

import (
	"encoding/binary"
	"iter"
	"strings"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/tarstream"
)

// The xattrs of a record, and of an inode in memory, are one string: for each the length of its
// name, the name, the length of its value, the value. Most files have none.

// Limits of erofs: the length of a value has 16 bits, that of all xattrs of an inode in words too.
const (
	maxXattrValue = 1<<16 - 1
	maxXattrWords = 1<<16 - 1
)

// The parts of xattrs in an image.
const (
	xattrHeaderSize = 12
	xattrEntrySize  = 4
)

// xattrPrefixes are the names that an image can have: the numbers of what they begin with. Those
// of ACLs are whole names.
var xattrPrefixes = []struct {
	prefix string
	index  byte
	whole  bool
}{
	{"user.", 1, false},
	{"trusted.", 4, false},
	{"security.", 6, false},
	{accessACL, 2, true},
	{defaultACL, 3, true},
}

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// splitXattr gives the form that a name has in an image.
func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok {
			return p.index, rest, (rest == "") == p.whole && len(rest) <= maxName
		}
	}
	return 0, "", false
}

// refusedXattr says why an inode of a type cannot have an xattr; "" when it can. It refuses what
// other filesystems refuse too, so that a layer has the same xattrs on all of them.
func refusedXattr(kind byte, x tarstream.Xattr) string {
	index, _, ok := splitXattr(x.Name)
	switch {
	case !ok:
		return "no name that erofs knows"
	case len(x.Value) > maxXattrValue:
		return "its value is too long"
	case index == 1 && kind != kindFile && kind != kindDir:
		return "only files and folders have any of users"
	case index == 2 && kind == kindSymlink, index == 3 && kind != kindDir:
		return "not on this type of file"
	case x.Name == "security.capability" && !validCapability(x.Value):
		return "no capabilities"
	case (index == 2 || index == 3) && !layer.ValidACL(x.Value):
		return "no ACL"
	}
	return ""
}

// appendXattr adds one to the xattrs of a record.
func appendXattr(b []byte, name, value string) []byte {
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// eachXattr gives the xattrs of a record that was checked.
func eachXattr(xattrs string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for d := (decoder{rest: xattrs}); d.rest != ""; {
			name, value := d.text(), d.text()
			if !yield(name, value) {
				return
			}
		}
	}
}

// checkXattrs tells how many bytes the xattrs of a record take in an image, which is 0 for none,
// and whether they can be there.
func checkXattrs(xattrs string) (size int, ok bool) {
	if xattrs == "" {
		return 0, true
	}
	size = xattrHeaderSize
	for d := (decoder{rest: xattrs}); d.rest != ""; {
		name, value := d.text(), d.text()
		_, rest, known := splitXattr(name)
		if d.bad || !known || len(value) > maxXattrValue {
			return 0, false
		}
		size += alignUp(xattrEntrySize+len(rest)+len(value), xattrEntrySize)
	}
	return size, (size-xattrHeaderSize)/xattrEntrySize+1 <= maxXattrWords
}

// encodeXattrs appends the xattrs of a record as an image has them.
func encodeXattrs(b []byte, xattrs string) []byte {
	if xattrs == "" {
		return b
	}
	b = append(b, make([]byte, xattrHeaderSize)...)
	for name, value := range eachXattr(xattrs) {
		index, rest, _ := splitXattr(name)
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, rest...)
		b = append(b, value...)
		n := xattrEntrySize + len(rest) + len(value)
		b = append(b, make([]byte, alignUp(n, xattrEntrySize)-n)...)
	}
	return b
}

// alignUp is the first multiple of align, a power of two, from n on.
func alignUp[T int | int64](n, align T) T { return (n + align - 1) &^ (align - 1) }

// validCapability tells whether a value is one of the file capabilities that Linux takes.
func validCapability(value string) bool {
	return len(value) == 20 && value[3] == 2 || len(value) == 24 && value[3] == 3
}

package layer

import (
	"encoding/binary"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// An acl is what a POSIX ACL, as an xattr has it, says of the mode.
type acl struct {
	none bool   // it has no entries
	mode uint32 // the permissions that the mode has too
	more bool   // there is more to it than these
}

// AfterXattr is the mode of a file when an xattr has been set that is not refused, and whether the
// file then has the xattr: setting an ACL changes the mode too, and an ACL that says nothing else
// is not kept.
func AfterXattr(mode uint32, x tarstream.Xattr) (after uint32, keep bool) {
	if !isACL(x.Name) {
		return mode, true
	}
	a, _ := parseACL(x.Value)
	if x.Name == defaultACL {
		return mode, !a.none
	}
	if a.none {
		return mode, false
	}
	return mode&^0o777 | a.mode, a.more
}

// ValidACL tells whether Linux takes a value as a POSIX ACL, or as none.
func ValidACL(value string) bool {
	_, ok := parseACL(value)
	return ok
}

// Tags of the entries of an ACL, in their order.
const (
	aclOwner = 1 << iota
	aclUser
	aclOwnerGroup
	aclGroup
	aclMask
	aclOther
)

// parseACL reads an ACL: the version 2, then entries of a tag, permissions and an id. Without
// entries there is none. It refuses what Linux refuses.
func parseACL(value string) (a acl, ok bool) {
	le := binary.LittleEndian
	b := []byte(value)
	if len(b) < 4 || (len(b)-4)%8 != 0 || le.Uint32(b) != 2 {
		return a, false
	}
	if b = b[4:]; len(b) == 0 {
		a.none = true
		return a, true
	}
	var seen, last uint16
	var group uint32
	for ; len(b) > 0; b = b[8:] {
		tag, perm, id := le.Uint16(b), uint32(le.Uint16(b[2:])), le.Uint32(b[4:])
		if perm > 7 || tag < last || tag == last && tag != aclUser && tag != aclGroup {
			return a, false
		}
		switch tag {
		case aclOwner:
			a.mode |= perm << 6
		case aclOwnerGroup:
			group = perm
		case aclUser, aclGroup:
			if id == 1<<32-1 {
				return a, false
			}
		case aclMask:
		case aclOther:
			a.mode |= perm
		default:
			return a, false
		}
		if tag == aclMask {
			group = perm
		}
		seen |= tag
		last = tag
	}
	a.mode |= group << 3
	a.more = seen&(aclUser|aclGroup|aclMask) != 0
	const needed = aclOwner | aclOwnerGroup | aclOther
	return a, seen&needed == needed && (seen&(aclUser|aclGroup) == 0 || seen&aclMask != 0)
}

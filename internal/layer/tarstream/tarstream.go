// Package tarstream reads the entries of a tar as it streams past.
//
// It knows what layers are made of: the forms of V7, ustar, star, pax and GNU tar, with sparse
// files in all four ways of the latter, and gives them the meaning that GNU tar does. What it adds
// is bounds: whatever the tar says, a [Reader] holds some tens of MiB at most. What GNU tar
// guesses or warns of is refused here, since another reader may guess differently:
//
//   - types that it does not know, which GNU tar makes regular files;
//   - a single block of zeros with more behind it, where GNU tar ends;
//   - a regular file with content whose name ends in "/", a directory for GNU tar;
//   - ids and numbers that do not fit, extended headers and sparse maps that are malformed.
//
// Names, targets and device numbers are handed on as they are: whether they can be used is for
// those who use them.
package tarstream

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Limits of one entry. What exceeds them is refused.
const (
	maxExtended   = 1 << 20 // bytes of all its extended headers and long names
	maxName       = 4096    // bytes of a name or a link's target
	maxXattrs     = 1024
	maxXattrName  = 255     // bytes, as in Linux
	maxXattrValue = 1 << 16 // bytes, as in Linux
	maxRuns       = 1 << 20 // in a sparse map: 16 MiB of memory
)

// An Entry is one entry of a tar, with what its extended headers say. It is valid until the next
// call of Next; its strings may be kept.
type Entry struct {
	Name     string // as it stands in the archive
	Type     byte   // TypeReg and so on; older and vendor forms of a regular file are TypeReg
	Linkname string // of TypeLink and TypeSymlink
	Mode     uint32 // permissions with setuid, setgid and sticky: 07777
	UID, GID uint32 // never 1<<32-1, which stands for none
	ModTime  time.Time
	Size     int64 // of the file that it makes, holes included; 0 for all but TypeReg
	Major    uint32
	Minor    uint32
	// Xattrs are the SCHILY.xattr records, in the order of their names, and those that only
	// LIBARCHIVE.xattr has.
	Xattrs []Xattr
	// Flags is the record SCHILY.fflags.
	Flags string
	// TextACL is set when there is an ACL written as text, as star and bsdtar do; layers have
	// theirs as xattrs.
	TextACL bool
	// Data is what is stored, in ascending order: everything else is holes. Runs are not empty
	// and do not touch: a file without holes has one run, an empty file none.
	Data []Run
	// Offset is where the stored bytes begin in the stream: those of the runs, one after
	// another, without gaps.
	Offset int64
}

// A Run is a part of a file that is stored.
type Run struct{ Offset, Length int64 }

// An Xattr is one extended attribute.
type Xattr struct{ Name, Value string }

// Types of entries.
const (
	TypeReg     = '0'
	TypeLink    = '1'
	TypeSymlink = '2'
	TypeChar    = '3'
	TypeBlock   = '4'
	TypeDir     = '5'
	TypeFifo    = '6'
)

// A FormatError reports what makes a stream no tar, or one that is refused.
type FormatError struct {
	Offset int64 // of the header that it is about
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("tar header at byte %d: %s", e.Offset, e.Reason)
}

// Unwrap makes a FormatError an [errdefs.ErrInvalidArgument].
func (e *FormatError) Unwrap() error { return errdefs.ErrInvalidArgument }

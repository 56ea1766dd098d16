// Package layer turns layers into trees and back.
//
// A layer is a tar of changes. [Apply] makes them beneath a folder, which is either one of a stack
// that overlay mounts or a whole tree; [Diff] is the way back, from two trees to the layer between
// them. A [Tree] is read without being mounted, so that this works without privileges, and the
// same way for every form in which layers are kept.
//
// Everything in a layer is untrusted. Names are resolved beneath the folder by the kernel or step
// by step, never by joining strings; what it may cost is bounded by [Limits]; and what could not
// be made as the layer says is a [Loss], which is an error or is listed, and never silent.
//
// What the tar means is the same wherever it is applied, and follows the OCI image specification
// and, where that is silent, GNU tar:
//
//   - Names are relative to the root, whether they begin with "/", "./" or neither. The entry of
//     the root itself sets the root's attributes. A name with ".." in it is refused.
//   - A link on the way to a name is followed as if the root were "/". What a name ends in is
//     replaced and never followed; only a directory stays when it is named again, with new
//     attributes. The last of several entries with one name wins.
//   - Folders that have no entry are as they are below; where there are none, or a marker hides
//     them, 0755, root's and of the time 0. Such a folder replaces what else is below; to be put
//     into something that the same layer brought, and that is no folder, is refused.
//   - ".wh.NAME" hides NAME of the layers below, and ".wh..wh..opq" all of them in its folder;
//     neither touches what the same layer brings, before or after. Nothing is made for a marker
//     that hides nothing.
//   - A folder's time is what its entry says, or what it was below: what is put into it does not
//     change it.
package layer

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// A Form says how a folder that a layer is applied to keeps what the layer takes away.
type Form int

// The forms of a folder.
const (
	// Whole is a tree that stands for itself: what a layer takes away is removed from it.
	Whole Form = iota
	// Overlay is one folder of a stack, as overlay keeps it: a name that is taken away is a
	// character device 0/0, and a folder that hides those below has trusted.overlay.opaque.
	Overlay
	// UserOverlay is Overlay with user.overlay.opaque, which needs no privileges and the
	// option userxattr when it is mounted.
	UserOverlay
)

// Limits bound what one layer may cost. Zero fields stand for the defaults.
type Limits struct {
	Entries int64 // in the tar; 0: 4,194,304
	Size    int64 // bytes of all files, holes included; 0: 1 TiB
}

// A Kind of loss says what could not be made.
type Kind string

// The kinds of losses.
const (
	LostOwner  Kind = "owner"  // no such id in the user namespace, or no right to give files away
	LostMode   Kind = "mode"   // setuid, setgid or sticky
	LostXattr  Kind = "xattr"  // refused by the filesystem, overlay's own, or an ACL as text
	LostDevice Kind = "device" // no right to make it, or the device 0/0, which stands for a whiteout
	LostFlags  Kind = "flags"  // such as immutable, in archives of other systems
)

// A Loss is something that a tree lacks of what its layers say.
type Loss struct {
	Kind   Kind   `json:"kind"`
	Path   string `json:"path"`             // the first one
	Detail string `json:"detail,omitempty"` // an xattr's name and why, a device's numbers
	Count  int64  `json:"count"`            // entries with the same kind and detail
}

func (l Loss) String() string {
	s := fmt.Sprintf("%s of %s", l.Kind, l.Path)
	if l.Detail != "" {
		s += ": " + l.Detail
	}
	if l.Count > 1 {
		s += fmt.Sprintf(" (and %d more)", l.Count-1)
	}
	return s
}

// A LossError reports the first loss, where losses are refused.
type LossError struct{ Loss Loss }

func (e *LossError) Error() string { return "cannot keep the " + e.Loss.String() }

// Unwrap makes a LossError an [errdefs.ErrFailedPrecondition].
func (e *LossError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Options tune how a layer is applied. The zero value applies it to a whole tree and refuses
// losses.
type Options struct {
	Form   Form
	Limits Limits
	// ReportLosses lists what could not be made where it otherwise is an error. What no
	// filesystem could keep beside overlay's own marks, such as the device 0/0, is listed in
	// any case.
	ReportLosses bool
	// Below is what the layers below make, for a folder of a stack. Nil: not known yet; what
	// depends on it is told in Needs.
	Below Tree
}

// A Result is what applying a layer came to.
type Result struct {
	Size    int64 // bytes of the files it brought, holes not counted
	Inodes  int64 // files, folders and all else it brought
	Entries int64 // in the tar
	Losses  []Loss
	Needs   Needs
	// Opaque is set when the layer hides everything below it: its root has an opaque marker.
	Opaque bool
	// Root is set when the layer has an entry for the root itself. A layer of a stack that has
	// none leaves the root's attributes to those below, which is not counted among its needs.
	Root bool
}

// Needs is what a folder of a stack, made without knowing what is below it, depends on there.
// Paths are relative to the root and clean.
type Needs struct {
	// Folders have no entry in the layer. They stand with default attributes, and are to get
	// those of the folders below. If below there is a link, the layer has to be applied anew.
	// Those that are not below and have nothing in them must go, once the whiteouts in them have:
	// they were made for a marker that hides nothing. The root is never among them.
	Folders []string `json:"folders,omitempty"`
	// Through are other folders that the layer put something into, or took something from, before
	// it made or replaced them itself. If below there is a link, the layer has to be applied anew.
	Through []string `json:"through,omitempty"`
	// Links are entries that were left out, most often hard links to files that the layer does not
	// bring. The layer has to be applied anew.
	Links []string `json:"links,omitempty"`
	// Whiteouts are names that the layer takes away. Where the folder that one is in is not
	// below, it must go: overlay would list it.
	Whiteouts []string `json:"whiteouts,omitempty"`
}

// Attr is what a tree knows of a file, apart from its name and content.
type Attr struct {
	Mode     uint32 // type and permissions, as st_mode
	UID, GID uint32
	Size     int64 // of a regular file
	ModTime  time.Time
	Major    uint32 // of a device
	Minor    uint32
	Target   string            // of a symbolic link
	Xattrs   map[string]string // without overlay's own
}

package layer

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// An Op says what an entry asks for.
type Op int

// What entries ask for.
const (
	Put     Op = iota // the file, folder, link or device that the entry describes
	Hide              // to hide a name of the layers below
	HideAll           // to hide all that the layers below have in a folder
	Nothing           // AUFS' own bookkeeping, in layers of its time
)

// What Linux takes, without the terminating NUL.
const (
	maxName   = 255
	maxPath   = 4095
	maxTarget = 4095
	maxMajor  = 0xfff
	maxMinor  = 0xfffff
)

const (
	marker       = ".wh."
	opaqueMarker = ".wh..wh..opq"
)

// Meaning says what an entry asks for and of which path, which is relative to the root and clean;
// "." is the root. For Hide it is the hidden path, and for HideAll the folder. The target is that
// of a hard link, in the same form. What an entry cannot mean is an [errdefs.ErrInvalidArgument];
// that a hard link leads to a folder is left for whoever looks.
//
// Markers count whatever their type is: AUFS made them hard links.
func Meaning(e *tarstream.Entry) (op Op, path, target string, err error) {
	refuse := func(format string, args ...any) (Op, string, string, error) {
		return Nothing, "", "", invalid(e.Name, format, args...)
	}
	path, fault := clean(e.Name)
	if fault != "" {
		return refuse("%s", fault)
	}
	switch e.Type {
	case tarstream.TypeReg, tarstream.TypeLink, tarstream.TypeSymlink, tarstream.TypeChar,
		tarstream.TypeBlock, tarstream.TypeDir, tarstream.TypeFifo:
	default:
		return refuse("type %q is unknown", e.Type)
	}
	if strings.Contains(path, marker) {
		op, hidden, fault := mark(path)
		if fault != "" {
			return refuse("%s", fault)
		}
		if op != Put {
			return op, hidden, "", nil
		}
	}

	if path == "." && e.Type != tarstream.TypeDir {
		return refuse("the root is a folder")
	}
	switch e.Type {
	case tarstream.TypeLink:
		target, fault = clean(e.Linkname)
		switch {
		case fault != "":
			return refuse("hard link to %s: %s", quote(e.Linkname), fault)
		case target == ".":
			return refuse("hard link to the root")
		case target == path:
			return refuse("hard link to itself")
		case marked(target):
			return refuse("hard link to the marker %s", quote(e.Linkname))
		}
	case tarstream.TypeSymlink:
		switch {
		case e.Linkname == "":
			return refuse("symbolic link to nothing")
		case len(e.Linkname) > maxTarget:
			return refuse("symbolic link to a path of %d bytes", len(e.Linkname))
		case strings.IndexByte(e.Linkname, 0) >= 0:
			return refuse("symbolic link to a path with a NUL")
		}
	case tarstream.TypeChar, tarstream.TypeBlock:
		if e.Major > maxMajor || e.Minor > maxMinor {
			return refuse("device %d:%d is out of range", e.Major, e.Minor)
		}
	}
	return Put, path, target, nil
}

// clean makes a name relative and drops what says nothing. The fault says why it cannot be one.
func clean(name string) (path, fault string) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", "a NUL in its path"
	}
	path = strings.Trim(strings.TrimPrefix(name, "./"), "/") // clean, most often
	kept := make([]string, 0, 16)
	dropped := false
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "" || part == ".":
			dropped = true
			continue
		case part == "..":
			return "", `".." in its path`
		case len(part) > maxName && (len(part) > len(marker)+maxName || !strings.HasPrefix(part, marker)):
			return "", fmt.Sprintf("a name of %d bytes in its path", len(part))
		}
		kept = append(kept, part)
	}
	if dropped {
		path = strings.Join(kept, "/")
	}
	if path == "" {
		path = "."
	}
	if len(path) > maxPath {
		return "", fmt.Sprintf("a path of %d bytes", len(path))
	}
	return path, ""
}

// mark reads the markers in a path. Put is a path without any.
func mark(path string) (op Op, hidden, fault string) {
	switch first, _, _ := strings.Cut(path, "/"); first {
	case ".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph":
		return Nothing, "", ""
	}
	folder, base := split(path)
	switch {
	case marked(folder):
		return Nothing, "", "a marker as a folder"
	case !strings.HasPrefix(base, marker):
		return Put, path, ""
	case base == opaqueMarker:
		return HideAll, folder, ""
	}
	switch name := base[len(marker):]; {
	case name == "" || name == "." || name == "..":
		return Nothing, "", "a marker that names nothing"
	case strings.HasPrefix(name, marker):
		return Nothing, "", "an unknown marker"
	default:
		return Hide, join(folder, name), ""
	}
}

// marked says whether a clean path has a marker in it.
func marked(path string) bool {
	return strings.HasPrefix(path, marker) || strings.Contains(path, "/"+marker)
}

// split parts a clean path other than "." into its folder and its name there.
func split(path string) (folder, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return ".", path
}

// join is the clean path of a name in the folder at a clean path.
func join(folder, base string) string {
	if folder == "." {
		return base
	}
	return folder + "/" + base
}

// Keeps says whether trees have an extended attribute of that name. None has overlay's own: on a
// folder of a stack they would be taken for its marks.
func Keeps(xattr string) bool {
	return !strings.HasPrefix(xattr, "trusted.overlay.") && !strings.HasPrefix(xattr, "user.overlay.")
}

// Unkept lists what no tree keeps of an entry that is put at a path, whatever form it has. Without
// made there is nothing left to be put. These losses are reported under every policy.
func Unkept(e *tarstream.Entry, path string) (losses []Loss, made bool) {
	if e.Type == tarstream.TypeChar && e.Major == 0 && e.Minor == 0 {
		return []Loss{{LostDevice, path, "c 0:0: it stands for a whiteout", 1}}, false
	}
	if e.Type == tarstream.TypeLink { // only a name, whatever else it says
		return nil, true
	}
	if e.Flags != "" {
		losses = append(losses, Loss{LostFlags, path, clip(e.Flags), 1})
	}
	if e.TextACL {
		losses = append(losses, Loss{LostXattr, path, "an ACL that is written as text", 1})
	}
	for _, x := range e.Xattrs {
		if !Keeps(x.Name) {
			losses = append(losses, Loss{LostXattr, path, clip(x.Name) + ": overlay's own", 1})
		}
	}
	return losses, true
}

func invalid(name, format string, args ...any) error {
	return fmt.Errorf("entry %s: %s: %w", quote(name), fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// quote is for messages: names in archives may hold anything, at any length.
func quote(name string) string { return fmt.Sprintf("%q", clip(name)) }

func clip(s string) string {
	if len(s) > maxName {
		return s[:maxName] + "..."
	}
	return s
}

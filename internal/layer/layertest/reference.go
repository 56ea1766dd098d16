package layertest

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Reference makes the tree of a case in the folder dir, which is to be missing, as package layer
// says it is: by GNU tar, run as root with dir as its root, for all that is in the archives. What
// it cannot know is done by hand:
//
//   - Markers are looked for in the tree of the layers below, before the layer is extracted. The
//     entries of markers are not extracted.
//   - A folder in the way of something else is removed with all in it, and a file in the way of a
//     folder that has no entry; a missing folder at the end of a link is made.
//   - Folders that have no entry keep their time, and default ACLs that were there are not
//     inherited. New ones get 0755, root's, of the time 0.
//   - What is named again has the xattrs of its last entry and no others.
//   - Aligned pieces of 64 KiB with nothing but zeros become holes.
func Reference(t testing.TB, c Case, dir string) {
	t.Helper()
	r := &reference{t: t, root: dir}
	r.must(os.Mkdir(dir, 0o755))
	r.must(os.Chmod(dir, 0o755))
	r.installTar()
	r.setTime(dir, time.Unix(0, 0))
	for _, layer := range c.Layers {
		r.apply(layer)
	}
	tools, err := os.Lstat(dir)
	r.must(err)
	r.must(os.RemoveAll(filepath.Join(dir, toolbox)))
	r.setTime(dir, tools.ModTime())
}

// toolbox is where GNU tar is while it has the tree as its root.
const toolbox = ".layertest-tools"

type reference struct {
	t    testing.TB
	root string
	tar  []string // the command, within the root
}

// A kept is what a folder is to have again after a layer that says nothing of it.
type kept struct {
	modified   time.Time
	defaultACL string
}

// A part is an entry with its place in the archive, extended headers included.
type part struct {
	*tar.Header
	begin, end int64
}

func (r *reference) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("reference: %v", err)
	}
}

func (r *reference) apply(layer []byte) {
	r.t.Helper()
	parts := r.parts(layer)
	folders := r.remember()
	for _, p := range parts {
		r.mark(p)
	}
	for name := range folders { // those that a marker took away, and perhaps come back, are new
		if _, err := os.Lstat(filepath.Join(r.root, name)); err != nil {
			delete(folders, name)
		}
	}
	var segment []part
	made := map[string]bool{} // the folders of the segment
	for _, p := range parts {
		if isMarker(p.Name) {
			continue
		}
		name := cleanName(p)
		if p.Typeflag != tar.TypeDir && made[name] { // it takes the place of one of them
			r.extract(layer, segment)
			segment = nil
			clear(made)
		}
		r.makeWay(p, made, folders)
		segment = append(segment, p)
		made[name] = made[name] || p.Typeflag == tar.TypeDir
		for i := range name {
			if name[i] == '/' {
				made[name[:i]] = true
			}
		}
	}
	r.extract(layer, segment)
	r.settle(parts, folders)
}

// parts lists the entries of a layer.
func (r *reference) parts(layer []byte) []part {
	r.t.Helper()
	src := bytes.NewReader(layer)
	archive := tar.NewReader(src)
	var parts []part
	for {
		begin := int64(len(layer) - src.Len())
		h, err := archive.Next()
		if err == io.EOF {
			return parts
		}
		r.must(err)
		_, err = io.Copy(io.Discard, struct{ io.Reader }{archive})
		r.must(err)
		end := int64(len(layer) - src.Len())
		end += -end & (blockSize - 1)
		parts = append(parts, part{h, (begin + blockSize - 1) &^ (blockSize - 1), min(end, int64(len(layer)))})
	}
}

// cleanName is the path of an entry, relative to the root.
func cleanName(p part) string { return path.Clean("/" + p.Name)[1:] }

func isMarker(name string) bool {
	for name := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(name, ".wh.") {
			return true
		}
	}
	return false
}

// mark does what a marker says, if the entry is one.
func (r *reference) mark(p part) {
	r.t.Helper()
	name := cleanName(p)
	folder, base := path.Split(name)
	base, marked := strings.CutPrefix(base, ".wh.")
	if !marked || strings.HasPrefix(name, ".wh..wh.") && base != ".wh..opq" {
		return
	}
	real, info := r.resolve(folder, true)
	if info == nil || !info.IsDir() {
		return
	}
	if base != ".wh..opq" {
		r.must(os.RemoveAll(filepath.Join(real, base)))
		return
	}
	entries, err := os.ReadDir(real)
	r.must(err)
	for _, e := range entries {
		if e.Name() != toolbox {
			r.must(os.RemoveAll(filepath.Join(real, e.Name())))
		}
	}
}

// resolve follows the links of a path within the root, the last name only if it is said, and
// returns where that is outside. Without the info there is nothing.
func (r *reference) resolve(name string, last bool) (real string, info fs.FileInfo) {
	r.t.Helper()
	at, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := path.Join(at, name)
		info, err := os.Lstat(filepath.Join(r.root, next))
		if err != nil || info.Mode()&fs.ModeSymlink == 0 || len(rest) == 0 && !last {
			at = next
			continue
		}
		if links++; links > 100 {
			r.t.Fatalf("reference: %s: too many links", name)
		}
		target, err := os.Readlink(filepath.Join(r.root, next))
		r.must(err)
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	real = filepath.Join(r.root, at)
	info, err := os.Lstat(real)
	if err != nil {
		info = nil
	}
	return real, info
}

// makeWay removes what is in the way of an entry, but for the folders that were made since.
func (r *reference) makeWay(p part, made map[string]bool, folders map[string]kept) {
	r.t.Helper()
	name := cleanName(p)
	for i := range name {
		if name[i] == '/' && !made[name[:i]] {
			r.clearParent(name[:i])
		}
	}
	real, info := r.resolve(name, false)
	if p.Typeflag == tar.TypeDir || info == nil || !info.IsDir() {
		return
	}
	r.must(os.RemoveAll(real))
	gone, err := filepath.Rel(r.root, real)
	r.must(err)
	for folder := range folders {
		if folder == gone || strings.HasPrefix(folder, gone+"/") {
			delete(folders, folder)
		}
	}
}

// clearParent makes way for a folder that has no entry: it replaces a file, and is made where a
// link leads to nothing.
func (r *reference) clearParent(name string) {
	r.t.Helper()
	real, info := r.resolve(name, true)
	if info != nil && !info.IsDir() {
		r.must(os.Remove(real))
		info = nil
	}
	if link, _ := os.Lstat(filepath.Join(r.root, name)); info == nil && link != nil {
		r.must(os.MkdirAll(real, 0o755))
	}
}

// remember looks at all folders, and takes away their default ACLs.
func (r *reference) remember() map[string]kept {
	r.t.Helper()
	folders := map[string]kept{}
	r.walk(func(name, real string, info fs.FileInfo) {
		if !info.IsDir() {
			return
		}
		k := kept{modified: info.ModTime()}
		xattrs, err := xattrsOf(real)
		r.must(err)
		if k.defaultACL = xattrs[defaultACL]; k.defaultACL != "" {
			r.must(unix.Lremovexattr(real, defaultACL))
		}
		folders[name] = k
	})
	return folders
}

const defaultACL = "system.posix_acl_default"

// walk visits everything, relative to the root and where it is outside.
func (r *reference) walk(visit func(name, real string, info fs.FileInfo)) {
	r.t.Helper()
	r.must(filepath.WalkDir(r.root, func(real string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == toolbox {
			return fs.SkipDir
		}
		name, err := filepath.Rel(r.root, real)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		visit(name, real, info)
		return nil
	}))
}

// settle gives everything what the last entry of it says where GNU tar does not.
func (r *reference) settle(parts []part, folders map[string]kept) {
	r.t.Helper()
	last := map[string]part{}
	for _, p := range parts {
		real, info := r.resolve(cleanName(p), false)
		if info == nil || isMarker(p.Name) {
			continue
		}
		if info.IsDir() == (p.Typeflag == tar.TypeDir || strings.HasSuffix(p.Name, "/")) {
			name, err := filepath.Rel(r.root, real)
			r.must(err)
			last[name] = p
		}
	}
	r.walk(func(name, real string, info fs.FileInfo) {
		p, named := last[name]
		k, old := folders[name]
		switch {
		case named && p.Typeflag != tar.TypeLink:
			r.onlyXattrs(real, p.PAXRecords)
			if info.Mode().IsRegular() {
				r.dig(real)
			}
			if info.Mode()&fs.ModeSymlink == 0 {
				r.setTime(real, p.ModTime)
			}
		case named || !info.IsDir():
		case old:
			if k.defaultACL != "" {
				r.must(unix.Lsetxattr(real, defaultACL, []byte(k.defaultACL), 0))
			}
			r.setTime(real, k.modified)
		default:
			r.must(os.Chown(real, 0, 0))
			r.must(os.Chmod(real, 0o755))
			r.onlyXattrs(real, nil)
			r.setTime(real, time.Unix(0, 0))
		}
	})
}

// onlyXattrs removes the xattrs that records do not have.
func (r *reference) onlyXattrs(real string, records map[string]string) {
	r.t.Helper()
	xattrs, err := xattrsOf(real)
	r.must(err)
	for name := range xattrs {
		if _, ok := records["SCHILY.xattr."+name]; !ok {
			r.must(unix.Lremovexattr(real, name))
		}
	}
}

// dig makes holes of pieces with nothing but zeros.
func (r *reference) dig(real string) {
	r.t.Helper()
	f, err := os.OpenFile(real, os.O_RDWR, 0)
	r.must(err)
	defer func() { r.must(f.Close()) }()
	const size = 64 << 10
	piece := make([]byte, size)
	for off := int64(0); ; off += size {
		if _, err := f.ReadAt(piece, off); err != nil {
			return // a last piece is not whole
		}
		if bytes.Count(piece, []byte{0}) == size {
			r.must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size))
		}
	}
}

func (r *reference) setTime(real string, modified time.Time) {
	r.t.Helper()
	ts, err := unix.TimeToTimespec(modified)
	r.must(err)
	r.must(unix.UtimesNanoAt(unix.AT_FDCWD, real, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

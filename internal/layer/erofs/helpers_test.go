package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
)

// A tester is a test, or a case of a random one.
type tester interface {
	Helper()
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

var (
	epoch         = time.Unix(0, 0)
	rapidDuration = rapid.Map(rapid.Int64Range(-1e18, 1e18), func(n int64) time.Duration { return time.Duration(n) })
)

// closing closes what must not fail to close.
func closing(t tester, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// keep keeps a layer in a new folder.
func keep(t testing.TB, archive []byte, o layer.Options) (dir string, result layer.Result) {
	t.Helper()
	dir = t.TempDir()
	result, err := WriteLayer(t.Context(), bytes.NewReader(archive), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, result
}

// keepAll keeps layers, losing what cannot be kept.
func keepAll(t testing.TB, archives ...[]byte) []string {
	t.Helper()
	var layers []string
	for _, archive := range archives {
		dir, _ := keep(t, archive, layer.Options{ReportLosses: true})
		layers = append(layers, dir)
	}
	return layers
}

// writeIndexOf writes the index of layers.
func writeIndexOf(t testing.TB, layers []string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "index")
	if err := WriteIndex(t.Context(), name, layers); err != nil {
		t.Fatal(err)
	}
	return name
}

// mountIndex mounts an index until the test ends.
func mountIndex(t testing.TB, index string, layers []string) string {
	t.Helper()
	target := t.TempDir()
	mountAt(t, target, index, layers)
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return target
}

func mountAt(t tester, target, index string, layers []string) {
	t.Helper()
	options := []string{"ro"}
	for _, device := range Devices(layers) {
		options = append(options, "device="+device)
	}
	err := mount.All([]mount.Mount{{Type: "erofs", Source: index, Options: options}}, target)
	if err != nil {
		t.Fatal(err)
	}
}

// A seen file is what tests compare.
type seen struct {
	Mode     uint32
	UID, GID uint32
	Size     int64
	Time     string
	Device   string
	Target   string
	Content  string
	Holes    string
	Xattrs   map[string]string
	Names    string // the first other name of the file
	Links    uint64 // not known of a tree
}

// show describes all files of a mounted tree or a folder by their paths.
func show(t tester, root string) map[string]seen {
	t.Helper()
	all := map[string]seen{}
	names := map[uint64]string{}
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, _ := filepath.Rel(root, name)
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		s := seen{
			Mode: st.Mode, UID: st.Uid, GID: st.Gid,
			Time:  time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano),
			Links: uint64(st.Nlink),
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			s.Size = st.Size
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer closing(t, f)
			s.Content = contentOf(t, f, st.Size)
			s.Holes = holesOf(t, seeker{f}, st.Size)
		case unix.S_IFLNK:
			if s.Target, err = os.Readlink(name); err != nil {
				return err
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			s.Device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if s.Names = names[st.Ino]; s.Names == "" {
				names[st.Ino] = path
				s.Names = path
			}
		}
		s.Xattrs = xattrsOf(t, name)
		all[path] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func xattrsOf(t tester, name string) map[string]string {
	t.Helper()
	b := make([]byte, 1<<17)
	n, err := unix.Llistxattr(name, b)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]string
	for key := range strings.SplitSeq(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00") {
		if key == "" {
			continue
		}
		value := make([]byte, 1<<17)
		n, err := unix.Lgetxattr(name, key, value)
		if err != nil {
			t.Fatalf("%s: %s: %v", name, key, err)
		}
		if all == nil {
			all = map[string]string{}
		}
		all[key] = string(value[:n])
	}
	return all
}

// contentOf sums a file up, or gives it when it is short.
func contentOf(t tester, r io.ReaderAt, size int64) string {
	t.Helper()
	var sum uint64
	buf := make([]byte, 1<<16)
	for off := int64(0); off < size; {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 {
			t.Fatalf("read at %d of %d: %v", off, size, err)
		}
		if size < 100 {
			return string(buf[:n])
		}
		if !isZero(buf[:n]) {
			for i, b := range buf[:n] {
				sum += uint64(b) * (uint64(off) + uint64(i) + 1) * 0x9e3779b97f4a7c15
			}
		}
		off += int64(n)
	}
	return fmt.Sprintf("%x", sum)
}

type runs interface {
	Data(off int64) (start, end int64, err error)
}

// A seeker finds holes as the kernel sees them.
type seeker struct{ *os.File }

func (s seeker) Data(off int64) (start, end int64, err error) {
	start, err = unix.Seek(int(s.Fd()), off, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = unix.Seek(int(s.Fd()), start, unix.SEEK_HOLE)
	}
	return start, end, err
}

// holesOf lists the runs of content in whole blocks of 4 KiB, which all filesystems have.
func holesOf(t tester, r runs, size int64) string {
	t.Helper()
	var list strings.Builder
	for off := int64(0); off < size; {
		start, end, err := r.Data(off)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, "%d-%d ", start, min(alignUp(end, 4096), alignUp(size, 4096)))
		off = end
	}
	return list.String()
}

// showTree is show for a tree that is not mounted.
func showTree(t tester, tree layer.Tree) map[string]seen {
	t.Helper()
	all := map[string]seen{}
	names := map[layer.FileID]string{}
	var walk func(n *layer.Node)
	walk = func(n *layer.Node) {
		s := seen{
			Mode: n.Mode, UID: n.UID, GID: n.GID, Size: n.Size,
			Time:   n.ModTime.UTC().Format(time.RFC3339Nano),
			Target: n.Target, Xattrs: n.Xattrs,
		}
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f, err := tree.Open(n)
			if err != nil {
				t.Fatal(err)
			}
			s.Content = contentOf(t, f, n.Size)
			s.Holes = holesOf(t, f, n.Size)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			s.Device = fmt.Sprintf("%d:%d", n.Major, n.Minor)
		}
		if n.File != (layer.FileID{}) {
			if s.Names = names[n.File]; s.Names == "" {
				names[n.File] = n.Path
				s.Names = n.Path
			}
		}
		all[n.Path] = s
		again, err := tree.Lookup(n.Path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(n, again); diff != "" {
			t.Fatalf("List and Lookup differ: %s", diff)
		}
		if n.Mode&unix.S_IFMT != unix.S_IFDIR {
			return
		}
		list, err := tree.List(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, child := range list {
			walk(child)
		}
	}
	root, err := tree.Lookup(".")
	if err != nil {
		t.Fatal(err)
	}
	walk(root)
	return all
}

// withoutLinks drops what a tree does not know.
func withoutLinks(all map[string]seen) map[string]seen {
	all = maps.Clone(all)
	for path, s := range all {
		s.Links = 0
		all[path] = s
	}
	return all
}

// stacked keeps layers, mounts them and checks that Open sees what the kernel does.
func stacked(t testing.TB, archives ...[]byte) map[string]seen {
	t.Helper()
	layers := keepAll(t, archives...)
	mounted := show(t, mountIndex(t, writeIndexOf(t, layers), layers))
	sameTree(t, layers, mounted)
	return mounted
}

// sameTree checks that Open sees of layers what was seen of their mount.
func sameTree(t tester, layers []string, mounted map[string]seen) {
	t.Helper()
	tree, err := Open(layers)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, tree)
	if diff := cmp.Diff(withoutLinks(mounted), showTree(t, tree)); diff != "" {
		t.Fatalf("mount and tree differ (-mount +tree):\n%s", diff)
	}
}

// pack makes an archive.
func pack(t tester, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1000, 0)
		}
		if h.PAXRecords != nil || h.ModTime.Nanosecond() != 0 || h.ModTime.Unix() < 0 {
			h.Format = tar.FormatPAX
		}
		h.Size = int64(len(e.body))
		if err := errors.Join(w.WriteHeader(&h), write(w, e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// An entry is one to be packed.
type entry struct {
	tar.Header
	body string
}

func regular(name, body string) entry { return entry{tar.Header{Name: name}, body} }

func dir(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func link(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}

// tell is a short form of what is seen: each path with what matters of it.
func tell(all map[string]seen) string {
	var lines []string
	for path, s := range all {
		line := fmt.Sprintf("%s %o %d:%d %d %s", path, s.Mode, s.UID, s.GID, s.Size, s.Time)
		if s.Content != "" {
			line += fmt.Sprintf(" %q", s.Content)
		}
		if s.Target != "" {
			line += " -> " + s.Target
		}
		if s.Names != "" {
			line += " = " + s.Names
		}
		for _, name := range slices.Sorted(maps.Keys(s.Xattrs)) {
			line += fmt.Sprintf(" %s=%x", name, s.Xattrs[name])
		}
		line += " " + s.Holes + s.Device
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

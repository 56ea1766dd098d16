package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// A hostile case is a layer that means harm, or a stack whose last layer does.
type hostile struct {
	name   string
	layers [][]byte
	want   []string // what is there in the end, if nothing is refused
	kind   error    // or why it is refused
	why    string   // and what the error says
	limits layer.Limits
}

// hostiles are all cases, for a folder outside the root with a file in it.
func hostiles(outside string) []hostile {
	deep := strings.Repeat("d/", 2046) + "f" // 4093 bytes
	long := strings.Repeat("n", 255)
	ofPath := func(n int) string { // a path of n bytes in long names
		return strings.Repeat(long[:254]+"/", n/255) + strings.Repeat("x", n%255)
	}
	one := func(entries ...entry) [][]byte { return [][]byte{archive(entries...)} }
	two := func(below []entry, entries ...entry) [][]byte {
		return [][]byte{archive(below...), archive(entries...)}
	}
	invalid := errdefs.ErrInvalidArgument
	var many []entry
	for i := range 100 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	var chain []entry
	for i := range 256 {
		chain = append(chain, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)))
	}

	return []hostile{
		// Names.
		{name: "dotdot", layers: one(file("../x", "")), kind: invalid, why: `".." in its path`},
		{name: "dotdot in the middle", layers: one(folder("d"), file("d/../../x", "")), kind: invalid, why: `".." in its path`},
		{name: "dotdot that stays inside", layers: one(folder("d"), file("d/../x", "")), kind: invalid, why: `".." in its path`},
		{name: "dotdot at the end", layers: one(folder("d/..")), kind: invalid, why: `".." in its path`},
		{name: "dotdot in a marker", layers: one(file("../.wh.x", "")), kind: invalid, why: `".." in its path`},
		{name: "absolute", layers: one(file("/a", "1"), file("//b", "2"), file("/./c", "3")), want: []string{"a 1", "b 2", "c 3"}},
		{name: "absolute outside", layers: one(file(outside+"/x", "1")), want: pathOf(outside[1:]+"/x", "1")},
		{name: "dots and slashes", layers: one(file("././/a//.//b/./c", "1")), want: []string{"a/", "a/b/", "a/b/c 1"}},
		{name: "names that are not dotdot", layers: one(file("...", "1"), file("..a", "2"), file("a..", "3")), want: []string{"... 1", "..a 2", "a.. 3"}},
		{name: "empty name", layers: one(file("", "1")), kind: invalid, why: "the root is a folder"},
		{name: "root as a file", layers: one(file("./", "")), want: nil}, // a folder, as its name says
		{name: "root as a link", layers: one(symlink(".", "/")), kind: invalid, why: "the root is a folder"},
		{name: "root as a device", layers: one(device("/", '3', 1, 3)), kind: invalid, why: "the root is a folder"},
		{name: "nul in a pax name", layers: one(file("x", "").with("path", "a\x00b")), kind: invalid, why: "tar header"},
		{name: "nul in a pax target", layers: one(symlink("x", "y").with("linkpath", "a\x00b")), kind: invalid, why: "tar header"},
		{name: "name of 255 bytes", layers: one(file(long, "1")), want: []string{long + " 1"}},
		{name: "name of 256 bytes", layers: one(file(long+"n", "1")), kind: invalid, why: "a name of 256 bytes"},
		{name: "path of 4095 bytes", layers: one(file(ofPath(4095), "1")), want: pathOf(ofPath(4095), "1")},
		{name: "path of 4096 bytes", layers: one(file(ofPath(4096), "1")), kind: invalid, why: "a path of 4096 bytes"},
		{name: "path of 4097 bytes", layers: one(file(ofPath(4097), "1")), kind: invalid, why: "tar header"},
		{name: "nested deeply", layers: one(file(deep, "1")), want: pathOf(deep, "1")},

		// Markers.
		{name: "marker alone", layers: one(file(".wh.", "")), kind: invalid, why: "names nothing"},
		{name: "marker of dot", layers: one(file("d/.wh..", "")), kind: invalid, why: "names nothing"},
		{name: "marker of dotdot", layers: two([]entry{folder("d")}, file("d/.wh...", "")), kind: invalid, why: "names nothing"},
		{name: "marker of three dots", layers: two([]entry{file("...", "")}, file(".wh....", "")), want: nil},
		{name: "marker of a marker", layers: one(file(".wh..wh.x", "")), kind: invalid, why: "unknown marker"},
		{name: "marker of a marker alone", layers: one(file("d/.wh..wh.", "")), kind: invalid, why: "unknown marker"},
		{name: "opaque with more", layers: one(file("d/.wh..wh..opq.", "")), kind: invalid, why: "unknown marker"},
		{name: "marker as a folder", layers: one(file(".wh.d/x", "")), kind: invalid, why: "a marker as a folder"},
		{name: "opaque as a folder", layers: one(file("d/.wh..wh..opq/x", "")), kind: invalid, why: "a marker as a folder"},
		{name: "bookkeeping not at the root", layers: one(file("d/.wh..wh.plnk/x", "")), kind: invalid, why: "a marker as a folder"},
		{name: "hard link to a marker", layers: one(file(".wh.x", ""), hardlink("y", ".wh.x")), kind: invalid, why: "hard link to the marker"},
		{name: "hard link to bookkeeping", layers: one(file(".wh..wh.plnk/1", ""), hardlink("y", ".wh..wh.plnk/1")), kind: invalid, why: "hard link to the marker"},
		{name: "opaque in folders", layers: two([]entry{file("a/b/c", "1"), file("a/d", "2")}, file("a/b/.wh..wh..opq", ""), file("a/b/e", "3")), want: []string{"a/", "a/b/", "a/b/e 3", "a/d 2"}},
		{name: "opaque through a link outside", layers: two([]entry{symlink("l", outside)}, file("l/.wh..wh..opq", "")), want: []string{"l -> " + outside}},
		{name: "marker through a link outside", layers: two([]entry{symlink("l", outside)}, file("l/.wh.file", "")), want: []string{"l -> " + outside}},
		{name: "marker of a link outside", layers: two([]entry{symlink("l", outside)}, file(".wh.l", "")), want: nil},
		{name: "markers of everything", layers: two([]entry{folder("d"), file("d/a", "")}, file(".wh..wh..opq", ""), file(".wh.d", ""), file("d/.wh.a", ""), file("d/.wh..wh..opq", "")), want: nil},

		// Through links.
		{name: "through a new link up", layers: one(symlink("l", "../../.."), file("l/x", "1")), want: []string{"l -> ../../..", "x 1"}},
		{name: "through a new link outside", layers: one(symlink("l", outside), file("l/x", "1")), want: pathOf(outside[1:]+"/x", "1", "l -> "+outside)},
		{name: "through an old link outside", layers: two([]entry{symlink("l", outside)}, file("l/x", "1")), want: pathOf(outside[1:]+"/x", "1", "l -> "+outside)},
		{name: "through links to links", layers: one(symlink("a", "b/../../.."), symlink("b", "/o/p"), file("a/x", "1")), want: []string{"a -> b/../../..", "b -> /o/p", "x 1"}},
		{name: "through a loop", layers: one(symlink("a", "b"), symlink("b", "a"), file("a/x", "1")), kind: invalid, why: "too many links"},
		{name: "through itself", layers: one(symlink("a", "a/b"), file("a/x", "1")), kind: invalid, why: "too many links"},
		{name: "through 255 links", layers: one(append(slices.Clone(chain[1:]), file("l1/x", "1"))...), want: chained(chain[1:], "l256/", "l256/x 1")},
		{name: "through 256 links", layers: one(append(slices.Clone(chain), file("l0/x", "1"))...), kind: invalid, why: "too many links"},
		{name: "through a link that grows", layers: one(symlink("a", "a"+strings.Repeat("/b", 2000)), file("a/x", "")), kind: invalid, why: "too many links"},
		{name: "through a link to a long name", layers: one(symlink("a", long+"n"), file("a/x", "")), kind: invalid, why: "a name of 256 bytes"},
		{name: "through procfs", layers: one(symlink("a", "/proc/self/cwd"), file("a/x", "1")), want: []string{"a -> /proc/self/cwd", "proc/", "proc/self/", "proc/self/cwd/", "proc/self/cwd/x 1"}},
		{name: "through a file", layers: one(file("a", ""), file("a/x", "")), kind: invalid, why: "it is no folder"},
		{name: "through a file that is a fifo", layers: one(entry{kind: '6', name: "a"}, file("a/x", "")), kind: invalid, why: "it is no folder"},
		{name: "a folder over a link outside", layers: one(symlink("l", outside), folder("l"), file("l/x", "1")), want: []string{"l/", "l/x 1"}},
		{name: "a file over a link outside", layers: one(symlink("l", outside+"/file"), file("l", "1")), want: []string{"l 1"}},
		{name: "a file over an old link outside", layers: two([]entry{symlink("l", outside+"/file")}, file("l", "1")), want: []string{"l 1"}},
		{name: "a folder becomes a link", layers: one(folder("d"), file("d/a", "1"), symlink("d", outside), file("d/file", "2")), want: pathOf(outside[1:]+"/file", "2", "d -> "+outside)},
		{name: "a folder becomes a link in between", layers: one(file("d/e/a", "1"), symlink("d/e", ".."), file("d/e/b", "2"), folder("d/e"), file("d/e/c", "3")), want: []string{"b 2", "d/", "d/e/", "d/e/c 3"}},
		{name: "an old folder becomes a link", layers: two([]entry{file("d/file", "1")}, symlink("d", outside), file("d/file", "2")), want: pathOf(outside[1:]+"/file", "2", "d -> "+outside)},
		{name: "a link with attributes", layers: one(entry{kind: '2', name: "l", target: outside + "/file", mode: 0o4777, uid: 7, gid: 8, mtime: 9}), want: []string{"l -> " + outside + "/file"}},

		// Hard links.
		{name: "hard link up", layers: one(hardlink("x", "../OUTSIDE/file")), kind: invalid, why: `".." in its path`},
		{name: "hard link outside", layers: one(hardlink("x", outside+"/file")), kind: invalid, why: "is not there"},
		{name: "hard link through a link outside", layers: one(symlink("l", outside), hardlink("x", "l/file")), kind: invalid, why: "is not there"},
		{name: "hard link through an old link", layers: two([]entry{symlink("l", outside)}, hardlink("x", "l/file")), kind: invalid, why: "is not there"},
		{name: "hard link to a link outside", layers: one(symlink("l", outside+"/file"), hardlink("x", "l"), entry{kind: '0', name: "x", content: "1"}), want: []string{"l -> " + outside + "/file", "x 1"}},
		{name: "hard link to itself", layers: one(file("x", ""), hardlink("x", "./x")), kind: invalid, why: "to itself"},
		{name: "hard link to itself by a link", layers: one(symlink("l", "."), file("x", ""), hardlink("x", "l/x")), kind: invalid, why: "is itself"},
		{name: "hard link to a folder", layers: one(folder("d"), hardlink("x", "d")), kind: invalid, why: "is a folder"},
		{name: "hard link to an old folder", layers: two([]entry{folder("d")}, hardlink("x", "d")), kind: invalid, why: "is a folder"},
		{name: "hard link to the root", layers: one(hardlink("x", "/")), kind: invalid, why: "to the root"},
		{name: "hard link to what it replaces", layers: one(file("d/x", "1"), hardlink("d", "d/x")), kind: invalid, why: "in what it replaces"},
		{name: "hard link to what is hidden", layers: two([]entry{file("a", "1")}, file(".wh.a", ""), hardlink("x", "a")), kind: invalid, why: "is not there"},
		{name: "hard link to what comes later", layers: one(hardlink("x", "a"), file("a", "1")), kind: invalid, why: "is not there"},

		// Devices and types.
		{name: "device 0/0", layers: one(file("a", "1"), device("a", '3', 0, 0), device("b", '3', 0, 0)), want: []string{"a 1"}},
		{name: "block device 0/0", layers: one(device("a", '4', 0, 0)), want: []string{"a b 0:0"}},
		{name: "largest device", layers: one(device("a", '3', 0xfff, 0xfffff)), want: []string{"a c 4095:1048575"}},
		{name: "major too large", layers: one(device("a", '3', 0x1000, 0)), kind: invalid, why: "out of range"},
		{name: "minor too large", layers: one(device("a", '4', 0, 0x100000)), kind: invalid, why: "out of range"},
		{name: "negative device", layers: one(device("a", '4', -1, 0)), kind: invalid, why: "tar header"},
		{name: "unknown type", layers: one(entry{kind: 'Z', name: "a"}), kind: invalid, why: "unknown type"},
		{name: "symbolic link to nothing", layers: one(symlink("a", "")), kind: invalid, why: "link to nothing"},
		{name: "symbolic link to much", layers: one(symlink("a", strings.Repeat("x", 4096))), kind: invalid, why: "4096 bytes"},

		// The tar itself.
		{name: "no tar", layers: [][]byte{bytes.Repeat([]byte("no tar"), 1000)}, kind: invalid, why: "tar header"},
		{name: "wrong checksum", layers: one(entry{kind: '0', name: "a", sum: 1}), kind: invalid, why: "checksum"},
		{name: "cut within a file", layers: [][]byte{archive(file("a", strings.Repeat("x", 5000)))[:4000]}, kind: io.ErrUnexpectedEOF, why: "tar ends at byte"},
		{name: "cut within a large file", layers: [][]byte{archive(file("a", strings.Repeat("x", 1<<20)))[:1<<19]}, kind: io.ErrUnexpectedEOF, why: "tar ends at byte"},
		{name: "large pax header", layers: one(file("a", "").with("comment", strings.Repeat("x", 2<<20))), kind: invalid, why: "extended headers"},
		{name: "size that lies", layers: one(file("a", "1").with("size", "1000000000000000")), kind: errdefs.ErrResourceExhausted, why: "bytes of files"},
		{name: "sparse map that overlaps", layers: one(file("a", "2\n0\n512\n256\n512\n"+strings.Repeat("\x00", 496)+strings.Repeat("x", 1024)).with("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "4096", "GNU.sparse.name", "a")), kind: invalid, why: "tar header"},
		{name: "sparse map beyond the end", layers: one(file("a", "1\n8192\n512\n"+strings.Repeat("\x00", 501)+strings.Repeat("x", 512)).with("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "4096", "GNU.sparse.name", "a")), kind: invalid, why: "tar header"},
		{name: "sparse file beyond the limit", layers: one(file("a", "0\n"+strings.Repeat("\x00", 510)).with("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "4611686018427387904", "GNU.sparse.name", "a")), kind: errdefs.ErrResourceExhausted, why: "bytes of files"},

		// Limits.
		{name: "as many entries", layers: one(many...), limits: layer.Limits{Entries: 100}, want: numbered(100)},
		{name: "too many entries", layers: one(many...), limits: layer.Limits{Entries: 99}, kind: errdefs.ErrResourceExhausted, why: "more than 99 entries"},
		{name: "as many bytes", layers: one(file("a", "12"), file("b", "3")), limits: layer.Limits{Size: 3}, want: []string{"a 12", "b 3"}},
		{name: "too many bytes", layers: one(file("a", "12"), file("b", "3")), limits: layer.Limits{Size: 2}, kind: errdefs.ErrResourceExhausted, why: "more than 2 bytes"},
	}
}

// Whatever a layer means, nothing outside the root changes, and what becomes of it is certain: the
// same in all forms.
func TestHostile(t *testing.T) {
	place := t.TempDir()
	outside := filepath.Join(place, "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o644))
	must(t, os.WriteFile(filepath.Join(place, "file"), []byte("beside"), 0o644))
	before := describe(t, place)[1:] // without the time of the folder that the root is made in
	for _, c := range hostiles(outside) {
		t.Run(c.name, func(t *testing.T) {
			root := filepath.Join(place, "root")
			must(t, os.Mkdir(root, 0o755))
			last := len(c.layers) - 1
			for _, l := range c.layers[:last] { // these are harmless
				applyTo(t, l, root, layer.Options{})
			}
			_, err := layer.Apply(t.Context(), bytes.NewReader(c.layers[last]), root, layer.Options{Limits: c.limits})
			c.check(t, "a whole tree", root, err)
			must(t, layer.RemoveAll(root))
			c.checkStack(t, root, layer.Overlay)
			c.checkStack(t, root, layer.UserOverlay)
			if diff := cmp.Diff(before, describe(t, place)[1:]); diff != "" {
				t.Errorf("outside changed (-want +got):\n%s", diff)
			}
		})
	}
}

func (c *hostile) checkStack(t *testing.T, root string, form layer.Form) {
	t.Helper()
	last := len(c.layers) - 1
	stack := applyStack(t, form, c.layers[:last])
	below, err := layer.OpenStack(form, stack)
	must(t, err)
	must(t, os.Mkdir(root, 0o755))
	o := layer.Options{Form: form, Limits: c.limits, Below: below}
	result, err := layer.Apply(t.Context(), bytes.NewReader(c.layers[last]), root, o)
	must(t, below.Close())
	if err != nil {
		c.check(t, "a stack", "", err)
	} else {
		if result.Opaque {
			stack = stack[:1]
		}
		mount := mountStack(t, form, append(stack, root))
		c.check(t, "a stack", mount, nil)
	}
	must(t, layer.RemoveAll(root))

	// Without knowing what is below, what is refused may only turn out later.
	must(t, os.Mkdir(root, 0o755))
	o.Below = nil
	_, err = layer.Apply(t.Context(), bytes.NewReader(c.layers[last]), root, o)
	if c.why == "" && err != nil {
		t.Errorf("not knowing what is below: %v", err)
	}
	must(t, layer.RemoveAll(root))
}

func (c *hostile) check(t *testing.T, what, root string, err error) {
	t.Helper()
	switch {
	case c.why != "" && err == nil:
		t.Errorf("%s: not refused", what)
	case c.why != "":
		if !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v; want %q in it", what, err, c.why)
		}
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v is no %v", what, err, c.kind)
		}
	case err != nil:
		t.Errorf("%s: %v", what, err)
	default:
		if diff := cmp.Diff(c.want, list(t, root)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// pathOf is what a file with nothing but folders on the way looks like, and other lines.
func pathOf(path, content string, lines ...string) []string {
	lines = append(slices.Clone(lines), path+" "+content)
	for i, c := range path {
		if c == '/' {
			lines = append(lines, path[:i+1])
		}
	}
	slices.Sort(lines)
	return lines
}

// chained is what symbolic links look like, and other lines.
func chained(links []entry, lines ...string) []string {
	for _, l := range links {
		lines = append(lines, l.name+" -> "+l.target)
	}
	slices.Sort(lines)
	return lines
}

// numbered is what n empty files look like.
func numbered(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprint(i, " "))
	}
	slices.Sort(lines)
	return lines
}

// list tells what is in a tree, in short. It goes step by step: paths may be longer than the kernel
// takes at once.
func list(t *testing.T, root string) (lines []string) {
	t.Helper()
	dir, err := os.OpenRoot(root)
	must(t, err)
	defer func() { must(t, dir.Close()) }()
	listIn(t, dir, "", &lines)
	slices.Sort(lines)
	return lines
}

func listIn(t *testing.T, dir *os.Root, path string, lines *[]string) {
	t.Helper()
	f, err := dir.Open(".")
	must(t, err)
	entries, err := f.ReadDir(-1)
	must(t, errors.Join(err, f.Close()))
	for _, e := range entries {
		name := path + e.Name()
		info, err := e.Info()
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		switch e.Type() {
		case fs.ModeDir:
			*lines = append(*lines, name+"/")
			sub, err := dir.OpenRoot(e.Name())
			must(t, err)
			listIn(t, sub, name+"/", lines)
			must(t, sub.Close())
		case 0:
			content, err := dir.ReadFile(e.Name())
			must(t, err)
			*lines = append(*lines, name+" "+string(content))
		case fs.ModeSymlink:
			target, err := dir.Readlink(e.Name())
			must(t, err)
			*lines = append(*lines, name+" -> "+target)
		case fs.ModeDevice:
			*lines = append(*lines, fmt.Sprintf("%s b %d:%d", name, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		default:
			*lines = append(*lines, fmt.Sprintf("%s c %d:%d", name, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		}
	}
}

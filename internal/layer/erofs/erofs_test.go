package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// Attributes that images rarely have come through as they are.
func TestAttributes(t *testing.T) {
	entries := []entry{dir("folder"), regular("file", "x"), symlink("link", "file")}
	for i := range entries {
		entries[i].Uid, entries[i].Gid = 1<<32-2, 1<<31
	}
	times := []time.Time{
		time.Unix(0, 1), time.Unix(-1, 999_999_999), time.Unix(-1<<40, 5), time.Unix(1<<40, 999_999_999),
	}
	for i, at := range times {
		e := regular(fmt.Sprint("time", i), "")
		e.ModTime = at
		entries = append(entries, e)
	}
	entries = append(entries,
		entry{tar.Header{Name: "char", Typeflag: tar.TypeChar, Devmajor: 4095, Devminor: 1<<20 - 1}, ""},
		entry{tar.Header{Name: "block", Typeflag: tar.TypeBlock, Devmajor: 8, Devminor: 300}, ""},
		entry{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o7777}, ""},
	)
	all := stacked(t, pack(t, entries...))
	for i, at := range times {
		if got, want := all[fmt.Sprint("time", i)].Time, at.UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("time %d: %s instead of %s", i, got, want)
		}
	}
	for _, name := range []string{"folder", "file", "link"} {
		if s := all[name]; s.UID != 1<<32-2 || s.GID != 1<<31 {
			t.Errorf("%s belongs to %d:%d", name, s.UID, s.GID)
		}
	}
	if got := all["char"].Device + " " + all["block"].Device; got != "4095:1048575 8:300" {
		t.Errorf("devices %s", got)
	}
	if got := all["fifo"].Mode; got != unix.S_IFIFO|0o7777 {
		t.Errorf("mode %o", got)
	}
}

// Xattrs of all sizes are read back, wherever blocks end in them.
func TestXattrs(t *testing.T) {
	want := map[string]map[string]string{}
	var entries []entry
	add := func(e entry, xattrs map[string]string) {
		e.PAXRecords = map[string]string{}
		for name, value := range xattrs {
			e.PAXRecords["SCHILY.xattr."+name] = value
		}
		entries = append(entries, e)
		want[e.Name] = xattrs
	}
	for size := 0; size < 1200; size += 37 {
		add(regular(fmt.Sprint("file", size), "x"), map[string]string{
			"user." + strings.Repeat("n", size%251): strings.Repeat("v", size),
			"trusted.t":                             strings.Repeat("w", size/2),
		})
		add(symlink(fmt.Sprint("link", size), "somewhere"), map[string]string{"security.s": strings.Repeat("v", size)})
	}
	delete(entries[0].PAXRecords, "SCHILY.xattr.user.") // no name at all
	delete(want["file0"], "user.")
	add(dir("folder"), map[string]string{
		"user.long":                strings.Repeat("l", 65_535),
		"user.more":                strings.Repeat("m", 65_535),
		"system.posix_acl_default": anACL(7, 5, 0),
	})
	add(regular("capable", "x"), map[string]string{
		"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	})
	add(regular("shared", "x"), map[string]string{"system.posix_acl_access": anACL(6, 6, 4)})
	all := stacked(t, pack(t, entries...))
	for name, xattrs := range want {
		if diff := cmp.Diff(xattrs, all[name].Xattrs); diff != "" {
			t.Errorf("xattrs of %s differ: %s", name, diff)
		}
	}
	if got := all["shared"].Mode; got != unix.S_IFREG|0o664 {
		t.Errorf("mode %o, not as the ACL says", got)
	}
}

// anACL has a named user, besides the permissions of owner, mask and others.
func anACL(owner, mask, other uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	entry := func(tag, perm uint16, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	entry(0x01, owner, 1<<32-1)
	entry(0x02, 7, 1000)
	entry(0x04, 4, 1<<32-1)
	entry(0x10, mask, 1<<32-1)
	entry(0x20, other, 1<<32-1)
	return string(b)
}

// What an image cannot have is a loss: an error, unless losses are reported.
func TestLosses(t *testing.T) {
	tests := []struct {
		name  string
		entry entry
		value string
		kind  layer.Kind
		kept  bool // under every policy
	}{
		{"user.x", symlink("l", "t"), "v", layer.LostXattr, false},
		{"user.x", entry{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""}, "v", layer.LostXattr, false},
		{"other.x", regular("f", ""), "v", layer.LostXattr, false},
		{"user.", regular("f", ""), "v", layer.LostXattr, false},
		{"user.x", regular("f", ""), strings.Repeat("v", 65_536), layer.LostXattr, false},
		{"security.capability", regular("f", ""), "v", layer.LostXattr, false},
		{"system.posix_acl_access", regular("f", ""), "v", layer.LostXattr, false},
		{"system.posix_acl_default", regular("f", ""), anACL(7, 7, 7), layer.LostXattr, false},
		{"system.posix_acl_access", symlink("l", "t"), anACL(7, 7, 7), layer.LostXattr, false},
		{"trusted.overlay.opaque", dir("d"), "y", layer.LostXattr, true},
		{"user.x", entry{tar.Header{Name: "c", Typeflag: tar.TypeChar}, ""}, "v", layer.LostDevice, true},
	}
	for _, test := range tests {
		t.Run(test.name+" of "+test.entry.Name, func(t *testing.T) {
			e := test.entry
			e.PAXRecords = map[string]string{"SCHILY.xattr." + test.name: test.value}
			archive := pack(t, e)
			_, err := WriteLayer(t.Context(), bytes.NewReader(archive), t.TempDir(), layer.Options{})
			var lost *layer.LossError
			if !test.kept && (!errors.As(err, &lost) || lost.Loss.Kind != test.kind || lost.Loss.Path != e.Name) {
				t.Errorf("error %v", err)
			}
			if test.kept && err != nil {
				t.Error(err)
			}
			_, result := keep(t, archive, layer.Options{ReportLosses: true})
			if len(result.Losses) != 1 || result.Losses[0].Kind != test.kind || result.Losses[0].Count != 1 {
				t.Errorf("losses %v", result.Losses)
			}
			if all := stacked(t, archive); all[e.Name].Xattrs != nil {
				t.Errorf("xattrs %v", all[e.Name].Xattrs)
			}
		})
	}
}

// Folders and links are read whatever their size, in the inode and in blocks.
func TestSizes(t *testing.T) {
	var entries []entry
	for n := range 70 {
		for i := range n {
			entries = append(entries, regular(fmt.Sprintf("folder%d/%s%02d", n, strings.Repeat("x", n*7%40), i), ""))
		}
	}
	for _, n := range []int{1, 2, 3} {
		for i := range n {
			entries = append(entries, regular(fmt.Sprintf("long%d/%0255d", n, i), "x"))
		}
	}
	for size := 1; size <= 4095; size += 1 + size/40 {
		entries = append(entries, symlink(fmt.Sprintf("links/%d", size), strings.Repeat("t", size)))
	}
	entries = append(entries, symlink("links/longest", strings.Repeat("t", 4095)))
	// Names that sort before "." and "..".
	for _, name := range []string{"!", "-", ".-", "...", "..!", ".", "~", "\xff", "\x01", "a\nb"} {
		entries = append(entries, regular("odd/"+name+"x", name))
	}
	if all := stacked(t, pack(t, entries...)); len(all) < len(entries) {
		t.Errorf("%d files of %d entries", len(all), len(entries))
	}
}

func TestManyNames(t *testing.T) {
	var entries []entry
	for i := range 20_000 {
		entries = append(entries, regular(fmt.Sprintf("folder/%x%s", i*2654435761%1_000_003, strings.Repeat("y", i%100)), ""))
	}
	if all := stacked(t, pack(t, entries...)); len(all) != len(entries)+2 {
		t.Errorf("%d files of %d entries", len(all), len(entries))
	}
}

// 130 layers are 130 devices; some are empty, and one has not even an end.
func TestManyLayers(t *testing.T) {
	var archives [][]byte
	for i := range 130 {
		switch i % 10 {
		case 5:
			archives = append(archives, pack(t))
		case 6:
			archives = append(archives, nil)
		default:
			archives = append(archives, pack(t,
				regular(fmt.Sprint("file", i), fmt.Sprint("content ", i)),
				regular("same", fmt.Sprint("content ", i)),
				link(fmt.Sprint("link", i), "file0")))
		}
	}
	all := stacked(t, archives...)
	if len(all) != 2+2*104 {
		t.Errorf("%d files", len(all))
	}
	for _, i := range []int{0, 1, 64, 128, 129} {
		if got, want := all[fmt.Sprint("file", i)].Content, fmt.Sprint("content ", i); got != want {
			t.Errorf("file %d is %q", i, got)
		}
	}
	if got := all["same"].Content; got != "content 129" {
		t.Errorf("the last one is %q", got)
	}
	if got := all["file0"].Links; got != 105 {
		t.Errorf("%d links", got)
	}
}

func TestNoLayers(t *testing.T) {
	all := stacked(t)
	if diff := cmp.Diff(map[string]seen{".": {Mode: unix.S_IFDIR | 0o755, Time: "1970-01-01T00:00:00Z", Links: 2}}, all); diff != "" {
		t.Error(diff)
	}
}

func TestResult(t *testing.T) {
	whiteout := regular("d/.wh..wh..opq", "")
	_, result := keep(t, pack(t, dir("d"), regular("d/f", "12345"), link("d/g", "d/f"), whiteout), layer.Options{})
	if diff := cmp.Diff(layer.Result{Size: 5, Inodes: 2, Entries: 4}, result); diff != "" {
		t.Error(diff)
	}
	whiteout.Name = "./.wh..wh..opq"
	_, result = keep(t, pack(t, dir("./"), whiteout, regular("zeros", strings.Repeat("\x00", 1<<20)+"x")), layer.Options{})
	if diff := cmp.Diff(layer.Result{Size: 1, Inodes: 2, Entries: 3, Opaque: true, Root: true}, result); diff != "" {
		t.Error(diff)
	}
}

// The data begins with all that was read, also what is behind the end of the archive.
func TestData(t *testing.T) {
	archive := append(pack(t, regular("f", "x")), "behind the end"...)
	dir, _ := keep(t, archive, layer.Options{})
	data, err := os.ReadFile(Devices([]string{dir})[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(data, archive) || len(data) != int(alignUp(len(archive), 512)) {
		t.Errorf("%d bytes of data for %d", len(data), len(archive))
	}
}

// A loop device leaves out what does not fill a block, and is none without any.
func TestWholeBlocks(t *testing.T) {
	layers := keepAll(t, nil, pack(t), pack(t, regular("f", "x")))
	for _, name := range append(Devices(layers), writeIndexOf(t, layers)) {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if size := info.Size(); size == 0 || size%512 != 0 {
			t.Errorf("%s has %d bytes", filepath.Base(name), size)
		}
	}
}

// The same layers make the same index.
func TestDeterministic(t *testing.T) {
	archives := [][]byte{manyFiles(t, 500, 10), pack(t, regular("x", "y"), link("z", "x"))}
	var first []byte
	for range 3 {
		index, err := os.ReadFile(writeIndexOf(t, keepAll(t, archives...)))
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, index) {
			t.Fatal("the index differs")
		}
		first = index
	}
}

func TestRefused(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	broken := errors.New("broken")
	tests := []struct {
		name string
		ctx  context.Context
		r    io.Reader
		dir  string
		o    layer.Options
		want error
	}{
		{"canceled", ctx, bytes.NewReader(pack(t)), "", layer.Options{}, context.Canceled},
		{"no tar", nil, strings.NewReader(strings.Repeat("x", 1024)), "", layer.Options{}, errdefs.ErrInvalidArgument},
		{"cut short", nil, bytes.NewReader(pack(t, regular("f", strings.Repeat("x", 1000)))[:1024]), "", layer.Options{}, io.ErrUnexpectedEOF},
		{"broken", nil, io.MultiReader(bytes.NewReader(pack(t)), iotest.ErrReader(broken)), "", layer.Options{}, broken},
		{"no such name", nil, bytes.NewReader(pack(t, regular("a/../b", ""))), "", layer.Options{}, errdefs.ErrInvalidArgument},
		{"entries", nil, bytes.NewReader(pack(t, dir("a"), dir("b"))), "", layer.Options{Limits: layer.Limits{Entries: 1}}, errdefs.ErrResourceExhausted},
		{"size", nil, bytes.NewReader(pack(t, regular("a", "12"))), "", layer.Options{Limits: layer.Limits{Size: 1}}, errdefs.ErrResourceExhausted},
		{"no room", nil, bytes.NewReader(pack(t, regular("a", strings.Repeat("x", 2<<20)))), small, layer.Options{}, unix.ENOSPC},
		{"no folder", nil, bytes.NewReader(pack(t)), "/proc/none", layer.Options{}, os.ErrNotExist},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, dir := test.ctx, test.dir
			if ctx == nil {
				ctx = t.Context()
			}
			if dir == "" {
				dir = t.TempDir()
			}
			if _, err := WriteLayer(ctx, test.r, dir, test.o); !errors.Is(err, test.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRefusedStacks(t *testing.T) {
	tests := []struct {
		name     string
		archives [][]byte
	}{
		{"link to nothing", [][]byte{pack(t, link("a", "b"))}},
		{"link to a folder", [][]byte{pack(t, dir("b")), pack(t, link("a", "b"))}},
		{"link to what is taken away", [][]byte{pack(t, regular("b", "")), pack(t, regular(".wh.b", ""), link("a", "b"))}},
		{"link to itself", [][]byte{pack(t, symlink("s", "."), regular("b", "")), pack(t, link("s/b", "b"))}},
		{"links in a circle", [][]byte{pack(t, symlink("a", "b"), symlink("b", "a"), regular("a/c", ""))}},
		{"a file as a folder", [][]byte{pack(t, regular("a", ""), regular("a/b", ""))}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "index")
			layers := keepAll(t, test.archives...)
			if err := WriteIndex(t.Context(), name, layers); !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is an index: %v", err)
			}
			if _, err := Open(layers); !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestIndexExists(t *testing.T) {
	name := writeIndexOf(t, nil)
	if err := WriteIndex(t.Context(), name, nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(name); err != nil {
		t.Error(err)
	}
}

// Whatever happens to the files of a layer, it is noticed.
func TestDamage(t *testing.T) {
	archive := pack(t, dir("d"), regular("d/f", "x"), symlink("l", "d"), link("l/g", "d/f"))
	damage := func(t *testing.T, file string, change func([]byte) []byte) {
		t.Helper()
		dir, _ := keep(t, archive, layer.Options{})
		name := filepath.Join(dir, file)
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, change(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open([]string{dir}); !errdefs.IsDataLoss(err) {
			t.Errorf("error %v", err)
		}
	}
	dir, _ := keep(t, archive, layer.Options{})
	entries, err := os.ReadFile(filepath.Join(dir, entriesFile))
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		damage(t, entriesFile, func(b []byte) []byte { b[i] ^= 1 << (i % 8); return b })
		damage(t, entriesFile, func(b []byte) []byte { return b[:i] })
	}
	damage(t, entriesFile, func(b []byte) []byte { return make([]byte, len(b)) })
	damage(t, entriesFile, func(b []byte) []byte { return append(b, 0) })
	damage(t, dataFile, func(b []byte) []byte { return b[:len(b)-1] })
	damage(t, dataFile, func([]byte) []byte { return nil })
	if err := os.Remove(filepath.Join(dir, dataFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open([]string{dir}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// A tree says what it has in common with that of fewer layers.
func TestSame(t *testing.T) {
	layers := keepAll(t,
		pack(t, dir("kept"), regular("kept/f", "1"), dir("changed"), regular("changed/f", "1"), regular("g", "1"), regular("gone/x", "")),
		pack(t, regular("changed/new", "2"), regular("g", "2"), link("kept2", "kept/f"), regular("gone/.wh.x", "")),
	)
	below, err := Open(layers[:1])
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, below)
	above, err := Open(layers)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, above)
	tests := map[string]bool{".": false, "kept": true, "kept/f": true, "changed": false, "changed/f": true, "g": false, "gone": false}
	for path, want := range tests {
		a, err := below.Lookup(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := above.Lookup(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Same == b.Same; got != want || a.Same == (layer.FileID{}) {
			t.Errorf("%s: same is %v", path, got)
		}
	}
	for _, path := range []string{"none", "kept/none", "kept/f/none", "kept/..", "kept/.", ""} {
		if _, err := above.Lookup(path); !errdefs.IsNotFound(err) {
			t.Errorf("%q: error %v", path, err)
		}
	}
	if _, err := above.List(&layer.Node{Path: "g"}); !errdefs.IsNotFound(err) {
		t.Errorf("error %v", err)
	}
	if _, err := above.Open(&layer.Node{Path: "kept"}); !errdefs.IsNotFound(err) {
		t.Errorf("error %v", err)
	}
}

// A layer of many markers takes the time of one with few.
func TestManyMarkers(t *testing.T) {
	var below, above []entry
	for i := range 20_000 {
		below = append(below, regular(fmt.Sprint("d/old", i), ""))
		above = append(above, regular(fmt.Sprint("d/new", i), ""), regular("d/.wh..wh..opq", ""), regular(".wh.d", ""))
	}
	layers := keepAll(t, pack(t, below...), pack(t, above...))
	tree, err := Open(layers)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, tree)
	list, err := tree.List(&layer.Node{Path: "d"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 20_000 {
		t.Errorf("%d files", len(list))
	}
}

// Folders can be deeper than any name, but not without end.
func TestDepth(t *testing.T) {
	down := strings.Repeat("d/", 2000)
	entries := []entry{symlink("link0", down)}
	for i := 1; i < 8; i++ {
		entries = append(entries, symlink(fmt.Sprint("link", i), fmt.Sprint("link", i-1, "/", down)))
	}
	entries = append(entries, regular("link7/f", "x"))
	layers := keepAll(t, pack(t, entries...))
	mountIndex(t, writeIndexOf(t, layers), layers)
	tree, err := Open(layers)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, tree)
	if _, err := tree.Lookup(strings.Repeat(down, 8) + "f"); err != nil {
		t.Error(err)
	}

	entries = append(entries, symlink("link8", "link7/"+down), regular("link8/f", "x"))
	name := filepath.Join(t.TempDir(), "index")
	if err := WriteIndex(t.Context(), name, keepAll(t, pack(t, entries...))); !errdefs.IsResourceExhausted(err) {
		t.Errorf("error %v", err)
	}
}

// A layer that was kept by the first version is read by every later one.
func TestVersions(t *testing.T) {
	layers := []string{filepath.Join("testdata", "version1")}
	if *update {
		if err := errors.Join(os.RemoveAll(layers[0]), os.MkdirAll(layers[0], 0o755)); err != nil {
			t.Fatal(err)
		}
		shared := regular("d/shared", "12")
		shared.PAXRecords = map[string]string{"SCHILY.xattr.user.one": "1", "SCHILY.xattr.system.posix_acl_access": anACL(6, 6, 4)}
		archive := pack(t, dir("./"), dir("d"), shared, link("again", "d/shared"), symlink("link", "d"),
			entry{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
			entry{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, ""},
			regular("d/.wh.gone", ""), regular("e/.wh..wh..opq", ""))
		// Its holes are finer than chunks: so there is something behind the tar.
		file := sparse(t, 70_000, "posix", map[int64]string{0: "first", 65_536: "last"}, "--hole-detection=raw", "--mtime=@1000")
		archive = append(archive[:len(archive)-1024], file...)
		if _, err := WriteLayer(t.Context(), bytes.NewReader(archive), layers[0], layer.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	got := tell(show(t, mountIndex(t, writeIndexOf(t, layers), layers)))
	golden := filepath.Join("testdata", "version1.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs (-want +got):\n%s", diff)
	}
}

var update = flag.Bool("update", false, "keep the layer of testdata anew")

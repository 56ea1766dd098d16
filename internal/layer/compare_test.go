package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/layertest"
)

// compare compares a tree with a layer on what is below, and lists the differences.
func compare(t testing.TB, tar []byte, below, tree layer.Tree, o layer.CompareOptions) []string {
	t.Helper()
	list, more, err := layer.Compare(t.Context(), bytes.NewReader(tar), below, tree, o)
	must(t, err)
	if more > 0 {
		t.Errorf("%d differences are not listed", more)
	}
	var lines []string
	for _, d := range list {
		lines = append(lines, d.String())
	}
	return lines
}

func openWhole(t testing.TB, dir string) layer.Tree {
	t.Helper()
	tree, err := layer.OpenStack(layer.Whole, []string{dir})
	must(t, err)
	t.Cleanup(func() { must(t, tree.Close()) })
	return tree
}

// What was unpacked is as its layers say, in every form.
func TestCompareCorpus(t *testing.T) {
	for _, c := range layertest.Corpus() {
		t.Run(c.Name, func(t *testing.T) {
			t.Run("overlay", func(t *testing.T) {
				t.Parallel()
				compareStack(t, c.Layers)
			})
			t.Run("a whole tree", func(t *testing.T) {
				t.Parallel()
				below, tree := newRoot(t), newRoot(t)
				for i, l := range c.Layers {
					o := layer.CompareOptions{Losses: applyTo(t, l, tree, layer.Options{ReportLosses: true}).Losses}
					if looksAt(i, c.Layers) {
						if diff := compare(t, l, openWhole(t, below), openWhole(t, tree), o); len(diff) > 0 {
							t.Errorf("layer %d differs: %q", i, diff)
						}
					}
					applyTo(t, l, below, layer.Options{ReportLosses: true})
				}
			})
		})
	}
}

// looksAt picks layers: all of few, and some of hundreds, where each is compared with all below.
func looksAt(i int, layers [][]byte) bool {
	return len(layers) < 20 || i%100 == 99 || i == len(layers)-1
}

func compareStack(t *testing.T, layers [][]byte) {
	form := layer.Overlay
	stack := []string{newRoot(t)}
	for i, l := range layers {
		below, err := layer.OpenStack(form, stack)
		must(t, err)
		dir := filepath.Join(t.TempDir(), "layer")
		must(t, os.Mkdir(dir, 0o755))
		result := applyTo(t, l, dir, layer.Options{Form: form, Below: below, ReportLosses: true})
		if result.Opaque {
			stack = stack[:1]
		}
		stack = append(stack, dir)
		if !looksAt(i, layers) {
			must(t, below.Close())
			continue
		}
		tree, err := layer.OpenStack(form, stack)
		must(t, err)
		if diff := compare(t, l, below, tree, layer.CompareOptions{Losses: result.Losses}); len(diff) > 0 {
			t.Errorf("layer %d differs: %q", i, diff)
		}
		must(t, below.Close())
		must(t, tree.Close())
	}
}

// furnished is a layer with something of every type, on two others.
func furnished(t testing.TB) (layers [][]byte) {
	t.Helper()
	pack := func(headers ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.ModTime, h.Format = time.Unix(1_600_000_000, 123_456_789), tar.FormatPAX
			content := []byte(nil)
			if h.Typeflag == tar.TypeReg && !strings.Contains(h.Name, ".wh.") {
				content = bytes.Repeat([]byte(h.Name+" "), 20_000)
			}
			h.Size = int64(len(content))
			must(t, w.WriteHeader(&h))
			_, err := w.Write(content)
			must(t, err)
		}
		must(t, w.Close())
		layers = append(layers, b.Bytes())
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	folder := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	pack(folder("a"), file("a/below"), file("a/gone"), folder("opaque"), file("opaque/below"), folder("linked"), file("linked/to"))
	with := file("a/xattr")
	with.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "value"}
	pack(
		folder("a"), file("a/file"), file("a/other"), with, file("a/.wh.gone"),
		tar.Header{Typeflag: tar.TypeLink, Name: "a/hard", Linkname: "a/file"},
		tar.Header{Typeflag: tar.TypeLink, Name: "a/bound", Linkname: "linked/to"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "a/link", Linkname: "file"},
		tar.Header{Typeflag: tar.TypeChar, Name: "a/null", Devmajor: 1, Devminor: 3, Mode: 0o666},
		tar.Header{Typeflag: tar.TypeFifo, Name: "a/fifo", Mode: 0o600},
		folder("opaque"), file("opaque/.wh..wh..opq"), file("opaque/file"), folder("empty"),
	)
	return layers
}

// Every kind of damage to the folder of a layer is found, where it is and nowhere else.
func TestCompareDamage(t *testing.T) {
	layers := furnished(t)
	write := func(name string, b []byte) func(string) error {
		return func(dir string) error {
			name := filepath.Join(dir, name)
			info, err := os.Stat(name)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(name, b, 0), os.Chtimes(name, info.ModTime(), info.ModTime()))
		}
	}
	// keeping does something in a folder, and leaves the folder's time as it was.
	keeping := func(folder string, do func(dir string) error) func(string) error {
		return func(dir string) error {
			info, err := os.Stat(filepath.Join(dir, folder))
			if err != nil {
				return err
			}
			return errors.Join(do(dir), os.Chtimes(filepath.Join(dir, folder), info.ModTime(), info.ModTime()))
		}
	}
	const size = 7 * 20_000 // of a/file
	for _, test := range []struct {
		name   string
		damage func(dir string) error
		want   []string
		above  bool // it shows in what overlay merges, and not in a tree that stands for itself
	}{
		{name: "none", damage: func(string) error { return nil }},
		{name: "emptied", damage: write("a/file", nil), want: []string{"a/file: size: 0 bytes instead of 140000", "a/hard: size: 0 bytes instead of 140000"}},
		{name: "zeroed", damage: write("a/file", make([]byte, size)), want: []string{"a/file: content", "a/hard: content"}},
		{name: "one byte", damage: func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "a/other"), os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("!"), 100_000)
			}
			at := time.Unix(1_600_000_000, 123_456_789)
			return errors.Join(err, f.Close(), os.Chtimes(f.Name(), at, at))
		}, want: []string{"a/other: content"}},
		{name: "mode", damage: func(dir string) error { return os.Chmod(filepath.Join(dir, "a/other"), 0o600) }, want: []string{"a/other: mode: 0600 instead of 0644"}},
		{name: "mode of a folder", damage: func(dir string) error { return os.Chmod(filepath.Join(dir, "empty"), 0o700) }, want: []string{"empty: mode: 0700 instead of 0755"}},
		{name: "owner", damage: func(dir string) error { return os.Lchown(filepath.Join(dir, "a/link"), 1, 2) }, want: []string{"a/link: owner: 1:2 instead of 0:0"}},
		{name: "time", damage: func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "a/other"), time.Unix(1, 0), time.Unix(1, 0))
		}, want: []string{"a/other: time: 1970-01-01T00:00:01Z instead of 2020-09-13T12:26:40.123456789Z"}},
		{name: "xattr gone", damage: func(dir string) error { return unix.Removexattr(filepath.Join(dir, "a/xattr"), "user.x") }, want: []string{"a/xattr: xattr: user.x is missing"}},
		{name: "xattr other", damage: func(dir string) error {
			return unix.Setxattr(filepath.Join(dir, "a/xattr"), "user.x", []byte("other"), 0)
		}, want: []string{"a/xattr: xattr: user.x has another value"}},
		{name: "xattr more", damage: func(dir string) error {
			return unix.Setxattr(filepath.Join(dir, "a/other"), "user.y", []byte("other"), 0)
		}, want: []string{"a/other: xattr: user.y is extra"}},
		{name: "missing", damage: keeping("a", func(dir string) error { return os.Remove(filepath.Join(dir, "a/other")) }), want: []string{"a/other: missing"}},
		{name: "missing folder", damage: keeping(".", func(dir string) error { return os.Remove(filepath.Join(dir, "empty")) }), want: []string{"empty: missing"}},
		{name: "extra", damage: keeping("a", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a/new\n"), nil, 0o644) }), want: []string{`"a/new\n": extra`}},
		{name: "extra folder", damage: keeping("empty", func(dir string) error { return os.MkdirAll(filepath.Join(dir, "empty/new/er"), 0o755) }), want: []string{"empty/new: extra"}},
		{name: "type", damage: keeping("a", func(dir string) error {
			name := filepath.Join(dir, "a/other")
			return errors.Join(os.Remove(name), os.Mkdir(name, 0o755))
		}), want: []string{"a/other: type: a folder instead of a file"}},
		{name: "link", damage: keeping("a", func(dir string) error {
			name := filepath.Join(dir, "a/link")
			at := unix.NsecToTimespec(1_600_000_000_123_456_789)
			return errors.Join(os.Remove(name), os.Symlink("other", name),
				unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
		}), want: []string{`a/link: link target: "other" instead of "file"`}},
		{name: "device", damage: keeping("a", func(dir string) error {
			name := filepath.Join(dir, "a/null")
			at := unix.NsecToTimespec(1_600_000_000_123_456_789)
			return errors.Join(os.Remove(name), unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))), os.Chmod(name, 0o666),
				unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
		}), want: []string{"a/null: device: 1:5 instead of 1:3"}},
		{name: "not linked", damage: keeping("a", func(dir string) error {
			name := filepath.Join(dir, "a/hard")
			b, err := os.ReadFile(name)
			at := time.Unix(1_600_000_000, 123_456_789)
			return errors.Join(err, os.Remove(name), os.WriteFile(name, b, 0o644), os.Chtimes(name, at, at))
		}), want: []string{"a/hard: hard link: it should be one file with another name"}},
		{name: "a whiteout less", above: true, damage: keeping("a", func(dir string) error { return os.Remove(filepath.Join(dir, "a/gone")) }), want: []string{"a/gone: extra"}},
		{name: "not opaque", above: true, damage: func(dir string) error {
			return unix.Removexattr(filepath.Join(dir, "opaque"), "trusted.overlay.opaque")
		}, want: []string{"opaque/below: extra"}},
		{name: "a whiteout more", above: true, damage: keeping("a", func(dir string) error {
			return unix.Mknod(filepath.Join(dir, "a/below"), unix.S_IFCHR, 0)
		}), want: []string{"a/below: missing"}},
		{name: "more opaque", above: true, damage: func(dir string) error {
			return unix.Setxattr(filepath.Join(dir, "a"), "trusted.overlay.opaque", []byte("y"), 0)
		}, want: []string{"a/below: missing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dirs := applyStack(t, layer.Overlay, layers)
			must(t, test.damage(dirs[2]))
			below, err := layer.OpenStack(layer.Overlay, dirs[:2])
			must(t, err)
			tree, err := layer.OpenStack(layer.Overlay, dirs)
			must(t, err)
			if got := compare(t, layers[1], below, tree, layer.CompareOptions{}); !slices.Equal(got, test.want) {
				t.Errorf("overlay: got %q, want %q", got, test.want)
			}
			must(t, below.Close())
			must(t, tree.Close())
			if test.above {
				return
			}
			first, second := newRoot(t), newRoot(t)
			applyTo(t, layers[0], first, layer.Options{})
			applyTo(t, layers[0], second, layer.Options{})
			applyTo(t, layers[1], second, layer.Options{})
			must(t, test.damage(second))
			if got := compare(t, layers[1], openWhole(t, first), openWhole(t, second), layer.CompareOptions{}); !slices.Equal(got, test.want) {
				t.Errorf("a whole tree: got %q, want %q", got, test.want)
			}
		})
	}
}

// What the unpacker could not keep is no difference, and whatever else there is, is.
func TestCompareLosses(t *testing.T) {
	layers := furnished(t)
	tree := newRoot(t)
	applyTo(t, layers[0], tree, layer.Options{})
	below := newRoot(t)
	applyTo(t, layers[0], below, layer.Options{})
	applyTo(t, layers[1], tree, layer.Options{})
	at := time.Unix(1_600_000_000, 123_456_789)
	must(t, os.Remove(filepath.Join(tree, "a/null")))
	must(t, unix.Removexattr(filepath.Join(tree, "a/xattr"), "user.x"))
	must(t, os.Lchown(filepath.Join(tree, "a/other"), 7, 7))
	must(t, os.Chtimes(filepath.Join(tree, "a"), at, at))
	want := []string{"a/null: missing", "a/other: owner: 7:7 instead of 0:0", "a/xattr: xattr: user.x is missing"}
	if got := compare(t, layers[1], openWhole(t, below), openWhole(t, tree), layer.CompareOptions{}); !slices.Equal(got, want) {
		t.Errorf("without losses: got %q, want %q", got, want)
	}
	o := layer.CompareOptions{Losses: []layer.Loss{
		{Kind: layer.LostDevice, Detail: "c 1:3"}, {Kind: layer.LostXattr, Detail: "user.x: not here"}, {Kind: layer.LostOwner, Detail: "0:0"},
	}}
	if got := compare(t, layers[1], openWhole(t, below), openWhole(t, tree), o); len(got) > 0 {
		t.Errorf("with losses: got %q", got)
	}
	list, more, err := layer.Compare(t.Context(), bytes.NewReader(layers[1]), openWhole(t, below), openWhole(t, tree), layer.CompareOptions{Most: 1})
	must(t, err)
	if len(list) != 1 || more != 2 {
		t.Errorf("one of three differences: got %q and %d more", list, more)
	}
}

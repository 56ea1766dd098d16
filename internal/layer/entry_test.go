package layer_test

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/tarstream"
)

func TestMeaning(t *testing.T) {
	const refused = layer.Op(-1)
	for _, c := range []struct {
		kind         byte
		name, target string
		op           layer.Op
		path, to     string
	}{
		{'0', "a/b", "", layer.Put, "a/b", ""},
		{'0', "/a//./b", "", layer.Put, "a/b", ""},
		{'0', "./a", "", layer.Put, "a", ""},
		{'0', ".//a", "", layer.Put, "a", ""},
		{'0', "/./../a", "", refused, "", ""},
		{'5', "a/b/", "", layer.Put, "a/b", ""},
		{'5', "a/b/.", "", layer.Put, "a/b", ""},
		{'5', "./", "", layer.Put, ".", ""},
		{'5', "/", "", layer.Put, ".", ""},
		{'5', "", "", layer.Put, ".", ""},
		{'0', "a b", "", layer.Put, "a b", ""},
		{'0', "a\\..\\b", "", layer.Put, "a\\..\\b", ""},
		{'0', "\xff\xfe", "", layer.Put, "\xff\xfe", ""},
		{'0', "a\x00b", "", refused, "", ""},
		{'0', "", "", refused, "", ""},
		{'2', "a", "../../b", layer.Put, "a", ""},
		{'2', "a", "b\x00", refused, "", ""},
		{'1', "a", "/b//c", layer.Put, "a", "b/c"},
		{'1', "a", "./b/", layer.Put, "a", "b"},
		{'1', "a", "b/../c", refused, "", ""},
		{'1', "a", "", refused, "", ""},
		{'1', "a", "a", refused, "", ""},
		{'1', "a", ".wh.b", refused, "", ""},
		{'0', ".wh.a", "", layer.Hide, "a", ""},
		{'0', "./d//.wh.a", "", layer.Hide, "d/a", ""},
		{'5', "d/.wh.a/", "", layer.Hide, "d/a", ""},
		{'1', "d/.wh.a", "/.wh..wh.aufs", layer.Hide, "d/a", ""},
		{'3', "d/.wh..wh", "", layer.Hide, "d/.wh", ""},
		{'0', ".wh..a", "", layer.Hide, ".a", ""},
		{'0', ".wh..wh..opq", "", layer.HideAll, ".", ""},
		{'0', "./d/e/.wh..wh..opq", "", layer.HideAll, "d/e", ""},
		{'0', ".wh.", "", refused, "", ""},
		{'0', ".wh..", "", refused, "", ""},
		{'0', ".wh...", "", refused, "", ""},
		{'0', "d/.wh..wh.x", "", refused, "", ""},
		{'0', "d/.wh..wh..opq/x", "", refused, "", ""},
		{'0', ".wh.d/x", "", refused, "", ""},
		{'5', ".wh..wh.plnk", "", layer.Nothing, "", ""},
		{'0', "/.wh..wh.plnk/12.34", "", layer.Nothing, "", ""},
		{'0', ".wh..wh.aufs", "", layer.Nothing, "", ""},
		{'5', "./.wh..wh.orph/", "", layer.Nothing, "", ""},
		{'0', "d/.wh..wh.aufs", "", refused, "", ""},
		{'0', "a.wh.b/.w/.wh", "", layer.Put, "a.wh.b/.w/.wh", ""},
		{'7', "a", "", refused, "", ""},
	} {
		op, path, target, err := layer.Meaning(&tarstream.Entry{Type: c.kind, Name: c.name, Linkname: c.target})
		switch {
		case c.op == refused && !errors.Is(err, errdefs.ErrInvalidArgument):
			t.Errorf("%c %q to %q: got %d of %q and %v, want it refused", c.kind, c.name, c.target, op, path, err)
		case c.op == refused:
		case err != nil:
			t.Errorf("%c %q to %q: %v", c.kind, c.name, c.target, err)
		case op != c.op || path != c.path || target != c.to:
			t.Errorf("%c %q to %q: got %d of %q to %q, want %d of %q to %q", c.kind, c.name, c.target, op, path, target, c.op, c.path, c.to)
		}
	}
}

// Whatever an entry says, what it means are paths beneath the root.
func FuzzMeaning(f *testing.F) {
	for _, name := range []string{"a", "./a/../b", "/", ".wh.a/b", "a/.wh..wh..opq", ".wh..wh.plnk/1", "a//b/"} {
		f.Add(byte('0'), name, "")
		f.Add(byte('1'), "x", name)
	}
	f.Fuzz(func(t *testing.T, kind byte, name, target string) {
		_, got, to, err := layer.Meaning(&tarstream.Entry{Type: kind, Name: name, Linkname: target})
		if err != nil {
			return
		}
		for _, p := range []string{got, to} {
			if p != "" && (!filepath.IsLocal(p) || path.Clean(p) != p || strings.ContainsRune(p, 0) || len(p) > 4095) {
				t.Errorf("%q to %q means %q", name, target, p)
			}
		}
	})
}

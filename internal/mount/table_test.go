package mount

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLine(t *testing.T) {
	for _, test := range []struct {
		name, line string
		want       Info
	}{
		{
			"no tags", "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard",
			Info{"/", "ext4", "/dev/vda", "/", []string{"rw", "relatime", "discard"}},
		},
		{
			"tags", "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw",
			Info{"/mnt2", "ext3", "/dev/root", "/mnt1", []string{"rw", "noatime"}},
		},
		{
			"read-only filesystem", "1 2 0:3 / /a rw,nosuid - erofs /x ro,acl",
			Info{"/a", "erofs", "/x", "/", []string{"ro", "nosuid", "acl"}},
		},
		{
			"read-only mount", "1 2 0:3 / /a ro - tmpfs none rw",
			Info{"/a", "tmpfs", "none", "/", []string{"ro"}},
		},
		{
			"escapes", `1 2 0:3 /r\040oot /a\134b\011c rw - fuse.x s\012rc rw,lowerdir=/x\054y:/\134:z`,
			Info{"/a\\b\tc", "fuse.x", "s\nrc", "/r oot", []string{"rw", `lowerdir=/x,y:/\:z`}},
		},
		{
			"no source", "1 2 0:3 / /a rw - tmpfs  rw",
			Info{"/a", "tmpfs", "", "/", []string{"rw"}},
		},
		{
			"a dash for a source", "1 2 0:3 / /a rw - tmpfs - rw",
			Info{"/a", "tmpfs", "-", "/", []string{"rw"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseLine(test.line)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, line := range []string{"", "-", "1 2 0:3 / /a rw", "1 2 0:3 / /a rw - tmpfs none", "1 2 0:3 / /a - tmpfs none rw"} {
		if got, err := parseLine(line); err == nil {
			t.Errorf("%q gives %+v", line, got)
		}
	}
}

// The lines of an overlay of many long names are longer than readers of lines allow by default.
func TestLongLine(t *testing.T) {
	layers := stack(t, filesystemOf(t, "tmpfs", 0), 499, "-"+strings.Repeat("x", 200))
	target := mounts(t, route{}, Mount{Type: "overlay", Source: "overlay", Options: []string{Dirs("lowerdir", layers...)}})
	info, ok, err := At(target)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if size := len(strings.Join(info.Options, ",")); size < 64<<10 {
		t.Errorf("options of %d bytes are no test", size)
	}
	if diff := cmp.Diff(layers, info.Dirs("lowerdir")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBeneath(t *testing.T) {
	outer, inner := folders(t, "a/b/", "ab/"), folders(t, "x/")
	target := mounts(t, route{},
		Mount{Type: "bind", Source: outer},
		Mount{Type: "bind", Source: inner, Target: "a/b"},
		Mount{Type: "bind", Source: inner, Target: "ab"},
		Mount{Type: "bind", Source: inner, Target: "ab"},
		Mount{Type: "bind", Source: outer, Target: "a/b/x"},
	)
	for _, test := range []struct {
		dir  string
		want []string
	}{
		{target, []string{"/a/b/x", "/a/b", "/ab", "/ab", ""}},
		{target + "/a", []string{"/a/b/x", "/a/b"}},
		{target + "/a/../a/b/x/", []string{"/a/b/x"}},
		{target + "/a/b/x/a", nil},
		{target + "/missing", nil},
	} {
		infos, err := Beneath(test.dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, info := range infos {
			got = append(got, strings.TrimPrefix(info.Target, target))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.dir, diff)
		}
	}
	if all, err := Beneath("/"); err != nil || len(all) < 6 {
		t.Errorf("%d mounts beneath /, error %v", len(all), err)
	}
	// As is said, they can be unmounted in this order.
	infos, err := Beneath(target)
	if err != nil {
		t.Fatal(err)
	}
	for i, info := range infos {
		if i > 0 && info.Target == infos[i-1].Target {
			continue // went with the one above it
		}
		if err := Unmount(info.Target); err != nil {
			t.Error(err)
		}
	}
	wantNoMounts(t, target)
}

func FuzzParseLine(f *testing.F) {
	f.Add("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard")
	f.Add(`1 2 0:3 /r\040oot /a\134b rw shared:1 - overlay o ro,lowerdir=/x\054y:/\134:z,lowerdir+=\`)
	f.Fuzz(func(t *testing.T, line string) {
		info, err := parseLine(line)
		if err != nil {
			return
		}
		if access := info.Options[0]; access != "ro" && access != "rw" {
			t.Errorf("options %q", info.Options)
		}
		info.Dirs("lowerdir")
		if len(info.Target) > len(line) {
			t.Errorf("target %q of %q", info.Target, line)
		}
	})
}

// Folders come back from their option as they went in, whatever their names.
func FuzzDirs(f *testing.F) {
	f.Add(`/a:b`, `/c,\d`)
	f.Add(`\`, `:`)
	f.Fuzz(func(t *testing.T, a, b string) {
		want := []string{a, b}
		option := Dirs("lowerdir", want...)
		got := Info{Options: []string{option}}.Dirs("lowerdir")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", option, diff)
		}
	})
}

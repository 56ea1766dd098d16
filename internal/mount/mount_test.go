package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// routes are the ways of this kernel and of those that lack its newer calls.
var routes = map[string]route{"new": {}, "old": {old: true}}

// onRoutes runs a test on each of them.
func onRoutes(t *testing.T, test func(*testing.T, route)) {
	for name, r := range routes {
		t.Run(name, func(t *testing.T) { test(t, r) })
	}
}

// unmountLater takes away what is mounted in dir when the test ends, however it ends.
func unmountLater(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		left, err := Beneath(dir)
		if err != nil {
			t.Error(err)
		}
		for _, info := range left {
			if err := Unmount(info.Target); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		}
	})
}

// mounts makes mounts on a new folder and returns it.
func mounts(t *testing.T, r route, ms ...Mount) string {
	t.Helper()
	target := t.TempDir()
	unmountLater(t, target)
	if err := r.all(ms, target); err != nil {
		t.Fatal(err)
	}
	return target
}

// folders makes a tree: names ending in "/" are folders, the others files that hold their name.
func folders(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(full, 0o755)
		} else {
			err = os.WriteFile(full, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantFile(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	} else if string(got) != want {
		t.Errorf("%s holds %q, want %q", name, got, want)
	}
}

func wantList(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
		return
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s lists (-want +got):\n%s", dir, diff)
	}
}

func wantNoMounts(t *testing.T, dir string) {
	t.Helper()
	left, err := Beneath(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left beneath %s: %v, error %v", dir, left, err)
	}
}

func TestBind(t *testing.T) {
	tmpfs := t.TempDir()
	if err := unix.Mount("none", tmpfs, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, tmpfs)
	if err := os.MkdirAll(filepath.Join(tmpfs, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(tmpfs, "a")
	for _, test := range []struct {
		name    string
		options []string
		want    []string // flags of the mount, sorted
	}{
		{"writable", []string{"rbind", "rw"}, []string{"noatime", "nodev", "nosuid", "rw"}},
		{"no options", nil, []string{"noatime", "nodev", "nosuid", "rw"}},
		{"read-only keeps the source's flags", []string{"rbind", "ro"}, []string{"noatime", "nodev", "nosuid", "ro"}},
		{"more flags", []string{"bind", "noexec"}, []string{"noatime", "nodev", "noexec", "nosuid", "rw"}},
		{"relatime", []string{"bind", "relatime"}, []string{"nodev", "nosuid", "relatime", "rw"}},
		{"nodiratime", []string{"bind", "nodiratime"}, []string{"noatime", "nodev", "nodiratime", "nosuid", "rw"}},
		{"the last wins", []string{"bind", "ro", "noexec", "exec", "rw"}, []string{"noatime", "nodev", "nosuid", "rw"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			onRoutes(t, func(t *testing.T, r route) {
				target := mounts(t, r, Mount{Type: "bind", Source: source, Options: test.options})
				wantList(t, target, "b")
				info, ok, err := At(target)
				if err != nil || !ok {
					t.Fatal(ok, err)
				}
				var got []string
				for _, option := range info.Options {
					if _, flag := known[option]; flag {
						got = append(got, option)
					}
				}
				slices.Sort(got)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("flags (-want +got):\n%s", diff)
				}
				if info.Type != "tmpfs" || info.Root != "/a" {
					t.Errorf("got type %s, root %s", info.Type, info.Root)
				}
				err = os.Mkdir(filepath.Join(target, "new"), 0o755)
				readOnly := slices.Contains(test.want, "ro")
				if errors.Is(err, unix.EROFS) != readOnly {
					t.Errorf("mkdir: %v", err)
				}
				if err == nil {
					err = os.Remove(filepath.Join(source, "new"))
					if err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// A recursive bind takes the mounts beneath its source along, another leaves them.
func TestBindRecursive(t *testing.T) {
	onRoutes(t, func(t *testing.T, r route) {
		source := folders(t, "sub/", "other/file")
		unmountLater(t, source)
		inner := Mount{Type: "bind", Source: filepath.Join(source, "other"), Target: "sub"}
		if err := r.all([]Mount{inner}, source); err != nil {
			t.Fatal(err)
		}
		with := mounts(t, r, Mount{Type: "bind", Source: source, Options: []string{"rbind", "ro"}})
		wantList(t, filepath.Join(with, "sub"), "file")
		without := mounts(t, r, Mount{Type: "bind", Source: source, Options: []string{"bind", "ro"}})
		wantList(t, filepath.Join(without, "sub"))

		err := os.WriteFile(filepath.Join(with, "sub/new"), nil, 0o644)
		if !r.old && !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a mount beneath a read-only one: %v", err)
		}
	})
}

func TestBindFile(t *testing.T) {
	onRoutes(t, func(t *testing.T, r route) {
		dir := folders(t, "from", "to")
		unmountLater(t, dir)
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		if err := r.all([]Mount{{Type: "bind", Source: from, Options: []string{"ro"}}}, to); err != nil {
			t.Fatal(err)
		}
		wantFile(t, to, "from")
		if err := Unmount(to); err != nil {
			t.Error(err)
		}
		wantFile(t, to, "to")
	})
}

// Mounts are made in their order, and each sees those before it.
func TestAllInOrder(t *testing.T) {
	onRoutes(t, func(t *testing.T, r route) {
		outer, inner := folders(t, "in/", "file"), folders(t, "deep")
		target := mounts(t, r,
			Mount{Type: "bind", Source: outer},
			Mount{Type: "bind", Source: inner, Target: "in"},
		)
		wantFile(t, filepath.Join(target, "in/deep"), "deep")
		all, err := Beneath(target)
		if err != nil || len(all) != 2 || all[0].Target != target+"/in" || all[1].Target != target {
			t.Errorf("got mounts %v, error %v", all, err)
		}
		if err := Unmount(target); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("unmount with a mount beneath: %v", err)
		}
	})
}

func TestAllUndoes(t *testing.T) {
	onRoutes(t, func(t *testing.T, r route) {
		a, b := folders(t, "sub/"), folders(t, "file")
		target := t.TempDir()
		unmountLater(t, target)
		err := r.all([]Mount{
			{Type: "bind", Source: a},
			{Type: "bind", Source: b, Target: "sub"},
			{Type: "bind", Source: b},
			{Type: "bind", Source: filepath.Join(b, "missing")},
		}, target)
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "missing") {
			t.Errorf("got error %v", err)
		}
		wantNoMounts(t, target)
	})
}

// A target within a mount is resolved beneath it: its links cannot lead elsewhere.
func TestTargetStaysBeneath(t *testing.T) {
	onRoutes(t, func(t *testing.T, r route) {
		outside := t.TempDir()
		unmountLater(t, outside)
		image, data := folders(t, "etc/"), folders(t, "data")
		for link, to := range map[string]string{"absolute": "/etc", "up": "../../../../../../etc", "away": outside} {
			if err := os.Symlink(to, filepath.Join(image, link)); err != nil {
				t.Fatal(err)
			}
		}
		for _, link := range []string{"absolute", "up", "../etc", "/etc"} {
			target := mounts(t, r,
				Mount{Type: "bind", Source: image},
				Mount{Type: "bind", Source: data, Target: link})
			wantList(t, filepath.Join(target, "etc"), "data")
		}
		target := t.TempDir()
		unmountLater(t, target)
		err := r.all([]Mount{{Type: "bind", Source: image}, {Type: "bind", Source: data, Target: "away"}}, target)
		if !errdefs.IsNotFound(err) {
			t.Errorf("target that leads away: %v", err)
		}
		wantNoMounts(t, target)
		wantNoMounts(t, outside)
	})
}

func TestErrors(t *testing.T) {
	dir := folders(t, "a/", "file")
	a := filepath.Join(dir, "a")
	for _, test := range []struct {
		name  string
		mount Mount
		is    func(error) bool
		says  string
	}{
		{"type", Mount{Type: "tmpfs"}, errdefs.IsNotImplemented, "unknown type"},
		{"remount", Mount{Type: "bind", Source: a, Options: []string{"remount"}}, errdefs.IsInvalidArgument, "remount"},
		{"empty option", Mount{Type: "bind", Source: a, Options: []string{""}}, errdefs.IsInvalidArgument, `option ""`},
		{"zero byte", Mount{Type: "overlay", Options: []string{"a\x00b"}}, errdefs.IsInvalidArgument, `a\x00b`},
		{"bind with data", Mount{Type: "bind", Source: a, Options: []string{"size=1"}}, errdefs.IsInvalidArgument, "size=1"},
		{"bind of nothing", Mount{Type: "bind", Source: a + "/x"}, errdefs.IsNotFound, "a/x"},
		{"bind of a file", Mount{Type: "bind", Source: dir + "/file"}, errdefs.IsInvalidArgument, ""},
		{"target", Mount{Type: "bind", Source: a, Target: "x/y"}, errdefs.IsNotFound, "x/y"},
		{"overlay bind", Mount{Type: "overlay", Options: []string{"bind"}}, errdefs.IsInvalidArgument, "bind"},
		{"overlay of nothing", Mount{Type: "overlay"}, errdefs.IsInvalidArgument, ""},
		{"overlay of an empty name", Mount{Type: "overlay", Options: []string{"lowerdir=/a::/b"}}, errdefs.IsInvalidArgument, "empty"},
		{"overlay of two uppers", Mount{Type: "overlay", Options: []string{"upperdir=/a:/b"}}, errdefs.IsInvalidArgument, "2 folders"},
		{"overlay of one", Mount{Type: "overlay", Options: []string{"lowerdir=" + a}}, errdefs.IsInvalidArgument, "which is a bind"},
		{"overlay lower", Mount{Type: "overlay", Options: []string{"lowerdir=" + a + ":" + a + "/x"}}, errdefs.IsNotFound, "a/x"},
		{"overlay option", Mount{Type: "overlay", Options: []string{"lowerdir=" + a + ":" + dir, "flavour=on"}}, errdefs.IsInvalidArgument, "flavour"},
		{"erofs bind", Mount{Type: "erofs", Options: []string{"bind"}}, errdefs.IsInvalidArgument, "bind"},
		{"erofs of nothing", Mount{Type: "erofs", Source: a + "/x"}, errdefs.IsNotFound, "a/x"},
		{"erofs of another file", Mount{Type: "erofs", Source: dir + "/file"}, errdefs.IsInvalidArgument, "image "},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := t.TempDir()
			unmountLater(t, target)
			err := All([]Mount{test.mount}, target)
			if !test.is(err) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("got error %v", err)
			}
			wantNoMounts(t, target)
		})
	}
	if err := All([]Mount{{Type: "bind", Source: a}}, dir+"/missing"); !errdefs.IsNotFound(err) {
		t.Errorf("no target: %v", err)
	}
}

func TestUnmount(t *testing.T) {
	a, b := folders(t, "a"), folders(t, "b")
	t.Run("stacked", func(t *testing.T) {
		target := mounts(t, route{}, Mount{Type: "bind", Source: a}, Mount{Type: "bind", Source: b})
		wantList(t, target, "b")
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
		wantList(t, target)
		wantNoMounts(t, target)
	})
	t.Run("nothing", func(t *testing.T) {
		dir := t.TempDir()
		for _, target := range []string{dir, filepath.Join(dir, "missing")} {
			if err := Unmount(target); !errdefs.IsNotFound(err) {
				t.Errorf("unmount %s: %v", target, err)
			}
		}
	})
	t.Run("busy", func(t *testing.T) {
		target := mounts(t, route{}, Mount{Type: "bind", Source: a})
		f, err := os.Open(filepath.Join(target, "a"))
		if err != nil {
			t.Fatal(err)
		}
		defer release(f)
		if err := Unmount(target); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("unmount what is in use: %v", err)
		}
		if _, ok, err := At(target); !ok || err != nil {
			t.Errorf("busy mount: there %v, error %v", ok, err)
		}
	})
	t.Run("link", func(t *testing.T) {
		target := mounts(t, route{}, Mount{Type: "bind", Source: a})
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if err := Unmount(link); !errdefs.IsInvalidArgument(err) {
			t.Errorf("unmount a link: %v", err)
		}
		wantList(t, target, "a")
	})
}

func TestCommand(t *testing.T) {
	for _, test := range []struct {
		mount Mount
		want  string
	}{
		{
			Mount{Type: "overlay", Source: "overlay", Options: []string{"index=off", Dirs("lowerdir", "/b", "/a")}},
			"mount -t overlay overlay /mnt -o index=off,lowerdir=/b:/a",
		},
		{
			Mount{Type: "bind", Source: "/it's here", Target: "/etc", Options: []string{"rbind", "ro"}},
			`mount -t bind '/it'\''s here' /mnt/etc -o rbind,ro`,
		},
		{
			Mount{Type: "overlay", Source: "overlay", Options: []string{Dirs("lowerdir", "/a:b,c")}},
			`mount -t overlay overlay /mnt -o 'lowerdir=/a\:b\,c'`,
		},
		{Mount{Type: "erofs", Source: ""}, "mount -t erofs '' /mnt"},
	} {
		if got := test.mount.Command("/mnt"); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

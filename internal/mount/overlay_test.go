package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// stack makes n folders beneath dir, the topmost first, named by number and suffix. Each holds a
// file of its own and its number in "which".
func stack(t *testing.T, dir string, n int, suffix string) []string {
	t.Helper()
	var layers []string
	for i := range n {
		layer := filepath.Join(dir, fmt.Sprint(i)+suffix)
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"which", fmt.Sprintf("file-%03d", i)} {
			if err := os.WriteFile(filepath.Join(layer, name), []byte(fmt.Sprint(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		layers = append(layers, layer)
	}
	return layers
}

// wantStack checks that all layers show, and the topmost on top.
func wantStack(t *testing.T, target string, n int) {
	t.Helper()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("file-%03d", i))
	}
	wantList(t, target, append(want, "which")...)
	wantFile(t, filepath.Join(target, "which"), "0")
	wantFile(t, filepath.Join(target, fmt.Sprintf("file-%03d", n-1)), fmt.Sprint(n-1))
}

func TestOverlayStacks(t *testing.T) {
	long := "-" + strings.Repeat("x", 120)
	for _, test := range []struct {
		layers int
		suffix string
		// What stands for the topmost folder in the list of mounts on the old route, where it is
		// relative; empty: it is itself.
		old string
	}{
		{1, "", ""},
		{2, "", ""},
		{2, long, ""},
		{128, "", "0"},
		{128, long, "number"},
		{300, "/fs", "0/fs"},
		{499, "/fs", "0/fs"},
		{499, long, "number"},
		{500, "", "0"},
	} {
		t.Run(fmt.Sprintf("%d of %d bytes", test.layers, len(test.suffix)), func(t *testing.T) {
			base := filesystemOf(t, "tmpfs", 0) // a thousand files are made and removed
			layers := stack(t, filepath.Join(base, "with-some-common-parent"), test.layers, test.suffix)
			for _, kind := range []string{"ro", "rw"} {
				if kind == "ro" && test.layers == 1 {
					continue // a bind
				}
				onRoutes(t, func(t *testing.T, r route) {
					options := []string{Dirs("lowerdir", layers...)}
					upper := folders(t, "upper/", "work/")
					if kind == "rw" {
						options = append(options, Dirs("upperdir", upper+"/upper"), Dirs("workdir", upper+"/work"), "volatile")
					}
					before, err := os.Getwd()
					if err != nil {
						t.Fatal(err)
					}
					target := mounts(t, r, Mount{Type: "overlay", Source: "overlay", Options: options})
					wantStack(t, target, test.layers)
					after, err := os.Getwd()
					if err != nil || after != before {
						t.Errorf("working directory was %s and is %s, error %v", before, after, err)
					}

					info, ok, err := At(target)
					if err != nil || !ok {
						t.Fatal(ok, err)
					}
					got := info.Dirs("lowerdir")
					if len(got) != test.layers {
						t.Fatalf("%d lower folders are listed, want %d", len(got), test.layers)
					}
					switch {
					case !r.old || test.old == "":
						if diff := cmp.Diff(layers, got); diff != "" {
							t.Errorf("lower folders (-want +got):\n%s", diff)
						}
					case test.old == "number":
						if strings.Trim(got[0], "0123456789") != "" {
							t.Errorf("topmost folder is %s, want a number", got[0])
						}
					case got[0] != test.old:
						t.Errorf("topmost folder is %s, want %s", got[0], test.old)
					}
					if kind == "rw" {
						if got := info.Dirs("upperdir"); !slices.Equal(got, []string{upper + "/upper"}) {
							t.Errorf("upper folder is %v, want %s/upper", got, upper)
						}
						if err := os.WriteFile(filepath.Join(target, "which"), []byte("new"), 0o644); err != nil {
							t.Fatal(err)
						}
						wantFile(t, filepath.Join(upper, "upper/which"), "new")
						wantFile(t, filepath.Join(layers[0], "which"), "0")
					}
				})
			}
		})
	}
}

// The kernel stacks 500 layers; of more it would say no more than that an argument is invalid.
func TestOverlayTooMany(t *testing.T) {
	layers := slices.Repeat([]string{t.TempDir()}, 501)
	err := All([]Mount{{Type: "overlay", Source: "overlay", Options: []string{Dirs("lowerdir", layers...)}}}, t.TempDir())
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "501 lower folders, of which the kernel takes 500") {
		t.Errorf("got error %v", err)
	}
}

// Names with all that options give a meaning to, and of a length that no string of fsconfig has.
func TestOverlayNames(t *testing.T) {
	for i, name := range []string{
		`a:b`, `a,b`, `a\b`, `a\\b`, `\`, `:`, `,`, `a\:b`, `a=b`, `a b`, "a\nb", `a"b'`, `ä`, `\054`, `#`,
		`x,upperdir=y`, `trailing\`,
		strings.Repeat("l/", 150) + "long", strings.Repeat("l:/", 100) + "long",
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			onRoutes(t, func(t *testing.T, r route) {
				base := t.TempDir()
				layers := stack(t, base, 3, "/"+name)
				upper, work := filepath.Join(base, "upper", name), filepath.Join(base, "work", name)
				for _, dir := range []string{upper, work} {
					if err := os.MkdirAll(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				target := mounts(t, r, Mount{Type: "overlay", Source: "overlay", Options: []string{
					Dirs("lowerdir", layers...), Dirs("upperdir", upper), Dirs("workdir", work), "volatile",
				}})
				wantStack(t, target, 3)
				if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				wantList(t, upper, "new")
				info, _, err := At(target)
				if err != nil {
					t.Fatal(err)
				}
				for option, want := range map[string][]string{"lowerdir": layers, "upperdir": {upper}, "workdir": {work}} {
					if diff := cmp.Diff(want, info.Dirs(option)); diff != "" {
						t.Errorf("%q: %s (-want +got):\n%s\n%q", name, option, diff, info.Options)
					}
				}
			})
		})
	}
}

// Options of the caller reach the kernel.
func TestOverlayOptions(t *testing.T) {
	onRoutes(t, func(t *testing.T, r route) {
		for _, option := range []string{"index=on", "metacopy=on", "redirect_dir=on", "userxattr", "volatile", "nosuid", "noatime"} {
			layers := stack(t, t.TempDir(), 1, "")
			upper := folders(t, "upper/", "work/")
			target := mounts(t, r, Mount{Type: "overlay", Source: "overlay", Options: []string{
				option, Dirs("lowerdir", layers...), Dirs("upperdir", upper+"/upper"), Dirs("workdir", upper+"/work"),
			}})
			info, _, err := At(target)
			named := func(o string) bool { return o == option || o == "fsync="+option } // newer kernels: fsync=volatile
			if err != nil || !slices.ContainsFunc(info.Options, named) {
				t.Errorf("option %s is not among %q, error %v", option, info.Options, err)
			}
		}
		off := []string{"index=off", "metacopy=off", "redirect_dir=off"}
		layers := stack(t, t.TempDir(), 2, "")
		target := mounts(t, r, Mount{Type: "overlay", Source: "layers", Options: append(off, "ro", Dirs("lowerdir", layers...))})
		info, _, err := At(target)
		if err != nil || info.Options[0] != "ro" || info.Source != "layers" || info.Type != "overlay" {
			t.Errorf("got %+v, error %v", info, err)
		}
	})
}

func TestCommonParent(t *testing.T) {
	for _, test := range []struct {
		dirs []string
		want string
	}{
		{[]string{"/a/b/c"}, "/a/b"},
		{[]string{"/a/b/1", "/a/b/2"}, "/a/b"},
		{[]string{"/a/b/1", "/a/bc/2"}, "/a"},
		{[]string{"/a/b", "/a/b/c"}, "/a"},
		{[]string{"/a/b/c", "/a/b"}, "/a"},
		{[]string{"/a", "/b"}, "/"},
		{[]string{"/"}, "/"},
	} {
		if got := commonParent(test.dirs); got != test.want {
			t.Errorf("commonParent(%q) = %s, want %s", test.dirs, got, test.want)
		}
	}
}

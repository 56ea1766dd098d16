package layer

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A root is plain whatever the umask, or in all as another one.
func TestMakeRoot(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	plain, err := Empty().Lookup(".")
	treeMust(t, err)
	odd := &Node{Path: ".", Attr: Attr{
		Mode: unix.S_IFDIR | 0o3751, UID: 12, GID: 34, ModTime: time.Unix(1e9, 5),
		Xattrs: map[string]string{"user.k": "v"},
	}}
	for name, like := range map[string]*Node{"plain": nil, "odd": odd} {
		dir := filepath.Join(t.TempDir(), name)
		treeMust(t, MakeRoot(dir, like))
		got, err := treeOpen(t, Whole, dir).Lookup(".")
		treeMust(t, err)
		want := plain
		if like != nil {
			want = like
		}
		if diff := cmp.Diff(want.Attr, got.Attr); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if err := MakeRoot(dir, like); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: made where it is there: %v", name, err)
		}
	}
}

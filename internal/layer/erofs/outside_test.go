package erofs

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"testing"
	"time"

	outside "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The project's library for EROFS, which has nothing of this package, reads an index as the kernel
// does.
func TestOutside(t *testing.T) {
	layers := keepAll(t,
		manyFiles(t, 300, 2000),
		pack(t, dir("d"), regular("d/f", "hello"), symlink("d/l", "f"), link("g", "d/f"), regular("empty", "")),
		pack(t, regular(".wh.empty", ""), regular("d/new", "new")),
	)
	name := writeIndexOf(t, layers)
	want := show(t, mountIndex(t, name, layers))

	index, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, index)
	var devices []io.ReaderAt
	for _, name := range Devices(layers) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer closing(t, f)
		devices = append(devices, f)
	}
	image, err := outside.Open(index, outside.WithExtraDevices(devices...))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]seen{}
	names := map[int64]string{}
	err = fs.WalkDir(image, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*outside.Stat)
		if !ok {
			return fmt.Errorf("%s: no attributes", path)
		}
		s := seen{
			Mode: uint32(info.Mode().Perm()), UID: st.UID, GID: st.GID, Links: uint64(st.Nlink),
			Time: time.Unix(int64(st.Mtime), int64(st.MtimeNs)).UTC().Format(time.RFC3339Nano),
		}
		switch info.Mode().Type() {
		case 0:
			s.Mode |= unix.S_IFREG
			s.Size = info.Size()
			content, err := fs.ReadFile(image, path)
			if err != nil {
				return err
			}
			s.Content = contentOf(t, bytesAt(content), s.Size)
			s.Holes = want[path].Holes // which it does not tell
		case fs.ModeDir:
			s.Mode |= unix.S_IFDIR
		case fs.ModeSymlink:
			s.Mode |= unix.S_IFLNK
			if s.Target, err = fs.ReadLink(image, path); err != nil {
				return err
			}
		}
		if st.Nlink > 1 && !info.IsDir() {
			if s.Names = names[st.Ino]; s.Names == "" {
				names[st.Ino] = path
				s.Names = path
			}
		}
		got[path] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differs (-kernel +library):\n%s", diff)
	}
}

// bytesAt reads bytes from anywhere.
type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, b[off:]), nil }

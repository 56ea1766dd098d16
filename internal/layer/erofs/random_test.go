package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/layer"
)

// Random stacks of layers become the same tree as when they are applied to a folder one after
// another, and the kernel sees it so.
func TestRandomLayers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var archives [][]byte
		for range rapid.IntRange(1, 4).Draw(rt, "layers") {
			archives = append(archives, pack(t, rapid.SliceOfN(anEntry(), 0, 12).Draw(rt, "layer")...))
		}
		base := t.TempDir()
		applied, applyErr := filepath.Join(base, "applied"), error(nil)
		if err := errors.Join(os.Mkdir(applied, 0o755), os.Chtimes(applied, epoch, epoch)); err != nil {
			rt.Fatal(err)
		}
		for _, archive := range archives {
			_, applyErr = layer.Apply(t.Context(), bytes.NewReader(archive), applied, layer.Options{ReportLosses: true})
			if applyErr != nil {
				break
			}
		}
		layers := make([]string, 0, len(archives))
		var err error
		for i, archive := range archives {
			dir := filepath.Join(base, "layer"+string(rune('0'+i)))
			if err := os.Mkdir(dir, 0o755); err != nil {
				rt.Fatal(err)
			}
			if _, err = WriteLayer(t.Context(), bytes.NewReader(archive), dir, layer.Options{ReportLosses: true}); err != nil {
				break
			}
			layers = append(layers, dir)
		}
		index := filepath.Join(base, "index")
		if err == nil {
			err = WriteIndex(t.Context(), index, layers)
		}
		if (err == nil) != (applyErr == nil) {
			rt.Fatalf("erofs: %v\napply: %v", err, applyErr)
		}
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				rt.Fatal(err)
			}
			return
		}
		want := show(rt, applied)
		got := showIndex(rt, base, index, layers)
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("applied and mounted differ (-applied +mounted):\n%s", diff)
		}
		sameTree(rt, layers, got)
	})
}

// showIndex is show for an index that is mounted for that.
func showIndex(t tester, base, index string, layers []string) map[string]seen {
	t.Helper()
	target := filepath.Join(base, "mount")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	mountAt(t, target, index, layers)
	defer func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	return show(t, target)
}

// anEntry makes entries that get in each other's way.
func anEntry() *rapid.Generator[entry] {
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 3).Draw(t, "name"), "/")
	})
	return rapid.Custom(func(t *rapid.T) entry {
		e := entry{tar.Header{
			Name:    name.Draw(t, "name"),
			Mode:    rapid.Int64Range(0, 0o7777).Draw(t, "mode"),
			Uid:     rapid.IntRange(0, 3).Draw(t, "uid"),
			ModTime: epoch.Add(rapidDuration.Draw(t, "time")),
		}, ""}
		switch rapid.IntRange(0, 23).Draw(t, "type") {
		case 0, 1, 2, 3, 4, 5:
			e.Typeflag = tar.TypeReg
			e.body = rapid.SampledFrom([]string{
				"", "x", "some more", strings.Repeat("y", 5000), strings.Repeat("\x00", 200<<10) + "z",
			}).Draw(t, "body")
		case 6, 7, 8, 9, 10, 11:
			e.Typeflag = tar.TypeDir
			if rapid.IntRange(0, 9).Draw(t, "root") == 0 {
				e.Name = "./"
			}
		case 12, 13, 14, 15:
			e.Typeflag = tar.TypeSymlink
			e.Linkname = rapid.SampledFrom([]string{"", "/", "../", "../../"}).Draw(t, "up") + name.Draw(t, "target")
		case 16:
			e.Typeflag = tar.TypeLink
			e.Linkname = name.Draw(t, "target")
		case 17, 18, 19, 20, 21:
			e.Typeflag = tar.TypeReg
			dir, base := splitPath(e.Name)
			e.Name = joinPath(dir, ".wh."+base)
		case 22, 23:
			e.Typeflag = tar.TypeReg
			dir, _ := splitPath(e.Name)
			e.Name = joinPath(dir, ".wh..wh..opq")
		}
		plain := e.Typeflag == tar.TypeReg || e.Typeflag == tar.TypeDir
		if plain && rapid.IntRange(0, 4).Draw(t, "xattrs") == 0 {
			e.PAXRecords = map[string]string{
				"SCHILY.xattr.user.one":     "1",
				"SCHILY.xattr.trusted.two":  strings.Repeat("2", rapid.IntRange(0, 600).Draw(t, "value")),
				"SCHILY.xattr.nonsense.one": "lost",
			}
		}
		return e
	})
}

package erofs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
)

// An entries file may hold anything: it becomes an image that the kernel takes, or an error.
func FuzzRecords(f *testing.F) {
	for _, archive := range [][]byte{
		nil,
		pack(f, dir("d"), regular("d/f", "x"), symlink("l", "d"), link("l/g", "d/f"), regular(".wh.x", ""), regular("d/.wh..wh..opq", "")),
		pack(f, regular("zeros", string(make([]byte, 100<<10))+"x")),
	} {
		dir, _ := keep(f, archive, layer.Options{})
		text, err := loadRecords(filepath.Join(dir, entriesFile))
		if err != nil {
			f.Fatal(err)
		}
		records, size, err := parseSizes(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(records, size.tar, size.blocks)
	}
	f.Fuzz(func(t *testing.T, records string, tar, blocks int64) {
		if tar < 0 || blocks < blocksOf(tar) || blocks > maxBlocks {
			return // as parseSizes says
		}
		size := layerSize{tar, blocks}
		m := &merger{layers: []layerSize{size}}
		m.root = m.newFolder(nil)
		m.last = m.root
		if err := parseRecords(records, size, m.apply); err != nil {
			if !errdefs.IsDataLoss(err) && !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			return
		}
		if err := writeImage(t.Context(), io.Discard, m.finish()); err != nil {
			t.Error(err)
		}
	})
}

// Any bytes are a layer that the kernel mounts, or an error.
func FuzzWriteLayer(f *testing.F) {
	f.Add(pack(f, dir("d"), regular("d/f", "x"), symlink("l", "d"), link("l/g", "d/f"), regular(".wh.x", "")))
	f.Add(manyFiles(f, 3, 10))
	f.Add(sparse(f, 1<<20, "gnu", map[int64]string{5000: "x"}))
	f.Add(sparse(f, 1<<20, "posix", map[int64]string{5000: "x"}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "layer")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		o := layer.Options{ReportLosses: true, Limits: layer.Limits{Size: 16 << 20, Entries: 1000}}
		if _, err := WriteLayer(t.Context(), bytes.NewReader(archive), dir, o); err != nil {
			return
		}
		layers := []string{dir}
		index := filepath.Join(base, "index")
		if err := WriteIndex(t.Context(), index, layers); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			return
		}
		showIndex(t, base, index, layers)
	})
}

package erofs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/tarstream"
)

// sparse packs a file by GNU tar, which finds its holes. It is given as its size and what is
// written to it where.
func sparse(t testing.TB, size int64, format string, writes map[int64]string, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, f)
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, s := range writes {
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("tar", append(options, "-c", "-S", "--format="+format, "-C", dir, "file")...)
	var archive, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &archive, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("tar: %v: %s", err, stderr.String())
	}
	return archive.Bytes()
}

// Sparse files keep their holes, and cost no more than their content.
func TestSparse(t *testing.T) {
	tests := []struct {
		name   string
		size   int64
		writes map[int64]string
		holes  string
	}{
		{"all a hole", 100_000, nil, ""},
		{"in the middle", 1 << 20, map[int64]string{0: "first", 512 << 10: "second"}, "0-4096 524288-528384 "},
		{"at the end", 1<<20 + 5, map[int64]string{1 << 20: "last"}, "1048576-1052672 "},
		// More chunks than a file may have, were they small.
		{"huge", 300 << 30, map[int64]string{292 << 20: "someone logged in"}, "301989888-310378496 "},
		{"aligned", 300 << 30, map[int64]string{32 << 30: strings.Repeat("x", 8<<20)}, "34359738368-34368126976 "},
	}
	for _, test := range tests {
		for _, format := range []string{"gnu", "posix"} {
			t.Run(test.name+" "+format, func(t *testing.T) {
				archive := sparse(t, test.size, format, test.writes)
				layers := keepAll(t, archive)
				var index, data unix.Stat_t
				name := writeIndexOf(t, layers)
				if err := unix.Stat(name, &index); err != nil {
					t.Fatal(err)
				}
				if err := unix.Stat(Devices(layers)[0], &data); err != nil {
					t.Fatal(err)
				}
				if limit := int64(len(archive) + 64<<10); index.Size > 600<<10 || data.Blocks*512 > limit {
					t.Errorf("an index of %d bytes, data of %d", index.Size, data.Blocks*512)
				}
				target := mountIndex(t, name, layers)
				f, err := os.Open(filepath.Join(target, "file"))
				if err != nil {
					t.Fatal(err)
				}
				defer closing(t, f)
				tree, err := Open(layers)
				if err != nil {
					t.Fatal(err)
				}
				defer closing(t, tree)
				node, err := tree.Lookup("file")
				if err != nil {
					t.Fatal(err)
				}
				file, err := tree.Open(node)
				if err != nil {
					t.Fatal(err)
				}
				info, err := f.Stat()
				if err != nil {
					t.Fatal(err)
				}
				if info.Size() != test.size || node.Size != test.size {
					t.Fatalf("sizes %d and %d", info.Size(), node.Size)
				}
				if got := holesOf(t, seeker{f}, test.size); got != test.holes {
					t.Errorf("the kernel sees holes between %s", got)
				}
				if got := holesOf(t, file, test.size); got != test.holes {
					t.Errorf("the tree has holes between %s", got)
				}
				for off, s := range test.writes {
					for _, r := range []io.ReaderAt{f, file} {
						got := make([]byte, len(s)+2)
						n, err := r.ReadAt(got, max(off-1, 0))
						if err != nil && err != io.EOF || !bytes.Contains(got[:n], []byte(s)) {
							t.Errorf("%d bytes at %d, but not what was written: %v", n, off, err)
						}
					}
				}
			})
		}
	}
}

// Content comes back whatever runs it is stored in, and holes are where there was nothing.
func TestPlace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		var e tarstream.Entry
		e.Offset = rapid.Int64Range(0, 3).Draw(rt, "offset") * blockSize
		align := rapid.SampledFrom([]int64{1, 512, 4096, 65536}).Draw(rt, "align")
		stored := bytes.Repeat([]byte("-"), int(e.Offset))
		var want []byte
		for i := range rapid.IntRange(0, 6).Draw(rt, "runs") {
			hole := rapid.Int64Range(0, 300_000).Draw(rt, "hole") / align * align
			if i > 0 && hole == 0 {
				hole = align
			}
			length := 1 + rapid.Int64Range(0, 300_000).Draw(rt, "length")/align*align
			if align > 1 {
				length = max(align, length-1)
			}
			want = append(want, make([]byte, hole)...)
			e.Data = append(e.Data, tarstream.Run{Offset: int64(len(want)), Length: length})
			run := bytes.Repeat([]byte{byte(rapid.IntRange(0, 2).Draw(rt, "byte"))}, int(length))
			want = append(want, run...)
			stored = append(stored, run...)
		}
		want = append(want, make([]byte, rapid.IntRange(0, 10_000).Draw(rt, "end"))...)
		e.Size = int64(len(want))

		data, err := os.Create(filepath.Join(dir, dataFile))
		if err != nil {
			rt.Fatal(err)
		}
		defer closing(rt, data)
		if _, err := data.Write(stored); err != nil {
			rt.Fatal(err)
		}
		k := keeper{
			tail:   tail{dir: dir, from: data},
			chunks: rapid.SampledFrom([]int64{maxLayerChunks, 40, 0}).Draw(rt, "chunks"),
		}
		var z zeroFinder
		for _, run := range e.Data {
			z.begin(run.Offset)
			for rest := want[run.Offset : run.Offset+run.Length]; len(rest) > 0; {
				n := min(len(rest), rapid.IntRange(1, 100_000).Draw(rt, "piece"))
				z.write(rest[:n])
				rest = rest[n:]
			}
			z.end()
		}
		bits, extents, err := k.place(&e, z.content)
		if err != nil {
			rt.Fatal(err)
		}
		size := layerSize{tar: int64(len(stored))}
		size.blocks = size.tail() + k.tail.blocks
		if err := k.tail.move(data, size); err != nil {
			rt.Fatal(err)
		}
		if !checkExtents(extents, bits, e.Size, size.tail(), size.blocks) {
			rt.Fatal("the extents are none")
		}
		m := merged{
			tree: &tree{
				root:   &inode{mode: unix.S_IFREG, size: e.Size, bits: bits, text: extents},
				layers: []layerSize{size},
			},
			files: []*os.File{data},
		}
		f, err := m.Open(&layer.Node{Path: "."})
		if err != nil {
			rt.Fatal(err)
		}
		got := make([]byte, len(want))
		if n, err := f.ReadAt(got, 0); n != len(want) || err != nil && err != io.EOF {
			rt.Fatalf("read %d of %d bytes: %v", n, len(want), err)
		}
		if !bytes.Equal(got, want) {
			rt.Fatal("the content differs")
		}
		// Holes are what has no content in a chunk.
		chunk := int64(blockSize) << bits
		holes := slices.Repeat([]bool{true}, int(countChunks(e.Size, bits)))
		for _, run := range z.content {
			for i := run.Offset / chunk; i*chunk < run.Offset+run.Length; i++ {
				holes[i] = false
			}
		}
		for i, hole := range holes {
			start, _, err := f.Data(int64(i) * chunk)
			if seen := err == io.EOF || start >= int64(i+1)*chunk; seen != hole {
				rt.Fatalf("chunk %d is a hole: %v, %v", i, seen, err)
			}
		}
	})
}

// Aligned zeros of a file without holes become some.
func TestZeros(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	tests := []struct {
		content, holes string
	}{
		{zeros(64<<10 - 1), "0-65536 "},
		{zeros(64 << 10), ""},
		{zeros(64<<10) + "x", "65536-69632 "},
		{"x" + zeros(128<<10-2) + "y", "0-131072 "},
		{"x" + zeros(192<<10-1) + "y", "0-65536 196608-200704 "},
		{zeros(300 << 10), "262144-307200 "},
	}
	for i, test := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			all := stacked(t, pack(t, regular("before", "?"), regular("f", test.content)))
			if got := all["f"].Holes; got != test.holes {
				t.Errorf("holes between %s", got)
			}
		})
	}
}

package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/layer"
)

// manyFiles is a layer of that many small files, each in turn with as many bytes as average,
// in folders of 100.
func manyFiles(t testing.TB, files, average int) []byte {
	t.Helper()
	content := make([]byte, 2*average)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(content) // it never fails
	var b bytes.Buffer
	b.Grow(files * (average + 1536))
	w := tar.NewWriter(&b)
	for i := range files {
		if i%100 == 0 {
			h := &tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("usr/share/package-%05d/", i/100), Mode: 0o755, ModTime: time.Unix(int64(i), 0)}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
		}
		size := (i * 7919) % (2*average + 1)
		h := &tar.Header{Name: fmt.Sprintf("usr/share/package-%05d/some-file-%05d.txt", i/100, i), Mode: 0o644, Size: int64(size), ModTime: time.Unix(int64(i), 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content[:size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func BenchmarkWriteLayer(b *testing.B) {
	archive := manyFiles(b, 65_000, 9_700)
	b.SetBytes(int64(len(archive)))
	base := b.TempDir()
	for b.Loop() {
		dir := filepath.Join(base, "layer")
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if _, err := WriteLayer(b.Context(), bytes.NewReader(archive), dir, layer.Options{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkCopy is what WriteLayer cannot do without.
func BenchmarkCopy(b *testing.B) {
	archive := manyFiles(b, 65_000, 9_700)
	b.SetBytes(int64(len(archive)))
	base := b.TempDir()
	for b.Loop() {
		f, err := os.Create(filepath.Join(base, "file"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{bytes.NewReader(archive)}, make([]byte, 256<<10)); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Remove(f.Name()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkWriteIndex(b *testing.B) {
	dir, _ := keep(b, manyFiles(b, 65_000, 100), layer.Options{})
	name := filepath.Join(b.TempDir(), "index")
	for b.Loop() {
		if err := WriteIndex(b.Context(), name, []string{dir}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Remove(name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

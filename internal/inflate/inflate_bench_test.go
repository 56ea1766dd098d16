package inflate

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
)

// BenchmarkInflate compares with the other decompressors on a tar of this machine's programs,
// libraries and texts, packed by gzip -6. MB are of output.
func BenchmarkInflate(b *testing.B) {
	packed, size := systemTar(b, 96<<20)
	b.Logf("%d bytes packed, %d unpacked", len(packed), size)
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"ours":      func(r io.Reader) (io.Reader, error) { return NewReader(r) },
		"klauspost": func(r io.Reader) (io.Reader, error) { return kgzip.NewReader(r) },
		"std":       func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				r, err := open(bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != size {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// systemTar makes a tar of files of this machine, about size bytes of it: a third of programs,
// of libraries, and of texts.
func systemTar(tb testing.TB, size int64) (packed []byte, unpacked int64) {
	tb.Helper()
	var plain, out bytes.Buffer
	w := tar.NewWriter(&plain)
	for i, root := range []string{"/usr/bin", "/usr/lib", "/usr/share"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if int64(plain.Len()) > size/3*int64(i+1) {
				return fs.SkipAll
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			h, err := tar.FileInfoHeader(info, "")
			if err != nil {
				return err
			}
			h.Name = path[1:]
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_, err = w.Write(content)
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	unpacked = int64(plain.Len())
	gz := exec.Command("gzip", "-6")
	gz.Stdin, gz.Stdout = &plain, &out
	if err := gz.Run(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes(), unpacked
}

package tarstream

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"
)

// smallFiles is a layer of 65,000 small files, with the pax headers that builders write or
// without.
func smallFiles(b *testing.B, format tar.Format) []byte {
	b.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := make([]byte, 2000)
	for i := range 65_000 {
		err := w.WriteHeader(&tar.Header{
			Name: fmt.Sprintf("usr/share/package-%d/file-%d", i/100, i), Mode: 0o644, Typeflag: tar.TypeReg,
			Size: int64(len(content)), ModTime: time.Unix(1700000000, 123456789), Format: format,
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

func BenchmarkReader(b *testing.B) {
	for name, format := range map[string]tar.Format{"gnu": tar.FormatGNU, "pax": tar.FormatPAX} {
		layer := smallFiles(b, format)
		b.Run(name+"/tarstream", func(b *testing.B) {
			b.SetBytes(int64(len(layer)))
			b.ReportAllocs()
			for b.Loop() {
				r := NewReader(bytes.NewReader(layer))
				for {
					if _, err := r.Next(); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
					for {
						if _, err := r.Chunk(); err == io.EOF {
							break
						} else if err != nil {
							b.Fatal(err)
						}
					}
				}
			}
		})
		b.Run(name+"/archive-tar", func(b *testing.B) {
			b.SetBytes(int64(len(layer)))
			b.ReportAllocs()
			piece := make([]byte, 32<<10)
			for b.Loop() {
				r := tar.NewReader(bytes.NewReader(layer))
				for {
					if _, err := r.Next(); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
					if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, piece); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

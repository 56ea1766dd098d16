package layer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/layer"
)

// BenchmarkApply applies 10,000 small files in 500 folders, and four large ones of 64 MiB.
func BenchmarkApply(b *testing.B) {
	noise := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
	var small, large []entry
	for i := range 500 {
		dir := fmt.Sprintf("d%d/e%d", i/25, i)
		small = append(small, folder(dir))
		for j := range 20 {
			at := (i*20 + j) * 1000
			small = append(small, file(fmt.Sprintf("%s/f%d", dir, j), string(noise[at:at+(at/1000*7919)%16000])))
		}
	}
	for i := range 4 {
		large = append(large, file(fmt.Sprint("f", i), string(noise)))
	}
	for _, bench := range []struct {
		name string
		tar  []byte
	}{{"small", archive(small...)}, {"large", archive(large...)}} {
		b.Run(bench.name, func(b *testing.B) {
			place := b.TempDir()
			b.SetBytes(int64(len(bench.tar)))
			b.ReportAllocs()
			for i := range b.N {
				root := filepath.Join(place, fmt.Sprint(i))
				must(b, os.Mkdir(root, 0o755))
				if _, err := layer.Apply(b.Context(), bytes.NewReader(bench.tar), root, layer.Options{Form: layer.Overlay}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				must(b, layer.RemoveAll(root))
				b.StartTimer()
			}
		})
	}
}

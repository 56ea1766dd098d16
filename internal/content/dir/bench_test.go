package dir_test

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

// BenchmarkIngest writes one blob of 256 MiB, in writes of several sizes.
func BenchmarkIngest(b *testing.B) {
	const size = 256 << 20
	for _, sync := range []bool{false, true} {
		for _, chunk := range []int{32 << 10, 256 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("sync=%v/write=%dKiB", sync, chunk>>10), func(b *testing.B) {
				s := benchStore(b, sync)
				p := contenttest.Bytes(1, chunk)
				b.SetBytes(size)
				for b.Loop() {
					in, err := s.Begin(b.Context(), "k", content.Want{Size: size})
					must(b, err)
					for in.Offset() < size {
						_, err := in.WriteAt(p, in.Offset())
						must(b, err)
					}
					d := in.Digest()
					must(b, s.Commit(b.Context(), in))
					must(b, s.Delete(b.Context(), d))
				}
			})
		}
	}
}

// BenchmarkSmall stores blobs of 1 KiB, 250 to a commit.
func BenchmarkSmall(b *testing.B) {
	const batch = 250
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			s := benchStore(b, sync)
			p := contenttest.Bytes(1, 1<<10)
			n := 0
			for b.Loop() {
				var list []content.Ingest
				for range batch {
					n++
					copy(p, fmt.Sprintf("%10d", n))
					d := digest.FromBytes(p)
					in, err := s.Begin(b.Context(), d.String(), content.Want{Digest: d, Size: int64(len(p))})
					must(b, err)
					_, err = in.WriteAt(p, 0)
					must(b, err)
					list = append(list, in)
				}
				must(b, s.Commit(b.Context(), list...))
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*batch), "µs/blob")
		})
	}
}

func benchStore(b *testing.B, sync bool) *dir.Store {
	b.Helper()
	disk := openOS(b, b.TempDir())
	if !sync {
		disk = vfs.NoSync(disk)
	}
	return open(b, disk)
}

package erofs_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/mount"
)

// What a writable snapshot leaves as it was costs nothing: neither a difference nor a commit reads it.
func TestUnchangedIsNotRead(t *testing.T) {
	const large, small = 16 << 20, 1 << 20
	s, ctx := open(t), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(mounts []mount.Mount, name string, size int) {
		t.Helper()
		dir := t.TempDir()
		must(mount.All(mounts, dir))
		defer func() { must(mount.Unmount(dir)) }()
		content := make([]byte, size)
		r := rand.NewChaCha8([32]byte{})
		_, _ = r.Read(content) // never fails
		must(os.MkdirAll(filepath.Join(dir, "folder"), 0o755))
		must(os.WriteFile(filepath.Join(dir, "folder", name), content, 0o644))
	}
	mounts, err := s.Prepare(ctx, "base in work", "", nil)
	must(err)
	write(mounts, "large", large)
	must(s.Commit(ctx, "base", "base in work", nil))
	mounts, err = s.Prepare(ctx, "work", "base", nil)
	must(err)
	write(mounts, "small", small/4)

	begun := read(t)
	lower, err := s.Tree(ctx, "base")
	must(err)
	upper, err := s.Tree(ctx, "work")
	must(err)
	must(layer.Diff(ctx, io.Discard, lower, upper))
	must(upper.Close())
	must(lower.Close())
	if n := read(t) - begun; n < small/4 || n > small {
		t.Errorf("a difference of %d bytes read %d, of %d below", small/4, n, large)
	}
	begun = read(t)
	must(s.Commit(ctx, "next", "work", nil))
	if n := read(t) - begun; n < small/4 || n > small {
		t.Errorf("a commit of %d bytes read %d, of %d below", small/4, n, large)
	}
	must(s.Remove(ctx, "next"))
	must(s.Remove(ctx, "base"))
}

// read is how many bytes the process has read so far.
func read(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(b), "rchar: %d\n", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

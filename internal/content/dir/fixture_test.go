package dir

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

var update = flag.Bool("update", false, "write the fixture of the present version anew")

// The stores in testdata were written by earlier versions. Each has one blob and one ingest that
// was closed in the middle, both of the text below, and opens for ever.
const (
	fixtureText = "What was written by one version is read by all that come after it.\n"
	fixtureKept = 20 // bytes of the ingest
)

func TestFixtures(t *testing.T) {
	if *update {
		writeFixture(t, "testdata/v1")
	}
	versions, err := os.ReadDir("testdata")
	must(t, err)
	if len(versions) == 0 {
		t.Fatal("no fixtures")
	}
	for _, v := range versions {
		if v.Name() == "fuzz" { // what fuzzing found
			continue
		}
		t.Run(v.Name(), func(t *testing.T) {
			root := t.TempDir()
			must(t, os.CopyFS(root, os.DirFS(filepath.Join("testdata", v.Name()))))
			s := fixtureStore(t, root)
			p := []byte(fixtureText)
			_, err := content.ReadBlob(t.Context(), s, digest.FromBytes(p), int64(len(p)))
			must(t, err)
			want := content.Want{Digest: digest.SHA512.FromBytes(p), Size: int64(len(p))}
			in, err := s.Begin(t.Context(), "fixture", want)
			must(t, err)
			if in.Offset() != fixtureKept {
				t.Errorf("the ingest: got %d bytes, want %d", in.Offset(), fixtureKept)
			}
			_, err = in.WriteAt(p[in.Offset():], in.Offset())
			must(t, err)
			must(t, s.Commit(t.Context(), in))
			if _, err := content.ReadBlob(t.Context(), s, want.Digest, want.Size); err != nil {
				t.Error(err)
			}
		})
	}
}

func writeFixture(t *testing.T, root string) {
	t.Helper()
	must(t, os.RemoveAll(root))
	must(t, os.MkdirAll(root, 0o755))
	s := fixtureStore(t, root)
	p := []byte(fixtureText)
	must(t, content.Put(t.Context(), s, digest.FromBytes(p), p))
	must(t, content.Put(t.Context(), s, digest.SHA512.FromString("sha512"), []byte("sha512")))
	in, err := s.begin(t.Context(), "fixture", content.Want{Digest: digest.SHA512.FromBytes(p), Size: int64(len(p))})
	must(t, err)
	_, err = in.WriteAt(p[:fixtureKept], 0)
	must(t, err)
	must(t, in.end(in.save(true))) // so small an ingest would be kept for one boot only
}

func fixtureStore(t *testing.T, root string) *Store {
	t.Helper()
	disk, err := vfs.OS(root)
	must(t, err)
	s, err := Open(disk)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

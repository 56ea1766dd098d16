package stowage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/metadata"
)

// Whatever lies in the folder of a store is counted once, where it belongs, as du counts it.
func TestReadDisk(t *testing.T) {
	root := t.TempDir()
	s, err := Open(root, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	write := func(name string, size int) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(from, to string) {
		t.Helper()
		if err := os.Link(filepath.Join(root, from), filepath.Join(root, to)); err != nil {
			t.Fatal(err)
		}
	}
	blob := Digest("sha256:" + strings.Repeat("ab", 32))
	write("content/blobs/sha256/"+blob.Encoded(), 100_000)
	write("content/blobs/sha256/not-a-digest", 5_000)
	write("content/ingest/x/data", 30_000)
	write("content/quarantine/sha256-ab", 40_000)
	link("content/quarantine/sha256-ab", "content/quarantine/sha256-ab-2")
	write("snapshots/overlay/abcdefgh/fs/deep/file", 200_000)
	link("snapshots/overlay/abcdefgh/fs/deep/file", "snapshots/overlay/abcdefgh/fs/other")
	write("snapshots/overlay/busy/lock", 10)
	write("lost+found/file", 60_000)
	sparse, err := os.Create(filepath.Join(root, "snapshots/overlay/abcdefgh/fs/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if err := sparse.Close(); err != nil {
		t.Fatal(err)
	}
	shown := filepath.Join(root, "snapshots/overlay/abcdefgh/lower")
	if err := os.Mkdir(shown, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", shown, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(shown, 0); err != nil {
			t.Error(err)
		}
	}()
	write("snapshots/overlay/abcdefgh/lower/shown", 80_000)

	d, err := s.readDisk()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("du", "-s", "--block-size=1", root).Output()
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(out), "\t")
	want, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.total(); got < want*99/100 || got > want*101/100 {
		t.Errorf("in all %d bytes, and du says %d", got, want)
	}
	// A file of n bytes, and perhaps folders around it.
	for name, c := range map[string]struct{ got, size int64 }{
		"blob":       {d.blobs[blob], 100_000},
		"folder":     {d.folders[metadata.SnapshotFolder{Snapshotter: "overlay", Folder: "abcdefgh"}], 200_000},
		"ingests":    {d.rest[restIngests], 30_000},
		"quarantine": {d.rest[restQuarantine], 40_000},
		"other":      {d.rest[restOther], 60_000},
		"content":    {d.rest[restContent], 5_000},
		"overlay":    {d.rest["overlay"], 10},
		"mounted":    {d.mounted, 80_000},
	} {
		if c.got < c.size || c.got > c.size+32_000 {
			t.Errorf("%s: %d bytes on the disk, of %d", name, c.got, c.size)
		}
	}
	if len(d.blobs) != 1 || len(d.folders) != 1 {
		t.Errorf("blobs %v, folders %v", d.blobs, d.folders)
	}
}

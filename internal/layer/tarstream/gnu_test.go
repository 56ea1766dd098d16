package tarstream

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Every form that GNU tar writes is read as archive/tar does, and gives back the files.
func TestGNUTar(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	plant(t, root)
	// What the old forms cannot hold is left out of them.
	old := []string{"--exclude=long*", "--exclude=huge", "--exclude=past"}
	forms := map[string][]string{
		"v7":         append([]string{"--format=v7", "--exclude=dev*", "--exclude=fifo", "--exclude=ppp*"}, old...),
		"ustar":      append([]string{"--format=ustar"}, old...),
		"oldgnu":     {"--format=oldgnu"},
		"gnu":        {"--format=gnu"},
		"posix":      {"--format=posix", "--xattrs", "--xattrs-include=*"},
		"gnu sparse": {"--format=gnu", "--sparse"},
		"oldgnu raw": {"--format=oldgnu", "--sparse", "--hole-detection=raw"},
		"pax 0.0":    {"--format=posix", "--sparse", "--sparse-version=0.0"},
		"pax 0.1":    {"--format=posix", "--sparse", "--sparse-version=0.1"},
		"pax 1.0":    {"--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs", "--xattrs-include=*"},
		"labelled":   {"--format=gnu", "--label=a volume"},
		"global":     {"--format=posix", "--pax-option=globexthdr.name=g,comment=all of them"},
	}
	for name, options := range forms {
		t.Run(name, func(t *testing.T) {
			args := append(options, "--sort=name", "-C", root, "-c", ".")
			archive, err := exec.Command("tar", args...).Output()
			if err != nil {
				t.Fatalf("tar %v: %v", args, err)
			}
			want, err := theirs(bytes.NewReader(archive))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ours(bytes.NewReader(archive), byRead)
			if err != nil {
				t.Fatal(err)
			}
			checkFiles(t, root, got, slices.Contains(options, "--sparse"), slices.Contains(options, "--xattrs"))
			checkOffsets(t, archive, got)
			common := make([]member, len(got))
			for i, m := range got {
				common[i] = m.common()
			}
			if diff := cmp.Diff(want, common); diff != "" {
				t.Errorf("differs from archive/tar:\n%s", diff)
			}
			for how, src := range map[string]io.Reader{
				"bytes": iotest.OneByteReader(bytes.NewReader(archive)),
				"error": iotest.DataErrReader(bytes.NewReader(archive)),
			} {
				again, err := ours(src, byChunk)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(got, again); diff != "" {
					t.Errorf("read by single %s it differs:\n%s", how, diff)
				}
			}
		})
	}
}

// plant makes files of every kind.
func plant(t *testing.T, root string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(root, name) }
	must(os.Mkdir(root, 0o755))
	must(os.MkdirAll(in("dir/sub"), 0o750))
	must(os.Chmod(in("dir"), 0o750|os.ModeSticky|os.ModeSetgid))
	must(os.WriteFile(in("empty"), nil, 0o600))
	must(os.WriteFile(in("block"), bytes.Repeat([]byte("b"), blockSize), 0o644))
	must(os.WriteFile(in("large"), bytes.Repeat([]byte("0123456"), 100_000), 0o755|os.ModeSetuid))
	must(os.Link(in("block"), in("hard")))
	must(os.Symlink("dir/sub", in("soft")))
	must(unix.Mkfifo(in("fifo"), 0o644))
	must(unix.Mknod(in("devc"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(in("devb"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70_000))))
	prefixed := in(strings.Repeat("p", 60) + "/" + strings.Repeat("q", 60))
	must(os.MkdirAll(prefixed, 0o755))
	must(os.WriteFile(in("long"+strings.Repeat("n", 200)), []byte("long"), 0o644))
	must(os.Symlink(strings.Repeat("../", 300), in("longlink")))
	must(os.Link(in("long"+strings.Repeat("n", 200)), in("longhard")))
	must(os.WriteFile(in("utf-8 \u00fc \xff"), []byte("odd"), 0o644))
	must(os.WriteFile(in("huge"), []byte("ids"), 0o644))
	must(os.Chown(in("huge"), 3_000_000_000, 4_294_967_294))
	must(os.WriteFile(in("past"), []byte("time"), 0o644))
	must(os.Chtimes(in("past"), time.Unix(-5, 250_000_001), time.Unix(-5, 250_000_001)))
	must(os.WriteFile(in("attr"), []byte("a"), 0o644))
	must(unix.Setxattr(in("attr"), "user.one", []byte("1\n=\x00"), 0))
	must(unix.Setxattr(in("attr"), "user.a=b%c%3D", []byte("odd name"), 0))
	must(unix.Setxattr(in("attr"), "user.empty", nil, 0))
	must(unix.Setxattr(in("attr"), "trusted.big", bytes.Repeat([]byte("x"), 3000), 0))
	holes := func(name string, size int64, at ...int64) {
		f, err := os.Create(in(name))
		must(err)
		for _, offset := range at {
			_, err = f.WriteAt([]byte("data"), offset)
			must(err)
		}
		must(f.Truncate(size))
		must(f.Close())
	}
	holes("sparse-one", 1<<20, 300_000)
	holes("sparse-none", 1<<20)
	holes("sparse-end", 1<<20, 1<<20-4)
	var many []int64
	for i := range int64(100) { // needs extension blocks
		many = append(many, i*16384)
	}
	holes("sparse-many", 2<<20, many...)
	holes("long-sparse"+strings.Repeat("n", 100), 1<<20, 4096, 8192, 500_000)
}

// checkFiles compares what was read with what was written.
func checkFiles(t *testing.T, root string, got []member, sparse, xattrs bool) {
	t.Helper()
	for _, m := range got {
		info, err := os.Lstat(filepath.Join(root, m.Name))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if m.Mode != st.Mode&0o7777 || m.UID != st.Uid || m.GID != st.Gid {
			t.Errorf("%q: mode %o, owner %d:%d; want %o, %d:%d",
				m.Name, m.Mode, m.UID, m.GID, st.Mode&0o7777, st.Uid, st.Gid)
		}
		if xattrs && strings.HasSuffix(m.Name, "/attr") {
			for _, x := range m.Xattrs {
				value := make([]byte, 4096)
				n, err := unix.Lgetxattr(filepath.Join(root, m.Name), x.Name, value)
				if err != nil || x.Value != string(value[:n]) {
					t.Errorf("xattr %q is %q, want %q (%v)", x.Name, x.Value, value[:max(n, 0)], err)
				}
			}
			if len(m.Xattrs) != 4 {
				t.Errorf("%d xattrs, want 4", len(m.Xattrs))
			}
		}
		if m.Type != TypeReg {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, m.Name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.whole(), content) {
			t.Errorf("%q: the content differs", m.Name)
		}
		if sparse && strings.HasPrefix(m.Name, "./sparse") && int64(len(m.Content)) > m.Size/2 {
			t.Errorf("%q: the holes were lost", m.Name)
		}
	}
}

// checkOffsets finds the content of each entry in the stream.
func checkOffsets(t *testing.T, archive []byte, got []member) {
	t.Helper()
	for _, m := range got {
		if !bytes.HasPrefix(archive[m.Offset:], []byte(m.Content)) {
			t.Errorf("%q: its content is not at byte %d", m.Name, m.Offset)
		}
	}
}

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// Readers find in a header what was put into it.
func TestTarHeader(t *testing.T) {
	name := rapid.Custom(func(t *rapid.T) string {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte("abc/.\xc3\xa9\xff\n =%")), 1, 300).Draw(t, "bytes")
		s := strings.Trim(string(b), "/")
		if s == "" {
			s = "a"
		}
		return strings.Repeat(s, rapid.IntRange(1, 3).Draw(t, "times"))
	})
	kinds := rapid.SampledFrom([]uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO})
	rapid.Check(t, func(t *rapid.T) {
		a := Attr{
			Mode:    kinds.Draw(t, "kind") | rapid.Uint32Range(0, 0o7777).Draw(t, "mode"),
			UID:     rapid.Uint32Max(1<<32-2).Draw(t, "uid"),
			GID:     rapid.Uint32Max(1<<32-2).Draw(t, "gid"),
			ModTime: time.Unix(rapid.Int64Range(-1<<36, 1<<36).Draw(t, "time"), rapid.SampledFrom([]int64{0, 1, 5e8, 999999999}).Draw(t, "ns")),
		}
		path, link := name.Draw(t, "name"), ""
		switch a.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			a.Size = rapid.Int64Range(0, 1<<40).Draw(t, "size")
			if rapid.Bool().Draw(t, "linked") {
				link = name.Draw(t, "link")
			}
		case unix.S_IFLNK:
			a.Target = name.Draw(t, "target")
		case unix.S_IFCHR, unix.S_IFBLK:
			a.Major, a.Minor = rapid.Uint32Max(maxMajor).Draw(t, "major"), rapid.Uint32Max(maxMinor).Draw(t, "minor")
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "xattrs") {
			key := "user." + string(rune('a'+i)) + rapid.StringOf(rapid.RuneFrom([]rune("x=%.3D25 é"))).Draw(t, "key")
			set(&a.Xattrs, key, string(rapid.SliceOfN(rapid.Byte(), 0, 120).Draw(t, "value")))
		}
		b := tarEntry(t, path, link, a)

		e, err := tarstream.NewReader(bytes.NewReader(b)).Next()
		treeMust(t, err)
		got := Attr{
			Mode: a.Mode&unix.S_IFMT | e.Mode, UID: e.UID, GID: e.GID, Size: e.Size, ModTime: e.ModTime,
			Major: e.Major, Minor: e.Minor,
		}
		for _, x := range e.Xattrs {
			set(&got.Xattrs, x.Name, x.Value)
		}
		want, wantLink := a, link
		if link != "" {
			want.Size = 0
		} else {
			want.Target, wantLink = "", a.Target
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		h, err := tar.NewReader(bytes.NewReader(b)).Next()
		treeMust(t, err)
		for _, got := range [][2]string{{e.Name, e.Linkname}, {h.Name, h.Linkname}} {
			if strings.TrimSuffix(got[0], "/") != path || got[1] != wantLink {
				t.Fatalf("got the name %q and the link %q, want %q and %q", got[0], got[1], path, wantLink)
			}
		}
		if h.Typeflag != e.Type || h.Size != want.Size || !h.ModTime.Equal(a.ModTime) || h.Uid != int(a.UID) ||
			h.Gid != int(a.GID) || uint32(h.Mode) != e.Mode || h.Uname+h.Gname != "" {
			t.Fatalf("archive/tar reads %+v", h)
		}
	})
}

// tarEntry is the header of an entry, in a tar without content.
func tarEntry(t failer, name, link string, a Attr) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newTarWriter(t.Context(), &b)
	treeMust(t, w.entry(name, link, &a))
	treeMust(t, w.close())
	return b.Bytes()
}

// What fits in a plain header has no other.
func TestTarPlain(t *testing.T) {
	long := strings.Repeat("p", 155) + "/" + strings.Repeat("n", 100)
	for _, c := range []struct {
		name string
		Attr
		blocks int // beside the two at the end
	}{
		{"a", Attr{Mode: unix.S_IFREG, UID: 1<<21 - 1, GID: 1<<21 - 1, Size: 1<<33 - 1, ModTime: time.Unix(1<<33-1, 0)}, 1},
		{long, Attr{Mode: unix.S_IFREG, ModTime: time.Unix(0, 0)}, 1},
		{long[:255], Attr{Mode: unix.S_IFDIR, ModTime: time.Unix(0, 0)}, 1},
		{long, Attr{Mode: unix.S_IFDIR, ModTime: time.Unix(0, 0)}, 3},
		{long[:155] + "n", Attr{Mode: unix.S_IFREG, ModTime: time.Unix(0, 0)}, 3},
		{"a", Attr{Mode: unix.S_IFREG, UID: 1 << 21, ModTime: time.Unix(0, 0)}, 3},
		{"a", Attr{Mode: unix.S_IFREG, Size: 1 << 33, ModTime: time.Unix(0, 0)}, 3},
		{"a", Attr{Mode: unix.S_IFREG, ModTime: time.Unix(1<<33, 0)}, 3},
		{"a", Attr{Mode: unix.S_IFREG, ModTime: time.Unix(0, 1)}, 3},
		{"a", Attr{Mode: unix.S_IFREG, ModTime: time.Unix(-1, 0)}, 3},
		{"é", Attr{Mode: unix.S_IFREG, ModTime: time.Unix(0, 0)}, 3},
		{"a", Attr{Mode: unix.S_IFLNK, Target: strings.Repeat("t", 100), ModTime: time.Unix(0, 0)}, 1},
		{"a", Attr{Mode: unix.S_IFLNK, Target: strings.Repeat("t", 101), ModTime: time.Unix(0, 0)}, 3},
		{"a", Attr{Mode: unix.S_IFREG, Xattrs: map[string]string{"security.selinux": "label"}, ModTime: time.Unix(0, 0)}, 1},
	} {
		if got := len(tarEntry(t, c.name, "", c.Attr))/tarBlock - 2; got != c.blocks {
			t.Errorf("%.20s with %+v: got %d blocks, want %d", c.name, c.Attr, got, c.blocks)
		}
	}
}

// GNU tar makes of the layer the tree that it comes from.
func TestTarByGNU(t *testing.T) {
	base := t.TempDir()
	at := time.Unix(-7, 123456789)
	deep := strings.Repeat("d", 90)
	spec := treeSpec{
		".":      {Attr: Attr{Mode: unix.S_IFDIR | 0o1777, GID: 7, ModTime: at}},
		"dir":    {Attr: Attr{Mode: unix.S_IFDIR | 0o2750, UID: 1<<32 - 2, ModTime: at}},
		"dir/\n": {Attr: Attr{Mode: unix.S_IFREG | 0o4711, UID: 1 << 31, ModTime: at, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.a=%3D": "\x00\n=\xff", "trusted.empty": ""}}, content: strings.Repeat("text", 300)},
		"ö\xff":  {Attr: Attr{Mode: unix.S_IFREG}, link: "dir/\n"},
		"empty":  {Attr: Attr{Mode: unix.S_IFREG | 0o644, ModTime: at}},
		"link":   {Attr: Attr{Mode: unix.S_IFLNK | 0o777, ModTime: at, UID: 3, Target: strings.Repeat("t", 300)}},
		"null":   {Attr: Attr{Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3, ModTime: at}},
		"disk":   {Attr: Attr{Mode: unix.S_IFBLK | 0o600, Major: 511, Minor: 262143, ModTime: at}},
		"fifo":   {Attr: Attr{Mode: unix.S_IFIFO | 0o600, ModTime: at}},
	}
	for i := range 4 { // names for the header, its prefix and a record
		spec[deep+strings.Repeat("/"+deep, i)] = treeFile{Attr: Attr{Mode: unix.S_IFDIR | 0o755, ModTime: at}}
	}
	from, to := treeNew(t, base, "from", spec), treeNew(t, base, "to", nil)
	c := exec.Command("tar", "-x", "-p", "--numeric-owner", "--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "-C", to)
	c.Stdin = bytes.NewReader(diffOf(t, Whole, nil, []string{from}))
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v: %s", err, out)
	}
	treesAlike(t, Whole, []string{from}, Whole, []string{to})
}

// A file that becomes shorter while it is written is an error, not a tar that is cut.
func TestTarShortened(t *testing.T) {
	for _, size := range []int64{10, 1 << 20} {
		f, err := os.Create(t.TempDir() + "/f")
		treeMust(t, err)
		defer func() { treeMust(t, f.Close()) }()
		treeMust(t, f.Truncate(size))
		_, err = f.WriteAt([]byte("data"), 0)
		treeMust(t, err)
		w := newTarWriter(t.Context(), io.Discard)
		if err := w.content(diskFile(f.Fd()), size+1); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: got %v", size, err)
		}
	}
}

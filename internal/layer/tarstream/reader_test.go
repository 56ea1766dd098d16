package tarstream

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// plain is the entry of a header made by hand.
func plain(name string, edit ...func(*member)) member {
	m := member{Time: "2023-11-14T22:13:20Z"}
	m.Name, m.Type, m.Mode, m.UID, m.GID = name, TypeReg, 0o644, 0o1750, 0o1751
	for _, e := range edit {
		e(&m)
	}
	return m
}

// holding gives a member stored content, whole or in runs of a larger file.
func holding(content string, size int64, runs ...Run) func(*member) {
	return func(m *member) {
		m.Content, m.Size, m.Data = content, size, runs
	}
}

func kind(k byte) func(*member) { return func(m *member) { m.Type = k } }

// repeated is a header edit for all of a field.
func repeated(offset, n int, c string) func(*block) { return at(offset, strings.Repeat(c, n)) }

// oldMap is GNU's own sparse file: the runs of its header, whether more follow, and its size.
func oldMap(size int64, more string, runs ...int64) func(*block) {
	return func(b *block) {
		gnuForm(b)
		for i, n := range runs {
			copy(b[386+12*i:], fmt.Sprintf("%011o\x00", n))
		}
		copy(b[482:], more)
		copy(b[483:], fmt.Sprintf("%011o\x00", size))
	}
}

// moreMap is an extension block of it.
func moreMap(more string, runs ...int64) string {
	var b block
	for i, n := range runs {
		copy(b[12*i:], fmt.Sprintf("%011o\x00", n))
	}
	copy(b[504:], more)
	return string(b[:])
}

// sparse10 is a file with a map of form 1.0 before its content.
func sparse10(size int64, table, content string) string {
	return pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "s",
		"GNU.sparse.realsize", fmt.Sprint(size)) + file("GNUSparseFile/s", padded(table)+content)
}

func TestReader(t *testing.T) {
	long := strings.Repeat("n", maxName)
	for _, tc := range []struct {
		name, tar string
		want      []member
	}{
		{"nothing", "", nil},
		{"only the end", end, nil},
		{"one block of zeros", end[:blockSize], nil},
		{"no end", file("a", "x"), []member{plain("a", holding("x", 1, Run{0, 1}))}},
		{"no padding", file("a", "x")[:blockSize+1], []member{plain("a", holding("x", 1, Run{0, 1}))}},
		{"something behind the end", file("a", "") + end + "rubbish", []member{plain("a")}},
		{"prefix", file("a", "", at(345, "some/prefix")), []member{plain("some/prefix/a")}},
		{
			"all of name and prefix", file("", "", repeated(0, 100, "n"), repeated(345, 155, "p")),
			[]member{plain(strings.Repeat("p", 155) + "/" + strings.Repeat("n", 100))},
		},
		{
			"star's prefix", file("a", "", repeated(345, 131, "p"), at(476, "00000000000 "), at(508, "tar\x00")),
			[]member{plain(strings.Repeat("p", 131) + "/a")},
		},
		{"gnu has no prefix", file("a", "", gnuForm, at(345, "14472053543\x0014472053543\x00")), []member{plain("a")}},
		{"but old go wrote one", file("a", "", gnuForm, at(345, "usr/share")), []member{plain("usr/share/a")}},
		{"v7 has none", file("a", "", v7Form, at(345, "rubbish")), []member{plain("a")}},
		{
			"v7 devices have no numbers", string(header(TypeChar, "a", 0, v7Form, at(329, "0000001\x00"))),
			[]member{plain("a", kind(TypeChar))},
		},
		{"v7 file", string(header(0, "a", 0, v7Form)), []member{plain("a")}},
		{"v7 directory", string(header(0, "a/", 0, v7Form)), []member{plain("a/", kind(TypeDir))}},
		{"file with a slash", file("a/", ""), []member{plain("a/", kind(TypeDir))}},
		{"contiguous file", string(header('7', "a", 1)) + padded("x"), []member{plain("a", holding("x", 1, Run{0, 1}))}},
		{
			"numbers with blanks", file("a", "", at(100, "   644 \x00"), at(108, "  1750\x00 "), at(116, "1751   \x00")),
			[]member{plain("a")},
		},
		{"no numbers", file("a", "", func(b *block) { clear(b[100:124]); clear(b[136:148]) }), []member{
			plain("a", func(m *member) { m.Mode, m.UID, m.GID, m.Time = 0, 0, 0, "1970-01-01T00:00:00Z" }),
		}},
		{"type in the mode", file("a", "", at(100, "0100644\x00")), []member{plain("a")}},
		{
			"binary numbers", file("a", "", gnuForm, at(108, base256(4_000_000_000, 8)), at(116, base256(1, 8)), at(136, base256(-1, 12))),
			[]member{plain("a", func(m *member) { m.UID, m.GID, m.Time = 4_000_000_000, 1, "1969-12-31T23:59:59Z" })},
		},
		{"signed checksum", signed(file("\xff\xfe", "")), []member{plain("\xff\xfe")}},
		{
			"sizes of what has no content", string(header(TypeDir, "d", 512)) + string(header(TypeLink, "l", 7, at(157, "d"))) +
				pax("size", "600") + string(header(TypeSymlink, "s", 0, at(157, "d"))) + string(header(TypeFifo, "f", 1)) +
				string(header(TypeBlock, "b", 1, at(329, "0000010\x00"), at(337, "0000001\x00"))),
			[]member{
				plain("d", kind(TypeDir)),
				plain("l", kind(TypeLink), func(m *member) { m.Linkname = "d" }),
				plain("s", kind(TypeSymlink), func(m *member) { m.Linkname = "d" }),
				plain("f", kind(TypeFifo)),
				plain("b", kind(TypeBlock), func(m *member) { m.Major, m.Minor = 8, 1 }),
			},
		},
		{
			"pax", pax("path", "new", "size", "1", "uid", "4294967294", "gid", "7", "mtime", "-1.25", "atime", "x", "comment", "\x00",
				"SCHILY.fflags", "immutable", "SCHILY.xattr.b", "2=\n\x00", "SCHILY.xattr.a", "", "SCHILY.xattr.b", "3") +
				string(header(TypeReg, "old", 0)) + padded("x"),
			[]member{plain("new", holding("x", 1, Run{0, 1}), func(m *member) {
				m.UID, m.GID, m.Flags, m.Time = 4294967294, 7, "immutable", "1969-12-31T23:59:58.75Z"
				m.Xattrs = []Xattr{{"a", ""}, {"b", "3"}}
			})},
		},
		{
			"pax ends with its entry", pax("path", "new", "uid", "1", "SCHILY.xattr.a", "1") + file("a", "") + file("b", ""),
			[]member{plain("new", func(m *member) { m.UID, m.Xattrs = 1, []Xattr{{"a", "1"}} }), plain("b")},
		},
		{
			"pax link and device", pax("linkpath", "to") + string(header(TypeSymlink, "s", 0, at(157, "old"))) +
				pax("SCHILY.devmajor", "4000", "SCHILY.devminor", "70000") + string(header(TypeChar, "c", 0)),
			[]member{
				plain("s", kind(TypeSymlink), func(m *member) { m.Linkname = "to" }),
				plain("c", kind(TypeChar), func(m *member) { m.Major, m.Minor = 4000, 70000 }),
			},
		},
		{"a second pax header replaces the first", pax("path", "1", "uid", "1") + pax("path", "2") + file("a", ""), []member{plain("2")}},
		{"empty values", pax("path", "x", "path", "", "uid", "", "size", "", "mtime", "") + file("a", "x"), []member{plain("a", holding("x", 1, Run{0, 1}))}},
		{"nanoseconds", pax("mtime", "1.0000000019") + file("a", "") + pax("mtime", "-1.0000000001") + file("b", "") + pax("mtime", "5") + file("c", ""), []member{
			plain("a", func(m *member) { m.Time = "1970-01-01T00:00:01.000000001Z" }),
			plain("b", func(m *member) { m.Time = "1969-12-31T23:59:58.999999999Z" }),
			plain("c", func(m *member) { m.Time = "1970-01-01T00:00:05Z" }),
		}},
		{"solaris header", string(header('X', "x", 9)) + padded("9 path=b\n") + file("a", ""), []member{plain("b")}},
		{
			"global header and label", string(header('g', "g", 14)) + padded("14 path=wrong\n") + string(header('V', "label", 0, gnuForm)) + file("a", ""),
			[]member{plain("a")},
		},
		{
			"libarchive's xattrs", pax("LIBARCHIVE.xattr.a%20b", "Zm9v", "LIBARCHIVE.xattr.c", "eA==", "SCHILY.xattr.c", "y") + file("a", ""),
			[]member{plain("a", func(m *member) { m.Xattrs = []Xattr{{"a b", "foo"}, {"c", "y"}} })},
		},
		{
			"gnu long names", string(header('L', "././@LongLink", 4, gnuForm)) + padded("new\x00") +
				string(header('K', "././@LongLink", 2, gnuForm)) + padded("to") + string(header(TypeLink, "a", 0, gnuForm)) + file("b", ""),
			[]member{plain("new", kind(TypeLink), func(m *member) { m.Linkname = "to" }), plain("b")},
		},
		{"the longest name", string(header('L', "l", maxName+1)) + padded(long+"\x00") + file("a", ""), []member{plain(long)}},
		{"pax goes before gnu", pax("path", "pax") + string(header('L', "l", 4)) + padded("gnu\x00") + file("a", ""), []member{plain("pax")}},
		{
			"old gnu sparse", string(header('S', "s", 6, oldMap(100, "", 0, 2, 10, 2, 12, 2, 100, 0))) + padded("abcdef") + file("b", ""),
			[]member{plain("s", holding("abcdef", 100, Run{0, 2}, Run{10, 4})), plain("b")},
		},
		{
			"old gnu sparse with more", string(header('S', "s", 3, oldMap(100, "\x01", 1, 1))) + moreMap("\x01", 5, 1) + moreMap("", 7, 1, 100, 0) + padded("abc"),
			[]member{plain("s", holding("abc", 100, Run{1, 1}, Run{5, 1}, Run{7, 1}))},
		},
		{"old gnu sparse of holes", string(header('S', "s", 0, oldMap(1<<32, ""))), []member{plain("s", holding("", 1<<32))}},
		{
			"pax sparse 0.0", pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "2", "GNU.sparse.offset", "1", "GNU.sparse.numbytes", "1",
				"GNU.sparse.offset", "9", "GNU.sparse.numbytes", "0") + file("s", "a"),
			[]member{plain("s", holding("a", 9, Run{1, 1}))},
		},
		{
			"pax sparse 0.1", pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "2", "GNU.sparse.name", "s", "GNU.sparse.map", "1,1,3,2") + file("x", "abc"),
			[]member{plain("s", holding("abc", 9, Run{1, 1}, Run{3, 2}))},
		},
		{"pax sparse 1.0", sparse10(9, "2\n1\n1\n9\n0\n", "a"), []member{plain("s", holding("a", 9, Run{1, 1}))}},
		{"empty runs do not join", sparse10(9, "3\n0\n1\n4\n0\n4\n1\n", "ab"), []member{plain("s", holding("ab", 9, Run{0, 1}, Run{4, 1}))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ours(strings.NewReader(tc.tar), byChunk)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if got[i].Content != "" && !strings.HasPrefix(tc.tar[got[i].Offset:], got[i].Content) {
					t.Errorf("%q: its content is not at byte %d", got[i].Name, got[i].Offset)
				}
				got[i].Offset = 0
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// signed makes the checksum of a header the one over signed bytes.
func signed(h string) string {
	sum, _ := number([]byte(h[148:156]))
	for _, c := range []byte(h[:blockSize]) {
		sum -= int64(c) >> 7 * 256
	}
	return h[:148] + fmt.Sprintf("%06o\x00 ", sum) + h[156:]
}

func TestRefused(t *testing.T) {
	one := file("a", "")
	for _, tc := range []struct{ name, tar, want string }{
		{"rubbish", strings.Repeat("x", 1024), "byte 0: the checksum is wrong"},
		{"checksum", one + one[:100] + "1" + one[101:], "byte 512: the checksum is wrong"},
		{"zeros in between", one + end[:blockSize] + one, "byte 512: a block of zeros, but not the end"},
		{"unknown type", string(header('Z', "a", 0)), `"a" is of the unknown type 'Z'`},
		{"another volume", string(header('M', "a", 0, gnuForm)), `unknown type 'M'`},
		{"directory listing", string(header('D', "a", 0, gnuForm)), `unknown type 'D'`},
		{"directory with content", file("a/", "x"), `the directory "a/" has content`},
		{"mode", file("a", "", at(100, "0000648\x00")), `the mode of "a" is malformed`},
		{"negative uid", file("a", "", at(108, base256(-2, 8))), `the owner of "a"`},
		{"uid of none", file("a", "", at(108, base256(1<<32-1, 8))), `the owner of "a"`},
		{"large gid", file("a", "", at(116, base256(1<<32, 8))), `the owner of "a"`},
		{"time", file("a", "", at(136, "x")), `the time of "a"`},
		{"far time", file("a", "", at(136, base256(1<<62, 12))), `the time of "a"`},
		{"number of more than 64 bits", file("a", "", at(136, "\x80\x00\x00\x01")), `the time of "a"`},
		{"negative size", string(header(TypeReg, "a", 0, at(124, base256(-1, 12)))), `the size of "a"`},
		{"size that overflows", string(header(TypeReg, "a", 0, at(124, base256(1<<63-1, 12)))), `the size of "a"`},
		{"device", string(header(TypeChar, "a", 0, at(329, base256(1<<32, 8)))), `the device numbers of "a"`},
		{"negative device", string(header(TypeBlock, "a", 0, at(337, base256(-1, 8)))), `the device numbers of "a"`},

		{"extended header alone", pax("path", "a") + end, "an extended header without an entry"},
		{"large extended header", string(header('x', "x", maxExtended+1)), "more than 1048576 bytes of extended headers"},
		{"large global header", string(header('g', "x", maxExtended+1)), "more than 1048576 bytes of extended headers"},
		{"negative extended header", string(header('x', "x", 0, at(124, base256(-1, 12)))), "the size of an extended header"},
		{"endless extended headers", strings.Repeat(pax(), maxExtended/blockSize+1) + one, "more than 1048576 bytes"},
		{"long name", string(header('L', "l", maxName+2)) + padded(strings.Repeat("n", maxName+1)) + one, "a name of more than 4096 bytes"},
		{"long path", pax("path", strings.Repeat("n", maxName+1)) + one, `record "path": the name is too long`},
		{"nul in a path", pax("path", "a\x00b") + one, `record "path": a NUL`},
		{"nul in a target", pax("linkpath", "a\x00") + one, `record "linkpath": a NUL`},
		{"nul in a key", pax("SCHILY.xattr.user.a\x00", "") + one, "a record of the extended header is malformed"},
		{"nul in an xattr", pax("LIBARCHIVE.xattr.user.a%00", "") + one, "no name of an attribute"},
		{"no key", rawPAX("5 =x\n"), "a record of the extended header is malformed"},
		{"no value", rawPAX("7 path\n"), "a record of the extended header is malformed"},
		{"no length", rawPAX("path=x\n"), "a record of the extended header is malformed"},
		{"short length", rawPAX("3 path=x\n"), "a record of the extended header is malformed"},
		{"long length", rawPAX("99 path=x\n"), "a record of the extended header is malformed"},
		{"negative length", rawPAX("-9 path=x\n"), "a record of the extended header is malformed"},
		{"huge length", rawPAX("99999999999999999999 path=x\n"), "a record of the extended header is malformed"},
		{"zeros behind records", rawPAX("9 path=x\n\x00\x00"), "a record of the extended header is malformed"},
		{"pax uid", pax("uid", "4294967295") + one, `record "uid": no number, or out of range`},
		{"pax gid", pax("gid", "-1") + one, `record "gid": no number, or out of range`},
		{"pax size", pax("size", "9223372036854775808") + one, `record "size": no number, or out of range`},
		{"pax size that overflows", pax("size", "9223372036854775799") + one, `the size of "a"`},
		{"pax time", pax("mtime", "1.2.3") + one, `record "mtime": no time`},
		{"pax time without digits", pax("mtime", "-") + one, `record "mtime": no time`},
		{"far pax time", pax("mtime", "4611686018427387904") + one, `record "mtime": no time`},
		{"large xattr", pax("SCHILY.xattr.user.a", strings.Repeat("x", maxXattrValue+1)) + one, "the attribute is too large"},
		{"long xattr", pax("SCHILY.xattr."+strings.Repeat("x", 256), "") + one, "no name of an attribute"},
		{"many xattrs", manyXattrs(maxXattrs+1) + one, "too many attributes"},
		{"base64", pax("LIBARCHIVE.xattr.a", "?") + one, "the value is malformed"},

		{"star's sparse file", string(header('S', "s", 0, at(508, "tar\x00"))), "in no known form"},
		{"order", sparse10(9, "2\n3\n1\n1\n1\n", "ab"), "contradicts itself"},
		{"overlap", sparse10(9, "2\n0\n3\n2\n2\n", "abcde"), "contradicts itself"},
		{"beyond the end", sparse10(9, "1\n8\n2\n", "ab"), "contradicts itself"},
		{"empty run beyond the end", sparse10(9, "1\n10\n0\n", ""), "contradicts itself"},
		{"less stored", sparse10(9, "1\n0\n2\n", "a"), "contradicts itself"},
		{"more stored", sparse10(9, "1\n0\n2\n", "abc"), "contradicts itself"},
		{"overflow", sparse10(1<<62, "2\n0\n1\n999999999999999999\n999999999999999999\n", "a"), "contradicts itself"},
		{"many runs", sparse10(9, "1048577\n", ""), "more than 1048576 runs"},
		{"map that does not end", sparse10(9, "300\n"+strings.Repeat("0\n", 254), ""), "does not end"},
		{"map of words", sparse10(9, "x\n", ""), "is malformed"},
		{"map of blank lines", sparse10(9, "\n", ""), "is malformed"},
		{"map of long numbers", sparse10(9, "1\n0000000000000000000\n", ""), "is malformed"},
		{"no real size", pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0") + one, "the sparse map is malformed"},
		{"unknown version", pax("GNU.sparse.major", "1", "GNU.sparse.minor", "1", "GNU.sparse.realsize", "1") + one, "unknown version"},
		{"odd map", pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "1,2,3") + one, "the sparse map is malformed"},
		{"wrong count", pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "2", "GNU.sparse.map", "1,2") + one, "the sparse map is malformed"},
		{"no count", pax("GNU.sparse.size", "9", "GNU.sparse.map", "1,2") + one, "the sparse map is malformed"},
		{"two lengths", pax("GNU.sparse.size", "9", "GNU.sparse.offset", "1", "GNU.sparse.numbytes", "1", "GNU.sparse.numbytes", "1") + one, `record "GNU.sparse.numbytes"`},
		{"two forms", pax("GNU.sparse.map", "1,1", "GNU.sparse.offset", "1") + one, `record "GNU.sparse.offset"`},
		{"negative run", pax("GNU.sparse.map", "-1,1") + one, `record "GNU.sparse.map"`},
		{"sparse directory", pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "0") + string(header(TypeDir, "d", 0)), "which is no file"},
		{"two maps", pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "0") + string(header('S', "s", 0, oldMap(9, ""))), "in no known form"},
		{"old map that lies", string(header('S', "s", 2, oldMap(9, "", 5, 1, 2, 1))) + padded("ab"), "contradicts itself"},
		{"old map with a negative run", string(header('S', "s", 0, gnuForm, at(386, base256(-512, 12)+base256(512, 12)))), "contradicts itself"},
		{"old map with a negative size", string(header('S', "s", 0, gnuForm, at(483, base256(-1<<62, 12)))), "contradicts itself"},
		{"old map without digits", string(header('S', "s", 0, oldMap(9, ""), at(386, "x"))), "contradicts itself"},
		{"old map that never ends", string(header('S', "s", 0, oldMap(9, "\x01"))) + strings.Repeat(moreMap("\x01"), 60_000), "more than 1048576 runs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ours(strings.NewReader(tc.tar), byRead)
			var format *FormatError
			if !errors.As(err, &format) || !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("got %v, want a FormatError", err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want %q", err, tc.want)
			}
		})
	}
}

func rawPAX(body string) string {
	return string(header('x', "x", int64(len(body)))) + padded(body) + file("a", "")
}

func manyXattrs(n int) string {
	var records []string
	for i := range n {
		records = append(records, fmt.Sprintf("SCHILY.xattr.user.%d", i), "")
	}
	return pax(records...)
}

// A stream that ends early is told from a whole one, wherever it is cut.
func TestTruncated(t *testing.T) {
	whole := pax("path", "new", "mtime", "1.5") + file("a", strings.Repeat("x", 700)) +
		sparse10(9, "1\n1\n1\n", "a") +
		string(header('S', "s", 1, oldMap(9, "\x01"))) + moreMap("", 0, 1) + padded("a") + file("last", "")
	all, err := ours(strings.NewReader(whole), byRead)
	if err != nil {
		t.Fatal(err)
	}
	// Where it may end: before an extended header or an entry, and in the padding behind one.
	may := map[int]bool{0: true, len(whole): true}
	for _, m := range all {
		first := int(m.Offset) + len(m.Content)
		for i := first; i <= first+int(padding(int64(len(m.Content)))); i++ {
			may[i] = true
		}
	}
	ways := []func(*Reader) ([]byte, error){byRead, byChunk, skip}
	for cut := range len(whole) {
		_, err := ours(strings.NewReader(whole[:cut]), ways[cut%len(ways)])
		if may[cut] && err != nil || !may[cut] && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
	}
}

func skip(*Reader) ([]byte, error) { return nil, nil }

// broken fails after what it is given.
type broken struct {
	io.Reader
	err error
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

// What the stream fails with is handed on, and stays.
func TestBroken(t *testing.T) {
	reason := errors.New("disk on fire")
	whole := file("a", strings.Repeat("x", 700)) + file("b", "")
	for _, cut := range []int{0, 100, 512, 600, 1300, len(whole)} {
		for name, how := range map[string]func(*Reader) ([]byte, error){"read": byRead, "chunk": byChunk, "skip": skip} {
			_, err := ours(&broken{strings.NewReader(whole[:cut]), reason}, how)
			if !errors.Is(err, reason) {
				t.Errorf("%s: failed after %d bytes: got %v", name, cut, err)
			}
		}
	}
	r := NewReader(&broken{strings.NewReader(""), reason})
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, reason) {
			t.Errorf("got %v", err)
		}
		if _, err := r.Chunk(); !errors.Is(err, reason) {
			t.Errorf("got %v", err)
		}
	}
	if err := r.Drain(); !errors.Is(err, reason) {
		t.Errorf("drain: got %v", err)
	}
	if _, err := ours(idle{}, byRead); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v, want no progress", err)
	}
}

// idle reads nothing.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// Everything is read from the stream in the end, also after an error.
func TestDrain(t *testing.T) {
	for _, whole := range []string{
		"", end + strings.Repeat("y", 1<<20), "rubbish", file("a", strings.Repeat("x", 1<<20)), file("a", "") + "rubbish",
	} {
		src := strings.NewReader(whole)
		r := NewReader(src)
		_, first := r.Next()
		if err := r.Drain(); err != nil {
			t.Fatal(err)
		}
		if src.Len() != 0 {
			t.Errorf("%d bytes are left", src.Len())
		}
		_, err := r.Next()
		if first != nil && err != first || first == nil && err != io.EOF {
			t.Errorf("next after drain: got %v, before %v", err, first)
		}
		if _, err := r.Read(make([]byte, 1)); err == nil {
			t.Error("there is still content after drain")
		}
	}
}

// Reads of all sizes give the same, through the buffer or past it.
func TestReadSizes(t *testing.T) {
	content := make([]byte, 3*bufferSize+123)
	for i := range content {
		content[i] = byte(i * i >> 8)
	}
	whole := file("a", string(content)) + file("b", "next")
	for _, size := range []int{1, 511, direct - 1, direct, direct + 1, bufferSize, len(content), 2 * len(content)} {
		r := NewReader(strings.NewReader(whole))
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{r}, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if got.String() != string(content) {
			t.Errorf("read %d bytes at a time, it differs", size)
		}
		if e, err := r.Next(); err != nil || e.Name != "b" || e.Offset != int64(len(whole)-blockSize) {
			t.Errorf("next is %v, %v", e, err)
		}
	}
}

// What a few bytes claim costs no memory.
func TestMemory(t *testing.T) {
	for name, whole := range map[string]string{
		"extended header": string(header('x', "x", maxExtended-blockSize)),
		"many xattrs":     manyXattrs(maxXattrs) + file("a", ""),
		"large runs":      sparse10(1<<62, "1048576\n", ""),
		"old runs":        string(header('S', "s", 0, oldMap(1<<40, "\x01"))) + strings.Repeat(moreMap("\x01"), 40_000),
		"listed runs":     pax("GNU.sparse.map", strings.Repeat("0,", 500_000)+"0") + file("a", ""),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = ours(strings.NewReader(whole), skip)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
}

package tarstream

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// Arbitrary bytes are refused in good order, or are what archive/tar takes them for.
func FuzzReader(f *testing.F) {
	f.Add([]byte(file("a", "content") + end))
	f.Add([]byte(pax("path", "new", "mtime", "1.5", "SCHILY.xattr.user.a", "1") + file("a", "x") + end))
	f.Add([]byte(string(header('L', "l", 4, gnuForm)) + padded("new\x00") + file("a", "", gnuForm)))
	f.Add([]byte(sparse10(9, "1\n1\n1\n", "a")))
	f.Add([]byte(string(header('S', "s", 1, oldMap(9, "\x01"))) + moreMap("", 0, 1) + padded("a")))
	f.Add([]byte(pax("GNU.sparse.size", "9", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "1,1") + file("s", "a")))
	f.Add([]byte(string(header(TypeChar, "c", 0, at(329, "0000001\x00"), at(337, "0000003\x00")))))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = sealed(data)
		got, err := ours(bytes.NewReader(data), byRead)
		if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("an error of no kind: %v", err)
		}
		for _, m := range got {
			checkEntry(t, m)
		}
		want, wantErr := theirs(bytes.NewReader(data))
		if err != nil || wantErr != nil || differs(data) {
			return
		}
		for i := range got {
			got[i] = got[i].common()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("differs from archive/tar:\n%s", diff)
		}
	})
}

// sealed repairs checksums, without which nothing gets far.
func sealed(data []byte) []byte {
	data = slices.Clone(data)
	for i := 0; i+blockSize <= len(data); i += blockSize {
		b := (*block)(data[i:])
		if string(b[257:262]) == "ustar" {
			b.seal()
		}
	}
	return data
}

// checkEntry checks what an entry promises.
func checkEntry(t *testing.T, m member) {
	t.Helper()
	last, sum := int64(-1), int64(0)
	for _, run := range m.Data {
		if run.Offset <= last || run.Length <= 0 || run.Length > m.Size-run.Offset {
			t.Fatalf("%q of %d bytes has the runs %v", m.Name, m.Size, m.Data)
		}
		last = run.Offset + run.Length
		sum += run.Length
	}
	if sum != int64(len(m.Content)) {
		t.Fatalf("%q: %d bytes in runs, %d read", m.Name, sum, len(m.Content))
	}
	if m.Type != TypeReg && (m.Size != 0 || sum != 0) {
		t.Fatalf("%q has content", m.Name)
	}
	if len(m.Name) > maxName || len(m.Linkname) > maxName || len(m.Xattrs) > maxXattrs {
		t.Fatalf("%q is beyond the limits", m.Name)
	}
	sorted := slices.IsSortedFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	if !sorted {
		t.Fatalf("xattrs in the order %v", m.Xattrs)
	}
}

// differs tells that a tar has something of which the two readers make different things on
// purpose, as GNU tar and archive/tar do.
func differs(data []byte) bool {
	for _, odd := range []string{
		"LIBARCHIVE.xattr.", // is not known there
		"SCHILY.devm",
		"GNU.sparse.", // versions that are not known are no sparse files there
		"mtime=-",     // is rounded towards 0 there
	} {
		if bytes.Contains(data, []byte(odd)) {
			return true
		}
	}
	long, extended := false, false
	for i := 0; i+blockSize <= len(data); i += blockSize {
		switch h := data[i : i+blockSize]; h[156] {
		case 'X': // is not known there
			return true
		case 'L', 'K': // go before pax there
			long = true
		case 'x':
			extended = true
		case TypeChar, TypeBlock:
			if dialectOf(h) == v7 {
				return true
			}
		}
	}
	return long && extended
}

package tarstream

import (
	"archive/tar"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A member is an entry with its content, for comparisons.
type member struct {
	Entry
	Time    string // ModTime in UTC, to the nanosecond
	Content string // what is stored
}

// ours reads a tar with the Reader, in the way that how says.
func ours(src io.Reader, how func(*Reader) ([]byte, error)) ([]member, error) {
	r := NewReader(src)
	var all []member
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all, r.Drain()
		}
		if err != nil {
			return all, err
		}
		m := member{Entry: *e, Time: e.ModTime.UTC().Format(time.RFC3339Nano)}
		m.Data, m.Xattrs = append([]Run(nil), e.Data...), append([]Xattr(nil), e.Xattrs...)
		m.ModTime = time.Time{}
		content, err := how(r)
		if err != nil {
			return all, err
		}
		m.Content = string(content)
		all = append(all, m)
	}
}

// byRead reads an entry with Read, byChunk with Chunk.
func byRead(r *Reader) ([]byte, error) { return io.ReadAll(r) }

func byChunk(r *Reader) ([]byte, error) {
	var all []byte
	for {
		chunk, err := r.Chunk()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if len(chunk) == 0 {
			return all, io.ErrNoProgress
		}
		all = append(all, chunk...)
	}
}

// whole is the content of a member with its holes.
func (m *member) whole() []byte {
	all := make([]byte, m.Size)
	stored := m.Content
	for _, run := range m.Data {
		copy(all[run.Offset:][:run.Length], stored)
		stored = stored[run.Length:]
	}
	return all
}

// theirs reads a tar with archive/tar: what its headers come to here, with the whole content in
// Content. Offsets and runs are not known, and global headers left out.
func theirs(src io.Reader) ([]member, error) {
	r := tar.NewReader(src)
	var all []member
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == 'V' {
			continue
		}
		if h.Size > 1<<24 {
			return all, fmt.Errorf("%s is too large for a test", h.Name)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return all, err
		}
		m := member{Time: h.ModTime.UTC().Format(time.RFC3339Nano), Content: string(content)}
		m.Name, m.Linkname, m.Type = h.Name, h.Linkname, h.Typeflag
		m.Mode, m.UID, m.GID = uint32(h.Mode)&0o7777, uint32(h.Uid), uint32(h.Gid)
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
			m.Type, m.Size = TypeReg, h.Size
			if strings.HasSuffix(h.Name, "/") {
				m.Type = TypeDir
			}
		case tar.TypeChar, tar.TypeBlock:
			m.Major, m.Minor = uint32(h.Devmajor), uint32(h.Devminor)
		case tar.TypeLink, tar.TypeSymlink:
		}
		if m.Type != TypeLink && m.Type != TypeSymlink {
			m.Linkname = ""
		}
		for key, value := range h.PAXRecords {
			if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
				m.Xattrs = append(m.Xattrs, Xattr{xattrName(name), value})
			}
		}
		slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
		all = append(all, m)
	}
}

// common is what both know of a member.
func (m member) common() member {
	if m.Size <= 1<<24 {
		m.Content = string(m.whole())
	}
	m.Data, m.Offset, m.Flags = nil, 0, ""
	return m
}

// A block makes a header by hand.
type block [blockSize]byte

// header makes a sealed header of POSIX.
func header(kind byte, name string, size int64, edit ...func(*block)) []byte {
	var b block
	copy(b[:100], name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0001750\x00")
	copy(b[116:], "0001751\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], fmt.Sprintf("%011o\x00", 1700000000))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	for _, e := range edit {
		e(&b)
	}
	b.seal()
	return b[:]
}

func (b *block) seal() {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// at puts text at a place of a header.
func at(offset int, value string) func(*block) {
	return func(b *block) { copy(b[offset:], value) }
}

// gnuForm makes a header GNU's.
func gnuForm(b *block) { copy(b[257:], "ustar  \x00") }

// v7Form makes a header V7's.
func v7Form(b *block) { clear(b[257:]) }

// padded fills the last block.
func padded(content string) string {
	return content + strings.Repeat("\x00", int(padding(int64(len(content)))))
}

// file is a regular file with its content.
func file(name, content string, edit ...func(*block)) string {
	return string(header(TypeReg, name, int64(len(content)), edit...)) + padded(content)
}

// pax is an extended header with records: keys and values in turn.
func pax(records ...string) string {
	var body strings.Builder
	for i := 0; i < len(records); i += 2 {
		body.WriteString(record(records[i], records[i+1]))
	}
	return string(header('x', "PaxHeaders/x", int64(body.Len()))) + padded(body.String())
}

func record(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	length := len(rest) + 1
	for len(fmt.Sprint(length))+len(rest) != length {
		length++
	}
	return fmt.Sprint(length) + rest
}

// end is the end of an archive.
var end = strings.Repeat("\x00", 2*blockSize)

// base256 is a field of n bytes.
func base256(value int64, n int) string {
	b := make([]byte, n)
	for i := n - 1; i >= 0; i-- {
		b[i] = byte(value)
		value >>= 8
	}
	b[0] |= 0x80
	return string(b)
}

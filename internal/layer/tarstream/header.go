package tarstream

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"strings"
	"time"
)

// A dialect is a way to use the second half of a header.
type dialect int

const (
	v7    dialect = iota // only names, modes, ids, size and time
	ustar                // of POSIX: a prefix of the name, and devices
	star                 // ustar with times at the end of the prefix
	gnu                  // times, sparse maps and devices, but no prefix
)

// dialectOf tells who wrote a header.
func dialectOf(h []byte) dialect {
	switch magic := h[257:265]; {
	case string(magic) == "ustar  \x00":
		return gnu
	case string(magic[:6]) != "ustar\x00":
		return v7
	case string(h[508:512]) == "tar\x00":
		return star
	}
	return ustar
}

// parse makes the entry of a header and of the extended ones before it, and readies its content.
func (r *Reader) parse(h []byte, at int64) error {
	e, x := &r.entry, &r.ext
	*e = Entry{Type: h[156], Xattrs: x.xattrs, Flags: x.flags, TextACL: x.textACL, Data: e.Data[:0]}
	form := dialectOf(h)
	// Where both say a name, GNU tar takes that of pax, whichever comes first.
	if e.Name = cmp.Or(x.name, x.longName); e.Name == "" {
		e.Name = headerName(h, form)
	}
	if err := r.attributes(h, form, at); err != nil {
		return err
	}
	stored, ok := number(h[124:136])
	if x.size >= 0 {
		stored, ok = x.size, true
	}
	if !ok || stored < 0 || stored > math.MaxInt64-r.off-blockSize {
		return malformed(at, "the size of %q is malformed", e.Name)
	}
	switch e.Type {
	case TypeReg, 0, '7', 'S': // 7 is a contiguous file
		if !strings.HasSuffix(e.Name, "/") {
			return r.content(h, form, stored, at)
		}
		if stored != 0 {
			return malformed(at, "the directory %q has content", e.Name)
		}
		e.Type = TypeDir
	case TypeLink, TypeSymlink:
		if e.Linkname = cmp.Or(x.link, x.longLink); e.Linkname == "" {
			e.Linkname = string(text(h[157:257]))
		}
	case TypeChar, TypeBlock:
		if err := r.device(h, form, at); err != nil {
			return err
		}
	case TypeDir, TypeFifo:
	default:
		return malformed(at, "%q is of the unknown type %q", e.Name, e.Type)
	}
	// What the size of all of these means differs between writers; content follows none of them.
	if x.sparse.used {
		return malformed(at, "a sparse map for %q, which is no file", e.Name)
	}
	e.Offset = r.off
	return nil
}

// content readies the stored bytes of a regular file.
func (r *Reader) content(h []byte, form dialect, stored, at int64) error {
	e, x := &r.entry, &r.ext
	old := e.Type == 'S'
	e.Type = TypeReg
	r.left, r.pad = stored, padding(stored)
	switch {
	case old && (form != gnu || x.sparse.used):
		return malformed(at, "the sparse map of %q is in no known form", e.Name)
	case old:
		if err := r.oldSparse(h, at); err != nil {
			return err
		}
	case x.sparse.used:
		if err := r.paxSparse(at); err != nil {
			return err
		}
	default:
		e.Size = stored
		if stored > 0 {
			e.Data = append(e.Data, Run{Length: stored})
		}
	}
	e.Offset = r.off
	return nil
}

// attributes reads what all entries have.
func (r *Reader) attributes(h []byte, form dialect, at int64) error {
	e, x := &r.entry, &r.ext
	mode, ok := number(h[100:108])
	if !ok {
		return malformed(at, "the mode of %q is malformed", e.Name)
	}
	e.Mode = uint32(mode & 0o7777)
	uid, uidOK := number(h[108:116])
	if x.uid >= 0 {
		uid, uidOK = x.uid, true
	}
	gid, gidOK := number(h[116:124])
	if x.gid >= 0 {
		gid, gidOK = x.gid, true
	}
	const maxID = math.MaxUint32 - 1
	if !uidOK || !gidOK || uid < 0 || uid > maxID || gid < 0 || gid > maxID {
		return malformed(at, "the owner of %q is malformed or out of range", e.Name)
	}
	e.UID, e.GID = uint32(uid), uint32(gid)
	if e.ModTime = x.mtime; x.timed {
		return nil
	}
	seconds, ok := number(h[136:148])
	if !ok || seconds < -maxTime || seconds > maxTime {
		return malformed(at, "the time of %q is malformed", e.Name)
	}
	e.ModTime = time.Unix(seconds, 0)
	return nil
}

// maxTime is the largest number of seconds for which [time.Time] is right, and some.
const maxTime = 1 << 61

// device reads the numbers of a device. V7 has none.
func (r *Reader) device(h []byte, form dialect, at int64) error {
	major, minor := int64(0), int64(0)
	majorOK, minorOK := true, true
	if form != v7 {
		major, majorOK = number(h[329:337])
		minor, minorOK = number(h[337:345])
	}
	if r.ext.major >= 0 {
		major, majorOK = r.ext.major, true
	}
	if r.ext.minor >= 0 {
		minor, minorOK = r.ext.minor, true
	}
	if !majorOK || !minorOK || major < 0 || major > math.MaxUint32 || minor < 0 || minor > math.MaxUint32 {
		return malformed(at, "the device numbers of %q are malformed or out of range", r.entry.Name)
	}
	r.entry.Major, r.entry.Minor = uint32(major), uint32(minor)
	return nil
}

// headerName is the name in the header itself.
func headerName(h []byte, form dialect) string {
	name, prefix := text(h[:100]), []byte(nil)
	switch {
	case form == ustar:
		prefix = text(h[345:500])
	case form == star:
		prefix = text(h[345:476])
	case form == gnu && h[156] != 'S' && h[345] != 0:
		// GNU's times are here. Programs built with Go before 1.8 put a prefix there when the
		// name was long and some number large; GNU tar loses it, and layers were made so.
		_, atime := number(h[345:357])
		_, ctime := number(h[357:369])
		if !atime || !ctime {
			prefix = text(h[345:500])
		}
	}
	if len(prefix) == 0 {
		return string(name)
	}
	var whole [256]byte
	n := copy(whole[:], prefix)
	whole[n] = '/'
	n += 1 + copy(whole[n+1:], name)
	return string(whole[:n])
}

// text is a field up to its first NUL.
func text(field []byte) []byte {
	if end := bytes.IndexByte(field, 0); end >= 0 {
		return field[:end]
	}
	return field
}

// number reads a numeric field of at most 12 bytes: octal digits, or two's complement with the
// highest bit set beside the sign. Blank fields are 0.
func number(field []byte) (int64, bool) {
	if field[0]&0x80 != 0 {
		n := int64(int8(field[0]<<1)) >> 1
		for _, c := range field[1:] {
			if n<<8>>8 != n {
				return 0, false
			}
			n = n<<8 | int64(c)
		}
		return n, true
	}
	i := 0
	for i < len(field) && (field[i] == ' ' || field[i] == 0) {
		i++
	}
	n := int64(0)
	for i < len(field) && '0' <= field[i] && field[i] <= '7' {
		n = n<<3 | int64(field[i]-'0')
		i++
	}
	return n, i == len(field) || field[i] == ' ' || field[i] == 0
}

// sumBytes adds up the bytes of a block, eight at a time: the sum of 64 pairs fits in 16 bits.
func sumBytes(block []byte) int64 {
	const odd = 0x00ff00ff00ff00ff
	var sums uint64
	for i := 0; i < blockSize; i += 8 {
		x := binary.LittleEndian.Uint64(block[i : i+8])
		sums += x&odd + x>>8&odd
	}
	return int64(sums&0xffff + sums>>16&0xffff + sums>>32&0xffff + sums>>48)
}

// checksum tells whether a header is what it says, given the sum of its bytes. The field itself
// counts as blanks. Some old tars added up signed bytes.
func checksum(h []byte, sum int64) bool {
	want, ok := number(h[148:156])
	for _, c := range h[148:156] {
		sum += ' ' - int64(c)
	}
	if want == sum {
		return ok
	}
	for i := 0; i < blockSize; i += 8 {
		sum -= 256 * int64(bits.OnesCount64(binary.LittleEndian.Uint64(h[i:i+8])&0x8080808080808080))
	}
	for _, c := range h[148:156] {
		sum += int64(c) >> 7 * 256
	}
	return ok && want == sum
}

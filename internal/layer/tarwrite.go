package layer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// tarBlock is what headers are long and contents are padded to.
const tarBlock = 512

// A tarWriter writes entries as ustar, with pax records for what that cannot say and for nothing
// else, in the order of their keys. Equal entries are equal bytes.
type tarWriter struct {
	ctx    context.Context
	w      *bufio.Writer
	pax    []byte
	latest time.Time // no time after it is written; zero: all are
}

func newTarWriter(ctx context.Context, w io.Writer) *tarWriter {
	return &tarWriter{ctx: ctx, w: bufio.NewWriterSize(struct{ io.Writer }{w}, 256<<10)}
}

// entry writes the header of a node under a name. Link is the name of the file that it is a hard
// link to, or empty. The content of a regular file follows by content.
func (t *tarWriter) entry(name, link string, a *Attr) error {
	h := tarHeader{
		name: name,
		kind: tarType(a.Mode),
		link: a.Target,
		mode: int64(a.Mode & 0o7777),
		uid:  int64(a.UID),
		gid:  int64(a.GID),
		time: a.ModTime,
	}
	if !t.latest.IsZero() && h.time.After(t.latest) {
		h.time = t.latest
	}
	switch {
	case link != "":
		h.kind, h.link = tarstream.TypeLink, link
	case h.kind == tarstream.TypeReg:
		h.size = a.Size
	case h.kind == tarstream.TypeDir:
		h.name += "/"
	}
	h.major, h.minor = int64(a.Major), int64(a.Minor)

	t.pax = t.pax[:0]
	for _, key := range slices.Sorted(maps.Keys(a.Xattrs)) {
		if keepsInLayer(key) {
			t.record("SCHILY.xattr."+xattrKey.Replace(key), a.Xattrs[key])
		}
	}
	t.number("gid", &h.gid, 1<<21)
	t.text("linkpath", h.link, false)
	if h.time.Unix() < 0 || h.time.Unix() >= 1<<33 || h.time.Nanosecond() != 0 {
		t.record("mtime", paxSeconds(h.time))
	}
	t.text("path", h.name, true)
	t.number("size", &h.size, 1<<33)
	t.number("uid", &h.uid, 1<<21)
	if len(t.pax) > 0 {
		// Nobody sees the name but those who do not know pax.
		extended := tarHeader{name: "PaxHeaders/entry", kind: 'x', mode: 0o644, size: int64(len(t.pax))}
		if err := t.write(&extended); err != nil {
			return err
		}
		if _, err := t.w.Write(t.pax); err != nil {
			return err
		}
		if err := t.pad(extended.size); err != nil {
			return err
		}
	}
	return t.write(&h)
}

// whiteout writes that a name of the layers below is no more.
func (t *tarWriter) whiteout(name string) error {
	return t.entry(name, "", &Attr{Mode: unix.S_IFREG, ModTime: time.Unix(0, 0)})
}

// keepsInLayer says whether layers have an xattr. What the kernel makes says what this machine
// thinks of a file.
func keepsInLayer(xattr string) bool { return Keeps(xattr) && !kernels(xattr) }

// xattrKey writes characters as GNU tar does, so that the first "=" ends the key.
var xattrKey = strings.NewReplacer("%", "%25", "=", "%3D")

// record adds a record, which begins with its own length in decimal.
func (t *tarWriter) record(key, value string) {
	rest := len(key) + len(value) + 3 // the blank, "=" and the end of the line
	length := rest + len(strconv.Itoa(rest))
	length = rest + len(strconv.Itoa(length)) // the length may be one digit longer by itself
	t.pax = append(strconv.AppendInt(t.pax, int64(length), 10), ' ')
	t.pax = append(append(t.pax, key...), '=')
	t.pax = append(append(t.pax, value...), '\n')
}

// number adds a record for what its field cannot hold, which then is zero.
func (t *tarWriter) number(key string, n *int64, limit int64) {
	if *n >= limit {
		t.record(key, strconv.FormatInt(*n, 10))
		*n = 0
	}
}

// text adds a record for a name that its field cannot hold, or that is not ASCII, for which ustar
// knows no encoding.
func (t *tarWriter) text(key, value string, splits bool) {
	fits := len(value) <= nameField
	if !fits && splits {
		_, _, fits = splitName(value)
	}
	if !fits || strings.ContainsFunc(value, func(r rune) bool { return r >= 0x80 }) {
		t.record(key, value)
	}
}

// paxSeconds is a time in decimal with as many digits as it takes.
func paxSeconds(at time.Time) string {
	seconds, nanos, sign := at.Unix(), int64(at.Nanosecond()), ""
	if seconds < 0 {
		sign = "-"
		if seconds = -seconds; nanos > 0 {
			seconds, nanos = seconds-1, 1e9-nanos
		}
	}
	s := sign + strconv.FormatInt(seconds, 10)
	if nanos > 0 {
		s += strings.TrimRight(fmt.Sprintf(".%09d", nanos), "0")
	}
	return s
}

// A tarHeader is what fits in the header of ustar.
type tarHeader struct {
	name, link           string
	kind                 byte
	mode, uid, gid, size int64
	time                 time.Time
	major, minor         int64
}

// The fields for names, in bytes.
const (
	nameField   = 100
	prefixField = 155
)

// splitName parts a name at a slash, which is not written.
func splitName(name string) (prefix, rest string, ok bool) {
	if len(name) > prefixField+1+nameField {
		return "", "", false
	}
	// As late as the prefix allows, but not at the end: something must be left.
	i := strings.LastIndexByte(name[:min(prefixField+1, len(name)-1)], '/')
	if i <= 0 || len(name)-i-1 > nameField {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

func (t *tarWriter) write(h *tarHeader) error {
	var b [tarBlock]byte
	prefix, name := "", h.name
	if len(name) > nameField {
		if p, rest, ok := splitName(name); ok {
			prefix, name = p, rest
		}
	}
	copy(b[:nameField], name)
	octal(b[100:108], h.mode)
	octal(b[108:116], h.uid)
	octal(b[116:124], h.gid)
	octal(b[124:136], h.size)
	if seconds := h.time.Unix(); seconds > 0 && seconds < 1<<33 {
		octal(b[136:148], seconds)
	} else {
		octal(b[136:148], 0)
	}
	b[156] = h.kind
	copy(b[157:157+nameField], h.link)
	copy(b[257:], "ustar\x0000")
	octal(b[329:337], h.major)
	octal(b[337:345], h.minor)
	copy(b[345:345+prefixField], prefix)

	sum := int64(8 * ' ') // the field itself counts as blanks
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	b[155] = ' '
	_, err := t.w.Write(b[:])
	return err
}

// octal fills a field with digits and a NUL at its end.
func octal(field []byte, n int64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// tarType is the type of an entry for a mode; 0 for sockets, which tar does not know.
func tarType(mode uint32) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return tarstream.TypeReg
	case unix.S_IFDIR:
		return tarstream.TypeDir
	case unix.S_IFLNK:
		return tarstream.TypeSymlink
	case unix.S_IFCHR:
		return tarstream.TypeChar
	case unix.S_IFBLK:
		return tarstream.TypeBlock
	case unix.S_IFIFO:
		return tarstream.TypeFifo
	}
	return 0
}

// content writes what a file of that size holds. Holes are zeros: layers know no others.
func (t *tarWriter) content(f File, size int64) error {
	at := int64(0)
	err := eachRun(f, size, func(start, end int64) error {
		if err := t.copy(zeroReader{}, start-at); err != nil {
			return err
		}
		at = end
		return t.copy(io.NewSectionReader(f, start, end-start), end-start)
	})
	if err == nil {
		err = t.copy(zeroReader{}, size-at)
	}
	if err != nil {
		return err
	}
	return t.pad(size)
}

func (t *tarWriter) copy(r io.Reader, n int64) error {
	got, err := t.w.ReadFrom(io.LimitReader(ctxReader{t.ctx, r}, n))
	if err == nil && got < n {
		err = cutShort(err)
	}
	return err
}

// pad fills up the last block of a content.
func (t *tarWriter) pad(size int64) error {
	var zero [tarBlock]byte
	_, err := t.w.Write(zero[:-size&(tarBlock-1)])
	return err
}

// close ends the tar, with two empty blocks.
func (t *tarWriter) close() error {
	var zero [2 * tarBlock]byte
	if _, err := t.w.Write(zero[:]); err != nil {
		return err
	}
	return t.w.Flush()
}

// A ctxReader ends when its context does.
type ctxReader struct {
	ctx context.Context
	io.Reader
}

func (r ctxReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// A zeroReader reads as zeros without an end.
type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

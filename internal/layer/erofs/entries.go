package erofs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
)

// The entries of a layer are kept in the order of its tar, as doc/formats/snapshots.md describes: a
// first line, records, the sizes of the data file, and the CRC-32C of all that.
const (
	entriesMagic = "stowage erofs entries 1\n"
	sizesSize    = 16
	sumSize      = 4
	// maxEntries bounds the file, which is read into memory: 60 bytes for each of as many
	// entries as a layer may have.
	maxEntries = 256 << 20
)

// Kinds of records.
const (
	kindFile = 1 + iota
	kindDir
	kindSymlink
	kindChar
	kindBlock
	kindFifo
	kindLink     // one more name of a file
	kindWhiteout // takes a name of the layers below away
	kindOpaque   // takes all in a folder away that is of the layers below
)

// moved is set in a record's first byte when its folder is not that of the record before it.
const moved = 0x80

// A record is one entry of a layer as it is kept. What it says of names is that they are clean;
// links on the way are followed only when layers are put together.
type record struct {
	kind      byte
	dir, name string // the folder, "" for the root, and the name in it; the root has the name ""
	target    string // of a symbolic link; the path of the file that a hard link is to
	mode      uint32 // permissions
	uid, gid  uint32
	sec       int64 // of its time
	nsec      uint32
	major     uint32
	minor     uint32
	size      int64
	chunkBits uint8  // log2 of the blocks in one chunk
	extents   string // see extents.go
	xattrs    string // see xattrs.go
}

// castagnoli is the polynomial that machines have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A recordWriter writes the entries of a layer.
type recordWriter struct {
	out  *bufio.Writer
	size int64 // so far
	sum  uint32
	dir  string // of the last record
	buf  []byte
}

func newRecordWriter(w io.Writer) (*recordWriter, error) {
	rw := &recordWriter{out: bufio.NewWriterSize(w, 256<<10)}
	rw.buf = append(rw.buf, entriesMagic...)
	return rw, rw.flush()
}

func (w *recordWriter) write(r *record) error {
	kind := r.kind
	if r.dir != w.dir {
		kind |= moved
	}
	w.buf = append(w.buf, kind)
	if r.dir != w.dir {
		w.text(r.dir)
		w.dir = r.dir
	}
	if r.kind != kindOpaque {
		w.text(r.name)
	}
	switch r.kind {
	case kindWhiteout, kindOpaque:
		return w.flush()
	case kindLink:
		w.text(r.target)
		return w.flush()
	}
	w.uint(uint64(r.mode))
	w.uint(uint64(r.uid))
	w.uint(uint64(r.gid))
	w.buf = binary.AppendVarint(w.buf, r.sec)
	w.uint(uint64(r.nsec))
	w.text(r.xattrs)
	switch r.kind {
	case kindFile:
		w.uint(uint64(r.size))
		w.uint(uint64(r.chunkBits))
		w.text(r.extents)
	case kindSymlink:
		w.text(r.target)
	case kindChar, kindBlock:
		w.uint(uint64(r.major))
		w.uint(uint64(r.minor))
	}
	return w.flush()
}

// close writes what is behind the records.
func (w *recordWriter) close(size layerSize) error {
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(size.tar))
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(size.blocks))
	if err := w.flush(); err != nil {
		return err
	}
	w.buf = binary.LittleEndian.AppendUint32(w.buf, w.sum)
	if err := w.flush(); err != nil {
		return err
	}
	return w.out.Flush()
}

func (w *recordWriter) uint(n uint64) { w.buf = binary.AppendUvarint(w.buf, n) }

func (w *recordWriter) text(s string) {
	w.uint(uint64(len(s)))
	w.buf = append(w.buf, s...)
}

func (w *recordWriter) flush() error {
	w.sum = crc32.Update(w.sum, castagnoli, w.buf)
	if w.size += int64(len(w.buf)); w.size > maxEntries {
		return fmt.Errorf("more than %d bytes of names and attributes: %w", maxEntries, errdefs.ErrResourceExhausted)
	}
	_, err := w.out.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// damaged is what is wrong with an entries file.
func damaged(format string, args ...any) error {
	return fmt.Errorf("damaged entries: "+format+": %w", append(args, errdefs.ErrDataLoss)...)
}

// loadRecords reads an entries file and checks its sum. It comes back as one string, which the
// parts of its records are cut from: a layer of 65,000 files costs one allocation instead of
// 200,000.
func loadRecords(name string) (records string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	size := info.Size()
	if size < int64(len(entriesMagic)+sizesSize+sumSize) || size > maxEntries {
		return "", damaged("%d bytes", size)
	}
	var text strings.Builder
	text.Grow(int(size))
	var sum uint32
	buf := make([]byte, min(size, 256<<10))
	for left := size - sumSize; left > 0; {
		n, err := f.Read(buf[:min(left, int64(len(buf)))])
		if err == io.EOF {
			return "", damaged("the file got shorter")
		}
		if err != nil {
			return "", err
		}
		sum = crc32.Update(sum, castagnoli, buf[:n])
		text.Write(buf[:n])
		left -= int64(n)
	}
	if _, err := io.ReadFull(f, buf[:sumSize]); err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if got := binary.LittleEndian.Uint32(buf); got != sum {
		return "", damaged("checksum %08x instead of %08x", got, sum)
	}
	body, ok := strings.CutPrefix(text.String(), entriesMagic)
	if !ok {
		return "", damaged("no version 1 of them")
	}
	return body, nil
}

// A layerSize is how much of the data file is what.
type layerSize struct {
	tar    int64 // bytes, from its beginning
	blocks int64 // of all of it
}

// tail is the block at which what is behind the tar begins.
func (s layerSize) tail() int64 { return blocksOf(s.tar) }

// parseSizes cuts the sizes off what loadRecords returned.
func parseSizes(text string) (records string, size layerSize, err error) {
	at := len(text) - sizesSize
	if at < 0 {
		return "", size, damaged("no sizes")
	}
	end := []byte(text[at:])
	size.tar = int64(binary.LittleEndian.Uint64(end))
	size.blocks = int64(binary.LittleEndian.Uint64(end[8:]))
	if size.tar < 0 || size.blocks < size.tail() || size.blocks > maxBlocks {
		return "", size, damaged("sizes %d and %d", size.tar, size.blocks)
	}
	return text[:at], size, nil
}

// parseRecords calls f for each record. It is valid until f returns; its strings stay. What f is
// given can be relied upon, whatever the file holds: names are names, and extents are within the
// data file.
func parseRecords(records string, size layerSize, f func(*record) error) error {
	d := decoder{rest: records}
	var r record
	for d.rest != "" {
		first := d.byte()
		dir := r.dir
		if first&moved != 0 {
			dir = d.text()
			if !isPath(dir) {
				return damaged("folder %q", dir)
			}
		}
		r = record{kind: first &^ moved, dir: dir}
		if err := r.decode(&d); err != nil {
			return err
		}
		if r.kind == kindFile && !checkExtents(r.extents, r.chunkBits, r.size, size.tail(), size.blocks) {
			return damaged("extents of %q in %q", r.name, r.dir)
		}
		if err := f(&r); err != nil {
			return err
		}
	}
	return nil
}

// decode reads a record behind its folder.
func (r *record) decode(d *decoder) error {
	if r.kind != kindOpaque {
		r.name = d.text()
	}
	switch r.kind {
	case kindWhiteout, kindOpaque:
	case kindLink:
		r.target = d.text()
	case kindFile, kindDir, kindSymlink, kindChar, kindBlock, kindFifo:
		r.mode = d.uint32()
		r.uid, r.gid = d.uint32(), d.uint32()
		r.sec, r.nsec = d.int(), d.uint32()
		r.xattrs = d.text()
		switch r.kind {
		case kindFile:
			r.size = int64(d.uint())
			r.chunkBits = uint8(min(d.uint(), 255))
			r.extents = d.text()
		case kindSymlink:
			r.target = d.text()
		case kindChar, kindBlock:
			r.major, r.minor = d.uint32(), d.uint32()
		}
	default:
		return damaged("a record of kind %d", r.kind)
	}
	root := r.dir == "" && r.name == ""
	switch {
	case d.bad:
		return damaged("a record is cut short")
	case r.kind == kindOpaque:
	case root && r.kind == kindDir:
	case !isName(r.name):
		return damaged("name %q", r.name)
	case r.kind == kindLink && (r.target == "" || !isPath(r.target)):
		return damaged("target %q", r.target)
	case r.kind == kindSymlink && (r.target == "" || len(r.target) > maxTarget):
		return damaged("a link of %d bytes", len(r.target))
	}
	if r.mode&^0o7777 != 0 || r.nsec > 999_999_999 || r.major > maxMajor || r.minor > maxMinor {
		return damaged("attributes of %q in %q", r.name, r.dir)
	}
	if _, ok := checkXattrs(r.xattrs); !ok {
		return damaged("xattrs of %q in %q", r.name, r.dir)
	}
	return nil
}

// isName tells whether name can be one in a folder.
func isName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName &&
		strings.IndexByte(name, '/') < 0 && strings.IndexByte(name, 0) < 0
}

// isPath tells whether path is clean and relative; "" is the root.
func isPath(path string) bool {
	if path == "" {
		return true
	}
	for name := range strings.SplitSeq(path, "/") {
		if !isName(name) {
			return false
		}
	}
	return true
}

// A decoder takes numbers and texts off a string. It gives zeros once something was missing.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) byte() byte {
	if d.rest == "" {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uint() uint64 {
	var n uint64
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		b := d.rest[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if i == binary.MaxVarintLen64-1 && b > 1 {
				break
			}
			d.rest = d.rest[i+1:]
			return n
		}
	}
	d.rest, d.bad = "", true
	return 0
}

func (d *decoder) int() int64 {
	n := d.uint()
	return int64(n>>1) ^ -int64(n&1)
}

func (d *decoder) uint32() uint32 {
	n := d.uint()
	if n != uint64(uint32(n)) {
		d.rest, d.bad = "", true
	}
	return uint32(n)
}

func (d *decoder) text() string {
	n := d.uint()
	if n > uint64(len(d.rest)) {
		d.rest, d.bad = "", true
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

package bolt

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// bbolt's file format, as far as following its pages needs it. A page begins with its id, flags,
// count of elements and count of further pages; the meta pages are the first two.
const (
	headerSize   = 16
	elementSize  = 16
	metaSize     = 64
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01
	magic        = 0xED0CDAED
	version      = 2
	noFreelist   = ^uint64(0)
	bigFreelist  = 0xFFFF // the count stands in the first element
	maxDepth     = 32
)

// A state is one committed state of one file.
type state struct {
	dev, ino, txid uint64
	leaves         bool // the headers of its leaves were checked too
}

// A checker walks the pages of a file without trusting them.
type checker struct {
	data     []byte // the pages
	pageSize uint64
	pages    uint64 // those below are in use
	seen     []bool // pages that something points to
	leaves   bool
}

// A meta is what a valid meta page says.
type meta struct {
	pageSize                    uint64
	root, freelist, pages, txid uint64
}

func bad(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrDataLoss)...)
}

// check looks at the structure of the file, so that bbolt, which trusts it, neither reads past
// its end nor runs in circles. That costs a look at each branch page and, where bbolt is to
// free pages, at each leaf, so a state that was seen good is not looked at again.
func (db *DB) check(f *os.File, write bool) (err error) {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := readMeta(f)
	if err != nil {
		return err
	}
	now := state{txid: m.txid, leaves: write}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		now.dev, now.ino = sys.Dev, sys.Ino
	}
	if uint64(info.Size())/m.pageSize < m.pages {
		return bad("%d bytes where %d pages of %d were written: it was cut off", info.Size(), m.pages, m.pageSize)
	}
	db.mu.Lock()
	known := db.checked
	db.mu.Unlock()
	if known == now || known == (state{now.dev, now.ino, now.txid, true}) {
		return nil
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(m.pages*m.pageSize), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { err = join(err, unix.Munmap(data)) }()
	c := &checker{data: data, pageSize: m.pageSize, pages: m.pages, seen: make([]bool, m.pages), leaves: write}
	if err := c.root(m.root); err != nil {
		return err
	}
	if write && m.freelist != noFreelist {
		if err := c.freelist(m.freelist); err != nil {
			return err
		}
	}
	db.mu.Lock()
	db.checked = now
	db.mu.Unlock()
	return nil
}

// wrote notes that the state after a commit came of one that was checked.
func (db *DB) wrote(txid uint64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.checked.txid = txid
}

// readMeta finds the newer valid meta page, as bbolt does.
func readMeta(f *os.File) (best meta, err error) {
	first, ok := metaAt(f, 0)
	if ok {
		best = first
		if second, ok := metaAt(f, int64(first.pageSize)); ok && second.pageSize == first.pageSize && second.txid > first.txid {
			best = second
		}
		return best, nil
	}
	for size := int64(1 << 10); size <= 1<<24; size <<= 1 {
		if second, ok := metaAt(f, size); ok && second.pageSize == uint64(size) {
			return second, nil
		}
	}
	return meta{}, bad("no valid meta page: it is damaged, or not a database")
}

func metaAt(f *os.File, off int64) (meta, bool) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], off+headerSize); err != nil {
		return meta{}, false
	}
	h := fnv.New64a()
	_, _ = h.Write(b[:metaSize-8]) // a hash takes everything
	m := meta{
		pageSize: uint64(u32(b[8:])),
		root:     u64(b[16:]), freelist: u64(b[32:]), pages: u64(b[40:]), txid: u64(b[48:]),
	}
	ok := u32(b[:]) == magic && u32(b[4:]) == version && u64(b[metaSize-8:]) == h.Sum64() &&
		m.pageSize >= 1<<10 && m.pageSize <= 1<<24 && m.pageSize&(m.pageSize-1) == 0
	return m, ok
}

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// page claims page id for whoever points to it, with the pages that follow it, and returns them.
func (c *checker) page(id uint64, flag uint16) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, bad("page %d does not exist", id)
	}
	b := c.data[id*c.pageSize:]
	more := uint64(u32(b[12:]))
	if u64(b) != id || u16(b[8:]) != flag || id+more >= c.pages {
		return nil, bad("page %d is not what it should be", id)
	}
	for i := id; i <= id+more; i++ {
		if c.seen[i] {
			return nil, bad("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	return b[:(more+1)*c.pageSize], nil
}

// root checks the leaf that holds our bucket alone, and the bucket's tree.
func (c *checker) root(id uint64) error {
	b, err := c.page(id, leafPage)
	if err != nil {
		return err
	}
	foreign := bad("it belongs to another program, or is damaged")
	if u16(b[10:]) != 1 {
		return foreign
	}
	key, value, ok := leafElement(b, 0)
	if !ok || u32(b[headerSize:]) != bucketFlag || string(key) != string(bucket) || len(value) < 16 {
		return foreign
	}
	if top := u64(value); top != 0 {
		return c.tree(top)
	}
	inline := value[16:] // a small bucket is a page within the value
	if len(inline) < headerSize || u16(inline[8:]) != leafPage {
		return foreign
	}
	for i := range int(u16(inline[10:])) {
		if _, _, ok := leafElement(inline, i); !ok {
			return bad("entry %d lies outside of its page", i)
		}
	}
	return nil
}

// leafElement returns element i of a leaf page.
func leafElement(page []byte, i int) (key, value []byte, ok bool) {
	at := headerSize + i*elementSize
	if at+elementSize > len(page) {
		return nil, nil, false
	}
	e := page[at:]
	start := uint64(u32(e[4:]))
	middle := start + uint64(u32(e[8:]))
	end := middle + uint64(u32(e[12:]))
	if end > uint64(len(e)) {
		return nil, nil, false
	}
	return e[start:middle], e[middle:end], true
}

// tree checks the pages below top, level by level. The leaves are all on one level.
func (c *checker) tree(top uint64) error {
	height, err := c.height(top)
	if err != nil {
		return err
	}
	level := []uint64{top}
	for ; height > 0; height-- {
		var below []uint64
		for _, id := range level {
			b, err := c.page(id, branchPage)
			if err != nil {
				return err
			}
			if below, err = children(b, below); err != nil {
				return fmt.Errorf("page %d: %w", id, err)
			}
		}
		level = below
	}
	for _, id := range level {
		if c.leaves {
			if _, err := c.page(id, leafPage); err != nil {
				return err
			}
			continue
		}
		if id < 2 || id >= c.pages || c.seen[id] {
			return bad("page %d is pointed to twice or does not exist", id)
		}
		c.seen[id] = true
	}
	return nil
}

// height counts the branches from top down to a leaf.
func (c *checker) height(top uint64) (int, error) {
	for id, h := top, 0; h < maxDepth; h++ {
		if id >= c.pages {
			return 0, bad("page %d does not exist", id)
		}
		b := c.data[id*c.pageSize:]
		if u16(b[8:]) != branchPage {
			return h, nil
		}
		id = u64(b[headerSize+8:])
	}
	return 0, bad("a tree without an end")
}

// children appends the pages that a branch page points to.
func children(page []byte, to []uint64) ([]uint64, error) {
	n := int(u16(page[10:]))
	if n == 0 || headerSize+n*elementSize > len(page) {
		return nil, bad("%d branches do not fit", n)
	}
	for i := range n {
		e := page[headerSize+i*elementSize:]
		if uint64(u32(e))+uint64(u32(e[4:])) > uint64(len(e)) {
			return nil, bad("branch %d lies outside of its page", i)
		}
		to = append(to, u64(e[8:]))
	}
	return to, nil
}

// freelist checks that no page is both free and in use.
func (c *checker) freelist(id uint64) error {
	b, err := c.page(id, freelistPage)
	if err != nil {
		return err
	}
	n, list := uint64(u16(b[10:])), b[headerSize:]
	if n == bigFreelist {
		n, list = u64(list), list[8:]
	}
	if n > uint64(len(list))/8 {
		return bad("%d free pages do not fit", n)
	}
	for i := range n {
		if id := u64(list[8*i:]); id < 2 || id >= c.pages || c.seen[id] {
			return bad("page %d is both free and in use", id)
		} else {
			c.seen[id] = true
		}
	}
	return nil
}

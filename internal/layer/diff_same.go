package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

func isFolder(n *Node) bool { return n.Mode&unix.S_IFMT == unix.S_IFDIR }

// same tells whether two nodes are known to be alike, for folders with all beneath them.
func same(a, b *Node) bool { return a.Same == b.Same && a.Same != FileID{} }

// alike compares attributes.
func alike(a, b *Node) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Size == b.Size &&
		a.ModTime.Equal(b.ModTime) && a.Major == b.Major && a.Minor == b.Minor &&
		a.Target == b.Target && alikeXattrs(a.Xattrs, b.Xattrs)
}

func alikeXattrs(a, b map[string]string) bool {
	within := func(a, b map[string]string) bool {
		for key, value := range a {
			if other, ok := b[key]; keepsInLayer(key) && (!ok || other != value) {
				return false
			}
		}
		return true
	}
	return within(a, b) && within(b, a)
}

// compareSize is how much of two files is compared at once. Holes in both are left out.
const compareSize = 256 << 10

// changed compares two nodes that are not folders, and what they hold if nothing else differs.
func (d *differ) changed(was, is *Node) (changed bool, err error) {
	if !alike(was, is) {
		return true, nil
	}
	if is.Mode&unix.S_IFMT != unix.S_IFREG || is.Size == 0 {
		return false, nil
	}
	a, err := d.lower.Open(was)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := d.upper.Open(is)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	equal, err := d.equal(a, b, is.Size)
	if err != nil {
		err = fmt.Errorf("compare %s: %w", quote(is.Path), err)
	}
	return !equal, err
}

// equal compares two files of the same size.
func (d *differ) equal(a, b File, size int64) (bool, error) {
	if d.bufs[0] == nil {
		d.bufs = [2][]byte{make([]byte, compareSize), make([]byte, compareSize)}
	}
	for off := int64(0); off < size; {
		if err := d.ctx.Err(); err != nil {
			return false, err
		}
		if size >= mayHaveHoles {
			var err error
			if off, err = dataIn(a, b, off, size); err != nil || off == size {
				return err == nil, err
			}
		}
		n := min(compareSize, size-off)
		for i, f := range []File{a, b} {
			if got, err := f.ReadAt(d.bufs[i][:n], off); int64(got) < n {
				return false, cutShort(err)
			}
		}
		if !bytes.Equal(d.bufs[0][:n], d.bufs[1][:n]) {
			return false, nil
		}
		off += n
	}
	return true, nil
}

// dataIn gives the next offset at which one of the files holds something, or their size.
func dataIn(a, b File, off, size int64) (int64, error) {
	next := size
	for _, f := range []File{a, b} {
		start, _, err := f.Data(off)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if err == nil {
			next = min(next, start)
		}
	}
	return next, nil
}

// cutShort tells a file that ends too early from one that cannot be read.
func cutShort(err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == io.ErrUnexpectedEOF {
		return fmt.Errorf("it became shorter meanwhile: %w", err)
	}
	return err
}

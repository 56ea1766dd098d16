package erofs

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// Limits of what is put together.
const (
	maxName   = 255
	maxTarget = 4095
	maxMajor  = 0xfff
	maxMinor  = 0xfffff
	// maxLinks is how many links are followed on the way to one name, and maxRest how long the
	// rest of the way may become by that.
	maxLinks = 255
	maxRest  = 64 << 10
	// maxInodes and maxText bound the memory of a merge, the latter that of names and xattrs.
	// Folders that no entry is for cost nothing in an archive, 2047 of them in one name. The
	// inodes are twice the entries of the largest layer.
	maxInodes = 8 << 20
	maxText   = 512 << 20
	// maxDepth bounds the time that going upwards takes: links make folders possible that are
	// deeper than any name.
	maxDepth = 16 << 10
)

// A merger puts layers together as their archives mean it, one entry after another.
type merger struct {
	root   *inode
	layers []layerSize
	layer  int32 // which one is being merged
	inodes int64 // so far, also those that are gone again
	text   int64 // bytes of entries files so far

	// The folder that the last entry was in, which the next one usually is in too. It is
	// forgotten when anything goes away, as the way may have led through that.
	lastPath string
	last     *inode
}

// merge puts layers, which are folders of WriteLayer, on top of one another.
func merge(ctx context.Context, layers []string) (*tree, error) {
	if len(layers) > maxDevices {
		return nil, fmt.Errorf("%d layers: %w", len(layers), errdefs.ErrResourceExhausted)
	}
	m := &merger{}
	m.root = m.newFolder(nil)
	for i, dir := range layers {
		m.layer = int32(i)
		m.lastPath, m.last = "", m.root
		if err := m.add(ctx, dir); err != nil {
			return nil, fmt.Errorf("layer %s: %w", dir, err)
		}
	}
	return m.finish(), nil
}

// add puts one layer on top.
func (m *merger) add(ctx context.Context, dir string) error {
	text, err := loadRecords(filepath.Join(dir, entriesFile))
	if err != nil {
		return err
	}
	if m.text += int64(len(text)); m.text > maxText {
		return fmt.Errorf("more than %d bytes of entries: %w", maxText, errdefs.ErrResourceExhausted)
	}
	records, size, err := parseSizes(text)
	if err != nil {
		return err
	}
	if err := checkData(filepath.Join(dir, dataFile), size); err != nil {
		return err
	}
	m.layers = append(m.layers, size)
	entries := 0
	return parseRecords(records, size, func(r *record) error {
		if entries++; entries%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return m.apply(r)
	})
}

// checkData looks whether a data file is as long as it was.
func checkData(name string, size layerSize) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if got, want := info.Size(), size.blocks*blockSize; got != want {
		return fmt.Errorf("%s has %d bytes instead of %d: %w", name, got, want, errdefs.ErrDataLoss)
	}
	return nil
}

// apply does what one entry says.
func (m *merger) apply(r *record) error {
	if r.kind == kindOpaque || r.kind == kindWhiteout {
		return m.hide(r)
	}
	dir, err := m.makeFolder(r.dir)
	if err != nil {
		return err
	}
	if r.name == "" {
		m.root.describe(r)
		m.changed(m.root)
		return nil
	}
	old := dir.folder.names[r.name]
	if r.kind == kindDir && old.inode != nil && old.folder != nil {
		old.describe(r)
		m.changed(old.inode)
		dir.folder.names[r.name] = name{old.inode, m.layer}
		return nil
	}
	if err := m.room(dir); err != nil {
		return err
	}
	var n *inode
	switch r.kind {
	case kindLink:
		if n, err = m.linked(dir, r); err != nil {
			return err
		}
	case kindDir:
		n = m.newFolder(dir)
		n.describe(r)
	default:
		n = m.newInode()
		n.describe(r)
	}
	if old.inode != nil {
		m.forget()
	}
	dir.folder.names[r.name] = name{n, m.layer}
	m.changed(dir)
	return nil
}

// linked finds what a hard link at a name in a folder is to.
func (m *merger) linked(dir *inode, r *record) (*inode, error) {
	refuse := func(why string) (*inode, error) {
		return nil, fmt.Errorf("hard link %q to %q, which %s: %w",
			joinPath(r.dir, r.name), r.target, why, errdefs.ErrInvalidArgument)
	}
	above, base := splitPath(r.target)
	from, err := m.find(above)
	switch {
	case err != nil:
		return nil, err
	case from == nil:
		return refuse("is not there")
	case from == dir && base == r.name:
		return refuse("is itself")
	}
	target, replaced := from.folder.names[base].inode, dir.folder.names[r.name].inode
	switch {
	case target == nil:
		return refuse("is not there")
	case target.folder != nil:
		return refuse("is a folder")
	case replaced != nil && from.within(replaced):
		return refuse("is in what it replaces")
	}
	return target, nil
}

func (m *merger) newInode() *inode {
	m.inodes++
	return &inode{number: uint32(m.inodes), layer: m.layer}
}

// room tells whether one more inode may be made in a folder.
func (m *merger) room(dir *inode) error {
	switch {
	case m.inodes >= maxInodes:
		return fmt.Errorf("more than %d files and folders: %w", maxInodes, errdefs.ErrResourceExhausted)
	case dir.folder.depth >= maxDepth:
		return fmt.Errorf("more than %d folders within one another: %w", maxDepth, errdefs.ErrResourceExhausted)
	}
	return nil
}

// newFolder makes a folder as those are that have no entry. Without a parent it is the root.
func (m *merger) newFolder(parent *inode) *inode {
	n := m.newInode()
	n.folder = &folder{names: map[string]name{}, parent: parent, pruned: m.layer}
	if parent == nil {
		n.folder.parent = n
	} else {
		n.folder.depth = parent.folder.depth + 1
	}
	n.reset()
	return n
}

// changed notes that something in a folder changed, or it itself.
func (m *merger) changed(n *inode) {
	for n.layer != m.layer {
		n.layer = m.layer
		n = n.folder.parent
	}
}

// forget drops what is known of the way to the last folder.
func (m *merger) forget() { m.lastPath, m.last = "", m.root }

// hide takes away what a marker says and the layer itself has not brought. A marker whose folder
// is not there hides nothing.
func (m *merger) hide(r *record) error {
	dir, err := m.find(r.dir)
	if err != nil || dir == nil {
		return err
	}
	names := []string{r.name}
	if r.kind == kindOpaque {
		names = m.prune(dir.folder)
	}
	m.forget()
	// Folders stay when the layer brought anything in them, and lose the rest. They are
	// visited from below, without recursion: they may be nested a million times.
	type step struct {
		dir   *inode
		name  string
		below bool // what is in it was done
	}
	var steps []step
	for _, name := range names {
		steps = append(steps, step{dir: dir, name: name})
	}
	for len(steps) > 0 {
		s := steps[len(steps)-1]
		steps = steps[:len(steps)-1]
		n, ok := s.dir.folder.names[s.name]
		switch {
		case !ok:
		case n.folder != nil && !s.below:
			s.below = true
			steps = append(steps, s)
			for _, name := range m.prune(n.folder) {
				steps = append(steps, step{dir: n.inode, name: name})
			}
		case n.layer == m.layer:
		case n.folder != nil && len(n.folder.names) > 0:
			// The layer put something into it, and has no entry for it: what it was below
			// is hidden too.
			n.reset()
			s.dir.folder.names[s.name] = name{n.inode, m.layer}
			m.changed(n.inode)
		default:
			delete(s.dir.folder.names, s.name)
			m.changed(s.dir)
		}
	}
	return nil
}

// prune gives the names in a folder that all is to be hidden of. There are none when that was done,
// so that a layer with many markers is no more work than one with few.
func (m *merger) prune(f *folder) []string {
	if f.pruned == m.layer {
		return nil
	}
	f.pruned = m.layer
	return slices.Collect(maps.Keys(f.names))
}

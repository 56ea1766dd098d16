package metadata

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/image"
)

// Garbage is a blob that nothing needs.
type Garbage struct {
	Digest image.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
}

// Garbage lists what [Sweep.Doom] would condemn.
func (s *Store) Garbage(ctx context.Context, strays []Garbage) (list []Garbage, err error) {
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		if err != nil {
			return err
		}
		m, err := v.mark(live)
		if err != nil {
			return err
		}
		list, err = v.garbage(m, strays)
		return err
	})
	return list, err
}

// A Sweep is the right to delete bytes, which one collector has at a time.
//
// First [Sweep.Doom] condemns, in one transaction, all that nothing needs: its rows go, and a
// mark says that its bytes are not to be believed. Then its bytes are deleted, outside of any
// transaction. Then [Sweep.Forget] removes the marks. Who wants to keep a digest holds it. A
// hold made before Doom is seen by it; one made later sees the mark, and waits for the sweep's
// end. So no bytes are deleted that somebody counts on.
type Sweep struct {
	store *Store
	lock  *os.File
}

// BeginSweep takes the right to sweep, and waits while another collector has it. The caller
// ends it.
func (s *Store) BeginSweep(ctx context.Context) (*Sweep, error) {
	lock, err := s.lockFile(ctx, sweepLock, flock.Exclusive)
	if err != nil {
		return nil, err
	}
	return &Sweep{s, lock}, nil
}

// End gives up the right to sweep.
func (w *Sweep) End() error { return w.lock.Close() }

// Doom condemns the blobs that no image, lease, hold or kept document reaches, and removes the
// snapshots of images that are gone. It returns the blobs,
// those that [Store.RemoveBlob] or a sweep that died condemned before, and those of strays that
// no row knows: blobs that were found in the content store.
func (w *Sweep) Doom(ctx context.Context, strays []Garbage) (doomed []Garbage, err error) {
	err = w.store.update(ctx, func(c change) error {
		live, err := w.store.dropDead(c)
		if err != nil {
			return err
		}
		m, err := c.mark(live)
		if err != nil {
			return err
		}
		if doomed, err = c.garbage(m, strays); err != nil {
			return err
		}
		for _, g := range doomed {
			if err := c.doom(g); err != nil {
				return err
			}
		}
		if err := c.dropUnreached(m); err != nil {
			return err
		}
		return c.dropSnapshots(m)
	})
	if err != nil {
		return nil, err
	}
	return doomed, w.store.removeStrayHolders()
}

// Doomed lists what is condemned already, and is not held.
func (w *Sweep) Doomed(ctx context.Context) (list []Garbage, err error) {
	err = w.store.view(ctx, func(v view) error {
		live, _, err := w.store.leases(v)
		if err != nil {
			return err
		}
		isHeld := held(live)
		list, err = v.doomed(func(d image.Digest) bool { return !isHeld(d) })
		return err
	})
	return list, err
}

// Forget removes the marks of digests whose bytes have been deleted.
func (w *Sweep) Forget(ctx context.Context, digests ...image.Digest) error {
	return w.store.update(ctx, func(c change) error {
		for _, d := range digests {
			if err := c.w.Delete(doomedKey(d)); err != nil {
				return err
			}
		}
		return nil
	})
}

// A mark is what is kept.
type mark struct {
	reached map[image.Digest]bool
	in      map[string]map[image.Digest]bool // by namespace
	held    func(image.Digest) bool          // by running operations themselves
}

// keeps tells whether a blob and its document stay.
func (m mark) keeps(d image.Digest) bool { return m.reached[d] || m.held(d) }

// held tells what running operations hold themselves.
func held(leases []liveLease) func(image.Digest) bool {
	digests, all := map[image.Digest]bool{}, false
	for _, l := range leases {
		if l.Holder == "" {
			continue
		}
		all = all || l.All
		for _, d := range l.Digests {
			digests[d] = true
		}
	}
	return func(d image.Digest) bool { return all || digests[d] }
}

// mark finds what images and leases reach. Images are found by the keys of their targets, so
// that a damaged record costs nothing.
func (v view) mark(leases []liveLease) (mark, error) {
	m := mark{reached: map[image.Digest]bool{}, in: map[string]map[image.Digest]bool{}, held: held(leases)}
	roots := map[string][]image.Digest{}
	for _, l := range leases {
		roots[l.namespace] = append(roots[l.namespace], l.Digests...)
	}
	for e, err := range v.Scan([]byte(targetRows)) {
		if err != nil {
			return m, err
		}
		d, ns, _, err := parseTargetKey(e.Key)
		if err != nil {
			return m, err
		}
		roots[ns] = append(roots[ns], d)
	}
	for ns, digests := range roots {
		m.in[ns] = map[image.Digest]bool{}
		if err := v.below(m.in[ns], digests); err != nil {
			return m, err
		}
		for d := range m.in[ns] {
			m.reached[d] = true
		}
	}
	return m, nil
}

// garbage lists what is not kept, and what is doomed already.
func (v view) garbage(m mark, strays []Garbage) ([]Garbage, error) {
	list, err := v.doomed(func(d image.Digest) bool { return !m.held(d) })
	if err != nil {
		return nil, err
	}
	for e, err := range v.Scan([]byte(blobRows)) {
		if err != nil {
			return nil, err
		}
		d, err := lastDigest(e.Key, []byte(blobRows))
		if err != nil {
			return nil, err
		}
		if m.keeps(d) {
			continue
		}
		var row blobRow
		if err := decode(e.Key, e.Value, &row); err != nil {
			return nil, err
		}
		list = append(list, Garbage{d, row.Size})
	}
	for _, g := range strays {
		doomed, err := v.has(doomedKey(g.Digest))
		if err != nil {
			return nil, err
		}
		_, here, err := v.size(g.Digest)
		if err != nil {
			return nil, err
		}
		if !doomed && !here && !m.keeps(g.Digest) {
			list = append(list, g)
		}
	}
	return list, nil
}

// doomed lists what is condemned, of what is asked for.
func (v view) doomed(asked func(image.Digest) bool) (list []Garbage, err error) {
	for e, err := range v.Scan([]byte(doomedRows)) {
		if err != nil {
			return nil, err
		}
		d, err := lastDigest(e.Key, []byte(doomedRows))
		if err != nil {
			return nil, err
		}
		var row blobRow
		if err := decode(e.Key, e.Value, &row); err != nil {
			return nil, err
		}
		if asked(d) {
			list = append(list, Garbage{d, row.Size})
		}
	}
	return list, nil
}

// doom takes away the faith in the bytes of a blob.
func (c change) doom(g Garbage) error {
	c.sizes[g.Digest] = -1
	if err := c.w.Delete(blobKey(g.Digest)); err != nil {
		return err
	}
	return c.put(doomedKey(g.Digest), blobRow{g.Size})
}

// dropUnreached removes the documents that are not kept, with their edges, and what namespaces
// know without keeping it.
func (c change) dropUnreached(m mark) error {
	var gone [][]byte
	for e, err := range c.Scan([]byte(documentRows)) {
		if err != nil {
			return err
		}
		d, err := lastDigest(e.Key, []byte(documentRows))
		if err != nil {
			return err
		}
		if m.keeps(d) {
			continue
		}
		doc, err := c.readDocument(d)
		if err != nil {
			return err
		}
		gone = append(gone, documentKey(d))
		for _, edge := range edges(doc) {
			gone = append(gone, parentKey(edge.child, d))
		}
	}
	for e, err := range c.Scan([]byte(knownRows)) {
		if err != nil {
			return err
		}
		ns, d, err := parseKnownKey(e.Key)
		if err != nil {
			return err
		}
		if !m.in[ns][d] && !m.held(d) {
			gone = append(gone, knownKey(ns, d))
		}
	}
	for _, k := range gone {
		if err := c.w.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// A known snapshot, with who knows it.
type knownSnapshot struct {
	namespace, snapshotter string
	Snapshot
}

// unkept lists the snapshots of images that are gone. What was committed or prepared by hand stays
// until it is removed by hand; while a row of a snapshotter is damaged, all of its stay.
func (v view) unkept(m mark) (gone []knownSnapshot, err error) {
	type stack struct{ namespace, snapshotter string }
	stacks, damaged := map[stack]map[string]Snapshot{}, map[stack]bool{}
	for e, err := range v.Scan([]byte(snapshotRows)) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		ns, rest := cut(e.Key, []byte(snapshotRows))
		name, _ := cut([]byte(rest), nil)
		at := stack{ns, name}
		var row Snapshot
		if err != nil || decode(e.Key, e.Value, &row) != nil {
			damaged[at] = true // nobody knows what it stands on
			continue
		}
		if stacks[at] == nil {
			stacks[at] = map[string]Snapshot{}
		}
		stacks[at][row.Key] = row
	}
	for at, rows := range stacks {
		if damaged[at] {
			continue
		}
		kept := map[string]bool{}
		for name, row := range rows {
			if !m.keepsSnapshot(at.namespace, row) {
				continue
			}
			for name != "" && !kept[name] {
				kept[name] = true
				name = rows[name].Parent
			}
		}
		for name, row := range rows {
			if !kept[name] {
				gone = append(gone, knownSnapshot{at.namespace, at.snapshotter, row})
			}
		}
	}
	return gone, nil
}

// dropSnapshots removes the snapshots of images that are gone, and the rows of layers that no
// snapshot has.
func (c change) dropSnapshots(m mark) error {
	gone, err := c.unkept(m)
	if err != nil {
		return err
	}
	for _, row := range gone {
		if err := c.deleteSnapshot(row.namespace, row.snapshotter, row.Snapshot); err != nil {
			return err
		}
	}
	snapshotters := map[string]bool{}
	for e, err := range c.Scan([]byte(layerRows)) {
		if err != nil {
			return err
		}
		name, _ := cut(e.Key, []byte(layerRows))
		snapshotters[name] = true
	}
	for snapshotter := range snapshotters {
		if err := c.dropLayers(snapshotter, m.held); err != nil {
			return err
		}
	}
	return nil
}

// GarbageSnapshots lists the snapshots that [Sweep.Doom] would remove.
func (s *Store) GarbageSnapshots(ctx context.Context) (list []Snapshot, err error) {
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		if err != nil {
			return err
		}
		m, err := v.mark(live)
		if err != nil {
			return err
		}
		gone, err := v.unkept(m)
		for _, row := range gone {
			list = append(list, row.Snapshot)
		}
		return err
	})
	slices.SortFunc(list, func(a, b Snapshot) int { return strings.Compare(a.Key, b.Key) })
	return list, err
}

// keepsSnapshot tells whether a snapshot stays, whatever stands on it.
func (m mark) keepsSnapshot(ns string, row Snapshot) bool {
	if row.Kind != Committed || row.DiffID == "" || m.held(image.Digest(row.Key)) {
		return true
	}
	for _, d := range row.Manifests {
		if m.in[ns][d] || m.held(d) {
			return true
		}
	}
	return false
}

// removeStrayHolders removes the lock files of processes that died before their hold had a row.
func (s *Store) removeStrayHolders() error {
	entries, err := os.ReadDir(s.holders)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == sweepLock {
			continue
		}
		f, err := os.Open(filepath.Join(s.holders, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		// Removed under its lock, so that who is about to lock it notices.
		free, err := flock.TryLock(f, flock.Exclusive)
		if free {
			err = s.removeHolder(e.Name())
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

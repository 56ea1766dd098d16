package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// Garbage is a blob that nothing needs.
type Garbage struct {
	Digest image.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
}

// The bounds of a round's transaction, in which nobody else can read or write. It ends with the
// candidate that reaches one of them. Rows of 50,000 blobs are each on a page of their own: to store
// 600 took 7 to 17 ms, and the collection was no faster for it than with 200.
const (
	roundRows = 200                  // that are written or removed
	roundTime = 5 * time.Millisecond // spent with candidates, before what was written is stored
)

// Garbage finds what a collection of everything would take away now, with those of strays, blobs
// found in the content store, that no row knows.
func (s *Store) Garbage(ctx context.Context, strays []Garbage) (Found, error) {
	w := s.NewSweep()
	if err := errors.Join(w.Everything(ctx), w.Strays(ctx, strays)); err != nil {
		return Found{}, err
	}
	return w.Found(ctx)
}

// A Sweep is one run of a collector; there may be several at once.
//
// First it takes stock, in short transactions in which it only reads: of everything, or of what is
// below some blobs. Then come rounds. Each condemns in one transaction, which is bounded, some of
// what was found, if it finds again that nothing needs it: its rows go, and the mark of a blob
// says that its bytes are not to be believed. Then the bytes, and the folders, are deleted outside
// of any transaction. The next round, or the end, removes the marks.
//
// Who wants to keep a digest holds it. A hold made before the round's transaction is seen by it;
// one made later sees the mark, and waits for the round's end. So nothing is deleted that somebody
// counts on, and nobody waits for longer than a round.
type Sweep struct {
	store   *Store
	list    *inventory
	strays  map[candidate]int64 // the bytes of those that no row knows
	waiting map[node]bool       // snapshots that others stood on when it was their turn
	stale   []doomedMark
	uses    map[image.Digest]use // see [Sweep.Unpacked]
}

// roundsLock is the name of the lock file that rounds share, among those of the holders.
const roundsLock = "gc.lock"

// BlockRounds waits for the rounds of all collections, and lets none begin until what it returns is
// closed.
func (s *Store) BlockRounds(ctx context.Context) (io.Closer, error) {
	return s.lockFile(ctx, roundsLock, flock.Exclusive)
}

type doomedMark struct {
	digest image.Digest
	round  string
}

// NewSweep begins one, which has found nothing yet.
func (s *Store) NewSweep() *Sweep {
	return &Sweep{store: s, list: s.inventory(), strays: map[candidate]int64{}, waiting: map[node]bool{}}
}

// Everything takes stock of all that no image, lease or running operation needs, and of what is
// condemned already.
func (w *Sweep) Everything(ctx context.Context) error { return w.list.everything(ctx) }

// Below takes stock of what nothing needs of digests, of what they keep, in whatever namespace,
// and of what is condemned already.
func (w *Sweep) Below(ctx context.Context, digests ...image.Digest) error {
	nodes, err := w.store.blobNodes(ctx, digests)
	return errors.Join(err, w.list.doomed(ctx), w.list.below(ctx, nodes...))
}

// Doomed takes stock of what is condemned already, and nobody is about to delete.
func (w *Sweep) Doomed(ctx context.Context) error { return w.list.doomed(ctx) }

// Strays adds those of blobs found in the content store that no row knows and nothing needs.
func (w *Sweep) Strays(ctx context.Context, list []Garbage) error {
	return w.list.looks(ctx, func(l *look) (bool, error) {
		for ; len(list) > 0; list = list[1:] {
			if l.over() {
				return false, nil
			}
			g := list[0]
			known, err := l.hasBytes(g.Digest)
			if err != nil {
				return false, err
			}
			key := blobKey(g.Digest)
			_, none, err := l.spare(string(key[len(blobRows):]), l.spaces)
			if err != nil {
				return false, err
			}
			if none && !known {
				w.strays[string(key)] = g.Size
				w.list.add(string(key))
			}
		}
		return true, nil
	})
}

// hasBytes tells whether a row says that the bytes of a blob are here, or doomed.
func (v view) hasBytes(d image.Digest) (bool, error) {
	here, err := v.has(blobKey(d))
	if err != nil || here {
		return here, err
	}
	return v.has(doomedKey(d))
}

// Found lists what the rounds would take away.
func (w *Sweep) Found(ctx context.Context) (Found, error) {
	f, err := w.list.found(ctx)
	for _, c := range w.list.list {
		if size, ok := w.strays[c]; ok {
			d, err := lastDigest([]byte(c), []byte(blobRows))
			if err != nil {
				return f, err
			}
			f.Blobs = append(f.Blobs, Garbage{d, size})
		}
	}
	return f, err
}

// A Round is what one transaction condemned. Its rows are gone; the caller deletes the bytes of
// the blobs, and the folders, and ends it.
type Round struct {
	Found
	Folders []Folder // that no row names any more

	sweep  *Sweep
	name   string
	lock   *os.File // that holders wait for
	shared *os.File // that of roundsLock
}

// A Folder is one of a snapshotter.
type Folder struct{ Snapshotter, Name string }

// Round condemns some of what was found. After the last it returns nil.
func (w *Sweep) Round(ctx context.Context) (*Round, error) {
	if len(w.list.list) == 0 {
		return nil, nil
	}
	shared, err := w.store.lockFile(ctx, roundsLock, flock.Shared)
	if err != nil {
		return nil, err
	}
	r := &Round{sweep: w, name: rand.Text(), shared: shared}
	if r.lock, err = w.store.lockFile(ctx, r.name, flock.Exclusive); err != nil {
		return nil, errors.Join(err, w.store.removeHolder(r.name), shared.Close())
	}
	var rest []candidate
	err = w.store.update(ctx, func(c change) error {
		rest, err = r.condemn(c)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, r.End())
	}
	w.stale, w.list.list = nil, rest
	return r, nil
}

// Deleted notes that the bytes of a blob are gone.
func (r *Round) Deleted(d image.Digest) { r.sweep.stale = append(r.sweep.stale, doomedMark{d, r.name}) }

// End lets those go on who wait for the round.
func (r *Round) End() error {
	return errors.Join(r.sweep.store.removeHolder(r.name), r.lock.Close(), r.shared.Close())
}

// End removes the last marks.
func (w *Sweep) End(ctx context.Context) error {
	if len(w.stale) == 0 {
		return nil
	}
	err := w.store.update(ctx, func(c change) error { return c.forget(w.stale) })
	w.stale = nil
	return err
}

// forget removes the marks of bytes that are gone, unless they are no longer those of the round
// that deleted them.
func (c change) forget(list []doomedMark) error {
	for _, m := range list {
		if err := c.pardon(m.digest, func(round string) bool { return round == m.round }); err != nil {
			return err
		}
	}
	return nil
}

// pardon removes the mark of a digest if it is one of these rounds.
func (c change) pardon(d image.Digest, of func(round string) bool) error {
	var row doomedRow
	err := c.get(doomedKey(d), &row)
	switch {
	case errdefs.IsNotFound(err) || err == nil && !of(row.Round):
		return nil
	case err != nil:
		return err
	}
	return c.w.Delete(doomedKey(d))
}

// A counter counts what is written.
type counter struct {
	kv.Writer
	n int
}

func (w *counter) Put(key, value []byte) error {
	w.n++
	return w.Writer.Put(key, value)
}

func (w *counter) Delete(key []byte) error {
	w.n++
	return w.Writer.Delete(key)
}

// A judge is the transaction of a round.
type judge struct {
	change
	*roots
	looked *search
	round  *Round
	spaces []string
	rest   []candidate

	evicts  *eviction
	evicted []image.Digest
}

// condemn takes candidates until a bound of the transaction is reached, and returns the others.
func (r *Round) condemn(c change) ([]candidate, error) {
	began, w := time.Now(), &counter{Writer: c.w}
	c.w = w
	live, err := r.sweep.store.dropDead(c)
	if err != nil {
		return nil, err
	}
	keep := rootsOf(live)
	if err := c.forget(r.sweep.stale); err != nil {
		return nil, err
	}
	j := &judge{change: c, roots: keep, looked: c.search(keep), round: r, rest: r.sweep.list.list, evicts: r.sweep.eviction(c.view, live)}
	if j.spaces, err = c.spaces(); err != nil {
		return nil, err
	}
	for { // at least one, however long the rest took
		next := j.rest[0]
		j.rest = j.rest[1:]
		if err := j.judge(next); err != nil {
			return nil, err
		}
		if len(j.rest) == 0 || w.n >= roundRows || time.Since(began) >= roundTime {
			return j.rest, j.recompute(nil, j.evicted...)
		}
	}
}

func (j *judge) judge(c candidate) error {
	switch c[:len(blobRows)] {
	case imageRows:
		_, err := j.unneeded(c)
		return err
	case snapshotRows:
		return j.snapshot(c)
	case layerRows:
		return j.layer([]byte(c))
	case doomedRows:
		return j.claim([]byte(c))
	case goneRows:
		return j.evict([]byte(c))
	default:
		return j.blob(c)
	}
}

// unneeded tells whether nothing needs a node. Images that would have kept it, and whose time is
// over, go at once: they would say that it is here.
func (j *judge) unneeded(n node) (bool, error) {
	needed, err := j.looked.needed(n)
	if needed || err != nil {
		return false, err
	}
	for up := range j.looked.met {
		if !strings.HasPrefix(up, imageRows) {
			continue
		}
		img := imageRef(up)
		err := j.dropImage(img.Namespace, img.Name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		j.round.Images = append(j.round.Images, img)
	}
	return true, nil
}

// snapshot removes one, after those that stand on it.
func (j *judge) snapshot(n node) error {
	row, err := j.knownSnapshot(n)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return ignoreDamage(err)
	}
	if gone, err := j.unneeded(n); !gone || err != nil {
		return err
	}
	above, err := j.standing(n)
	if err != nil {
		return err
	}
	if len(above) > 0 && !j.round.sweep.waiting[n] { // the second time, they stand in a circle
		j.round.sweep.waiting[n] = true
		j.rest = slices.Concat(above, []candidate{n}, j.rest)
		return nil
	}
	if err := j.deleteSnapshot(row.Namespace, row.Snapshotter, row.Snapshot); err != nil {
		return err
	}
	j.round.Snapshots = append(j.round.Snapshots, row)
	return j.free(row.Snapshotter, row.Folder)
}

// layer removes the row of a layer that no snapshot has.
func (j *judge) layer(key []byte) error {
	var l UnpackedLayer
	if err := j.get(key, &l); err != nil {
		return ignoreDamage(err)
	}
	snapshotter, _ := cut(key, []byte(layerRows))
	return j.free(snapshotter, l.Folder)
}

// free lists a folder if no row names it any more.
func (j *judge) free(snapshotter, folder string) error {
	free, err := j.freeFolder(snapshotter, folder, j.holdsDigest)
	if free && err == nil {
		j.round.Folders = append(j.round.Folders, Folder{snapshotter, folder})
	}
	return err
}

// claim takes over a blob that was condemned and not deleted.
func (j *judge) claim(key []byte) error {
	var row doomedRow
	if err := j.get(key, &row); err != nil {
		return ignoreDamage(err)
	}
	d, err := lastDigest(key, []byte(doomedRows))
	if err != nil {
		return err
	}
	if busy, err := j.round.sweep.store.claimed(row); busy || err != nil || j.holdsDigest(d) {
		return err
	}
	return j.condemn(Garbage{d, row.Size})
}

// condemn marks a blob for this round.
func (j *judge) condemn(g Garbage) error {
	j.round.Blobs = append(j.round.Blobs, g)
	return j.doom(g, j.round.name)
}

// blob removes what namespaces know of a blob without needing it, and if none needs it, all that
// there is.
func (j *judge) blob(c candidate) error {
	short := c[len(blobRows):]
	drop, none := []string(nil), true
	for _, ns := range j.spaces {
		n := knownRows + ns + "\x00" + short
		gone, err := j.unneeded(n)
		if err != nil {
			return err
		}
		if gone {
			drop = append(drop, n)
		}
		none = none && gone
	}
	for _, n := range drop {
		var row knownRow
		err := j.get([]byte(n), &row)
		if err == nil {
			err = j.set([]byte(n), row, nil)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if !none || j.all || j.held[short] {
		return nil
	}
	d, err := lastDigest([]byte(c), []byte(blobRows))
	if err != nil {
		return err
	}
	size, here, err := j.size(d)
	if err != nil {
		return err
	}
	if stray, ok := j.round.sweep.strays[c]; ok && !here {
		doomed, err := j.has(doomedKey(d))
		if err != nil {
			return err
		}
		size, here = stray, !doomed
	}
	if here {
		if err := j.condemn(Garbage{d, size}); err != nil {
			return err
		}
	}
	if _, gone, err := j.gone(d); err != nil && !unread(err) {
		return err
	} else if gone || err != nil {
		if err := j.w.Delete(goneKey(d)); err != nil {
			return err
		}
	}
	doc, err := j.readDocument(d)
	if doc == nil || err != nil {
		return err
	}
	delete(j.documents, d)
	return j.set(documentKey(d), documentRow{Size: doc.Size, Document: doc.Document}, nil)
}

// ignoreDamage leaves what is damaged, or gone meanwhile, as it is.
func ignoreDamage(err error) error {
	if unread(err) {
		return nil
	}
	return err
}

// doom takes away the faith in the bytes of a blob, which a round is to delete.
func (c change) doom(g Garbage, round string) error {
	c.sizes[g.Digest] = -1
	if err := c.w.Delete(blobKey(g.Digest)); err != nil {
		return err
	}
	return c.put(doomedKey(g.Digest), doomedRow{g.Size, round})
}

// claimed tells whether a round is about to delete the bytes of a blob.
func (s *Store) claimed(row doomedRow) (bool, error) {
	if row.Round == "" {
		return false, nil
	}
	return s.alive(row.Round)
}

// held tells what running operations hold themselves.
func held(leases []liveLease) func(image.Digest) bool { return rootsOf(leases).holdsDigest }

// RemoveStrayHolders removes the lock files of processes that died before a row named them.
func (s *Store) RemoveStrayHolders() error {
	entries, err := os.ReadDir(s.holders)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(s.holders, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
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

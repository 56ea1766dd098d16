package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/snapshot"
)

// A Run is the unpacking of one transfer, whose hold keeps [Image.Digests]. Close ends it, whatever
// came of it.
//
// Goroutines may share [Run.Stream]: streams are begun, written and ended side by side, each by a
// goroutine of its own. All else is for one goroutine, and only after the last stream was ended.
//
// It never waits for what another run unpacks while that one may wait for it: before it waits it
// publishes what it has and gives up its locks.
type Run struct {
	u *Unpacker

	stacks []metadata.Snapshot // of the images that were added, parents first
	at     map[string]int      // where in stacks a snapshot is, by its key
	// Should the image that is being added fail, stacks goes back to so many, with those that were
	// replaced as they were.
	settled  int
	replaced []metadata.Snapshot

	mu    sync.Mutex            // for what streams and [Run.missing] do side by side
	fresh map[image.Digest]*job // layers that this run unpacked and has not published, by diffID
	jobs  []*job                // all that it has locks of
}

// A job is a folder that this run fills, with the right to do so.
type job struct {
	diffID image.Digest
	lock   *snapshot.LayerLock // nil: given up
	folder *snapshot.Folder
	res    layer.Result
	used   bool // a stack has it, so it does not change any more
	bound  bool // it was changed to fit one stack, or unpacked on it
}

// Begin starts a run.
func (u *Unpacker) Begin() *Run {
	return &Run{u: u, fresh: map[image.Digest]*job{}, at: map[string]int{}}
}

// gain adds a layer that was unpacked alone, or throws it away if the run has it from another blob.
func (r *Run) gain(j *job) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fresh[j.diffID] != nil {
		return j.drop()
	}
	r.warn(j)
	r.fresh[j.diffID], r.jobs = j, append(r.jobs, j)
	return nil
}

// driver of the snapshotter.
func (r *Run) driver() snapshot.Driver { return r.u.Snapshots.Driver() }

// Add unpacks what is missing of an image from the store, where all its blobs are by now, and
// makes every layer stand on those below it. An image that fails has no snapshots of its own among
// the rows.
func (r *Run) Add(ctx context.Context, img Image) error {
	if err := r.missing(ctx, img); err != nil {
		return err
	}
	for {
		r.settled, r.replaced = len(r.stacks), nil
		err := r.stack(ctx, img)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errPublished):
			continue
		}
		r.undo()
		return err
	}
}

// errPublished says that an image has to be stacked again from below: what the run had of it was
// published, and where another run had been quicker the folders are that one's.
var errPublished = errors.New("published meanwhile")

// Rows makes what this run filled durable, and gives the rows of it, which the caller applies
// with those of the images.
func (r *Run) Rows() (metadata.Unpacked, error) {
	return r.rows(context.Background(), func(j *job) bool { return j.used && !j.bound })
}

// rows is Rows, with those layers for others to share that are worth it.
func (r *Run) rows(ctx context.Context, share func(*job) bool) (metadata.Unpacked, error) {
	batch := metadata.Unpacked{Snapshotter: r.u.Snapshots.Name(), Snapshots: r.stacks}
	for _, d := range slices.Sorted(maps.Keys(r.fresh)) {
		j := r.fresh[d]
		if !share(j) {
			continue
		}
		// Another run may have shared it before this one. Its folder is what others count on.
		_, err := r.u.Snapshots.Layer(ctx, d)
		switch {
		case errdefs.IsNotFound(err):
			row := metadata.UnpackedLayer{
				DiffID: d, Folder: j.folder.Name, Size: j.res.Size, Inodes: j.res.Inodes, Losses: j.res.Losses,
			}
			if gone, err := r.u.Meta.UnpackedLayer(ctx, r.u.Snapshots.Name(), d); err == nil {
				row.Mends = gone.Folder
			} else if !errdefs.IsNotFound(err) {
				return metadata.Unpacked{}, err
			}
			batch.Layers = append(batch.Layers, row)
		case err != nil:
			return metadata.Unpacked{}, err
		}
	}
	if len(r.jobs) > 0 {
		r.u.Progress.Send(progress.Event{Kind: progress.Flushing, Count: len(r.jobs)})
		if err := r.u.Snapshots.Sync(); err != nil {
			return metadata.Unpacked{}, err
		}
	}
	return batch, nil
}

// publish writes the rows of what there is so far, and gives up all locks. A layer that is likely
// to be changed when it is made to fit stays this run's own, without its lock: others had rather
// unpack it again than wait for us while we wait for them.
func (r *Run) publish(ctx context.Context) error {
	rows, err := r.rows(ctx, func(j *job) bool { return !j.bound && (j.used || !j.needy()) })
	if err != nil {
		return err
	}
	if len(rows.Layers)+len(rows.Snapshots) > 0 {
		if _, err := r.u.Meta.Apply(ctx, r.u.Namespace, metadata.Batch{Unpacked: []metadata.Unpacked{rows}}); err != nil {
			return err
		}
	}
	var own []*job
	r.jobs = slices.DeleteFunc(r.jobs, func(j *job) bool {
		mine := !j.bound && !j.used && j.needy()
		if mine {
			own = append(own, j)
		}
		return mine
	})
	err = r.Close(ctx)
	for _, j := range own {
		err = errors.Join(err, j.unlock())
		r.jobs, r.fresh[j.diffID] = append(r.jobs, j), j
	}
	return err
}

// needy tells whether the layer depends on what is below it in more than whiteouts, which mostly
// fit.
func (j *job) needy() bool { return len(j.res.Needs.Folders)+len(j.res.Needs.Links) > 0 }

// unlock gives up the right to unpack the layer.
func (j *job) unlock() error {
	if j.lock == nil {
		return nil
	}
	err := j.lock.Unlock()
	j.lock = nil
	return err
}

// Close gives up the locks, and removes the folders that no row names: all of them, if what
// Rows gave was not applied. The run may be used again.
func (r *Run) Close(ctx context.Context) error {
	jobs := r.jobs
	r.jobs, r.fresh = nil, map[image.Digest]*job{}
	r.stacks, r.at = nil, map[string]int{}
	r.settled, r.replaced = 0, nil
	if len(jobs) == 0 {
		return nil
	}
	var names []string
	for _, j := range jobs {
		names = append(names, j.folder.Name)
	}
	rows, err := r.u.Meta.SnapshotFolders(context.WithoutCancel(ctx), r.u.Snapshots.Name(), names...)
	unknown := err != nil
	for _, j := range jobs {
		switch {
		case unknown || rows[j.folder.Name]: // a sweep finds what nobody needs
			err = errors.Join(err, j.folder.Keep())
		default:
			err = errors.Join(err, j.folder.Discard())
		}
		err = errors.Join(err, j.unlock())
	}
	return err
}

// missing unpacks, side by side, the layers of an image that no stack and no folder has yet. A
// driver that must know what is below does it while it stacks.
func (r *Run) missing(ctx context.Context, img Image) error {
	if !r.driver().Alone() {
		return nil
	}
	chain := image.ChainIDs(img.DiffIDs)
	rows, err := r.u.Snapshots.Chain(ctx, chain)
	if err != nil {
		return err
	}
	type want struct {
		image.Descriptor
		diffID image.Digest
		at     int
	}
	var list, busy []want
	for i := len(rows); i < len(img.Layers); i++ {
		w := want{img.Layers[i], img.DiffIDs[i], i}
		row := metadata.Snapshot{Key: chain[i].String(), DiffID: w.diffID}
		if i > 0 {
			row.Parent = chain[i-1].String()
		}
		if there, err := r.u.Snapshots.Whole(ctx, row); err != nil {
			return err
		} else if there != nil {
			continue
		}
		if r.stacked(chain[i].String()) == nil && !slices.ContainsFunc(list, func(other want) bool { return other.diffID == w.diffID }) {
			list = append(list, w)
		}
	}
	// The largest first: at the end it would be waited for alone.
	slices.SortStableFunc(list, func(a, b want) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	var mu sync.Mutex
	err = par.Each(ctx, side(), list, func(ctx context.Context, w want) error {
		err := r.alone(ctx, w.Descriptor, w.diffID, nil)
		if errdefs.IsUnavailable(err) {
			mu.Lock()
			busy = append(busy, w)
			mu.Unlock()
			return nil
		}
		return err
	})
	if err != nil || len(busy) == 0 {
		return err
	}
	if err := r.publish(ctx); err != nil {
		return err
	}
	for _, w := range busy {
		r.u.Progress.Send(progress.Event{Kind: progress.Waiting, Digest: w.Digest.String(), What: "layer", Total: w.Size})
		stacked := func() (bool, error) {
			rows, err := r.u.Snapshots.Chain(ctx, chain)
			return len(rows) > w.at, err
		}
		if err := r.alone(ctx, w.Descriptor, w.diffID, stacked); err != nil {
			return err
		}
		// The next one is waited for without this one's lock.
		if err := r.publish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// alone unpacks a layer from the store, by itself, unless that was done. While another process does
// it, it answers [errdefs.ErrUnavailable], or with stacked it waits; stacked tells whether that
// made all that is needed.
func (r *Run) alone(ctx context.Context, d image.Descriptor, diffID image.Digest, stacked func() (bool, error)) error {
	j, err := r.claim(ctx, diffID, stacked)
	if j == nil || err != nil {
		return err
	}
	j.res, err = r.u.fromStore(ctx, d, diffID, func(ctx context.Context, in io.Reader) (layer.Result, error) {
		return r.driver().Unpack(ctx, j.folder.Path, in, r.u.options())
	})
	if err != nil {
		return &LayerError{d.Digest, errors.Join(err, j.drop())}
	}
	return r.gain(j)
}

// claim takes the right to unpack a layer, and a folder to do it in. It is nil when the layer is
// there. For stacked see alone.
func (r *Run) claim(ctx context.Context, diffID image.Digest, stacked func() (bool, error)) (*job, error) {
	r.mu.Lock()
	mine := r.fresh[diffID] != nil
	r.mu.Unlock()
	if mine {
		return nil, nil
	}
	there := func() (bool, error) {
		_, err := r.u.Snapshots.Layer(ctx, diffID)
		if errdefs.IsNotFound(err) && stacked != nil {
			return stacked()
		}
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	}
	if ok, err := there(); ok || err != nil {
		return nil, err
	}
	j, err := r.begin(ctx, diffID, diffID, stacked != nil)
	if err != nil {
		return nil, err
	}
	// Another process may have been quicker.
	if ok, err := there(); ok || err != nil {
		return nil, errors.Join(err, j.drop())
	}
	return j, nil
}

// begin takes a lock and a folder.
func (r *Run) begin(ctx context.Context, name, diffID image.Digest, wait bool) (*job, error) {
	lock, err := r.u.Snapshots.LockLayer(ctx, name, wait)
	if err != nil {
		return nil, err
	}
	folder, err := r.u.Snapshots.NewFolder()
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return &job{diffID: diffID, lock: lock, folder: folder}, nil
}

// drop throws a job away.
func (j *job) drop() error { return errors.Join(j.folder.Discard(), j.unlock()) }

// warn tells what a layer lost.
func (r *Run) warn(j *job) {
	for _, l := range j.res.Losses {
		r.u.Progress.Send(progress.Event{Kind: progress.Warning, Digest: j.diffID.String(), What: "layer", Message: "unpacked without the " + l.String()})
	}
}

// stack makes the layers of an image stand on one another, and adds a snapshot for each.
func (r *Run) stack(ctx context.Context, img Image) error {
	chain := image.ChainIDs(img.DiffIDs)
	rows, err := r.u.Snapshots.Chain(ctx, chain)
	if err != nil {
		return err
	}
	var below []string
	parent := ""
	for i, id := range chain {
		row := metadata.Snapshot{Key: id.String(), Kind: snapshot.Committed, Parent: parent, DiffID: img.DiffIDs[i]}
		if i < len(rows) {
			row = rows[i]
		} else if mine := r.stacked(row.Key); mine != nil {
			row = *mine
		} else if there, err := r.u.Snapshots.Whole(ctx, row); err != nil {
			return err
		} else if there != nil { // one below it was lost
			row = *there
		} else if err := r.place(ctx, &row, img, chain[:i+1], below); err != nil {
			return err
		}
		if i == len(chain)-1 && !slices.Contains(row.Manifests, img.Manifest) {
			row.Manifests = append(slices.Clone(row.Manifests), img.Manifest)
			r.put(row)
		}
		below = append(below, r.u.Snapshots.Path(row.Folder))
		parent = row.Key
	}
	if err := r.driver().Seal(ctx, below); err != nil {
		return fmt.Errorf("unpack %s: %w", img.Manifest, err)
	}
	return nil
}

// stacked finds a snapshot among those of this run.
func (r *Run) stacked(key string) *metadata.Snapshot {
	if i, ok := r.at[key]; ok {
		return &r.stacks[i]
	}
	return nil
}

// put adds a snapshot to those of this run, or replaces it there.
func (r *Run) put(row metadata.Snapshot) {
	if old := r.stacked(row.Key); old != nil {
		r.replaced = append(r.replaced, *old)
		*old = row
		return
	}
	r.at[row.Key] = len(r.stacks)
	r.stacks = append(r.stacks, row)
}

// undo takes back what was put since the last image was added.
func (r *Run) undo() {
	for _, row := range slices.Backward(r.replaced) {
		r.stacks[r.at[row.Key]] = row
	}
	for _, row := range r.stacks[r.settled:] {
		delete(r.at, row.Key)
	}
	r.stacks = r.stacks[:r.settled]
}

// place finds or makes the folder of one layer of an image on the chain below, and adds its
// snapshot.
func (r *Run) place(ctx context.Context, row *metadata.Snapshot, img Image, chain []image.Digest, below []string) error {
	i := len(chain) - 1
	fits, err := r.fit(ctx, row, below)
	if err == nil && !fits {
		err = r.onChain(ctx, row, img.Layers[i], chain, below)
	}
	if err != nil {
		var located *LayerError
		if !errors.As(err, &located) {
			err = &LayerError{img.Layers[i].Digest, err}
		}
		return err
	}
	// A row that is there, with a folder that is gone, is mended. One with its folder is another
	// run's, which others may count on by now.
	old, err := r.u.Snapshots.Stat(ctx, row.Key)
	switch {
	case err == nil && !r.u.Snapshots.There(old):
		row.Mends = old.Folder
	case err != nil && !errdefs.IsNotFound(err):
		return err
	}
	r.put(*row)
	return nil
}

// fit uses a folder in which the layer was unpacked alone, if there is one and it fits.
func (r *Run) fit(ctx context.Context, row *metadata.Snapshot, below []string) (bool, error) {
	if !r.driver().Alone() {
		return false, nil
	}
	j := r.fresh[row.DiffID]
	if j != nil && !j.bound {
		changed, err := r.driver().Fit(ctx, j.folder.Path, below, !j.used)
		j.bound = changed // though it may have come to nothing
		if err == nil {
			j.used = true
			j.describe(row)
			return true, nil
		}
		return false, passOver(err)
	}
	l, err := r.u.Snapshots.Layer(ctx, row.DiffID)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return false, err
	}
	if _, err := r.driver().Fit(ctx, r.u.Snapshots.Path(l.Folder), below, false); err != nil {
		return false, passOver(err)
	}
	row.Folder, row.Size, row.Inodes, row.Losses = l.Folder, l.Size, l.Inodes, l.Losses
	return true, nil
}

// passOver drops the error that says that a layer has to be unpacked on its chain.
func passOver(err error) error {
	if errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// describe fills in what a snapshot says of a folder.
func (j *job) describe(row *metadata.Snapshot) {
	row.Folder, row.Size, row.Inodes, row.Losses = j.folder.Name, j.res.Size, j.res.Inodes, j.res.Losses
}

// onChain unpacks a layer from the store on what is below it, as the topmost one of a chain.
func (r *Run) onChain(ctx context.Context, row *metadata.Snapshot, d image.Descriptor, chain []image.Digest, below []string) error {
	id := chain[len(chain)-1]
	j, err := r.begin(ctx, id, row.DiffID, false)
	if errdefs.IsUnavailable(err) {
		return r.await(ctx, id)
	}
	if err != nil {
		return err
	}
	// Another process may have been quicker.
	there, err := r.u.Snapshots.Chain(ctx, chain)
	if err != nil {
		return errors.Join(err, j.drop())
	}
	if len(there) == len(chain) {
		*row = there[len(there)-1]
		return j.drop()
	}
	j.res, err = r.u.fromStore(ctx, d, j.diffID, func(ctx context.Context, in io.Reader) (layer.Result, error) {
		return r.driver().UnpackOn(ctx, j.folder.Path, below, in, r.u.options())
	})
	if err != nil {
		return errors.Join(err, j.drop())
	}
	r.warn(j)
	j.bound = true
	j.describe(row)
	r.jobs = append(r.jobs, j)
	return nil
}

// await publishes what there is and waits for whoever unpacks a layer on its chain. It answers
// errPublished.
func (r *Run) await(ctx context.Context, id image.Digest) error {
	if err := r.publish(ctx); err != nil {
		return err
	}
	lock, err := r.u.Snapshots.LockLayer(ctx, id, true)
	if err == nil {
		err = lock.Unlock()
	}
	if err != nil {
		return err
	}
	return errPublished
}

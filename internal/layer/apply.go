package layer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// Apply makes the changes of the layer that r streams, uncompressed, beneath the folder dir. It
// reads r to its end, beyond that of the tar, so that a digest of what was read is the diffID.
//
// For a folder of a stack, dir is to be empty; for a whole tree it holds the tree below. Its root
// keeps its attributes if nothing says what they are: 0755, root's and of the time 0 is what they
// should be at the bottom.
//
// After an error the folder holds some of the layer and has to be removed. Errors:
// [errdefs.ErrInvalidArgument] for what is no layer, [errdefs.ErrResourceExhausted] beyond the
// limits, a [LossError] where losses are refused, those of r, and those of the filesystem, with
// the path they are about. Apply waits for r, also when ctx ends: whoever cancels sees to it that
// r returns.
func Apply(ctx context.Context, r io.Reader, dir string, o Options) (Result, error) {
	a, err := newApplier(ctx, r, dir, o)
	if err != nil {
		return Result{}, fmt.Errorf("apply layer: open %s: %w", dir, err)
	}
	return a.run(a.entry)
}

// An applier is one call of [Apply]. One goroutine reads the tar and makes all but the content of
// regular files, which the crew makes. Whatever could depend on what the crew has not made yet
// waits for it, so that the outcome is that of one goroutine.
type applier struct {
	ctx     context.Context
	o       Options
	tar     *tarstream.Reader
	meter   Meter
	losses  Losses
	written names // every path that the layer put something at
	root    *folder
	fds     fdCache
	crew    crew
	umask   uint32
	// privileged is an effective user id of 0, also within a user namespace.
	privileged bool
	devices    *bool               // whether we may make devices, once that was asked
	linked     map[FileID][]string // the names below of files that have several, once that was asked
	memory     int64               // bytes of names kept
	guessed    bool                // what is below is not known, and a folder was taken for one that is there

	// lastPath is where the folder of the entry before was found, without a link on the way.
	lastPath string
	last     *folder

	result Result
}

func newApplier(ctx context.Context, r io.Reader, dir string, o Options) (*applier, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &applier{
		ctx:        ctx,
		o:          o,
		tar:        tarstream.NewReader(r),
		meter:      Meter{Limits: o.Limits},
		losses:     Losses{Report: o.ReportLosses},
		written:    names{seed: maphash.MakeSeed(), set: map[uint64]struct{}{}},
		root:       &folder{fd: fd},
		umask:      umask(),
		privileged: unix.Geteuid() == 0,
	}, nil
}

// run applies the layer, each entry by the function, and gives back what the applier holds.
func (a *applier) run(each func(*tarstream.Entry) error) (Result, error) {
	a.crew.start(a)
	err := a.apply(each)
	a.crew.stop()
	// What a maker reports comes from an earlier entry than what stopped the reading.
	if early := a.crew.failure(); early != nil {
		err = early
	}
	err = errors.Join(err, a.fds.closeAll(), unix.Close(a.root.fd))
	if err != nil {
		return Result{}, fmt.Errorf("apply layer: %w", err)
	}
	a.result.Size = a.crew.stored.Load()
	a.result.Entries = a.meter.Entries
	a.result.Losses = a.losses.List()
	return a.result, nil
}

func (a *applier) apply(each func(*tarstream.Entry) error) error {
	if err := a.openRoot(); err != nil {
		return err
	}
	for {
		e, err := a.tar.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = each(e)
		}
		if err != nil {
			return err
		}
	}
	if err := a.crew.wait(); err != nil {
		return err
	}
	if err := a.settle(); err != nil {
		return err
	}
	if err := a.tar.Drain(); err != nil {
		return err
	}
	return a.ctx.Err()
}

// entry does what one entry asks for.
func (a *applier) entry(e *tarstream.Entry) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	if a.crew.failed.Load() {
		return errCrew
	}
	if err := a.meter.Count(e); err != nil {
		return err
	}
	op, path, target, err := Meaning(e)
	if err != nil {
		return err
	}
	switch op {
	case Put:
		err = a.put(e, path, target)
	case Hide:
		dir, base := split(path)
		err = a.hide(dir, base)
	case HideAll:
		err = a.hideAll(path)
	}
	if err == errAnew {
		a.result.Needs.Links = append(a.result.Needs.Links, path)
		return a.keep(len(path), 16)
	}
	return err
}

// number tells the entry from others, in their order.
func (a *applier) number() int64 { return a.meter.Entries }

// names is a set of paths. It keeps a hash of each, which nobody can aim at as its seed is random.
type names struct {
	seed maphash.Seed
	set  map[uint64]struct{}
}

// key stands for the path of a name in a folder.
func (n *names) key(dir *folder, name string) uint64 {
	return maphash.Comparable(n.seed, pathKey{dir.key, name})
}

type pathKey struct {
	dir  uint64
	name string
}

func (n *names) has(key uint64) bool {
	_, ok := n.set[key]
	return ok
}

// add says whether the path was there before.
func (n *names) add(key uint64) (again bool) {
	before := len(n.set)
	n.set[key] = struct{}{}
	return len(n.set) == before
}

// maxMemory bounds what is kept of a layer while it is applied, apart from the set of names: it is
// enough for some 500,000 folders.
const maxMemory = 128 << 20

// keep accounts for a name that is kept, and what is kept with it.
func (a *applier) keep(name int, with int) error {
	if a.memory += int64(name + with); a.memory > maxMemory {
		return fmt.Errorf("the layer has too many folders and markers: %w", errdefs.ErrResourceExhausted)
	}
	return nil
}

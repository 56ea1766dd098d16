package layer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Clone copies the whole tree in the folder from to the folder to, which is made unless it is
// there and empty: all kinds of files with their attributes, hard links among them, and holes.
// Where the filesystem can share blocks, contents are not copied.
//
// Of the options, ReportLosses counts: what cannot be kept is an error or in the result, as it is
// for [Apply]. The result counts what is beneath the root. After an error the folder holds some of
// the tree and has to be removed. Errors: those of [OpenStack] and of the filesystem, with the
// path they are about.
func Clone(ctx context.Context, from, to string, o Options) (Result, error) {
	result, err := clone(ctx, from, to, o)
	if err != nil {
		return Result{}, fmt.Errorf("copy tree: %w", err)
	}
	return result, nil
}

func clone(ctx context.Context, from, to string, o Options) (result Result, err error) {
	tree, err := OpenStack(Whole, []string{from})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	if err := unix.Mkdir(to, 0o700); err != nil && err != unix.EEXIST {
		return result, fmt.Errorf("make %s: %w", to, err)
	}
	dir, err := openRealDir(to)
	if err != nil {
		return result, fmt.Errorf("open %s: %w", to, err)
	}
	defer func() { err = errors.Join(err, unix.Close(dir.fd)) }()
	c := &cloner{
		tree: tree,
		to:   dir,
		made: applier{
			ctx:    ctx,
			losses: Losses{Report: o.ReportLosses},
			root:   &folder{fd: dir.fd},
			umask:  umask(),
		},
		jobs:  make(chan cloneJob, 16),
		first: map[FileID]*Node{},
	}
	if err := c.run(ctx); err != nil {
		return result, err
	}
	result.Size, result.Inodes, result.Losses = c.size.Load(), c.inodes.Load(), c.made.losses.List()
	return result, nil
}

// A cloner is one call of [Clone]. One goroutine walks the tree and makes folders; others make all
// else. Further names of a file come when all of those are done, and attributes of folders at the
// very end, since what is put into a folder changes them.
type cloner struct {
	tree Tree
	to   *realDir
	made applier // gives attributes, and gathers the losses
	jobs chan cloneJob

	folders []cloneFolder
	links   []*Node
	first   map[FileID]*Node // the first names of files that have several
	entries int64            // so far

	noReflink atomic.Bool // the filesystem cannot share blocks
	size      atomic.Int64
	inodes    atomic.Int64
}

// A cloneFolder is a folder that was made.
type cloneFolder struct {
	node  *Node
	dir   *folder
	entry int64
}

// A cloneJob is some of the files in a folder, whose users count those that are to be made.
type cloneJob struct {
	dir   *folder
	nodes []*Node
	entry int64 // of the first one
}

func (c *cloner) run(ctx context.Context) error {
	root, err := c.tree.Lookup(".")
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(c.jobs)
		return c.walk(ctx, cloneFolder{node: root, dir: &folder{}})
	})
	for range min(4, runtime.GOMAXPROCS(0)) {
		g.Go(func() error { return c.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		for job := range c.jobs { // which nobody took
			err = errors.Join(err, c.release(job.dir))
		}
		return err
	}
	for _, n := range c.links {
		if err := c.link(n); err != nil {
			return fault("link", n.Path, err)
		}
	}
	for i := len(c.folders) - 1; i >= 0; i-- {
		if err := c.finishFolder(c.folders[i]); err != nil {
			return err
		}
	}
	return nil
}

// walk makes the folders, and jobs of all else.
func (c *cloner) walk(ctx context.Context, root cloneFolder) error {
	for rest := []cloneFolder{root}; len(rest) > 0; {
		f := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		c.folders = append(c.folders, f)
		list, err := c.tree.List(f.node)
		if err != nil {
			return err
		}
		inside, err := c.fill(ctx, f, list)
		if err != nil {
			return err
		}
		rest = append(rest, inside...)
	}
	return nil
}

// batchNodes is how many files are handed over at once.
const batchNodes = 32

// fill makes what is in a folder, and gives the folders among that.
func (c *cloner) fill(ctx context.Context, f cloneFolder, list []*Node) (inside []cloneFolder, err error) {
	fd, err := c.to.open(f.node.Path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fault("open", f.node.Path, err)
	}
	f.dir.fd = fd
	f.dir.users.Store(1)
	defer func() { err = errors.Join(err, c.release(f.dir)) }()

	var nodes []*Node
	send := func() error {
		if len(nodes) == 0 {
			return nil
		}
		f.dir.users.Add(1)
		select {
		case c.jobs <- cloneJob{f.dir, nodes, c.entries}:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), c.release(f.dir))
		}
		c.entries += int64(len(nodes))
		nodes = nil
		return nil
	}
	for _, n := range list {
		if isFolder(n) {
			_, name := split(n.Path)
			if err := unix.Mkdirat(fd, name, 0o700); err != nil {
				return nil, fault("make", n.Path, err)
			}
			c.inodes.Add(1)
			c.entries++
			inside = append(inside, cloneFolder{n, &folder{parent: f.dir, name: name}, c.entries})
			continue
		}
		if n.File != (FileID{}) {
			if c.first[n.File] != nil {
				c.links = append(c.links, n)
				continue
			}
			c.first[n.File] = n
		}
		if nodes = append(nodes, n); len(nodes) == batchNodes {
			if err := send(); err != nil {
				return nil, err
			}
		}
	}
	return inside, send()
}

// release closes a folder that nothing more is made in.
func (c *cloner) release(dir *folder) error {
	if dir.users.Add(-1) > 0 {
		return nil
	}
	return unix.Close(dir.fd)
}

// work makes files, until there are none or something fails.
func (c *cloner) work(ctx context.Context) error {
	buffer := make([]byte, pieceSize)
	for job := range c.jobs {
		var err error
		for i, n := range job.nodes {
			if err = ctx.Err(); err == nil {
				err = c.make(ctx, job.dir, n, job.entry+int64(i), buffer)
			}
			if err != nil {
				break
			}
		}
		if err := errors.Join(err, c.release(job.dir)); err != nil {
			return err
		}
	}
	return nil
}

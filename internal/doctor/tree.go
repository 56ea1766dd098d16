package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/snapshot"
)

// damagedTrees looks for unpacked layers that are not what their layers say: of all folders those
// that look changed since they were unpacked, and with Verify all of them.
func (e *Exam) damagedTrees(ctx context.Context) error {
	_, err := e.eachTree(ctx, scope{all: e.Verify}, func(t tree, why string) error {
		e.report(Finding{
			Subject: t.subject(t.key),
			Detail:  why,
			Repair:  "unpack it again",
			mend:    func(ctx context.Context) error { return e.replace(ctx, t, why) },
		})
		return nil
	})
	return err
}

// A scope says which trees are compared with their layers.
type scope struct {
	since time.Time // those that came to be then or later
	all   bool      // and not only those that look changed
	// lost are layers that should be here and are not: what was unpacked of them counts as damaged.
	lost []image.Digest
}

// A tree is a folder with a layer.
type tree struct {
	*shelf
	key     string // of one snapshot that has it
	folder  string
	shelves []*shelf // where others may have it
}

// eachTree reports every folder that is not what its layer says, and why, and returns how many were
// looked at. It can tell nothing of a layer whose blob is not here.
func (e *Exam) eachTree(ctx context.Context, in scope, report func(t tree, why string) error) (looked int, err error) {
	shelves, err := e.shelves(ctx)
	if err != nil {
		return 0, err
	}
	made := map[string]time.Time{} // by snapshotter and folder
	for _, s := range shelves {
		for _, row := range s.rows {
			id := s.Name() + "/" + row.Folder
			if at, ok := made[id]; !ok || row.CreatedAt.Before(at) {
				made[id] = row.CreatedAt
			}
		}
	}
	met, wrong := map[string]bool{}, map[string][]string{} // the latter: paths, by folder
	for _, s := range shelves {
		for _, st := range s.stacks {
			for i, key := range st.keys {
				chain := s.chain(key)
				if len(chain) != i+1 {
					break
				}
				row := chain[i]
				id := s.Name() + "/" + row.Folder
				if row.Lazy || row.Folder == "" || row.DiffID != st.diffIDs[i] {
					break
				}
				if met[id] || made[id].Before(in.since) {
					continue
				}
				met[id] = true
				var below []string
				for _, b := range chain[:i] {
					below = append(below, wrong[s.Name()+"/"+b.Folder]...)
				}
				paths, why, err := e.examine(ctx, s, st, chain, in, made[id], below)
				if why != "" && err == nil {
					wrong[id] = paths
					err = report(tree{s, key, row.Folder, shelves}, why)
				}
				if err != nil {
					return looked, fmt.Errorf("examine %s: %w", s.subject(key), err)
				}
				looked++
			}
		}
	}
	return looked, nil
}

// examine compares the topmost folder of a chain with its layer, if all are or it looks changed
// since it was made. Paths that differ below it already are not its fault. It returns those that
// are, and says why it is damaged; nothing if it is not.
func (e *Exam) examine(ctx context.Context, s *shelf, st *stack, chain []snapshot.Snapshot, in scope, made time.Time, below []string) (paths []string, why string, err error) {
	row, desc := chain[len(chain)-1], st.layers[len(chain)-1]
	if why, is, err := s.Condemned(row.Folder); is || err != nil {
		return nil, why, err
	}
	if !s.There(row) { // another kind of finding
		return nil, "", nil
	}
	suspect, err := s.Look(ctx, row, made)
	switch {
	case errdefs.IsDataLoss(err):
		return nil, err.Error(), nil
	case err != nil:
		return nil, "", err
	case suspect == "" && !in.all:
		return nil, "", nil
	case slices.Contains(in.lost, desc.Digest):
		return nil, "its layer is damaged, too", nil
	}
	if _, err := e.Content.Info(ctx, desc.Digest); errdefs.IsNotFound(err) {
		return nil, "", nil
	} else if err != nil {
		return nil, "", err
	}
	var list []layer.Difference
	var more int
	var failed error
	err = e.Plain(ctx, desc, row.DiffID, func(ctx context.Context, plain io.Reader) error {
		list, more, failed = s.Compare(ctx, chain, plain, layer.Limits{})
		if failed != nil && !errdefs.IsDataLoss(failed) {
			return failed
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case err == nil && failed != nil, broken(failed):
		return nil, failed.Error(), nil
	case errdefs.IsDataLoss(err), errdefs.IsInvalidArgument(err): // of the blob, which is another kind of finding
		return nil, "", nil
	case errdefs.IsFailedPrecondition(err): // what is below is mended first
		return nil, "", nil
	case err != nil:
		return nil, "", err
	}
	list = slices.DeleteFunc(list, func(d layer.Difference) bool { return slices.Contains(below, d.Path) })
	for _, d := range list {
		paths = append(paths, d.Path)
	}
	return paths, describe(list, more), nil
}

// broken tells an error of a tree that no unpacked layer has: of the disk, or of marks of overlay
// that only its own writing leaves.
func broken(err error) bool {
	return errdefs.IsNotImplemented(err) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EUCLEAN)
}

// describe tells the first differences.
func describe(list []layer.Difference, more int) string {
	const told = 5
	var parts []string
	for i, d := range list {
		if i == told {
			break
		}
		parts = append(parts, d.String())
	}
	if rest := len(list) - len(parts) + more; rest > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(parts, "; ")
}

// replace unpacks a layer into a new folder, for all snapshots that have the damaged one, which
// counts for nothing from now on. It stays for as long as it is mounted.
func (e *Exam) replace(ctx context.Context, t tree, why string) error {
	if err := t.Condemn(t.folder, why); err != nil {
		return err
	}
	for _, s := range t.shelves {
		if s.Name() != t.Name() {
			continue
		}
		for _, key := range s.keys {
			if s.rows[key].Folder != t.folder || s.rows[key].Kind != snapshot.Committed {
				continue
			}
			if err := e.unpack(ctx, s, key); err != nil && !errors.Is(err, errUnknown) {
				return err
			}
		}
	}
	return t.RemoveStray(ctx, t.folder)
}

package stowage

import (
	"context"
	"slices"
	"time"

	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/metadata"
)

// GCOptions say when what is not needed goes. The zero value lets it wait for [Store.Prune].
type GCOptions struct {
	// Grace is how long removed names are remembered, and what interrupted operations have left is
	// kept. 0: 24h; negative: not at all.
	Grace time.Duration
	// OnRemoval lets [Store.RemoveImages] delete what only the images kept before it returns.
	OnRemoval bool
	// DiscardUnpacked gives up the packed layers of an image after a pull or an import has unpacked it,
	// as [Store.Evict] does. Pulls then leave out what was evicted, and is not to be unpacked.
	DiscardUnpacked bool
	// High is from where on images go after a pull or an import, and Low how far. Zero: never. Of all
	// namespaces those go first that were used longest ago; what is pinned, mounted, leased or in use
	// by a running operation stays. Both are of one sort.
	High, Low Watermark
}

// grace is how long things are remembered and kept.
func (s *Store) grace() time.Duration {
	if s.gc.Grace == 0 {
		return 24 * time.Hour
	}
	return max(s.gc.Grace, 0)
}

// touch notes that an image is used now. An operation does not fail for it.
func (s *Store) touch(ctx context.Context, img Image) {
	if err := s.meta.Touch(ctx, s.ns, img.Target.Digest); err != nil {
		s.log.Debug("nobody knows that an image was used", "image", img.Name, "reason", err)
	}
}

// makeRoom lets images go while the store is above its high watermark, but for those that have just
// come. What came is there, so that it is told when this fails, and no error.
func (s *Store) makeRoom(ctx context.Context, came ...string) {
	if s.gc.High == (Watermark{}) {
		return
	}
	left, err := s.tryMakeRoom(ctx, came)
	switch {
	case err != nil:
		s.log.Warn("no room could be made", "reason", err)
	case left > 0:
		s.log.Warn("the store is fuller than it should be, and all that is left is in use", "bytes", left)
	}
}

func (s *Store) tryMakeRoom(ctx context.Context, came []string) (left int64, err error) {
	excess, err := s.excess()
	if excess == 0 || err != nil {
		return 0, err
	}
	if _, err := s.Prune(ctx, PruneOptions{}); err != nil {
		return 0, err
	}
	if excess, err = s.excess(); excess == 0 || err != nil {
		return 0, err
	}
	all, err := s.meta.ImageUses(ctx)
	if err != nil {
		return 0, err
	}
	targets := map[gc.Idle]Digest{}
	var idle []gc.Idle
	for _, u := range unused(all) {
		if u.Namespace == s.ns && slices.Contains(came, u.Image.Name) {
			continue
		}
		i := gc.Idle{Namespace: u.Namespace, Name: u.Image.Name, Used: u.UsedAt}
		idle, targets[i] = append(idle, i), u.Image.Target.Digest
	}
	return gc.MakeRoom(ctx, excess, idle, func(ctx context.Context, i gc.Idle) (int64, error) {
		went, err := s.meta.RemoveUnused(ctx, i.Namespace, i.Used.Add(1), i.Name)
		if err != nil || len(went) == 0 || len(went[0].Uses) > 0 {
			return 0, err // it is in use by now
		}
		r, err := s.Prune(ctx, PruneOptions{Below: []Digest{targets[i]}})
		if err != nil {
			return 0, err
		}
		freed := r.Bytes + r.Unpacked.Size
		s.log.Warn("an image was removed to make room", "image", i.Name, "namespace", i.Namespace, "used", i.Used, "bytes", freed)
		return freed, nil
	})
}

// unused leaves out images that something uses, and other names of the same images: to remove those
// would free nothing.
func unused(all []metadata.ImageUse) []metadata.ImageUse {
	used := map[Digest]bool{}
	for _, u := range all {
		used[u.Image.Target.Digest] = used[u.Image.Target.Digest] || len(u.Uses) > 0
	}
	return slices.DeleteFunc(all, func(u metadata.ImageUse) bool { return used[u.Image.Target.Digest] })
}

// excess tells how many bytes are to go.
func (s *Store) excess() (int64, error) {
	var space gc.Space
	var err error
	if s.gc.High.Bytes > 0 {
		files, err := s.readDisk()
		if err != nil {
			return 0, err
		}
		space.Store = files.total() - files.mounted
	} else if space.Used, space.Size, err = s.fill(); err != nil {
		return 0, err
	}
	return space.Excess(s.gc.High, s.gc.Low), nil
}

package transfer

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/registry"
)

// A target is where an image is brought, blob by blob. Goroutines may share it.
type target interface {
	// hasDocument tells whether a manifest or an index is there.
	hasDocument(ctx context.Context, d image.Descriptor) (bool, error)
	// hasBlob tells whether a blob is there.
	hasBlob(ctx context.Context, d image.Descriptor) (bool, error)
	// putBlob sees to it that a blob is there. What from gives is verified already.
	putBlob(ctx context.Context, d image.Descriptor, from registry.BlobSource, onFault func(error)) (registry.PushOutcome, error)
	// putDocument puts a manifest or an index there under its digest.
	putDocument(ctx context.Context, d image.Descriptor, body []byte) error
	// finish puts the root there and gives it its name, when all else is there.
	finish(ctx context.Context, root image.Descriptor, body []byte, referrers []image.Descriptor) error
	// origins lists where at the target itself a blob of a source may be, besides.
	origins(ctx context.Context, from source, d image.Descriptor) ([]string, error)
	// gaps tells whether an index may be there without all that it lists.
	gaps() bool
}

// moveOptions tune a [mover].
type moveOptions struct {
	Choice
	Streams     int // see [lanes]
	NoReferrers bool
	Progress    progress.Sink
	alone       bool // the target holds one manifest and no index
}

// A mover moves one image from a source to a target.
type mover struct {
	from source
	to   target
	name string // of what is moved, for messages
	o    moveOptions

	small int // see [lanes]

	mu   sync.Mutex
	res  PushResult
	sent map[image.Digest]bool // blobs that went ahead of the rest; may be nil
}

func newMover(from source, to target, name string, o moveOptions) *mover {
	m := &mover{from: from, to: to, name: name, o: o}
	m.o.Streams, m.small = lanes(o.Streams)
	return m
}

// A load is all that is to be moved.
type load struct {
	main      *cargo
	referrers []*cargo
}

// prepare finds out what is to be moved. Errors: a *[PartialError] or a *[MissingError] when that
// is not whole, and the target does not make up for it.
func (m *mover) prepare(ctx context.Context) (*load, error) {
	c, err := readCargo(ctx, m.from, m.from.root())
	if err != nil {
		return nil, err
	}
	if c, err = m.choose(ctx, c); err != nil {
		return nil, err
	}
	if err := m.settle(ctx, c); err != nil {
		return nil, err
	}
	if m.to.gaps() {
		err = m.dropGaps(c)
	} else {
		err = c.partial(m.name)
	}
	if err != nil {
		return nil, err
	}
	m.tellForeign(c)
	l := &load{main: c}
	if !m.o.NoReferrers {
		if l.referrers, err = m.referrers(ctx, c); err != nil {
			return nil, err
		}
		more, err := m.cosigned(ctx, c)
		if err != nil {
			return nil, err
		}
		l.referrers = append(l.referrers, more...)
	}
	m.res.Digest, m.res.MediaType, m.res.Platforms = c.root.Digest, c.root.MediaType, c.platforms()
	m.res.Referrers = len(l.referrers)
	return l, nil
}

// blobs lists all blobs of a load, each once.
func (l *load) blobs() []need {
	all := l.main.blobs()
	for _, c := range l.referrers {
		all = append(all, c.blobs()...)
	}
	seen := map[image.Digest]bool{}
	return slices.DeleteFunc(all, func(n need) bool {
		again := seen[n.Digest]
		seen[n.Digest] = true
		return again
	})
}

// carry moves a load: blobs side by side, then what lists them, then what lists that. The root comes last, so that
// nothing has its name before it is whole.
func (m *mover) carry(ctx context.Context, l *load) error {
	blobs := largestFirst(l.blobs())
	var total int64
	for _, n := range blobs {
		total += n.Size
	}
	m.o.Progress.Send(progress.Event{Kind: progress.Planned, Name: m.name, Count: len(blobs), Total: total})
	if err := eachBlob(ctx, m.o.Streams, m.small, blobs, m.carryBlob); err != nil {
		return err
	}
	if err := m.carryDocuments(ctx, l.main, len(l.referrers) > 0); err != nil {
		return err
	}
	var referrers []image.Descriptor
	for _, c := range l.referrers {
		if err := m.carryDocuments(ctx, c, c.tag == ""); err != nil {
			return err
		}
		if c.tag != "" {
			if err := m.carryTagged(ctx, c); err != nil {
				return err
			}
		}
		referrers = append(referrers, c.root)
	}
	root := l.main.root
	if len(l.referrers) == 0 {
		there, err := m.to.hasDocument(ctx, root)
		if err != nil {
			return err
		}
		m.countDocument(root, there)
	}
	return m.to.finish(ctx, root, l.main.bodies[root.Digest], referrers)
}

// carryTagged puts the root of a cargo under its tag, whatever that stands for so far.
func (m *mover) carryTagged(ctx context.Context, c *cargo) error {
	there, err := m.to.hasDocument(ctx, c.root)
	if err != nil {
		return err
	}
	m.countDocument(c.root, there)
	return m.to.(tagger).putTagged(ctx, c.tag, c.root, c.bodies[c.root.Digest])
}

// carryDocuments moves the manifests of a cargo and then its indexes, the root among them only if
// it is asked for.
func (m *mover) carryDocuments(ctx context.Context, c *cargo, withRoot bool) error {
	put := func(ctx context.Context, d image.Descriptor) error {
		body := c.bodies[d.Digest]
		if body == nil || d.Digest == c.root.Digest && !withRoot {
			return nil // the target has it; or its turn comes later
		}
		there, err := m.to.hasDocument(ctx, d)
		if err != nil {
			return err
		}
		m.countDocument(d, there)
		if there {
			return nil
		}
		return m.to.putDocument(ctx, d, body)
	}
	var manifests []image.Descriptor
	for _, p := range c.parts {
		manifests = append(manifests, p.Descriptor)
	}
	if err := par.Each(ctx, smallStreams, manifests, put); err != nil {
		return err
	}
	return par.Each(ctx, 1, c.indexes, put)
}

// carryBlob moves one blob.
func (m *mover) carryBlob(ctx context.Context, n need) error {
	origins, err := m.to.origins(ctx, m.from, n.Descriptor)
	if err != nil {
		return err
	}
	onFault := retrying(m.o.Progress, n)
	r := &rereader{from: m.from, need: n, sink: m.o.Progress, onFault: onFault}
	var out registry.PushOutcome
	err = untilRight(onFault, func() (err error) {
		out, err = m.to.putBlob(ctx, n.Descriptor, registry.BlobSource{Open: r.open, From: origins}, onFault)
		return err
	})
	if err != nil {
		return fmt.Errorf("copy %s %s: %w", n.what, n.Digest, err)
	}
	m.tally(n, out)
	return nil
}

// tally counts how a blob came to be at the target, and tells.
func (m *mover) tally(n need, out registry.PushOutcome) {
	e := progress.Event{Digest: n.Digest.String(), What: n.what, Total: n.Size}
	switch {
	case out.How == registry.Present && m.sent[n.Digest]:
		m.count(&m.res.Pushed, n.Size)
		return
	case out.How == registry.Present:
		e.Kind = progress.Existing
		m.count(&m.res.Existing, n.Size)
	case out.How == registry.Mounted:
		e.Kind, e.Message = progress.Mounted, out.From
		m.count(&m.res.Mounted, n.Size)
	default:
		e.Kind = progress.Done
		m.count(&m.res.Pushed, n.Size)
	}
	m.o.Progress.Send(e)
}

func (m *mover) countDocument(d image.Descriptor, there bool) {
	if there {
		m.count(&m.res.Existing, d.Size)
	} else {
		m.count(&m.res.Pushed, d.Size)
	}
}

func (m *mover) count(c *Count, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.add(n)
}

const maxReferrers = 1000 // of one image, and of what refers to it

// referrers reads what refers to the documents of a cargo, and what refers to that.
func (m *mover) referrers(ctx context.Context, c *cargo) ([]*cargo, error) {
	var found []*cargo
	seen := map[image.Digest]bool{}
	subjects := c.documents()
	for _, d := range subjects {
		seen[d.Digest] = true
	}
	for len(subjects) > 0 {
		lists, err := m.askReferrers(ctx, subjects)
		if err != nil {
			return nil, err
		}
		var next []image.Descriptor
		for _, subject := range subjects {
			for _, d := range lists[subject.Digest] {
				if seen[d.Digest] {
					continue
				}
				seen[d.Digest] = true
				if len(found) == maxReferrers {
					return nil, fmt.Errorf("%s has more than %d referrers", m.name, maxReferrers)
				}
				r, err := m.referrer(ctx, d, subject)
				if err != nil {
					return nil, err
				}
				if r != nil && !r.hasSubject(subject) {
					m.warn(fmt.Sprintf("%s is listed as a referrer of %s, and is none", d.Digest, subject.Digest))
				} else if r != nil {
					found = append(found, r)
					next = append(next, d)
				}
			}
		}
		subjects = next
	}
	return found, nil
}

// askReferrers asks for the referrers of many at once.
func (m *mover) askReferrers(ctx context.Context, subjects []image.Descriptor) (map[image.Digest][]image.Descriptor, error) {
	var mu sync.Mutex
	lists := map[image.Digest][]image.Descriptor{}
	err := par.Each(ctx, smallStreams, subjects, func(ctx context.Context, d image.Descriptor) error {
		list, err := m.from.referrers(ctx, d)
		if err != nil {
			return fmt.Errorf("list referrers of %s: %w", d.Digest, err)
		}
		mu.Lock()
		defer mu.Unlock()
		lists[d.Digest] = list
		return nil
	})
	return lists, err
}

func (c *cargo) hasSubject(d image.Descriptor) bool {
	s := c.tree.Document(c.root.Digest).Subject
	return s != nil && s.Digest == d.Digest
}

// referrer reads one referrer. One that is not whole is left, and somebody is told: the image is
// complete without it.
func (m *mover) referrer(ctx context.Context, d, subject image.Descriptor) (*cargo, error) {
	c, err := readCargo(ctx, m.from, d)
	if err != nil {
		return nil, fmt.Errorf("referrer %s of %s: %w", d.Digest, subject.Digest, err)
	}
	if err := m.settle(ctx, c); err != nil {
		return nil, err
	}
	if err := c.partial(d.Digest.String()); err != nil {
		m.warn(fmt.Sprintf("a referrer of %s stays behind: %v", subject.Digest, err))
		return nil, nil
	}
	return c, nil
}

package transfer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// defaultStreams is how many blobs are moved at once. On two cores and loopback, four keep both
// busy; more only share them out differently.
const defaultStreams = 4

// A small blob, of less than smallSize bytes, takes little but the time that its request is under way:
// so smallStreams of them are moved beside the others, and as many questions are asked at once. With
// 40 layers and 50 ms to the registry that is three round trips in place of ten.
const (
	smallSize    = 1 << 20
	smallStreams = 16
)

// PullOptions tunes [Pull]. The zero value pulls the host's platform.
type PullOptions struct {
	Choice
	Streams  int  // blobs fetched at once; 0: 4, and 16 small ones beside them
	OnlyPlan bool // find out what would be done, and do nothing
	// LeaveEvicted leaves out layers that were evicted, if they are not to be unpacked now.
	LeaveEvicted bool
	// Manner is how whoever wants the image has its registry reached. The door gives [Pull] a registry
	// that is reached so.
	registry.Manner
	Name string // that the image gets, in normal form or not; empty: its reference
	UnpackOptions
	Progress progress.Sink
}

// PullResult is what a pull did, or with OnlyPlan what it would do.
type PullResult struct {
	Name      string       `json:"name"`
	Digest    image.Digest `json:"digest"`
	MediaType string       `json:"mediaType"`
	Platforms []string     `json:"platforms"`
	Fetched   Count        `json:"fetched"`
	Reused    Count        `json:"reused"`
	Unpacked  bool         `json:"unpacked"`
	Seconds   float64      `json:"seconds"`
}

// Pull brings the image that r names from a registry into the store, whole, and gives it that
// name. Blobs that are there already are reused, whatever brought them. A pull that is cut off
// leaves what it fetched for the next one, and the name as it was.
func Pull(ctx context.Context, s Store, reg Registry, r ref.Reference, o PullOptions) (*PullResult, error) {
	begun := time.Now()
	o.Progress.Send(progress.Event{Kind: progress.Resolving, Name: r.String()})
	found, err := reg.Resolve(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", r, err)
	}
	o.Progress.Send(progress.Event{Kind: progress.Resolved, Name: r.String(), Digest: found.Digest.String()})
	p := newPull(s, reg, r, o)
	if found.Body != nil {
		p.bodies[found.Digest] = found.Body
	}
	res, err := p.run(ctx, found.Descriptor)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", r, err)
	}
	res.Seconds = time.Since(begun).Seconds()
	if !o.OnlyPlan {
		o.Progress.Send(progress.Event{Kind: progress.Finished, Name: res.Name, Digest: res.Digest.String()})
	}
	return res, nil
}

// A pull is one running [Pull].
type pull struct {
	Store
	reg    Registry
	source ref.Reference
	name   string            // that the image gets
	labels map[string]string // that its blobs get
	o      PullOptions
	small  int // see [lanes]

	referrers []*cargo // to be brought with it

	mu     sync.Mutex
	bodies map[image.Digest][]byte // documents that came from the registry
}

func newPull(s Store, reg Registry, r ref.Reference, o PullOptions) *pull {
	p := &pull{
		Store: s, reg: reg, source: r, name: r.String(), o: o, bodies: map[image.Digest][]byte{},
		labels: sourceLabels(r),
	}
	if o.Name != "" {
		p.name = o.Name
	}
	p.o.Streams, p.small = lanes(o.Streams)
	return p
}

// lanes says how many blobs are moved at once, and how many small ones beside them; 0: they are no
// exception. Whoever says how many gets no more.
func lanes(streams int) (all, small int) {
	if streams < 1 {
		return defaultStreams, smallStreams
	}
	return streams, 0
}

// sourceLabels say where a blob was fetched from, so that it can be mounted across repositories when it
// is pushed.
func sourceLabels(r ref.Reference) map[string]string {
	return map[string]string{metadata.SourceLabel + r.Registry(): r.Repository()}
}

// run brings what is below root, and names it.
func (p *pull) run(ctx context.Context, root image.Descriptor) (*PullResult, error) {
	sel, t, err := p.selection(ctx, root)
	if err != nil {
		return nil, err
	}
	blobs := sel.all()
	if blobs, err = p.leaveEvicted(ctx, blobs); err != nil {
		return nil, err
	}
	trees := []*image.Tree{t}
	for _, c := range p.referrers {
		trees = append(trees, c.tree)
		for _, d := range c.documents() {
			blobs = append(blobs, need{Descriptor: d, what: "manifest"})
		}
		blobs = append(blobs, c.blobs()...)
	}
	res := &PullResult{Name: p.name, Digest: root.Digest, MediaType: root.MediaType, Platforms: []string{}}
	for _, d := range sel.manifests {
		if d.Platform != nil {
			res.Platforms = append(res.Platforms, image.FormatPlatform(*d.Platform))
		}
	}
	settled, err := p.plan(ctx, blobs, res)
	if err != nil || p.o.OnlyPlan {
		return res, err
	}
	u, err := p.unpacking(ctx, sel.manifests, t)
	if err != nil {
		return nil, err
	}
	res.Unpacked = u != nil && len(u.images) > 0
	if res.Fetched.Blobs == 0 && settled && len(p.referrers) == 0 && p.recorded(ctx, root, sel.manifests) {
		if done, err := u.done(ctx); done || err != nil {
			return res, err
		}
	}
	err = p.bring(ctx, u, blobs, res, func() (metadata.Batch, error) {
		var docs []metadata.Document
		for _, t := range trees {
			list, err := p.documents(ctx, t)
			if err != nil {
				return metadata.Batch{}, err
			}
			docs = append(docs, list...)
		}
		put := metadata.PutImage{Name: p.name, Target: root}
		for _, d := range sel.manifests {
			put.Want = append(put.Want, d.Digest)
		}
		return metadata.Batch{Documents: docs, Images: []metadata.PutImage{put}}, nil
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// leaveEvicted leaves out the layers that nobody wants to have fetched again. What of them is to be
// unpacked after all is fetched then.
func (p *pull) leaveEvicted(ctx context.Context, blobs []need) (rest []need, err error) {
	if !p.o.LeaveEvicted || p.o.NoUnpack {
		return blobs, nil
	}
	for _, n := range blobs {
		if n.what == "layer" {
			if lazy, err := p.Meta.OnDemand(ctx, n.Digest); err != nil {
				return nil, err
			} else if lazy != nil {
				continue
			}
		}
		rest = append(rest, n)
	}
	return rest, nil
}

// selection reads the documents of the image, from the store where they are there, and finds out
// which blobs are to be had.
func (p *pull) selection(ctx context.Context, root image.Descriptor) (selection, *image.Tree, error) {
	// A tree may lack documents, but not its root.
	if _, err := p.document(ctx, root); err != nil {
		return selection{}, nil, err
	}
	t, err := image.ReadTree(ctx, root, func(ctx context.Context, d image.Descriptor) ([]byte, error) {
		b, err := p.document(ctx, d)
		if err != nil {
			return nil, err
		}
		if doc, err := image.ParseDocument(b); err == nil && doc.Index {
			p.prefetch(ctx, doc.Manifests)
		}
		return b, nil
	})
	if err != nil {
		return selection{}, nil, err
	}
	chosen, err := selectPlatforms(t, p.o.Choice, []image.Platform{image.Host()})
	if err != nil {
		return selection{}, nil, err
	}
	if doc := t.Document(root.Digest); doc.IsImage() {
		if chosen[0].Platform, err = p.lonePlatform(ctx, doc); err != nil {
			return selection{}, nil, err
		}
	}
	sel, err := selectBlobs(t, chosen)
	return sel, t, err
}

// document gets a manifest or index from the store, or else from the registry.
func (p *pull) document(ctx context.Context, d image.Descriptor) ([]byte, error) {
	p.mu.Lock()
	b := p.bodies[d.Digest]
	p.mu.Unlock()
	if b != nil {
		return b, nil
	}
	b, err := content.ReadBlob(ctx, p.Content, d.Digest, image.MaxDocument)
	if errdefs.IsNotFound(err) {
		b, err = p.reg.Manifest(ctx, p.source, d)
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.bodies[d.Digest] = b
	p.mu.Unlock()
	return b, nil
}

// prefetch gets the manifests of an index side by side. What fails is asked for again, one by
// one, by whoever needs it.
func (p *pull) prefetch(ctx context.Context, manifests []image.Descriptor) {
	_ = par.Each(ctx, smallStreams, manifests, func(ctx context.Context, d image.Descriptor) error {
		if d.Size <= image.MaxDocument {
			_, _ = p.document(ctx, d)
		}
		return nil
	})
}

// plan counts what is to be fetched and what is here, and tells whether all that is here is settled.
func (p *pull) plan(ctx context.Context, blobs []need, res *PullResult) (settled bool, err error) {
	settled = true
	for _, n := range blobs {
		info, ok, err := p.find(ctx, n.Descriptor)
		if err != nil {
			return false, err
		}
		if ok {
			settled = settled && info.Settled
			res.Reused.add(n.Size)
		} else {
			res.Fetched.add(n.Size)
		}
	}
	p.o.Progress.Send(progress.Event{Kind: progress.Planned, Name: p.name, Count: res.Fetched.Blobs, Total: res.Fetched.Bytes})
	return settled, nil
}

// recorded tells whether the name stands for root already, with all chosen manifests complete.
func (p *pull) recorded(ctx context.Context, root image.Descriptor, chosen []image.Descriptor) bool {
	img, err := p.Meta.Image(ctx, p.Namespace, p.name)
	if err != nil || img.Target.Digest != root.Digest {
		return false
	}
	state := map[image.Digest]metadata.PlatformState{}
	for _, s := range img.Platforms {
		state[s.Manifest.Digest] = s
	}
	for _, d := range chosen {
		if s := state[d.Digest]; s.State != metadata.Complete && s.State != metadata.Lazy || !s.Wanted {
			return false
		}
	}
	return true
}

// bring fetches what is missing of blobs and writes their rows, together with those of the batch
// that rows makes once the blobs are there.
func (p *pull) bring(ctx context.Context, u *unpacking, blobs []need, res *PullResult, rows func() (metadata.Batch, error)) (err error) {
	digests := u.digests()
	for _, n := range blobs {
		digests = append(digests, n.Digest)
	}
	hold, err := p.Meta.Hold(ctx, p.Namespace, digests...)
	if err != nil {
		return err
	}
	released := false
	defer func() {
		if !released {
			err = errors.Join(err, hold.Release(context.WithoutCancel(ctx)))
		}
	}()
	defer func() { err = errors.Join(err, u.close(ctx)) }()
	lazy, err := u.claim(ctx, p.name)
	if err != nil {
		return err
	}
	blobs = slices.DeleteFunc(slices.Clone(blobs), func(n need) bool { return lazy[n.Digest] })
	f := &fetcher{content: p.Content, from: p, source: p.source, streams: p.o.Streams, small: p.small, sink: p.o.Progress, unpack: u}
	if err := f.run(ctx, largestFirst(blobs)); err != nil {
		return err
	}
	res.Fetched, res.Reused = f.fetched, f.reused

	batch, err := rows()
	if err != nil {
		return err
	}
	if err := u.finish(ctx, &batch); err != nil {
		return err
	}
	for _, n := range blobs {
		if !slices.Contains(f.absent, n.Digest) {
			batch.Blobs = append(batch.Blobs, metadata.Blob{Digest: n.Digest, Size: n.Size, Labels: p.labels})
		}
	}
	batch.Release = hold
	if _, err := p.Meta.Apply(ctx, p.Namespace, batch); err != nil {
		return err
	}
	released = true
	return nil
}

// largestFirst orders blobs so that a large layer is not waited for alone at the end.
func largestFirst(blobs []need) []need {
	sorted := slices.Clone(blobs)
	slices.SortStableFunc(sorted, func(a, b need) int { return cmp.Compare(b.Size, a.Size) })
	return sorted
}

// unpacking finds out what is to be unpacked; nil if nothing is.
func (p *pull) unpacking(ctx context.Context, chosen []image.Descriptor, t *image.Tree) (*unpacking, error) {
	u, err := p.beginUnpacking(p.o.UnpackOptions, p.o.Progress)
	if u == nil || err != nil {
		return nil, err
	}
	for _, d := range chosen {
		doc := t.Document(d.Digest)
		if !doc.IsImage() || d.Platform != nil && !image.Match(p.o.Only, *d.Platform) {
			continue
		}
		c, err := p.anyConfig(ctx, doc)
		if err == nil {
			err = u.add(d.Digest, doc, c)
		}
		if err != nil {
			return nil, err
		}
	}
	var layers []image.Descriptor
	for _, img := range u.images {
		layers = append(layers, img.Layers...)
	}
	u.unpacker.Content = OnDemand(p.Store, p.reg, layers, p.o.Progress)
	return u, nil
}

// anyConfig reads a config from the store, or else from the registry.
func (p *pull) anyConfig(ctx context.Context, doc *image.Document) (*image.Config, error) {
	p.mu.Lock()
	b := p.bodies[doc.Config.Digest]
	p.mu.Unlock()
	var err error
	if b == nil {
		b, err = content.ReadBlob(ctx, p.Content, doc.Config.Digest, image.MaxConfig)
	}
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		b, err = p.readConfig(ctx, *doc.Config)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch config %s: %w", doc.Config.Digest, err)
	}
	c, err := image.ParseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", doc.Config.Digest, err)
	}
	return c, nil
}

// Blob reads a blob from what the pull has in memory already, or from the registry.
func (p *pull) Blob(ctx context.Context, r ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	p.mu.Lock()
	b := p.bodies[d.Digest]
	p.mu.Unlock()
	if b != nil && offset <= int64(len(b)) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
	return p.reg.Blob(ctx, r, d, offset, onFault)
}

// open implements [opener].
func (p *pull) open(ctx context.Context, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	return p.reg.Blob(ctx, p.source, d, offset, onFault)
}

// lonePlatform tells what an image without an index is for, which only its config says. One that
// is for none of the platforms asked for is refused before its layers come.
func (p *pull) lonePlatform(ctx context.Context, doc *image.Document) (*image.Platform, error) {
	c, err := p.anyConfig(ctx, doc)
	if err != nil {
		return nil, err
	}
	name := image.FormatPlatform(c.Platform)
	switch asked := len(p.o.Platforms) > 0; {
	case !image.Match(p.o.Platforms, c.Platform):
		return nil, fmt.Errorf("the image is for %s alone: %w", name, errdefs.ErrNotFound)
	case !asked && !image.Match([]image.Platform{image.Host()}, c.Platform):
		p.o.Progress.Send(progress.Event{Kind: progress.Warning, Message: "the image is for " + name + ", which this machine is not"})
	}
	return &c.Platform, nil
}

// readConfig reads a config from the registry and remembers it for the fetcher.
func (p *pull) readConfig(ctx context.Context, d image.Descriptor) ([]byte, error) {
	b, err := readConfig(ctx, d, p.o.Progress, p)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.bodies[d.Digest] = b
	p.mu.Unlock()
	return b, nil
}

// config reads the config of a manifest from the store.
func (s Store) config(ctx context.Context, doc *image.Document) (*image.Config, error) {
	b, err := content.ReadBlob(ctx, s.Content, doc.Config.Digest, image.MaxConfig)
	if err != nil {
		return nil, err
	}
	c, err := image.ParseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", doc.Config.Digest, err)
	}
	return c, nil
}

// documents lists the documents of t that are in the store, each with the platform that its
// config states.
func (s Store) documents(ctx context.Context, t *image.Tree) ([]metadata.Document, error) {
	var list []metadata.Document
	for _, d := range t.Documents() {
		doc := *t.Document(d.Digest)
		if ok, err := s.have(ctx, d); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		known, err := s.described(ctx, d, doc)
		if err != nil {
			return nil, err
		}
		list = append(list, known)
	}
	return list, nil
}

// described is the row of a document, with the platform that its config states, if that is in the
// store and nothing else states one.
func (s Store) described(ctx context.Context, d image.Descriptor, doc image.Document) (metadata.Document, error) {
	if doc.Platform == nil && doc.IsImage() && d.Platform == nil {
		c, err := s.config(ctx, &doc)
		switch {
		case err == nil:
			doc.Platform = &c.Platform
		case !errdefs.IsNotFound(err):
			return metadata.Document{}, err
		}
	}
	return metadata.Document{Digest: d.Digest, Size: d.Size, Document: doc}, nil
}

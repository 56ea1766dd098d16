package containerd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/par"
)

const (
	// asked is how many questions are under way at once.
	asked = 8

	// SnapshotLabel begins the key of a label that a config has; the name of a snapshotter follows. It
	// names the snapshot of the whole image there.
	SnapshotLabel = "containerd.io/gc.ref.snapshot."
)

// Fill writes what the peer knows of the namespace into an empty store.
//
// Of an image that is for several platforms those count as wanted of which the config is here, and a
// layer or the unpacked layers too; where there is none, that of this machine.
func (c *Client) Fill(ctx context.Context, meta *metadata.Store) error {
	f := &filling{Client: c, blobs: map[image.Digest]metadata.Blob{}, documents: map[image.Digest]*metadata.Document{}}
	if err := f.read(ctx); err != nil {
		return fmt.Errorf("read what %s has: %w", c.address, err)
	}
	return meta.Fill(ctx, c.o.Namespace, f.m)
}

// filling is one running [Client.Fill].
type filling struct {
	*Client
	m     metadata.Mirror
	blobs map[image.Digest]metadata.Blob

	mu        sync.Mutex
	documents map[image.Digest]*metadata.Document // nil: not there, or neither manifest nor index
}

func (f *filling) read(ctx context.Context) error {
	namespaces, err := namespacesapi.NewNamespacesClient(f.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return native(err)
	}
	for _, n := range namespaces.Namespaces {
		f.m.Namespaces = append(f.m.Namespaces, metadata.Namespace{Name: n.Name, Labels: n.Labels})
	}
	for i, err := range f.infos(ctx) {
		if err != nil {
			return err
		}
		b := metadata.Blob{Digest: image.Digest(i.Digest), Size: i.Size, Labels: i.Labels}
		b.CreatedAt = timeOr(i.CreatedAt, time.Unix(0, 0))
		b.UpdatedAt = timeOr(i.UpdatedAt, b.CreatedAt)
		if content.Validate(b.Digest) == nil {
			f.blobs[b.Digest] = b
			f.m.Blobs = append(f.m.Blobs, b)
		}
	}
	if err := f.readLeases(ctx); err != nil {
		return err
	}
	if err := f.readSnapshots(ctx); err != nil {
		return err
	}
	return f.readImages(ctx)
}

func (f *filling) readLeases(ctx context.Context) error {
	leases := leasesapi.NewLeasesClient(f.conn)
	list, err := leases.List(ctx, &leasesapi.ListRequest{})
	if err != nil {
		return native(err)
	}
	for _, l := range list.Leases {
		row := metadata.Lease{ID: l.ID, Labels: l.Labels, CreatedAt: l.CreatedAt.AsTime()}
		resources, err := leases.ListResources(ctx, &leasesapi.ListResourcesRequest{ID: l.ID})
		if err = native(err); errdefs.IsNotFound(err) {
			continue // it has just ended
		}
		if err != nil {
			return err
		}
		for _, r := range resources.Resources {
			snapshotter, isSnapshot := strings.CutPrefix(r.Type, "snapshots/")
			switch {
			case isSnapshot:
				row.Snapshots = append(row.Snapshots, metadata.SnapshotRef{Snapshotter: metadata.SnapshotterName(snapshotter), Key: r.ID})
			case r.Type == "content" && content.Validate(image.Digest(r.ID)) == nil:
				row.Digests = append(row.Digests, image.Digest(r.ID))
			}
		}
		f.m.Leases = append(f.m.Leases, row)
	}
	return nil
}

func indexes[T any](list []T) []int {
	all := make([]int, len(list))
	for i := range all {
		all[i] = i
	}
	return all
}

func (f *filling) readSnapshots(ctx context.Context) error {
	names, err := f.Snapshotters(ctx)
	if err != nil {
		return err
	}
	f.m.Snapshots = map[string][]metadata.Snapshot{}
	for _, name := range names {
		sn := f.Snapshotter(name)
		rows, err := sn.Walk(ctx)
		if err != nil {
			return err
		}
		err = par.Each(ctx, asked, indexes(rows), func(ctx context.Context, i int) error {
			rows[i].Folder = rows[i].Key // each has one of its own
			if d := image.Digest(rows[i].Key); content.Validate(d) == nil {
				rows[i].DiffID = d // what is called after a chain is a layer, and nobody's by itself
			}
			if rows[i].Kind != metadata.Committed {
				return nil // the peer would have to look through its files
			}
			used, err := sn.Usage(ctx, rows[i].Key)
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			rows[i].Size, rows[i].Inodes = used.Size, used.Inodes
			return nil
		})
		if err != nil {
			return err
		}
		f.m.Snapshots[metadata.SnapshotterName(name)] = rows
	}
	return nil
}

// Holdings are the blobs, with their sizes, and the snapshots that the peer has records of.
type Holdings struct {
	Blobs     map[image.Digest]int64
	Snapshots []metadata.SnapshotRef
}

// Holdings lists what the peer has in the namespace.
func (c *Client) Holdings(ctx context.Context) (h Holdings, err error) {
	h.Blobs = map[image.Digest]int64{}
	for i, err := range c.infos(ctx) {
		if err != nil {
			return h, err
		}
		h.Blobs[image.Digest(i.Digest)] = i.Size
	}
	names, err := c.Snapshotters(ctx)
	if err != nil {
		return h, err
	}
	for _, name := range names {
		list, err := c.Snapshotter(name).Walk(ctx)
		if err != nil {
			return h, err
		}
		for _, row := range list {
			h.Snapshots = append(h.Snapshots, metadata.SnapshotRef{Snapshotter: name, Key: row.Key})
		}
	}
	return h, nil
}

func (f *filling) readImages(ctx context.Context) error {
	list, err := imagesapi.NewImagesClient(f.conn).List(ctx, &imagesapi.ListImagesRequest{})
	if err != nil {
		return native(err)
	}
	var targets []image.Descriptor
	for _, i := range list.Images {
		img := metadata.MirroredImage{
			Name: i.Name, Target: descriptorOf(i.Target), Labels: i.Labels,
			CreatedAt: i.CreatedAt.AsTime(), UpdatedAt: i.UpdatedAt.AsTime(),
		}
		if image.CheckDescriptor(img.Target) != nil {
			continue // nothing can be below it
		}
		f.m.Images = append(f.m.Images, img)
		targets = append(targets, img.Target)
	}
	if err := f.readDocuments(ctx, targets); err != nil {
		return err
	}
	for _, d := range slices.Sorted(maps.Keys(f.documents)) {
		if doc := f.documents[d]; doc != nil {
			f.m.Documents = append(f.m.Documents, *doc)
		}
	}
	for i := range f.m.Images {
		f.m.Images[i].Want = f.wanted(f.m.Images[i].Target)
	}
	return nil
}

func descriptorOf(d *types.Descriptor) image.Descriptor {
	return image.Descriptor{MediaType: d.GetMediaType(), Digest: image.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations()}
}

// Open is [Client.Open] for blobs whose records were read.
func (f *filling) Open(ctx context.Context, d image.Digest) (content.Reader, error) {
	b, here := f.blobs[d]
	if !here {
		return nil, fmt.Errorf("open blob %s: %w", d, errdefs.ErrNotFound)
	}
	r, err := f.openRecord(ctx, content.Info{Digest: d, Size: b.Size}, firstRead)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return r, nil
}

// readDocuments reads what is there of manifests and indexes, and what is below them.
func (f *filling) readDocuments(ctx context.Context, level []image.Descriptor) error {
	for len(level) > 0 {
		var next []image.Descriptor
		fresh := slices.DeleteFunc(level, func(d image.Descriptor) bool {
			_, read := f.documents[d.Digest]
			_, here := f.blobs[d.Digest]
			if !read {
				f.documents[d.Digest] = nil
			}
			return read || !here
		})
		err := par.Each(ctx, asked, fresh, func(ctx context.Context, d image.Descriptor) error {
			b, err := content.ReadBlob(ctx, f, d.Digest, image.MaxDocument)
			switch {
			case errdefs.IsNotFound(err), errdefs.IsDataLoss(err), errdefs.IsResourceExhausted(err):
				return nil // as good as not there
			case err != nil:
				return err
			}
			doc, err := metadata.ReadDocument(ctx, f, d.Digest, b)
			if doc == nil || err != nil {
				return err
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.documents[d.Digest] = doc
			next = append(next, doc.Manifests...)
			return nil
		})
		if err != nil {
			return err
		}
		level = next
	}
	return nil
}

// wanted lists the manifests below target that somebody asked the peer for; none: nothing says so.
func (f *filling) wanted(target image.Descriptor) (want []image.Digest) {
	root := f.documents[target.Digest]
	if root == nil || !root.Index {
		return []image.Digest{target.Digest}
	}
	var offered []image.Descriptor
	met := map[image.Digest]bool{}
	var walk func(doc *metadata.Document)
	walk = func(doc *metadata.Document) {
		for _, d := range doc.Manifests {
			child := f.documents[d.Digest]
			switch {
			case met[d.Digest] || image.IsAttestation(d):
			case child != nil && child.Index:
				met[d.Digest] = true
				walk(child)
			default:
				met[d.Digest] = true
				offered = append(offered, d)
				if child != nil && f.asked(child) {
					want = append(want, d.Digest)
				}
			}
		}
	}
	walk(root)
	if len(want) > 0 {
		return want
	}
	chosen, err := image.Choose([]image.Platform{image.Host()}, offered)
	if err != nil {
		return nil
	}
	for _, d := range chosen {
		want = append(want, d.Digest)
	}
	return want
}

// asked tells whether more of a manifest is here than who reads all of an index leaves.
func (f *filling) asked(doc *metadata.Document) bool {
	if doc.Config == nil {
		return false
	}
	config, here := f.blobs[doc.Config.Digest]
	if !here {
		return false
	}
	for k := range config.Labels {
		if strings.HasPrefix(k, SnapshotLabel) {
			return true
		}
	}
	return slices.ContainsFunc(doc.Layers, func(d image.Descriptor) bool { _, here := f.blobs[d.Digest]; return here })
}

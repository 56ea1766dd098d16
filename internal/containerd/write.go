package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// refLabel keeps one blob while another is kept: see [Client.Unlinked].
const refLabel = "containerd.io/gc.ref.content."

// WriteThrough has what acts change in a store that was filled go on to the peer: names, labels,
// leases, and the labels by which its collection finds what a manifest needs. Blobs come and go by
// themselves.
func (c *Client) WriteThrough(meta *metadata.Store) {
	meta.Observe(func(ctx context.Context, list []metadata.Change) error {
		var errs []error
		// Names come last: what they lead to has its labels by then.
		for _, names := range []bool{false, true} {
			for _, ch := range list {
				if _, is := subject(ch).(*metadata.Image); is != names {
					continue
				}
				if err := c.write(ctx, meta, ch); err != nil {
					errs = append(errs, fmt.Errorf("tell %s: %w", c.address, err))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// subject is what a change is about, as it is or as it was.
func subject(ch metadata.Change) any {
	if ch.New != nil {
		return ch.New
	}
	return ch.Old
}

func (c *Client) write(ctx context.Context, meta *metadata.Store, ch metadata.Change) error {
	switch is := subject(ch).(type) {
	case *metadata.Namespace:
		old, _ := ch.Old.(*metadata.Namespace)
		return c.writeNamespace(ctx, old, is, ch.New == nil)
	case *metadata.Image:
		old, _ := ch.Old.(*metadata.Image)
		if ch.New == nil {
			return c.deleteImage(ctx, is.Name)
		}
		if err := c.link(ctx, meta, is.Target.Digest); err != nil {
			return err
		}
		return c.writeImage(ctx, old, is)
	case *metadata.Blob:
		if ch.New == nil {
			return nil
		}
		var was map[string]string
		if old, _ := ch.Old.(*metadata.Blob); old != nil {
			was = old.Labels
		}
		if err := c.labelBlob(ctx, is.Digest, differences(was, is.Labels)); err != nil {
			return err
		}
		return c.link(ctx, meta, is.Digest)
	case *metadata.Lease:
		if ch.New == nil {
			return c.deleteLease(ctx, is.ID, false)
		}
		if ch.Old == nil {
			return c.createLease(ctx, is)
		}
	}
	return nil
}

// differences are the labels that make is of was; an empty one is to be removed.
func differences(was, is map[string]string) map[string]string {
	d := map[string]string{}
	for k, v := range is {
		if was[k] != v {
			d[k] = v
		}
	}
	for k := range was {
		if _, still := is[k]; !still {
			d[k] = ""
		}
	}
	return d
}

// maskOf names labels, one by one.
func maskOf(labels map[string]string) *fieldmaskpb.FieldMask {
	m := &fieldmaskpb.FieldMask{}
	for k := range labels {
		m.Paths = append(m.Paths, "labels."+k)
	}
	return m
}

func (c *Client) labelBlob(ctx context.Context, d image.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	_, err := c.blobs.Update(ctx, &contentapi.UpdateRequest{
		Info: &contentapi.Info{Digest: d.String(), Labels: labels}, UpdateMask: maskOf(labels),
	})
	if err != nil {
		return fmt.Errorf("label blob %s: %w", d, native(err))
	}
	return nil
}

func (c *Client) writeNamespace(ctx context.Context, old, is *metadata.Namespace, gone bool) (err error) {
	spaces := namespacesapi.NewNamespacesClient(c.conn)
	switch {
	case gone:
		_, err = spaces.Delete(ctx, &namespacesapi.DeleteNamespaceRequest{Name: is.Name})
	case old == nil:
		_, err = spaces.Create(ctx, &namespacesapi.CreateNamespaceRequest{Namespace: &namespacesapi.Namespace{Name: is.Name, Labels: is.Labels}})
		if errdefs.IsAlreadyExists(native(err)) {
			err = nil // the first write to a namespace makes it, too
		}
	default:
		labels := differences(old.Labels, is.Labels)
		_, err = spaces.Update(ctx, &namespacesapi.UpdateNamespaceRequest{
			Namespace: &namespacesapi.Namespace{Name: is.Name, Labels: labels}, UpdateMask: maskOf(labels),
		})
	}
	if err != nil {
		return fmt.Errorf("namespace %s: %w", is.Name, native(err))
	}
	return nil
}

// writeImage gives or moves a name, or labels it. What is here of an image is nothing that a peer
// has a record of.
func (c *Client) writeImage(ctx context.Context, old, is *metadata.Image) error {
	images := imagesapi.NewImagesClient(c.conn)
	img := &imagesapi.Image{Name: is.Name, Labels: is.Labels, Target: &types.Descriptor{
		MediaType: is.Target.MediaType, Digest: is.Target.Digest.String(), Size: is.Target.Size, Annotations: is.Target.Annotations,
	}}
	var err error
	if old == nil {
		_, err = images.Create(ctx, &imagesapi.CreateImageRequest{Image: img})
	}
	switch {
	case old == nil && !errdefs.IsAlreadyExists(native(err)):
	case old == nil, old.Target.Digest != is.Target.Digest:
		_, err = images.Update(ctx, &imagesapi.UpdateImageRequest{Image: img, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target", "labels"}}})
	case !maps.Equal(old.Labels, is.Labels):
		img.Labels = differences(old.Labels, is.Labels)
		_, err = images.Update(ctx, &imagesapi.UpdateImageRequest{Image: img, UpdateMask: maskOf(img.Labels)})
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", is.Name, native(err))
	}
	return nil
}

func (c *Client) deleteImage(ctx context.Context, name string) error {
	_, err := imagesapi.NewImagesClient(c.conn).Delete(ctx, &imagesapi.DeleteImageRequest{Name: name})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

func (c *Client) createLease(ctx context.Context, l *metadata.Lease) error {
	leases := leasesapi.NewLeasesClient(c.conn)
	labels := maps.Clone(l.Labels)
	if !l.ExpiresAt.IsZero() {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[expireLabel] = l.ExpiresAt.UTC().Format(time.RFC3339)
	}
	if _, err := leases.Create(ctx, &leasesapi.CreateRequest{ID: l.ID, Labels: labels}); err != nil {
		return fmt.Errorf("lease %s: %w", l.ID, native(err))
	}
	var resources []*leasesapi.Resource
	for _, d := range l.Digests {
		resources = append(resources, &leasesapi.Resource{ID: d.String(), Type: "content"})
	}
	for _, s := range l.Snapshots {
		resources = append(resources, &leasesapi.Resource{ID: s.Key, Type: "snapshots/" + peerName(s.Snapshotter)})
	}
	for _, r := range resources {
		if _, err := leases.AddResource(ctx, &leasesapi.AddResourceRequest{ID: l.ID, Resource: r}); err != nil {
			return fmt.Errorf("lease %s: %w", l.ID, native(err))
		}
	}
	return nil
}

// An Unlinked blob is one that a manifest or an index needs, and that the peer's collection does not
// know to be needed by it.
type Unlinked struct {
	Parent, Child image.Digest
	label         string // that says so
}

// Unlinked lists what of the documents below root is here and lacks its label on what needs it.
func (c *Client) Unlinked(ctx context.Context, meta *metadata.Store, root image.Digest) (list []Unlinked, err error) {
	met := map[image.Digest]bool{}
	for level := []image.Digest{root}; len(level) > 0; {
		docs, err := meta.Documents(ctx, level...)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, doc := range docs {
			b, err := meta.Blob(ctx, c.o.Namespace, doc.Digest)
			if errdefs.IsNotFound(err) || met[doc.Digest] {
				continue
			}
			if err != nil {
				return nil, err
			}
			met[doc.Digest] = true
			var below []image.Digest
			for child := range doc.Children() {
				below = append(below, child.Digest)
			}
			here, err := meta.HasBlobs(ctx, below...)
			if err != nil {
				return nil, err
			}
			list = append(list, unlinked(doc, b.Labels, here)...)
			for _, m := range doc.Manifests {
				level = append(level, m.Digest)
			}
		}
	}
	return list, nil
}

// unlinked lists the children of one document.
func unlinked(doc metadata.Document, labels map[string]string, here map[image.Digest]bool) (list []Unlinked) {
	named := map[string]bool{}
	taken := map[string]bool{}
	for k, v := range labels {
		if strings.HasPrefix(k, refLabel) {
			named[v], taken[k] = true, true
		}
	}
	for child := range doc.Children() {
		if named[child.Digest.String()] || !here[child.Digest] {
			continue
		}
		named[child.Digest.String()] = true
		label := refLabel + "config"
		for i := child.Index; child.Place != image.PlaceConfig; i++ {
			label = refLabel + string(child.Place[0]) + "." + strconv.Itoa(i)
			if !taken[label] {
				break
			}
		}
		taken[label] = true
		list = append(list, Unlinked{Parent: doc.Digest, Child: child.Digest, label: label})
	}
	return list
}

// Link writes the label that an unlinked blob lacks.
func (c *Client) Link(ctx context.Context, u Unlinked) error {
	return c.labelBlob(ctx, u.Parent, map[string]string{u.label: u.Child.String()})
}

// link does so for all that is below root.
func (c *Client) link(ctx context.Context, meta *metadata.Store, root image.Digest) error {
	list, err := c.Unlinked(ctx, meta, root)
	if err != nil {
		return err
	}
	labels := map[image.Digest]map[string]string{}
	for _, u := range list {
		if labels[u.Parent] == nil {
			labels[u.Parent] = map[string]string{}
		}
		labels[u.Parent][u.label] = u.Child.String()
	}
	for d, l := range labels {
		if err := c.labelBlob(ctx, d, l); err != nil {
			return err
		}
	}
	return nil
}

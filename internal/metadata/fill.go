package metadata

import (
	"context"
	"time"

	"github.com/stowage/stowage/internal/image"
)

// A Mirror is what another store knows of a namespace, and of whatever others there are.
type Mirror struct {
	Namespaces []Namespace
	Blobs      []Blob
	Documents  []Document
	Images     []MirroredImage
	Leases     []Lease
	Snapshots  map[string][]Snapshot // by snapshotter
}

// A MirroredImage is a name as it is elsewhere, also one whose target is not there. An image that
// wants nothing wants what is complete, and if nothing is, all.
type MirroredImage struct {
	Name                 string
	Target               image.Descriptor
	Labels               map[string]string
	CreatedAt, UpdatedAt time.Time
	Want                 []image.Digest // manifests
}

// Fill writes down what another store knows, into a database with nothing in it, as it is there: with
// its times, and with names that nobody could give here. Whether images are complete is found out
// from the blobs and documents. No observer is told.
func (s *Store) Fill(ctx context.Context, ns string, m Mirror) error {
	if err := CheckNamespace(ns); err != nil {
		return err
	}
	unobserved := New(s.db, s.holders)
	return unobserved.update(ctx, func(c change) error { return c.fill(ns, m) })
}

func (c change) fill(ns string, m Mirror) error {
	for _, n := range m.Namespaces {
		if err := c.put(key(namespaceRows, n.Name), n); err != nil {
			return err
		}
	}
	for _, b := range m.Blobs {
		c.sizes[b.Digest] = b.Size
		if err := c.put(blobKey(b.Digest), blobRow{b.Size}); err != nil {
			return err
		}
		row := knownRow{Size: b.Size, CreatedAt: b.CreatedAt, UpdatedAt: b.UpdatedAt, Labels: b.Labels}
		if err := c.set(knownKey(ns, b.Digest), nil, row); err != nil {
			return err
		}
	}
	for _, doc := range m.Documents {
		if err := doc.check(); err != nil {
			continue // others take documents that nobody here would
		}
		if _, err := c.addDocument(&doc); err != nil {
			return err
		}
	}
	for name, rows := range m.Snapshots {
		for _, row := range rows {
			if err := c.set(snapshotKey(ns, name, row.Key), nil, row); err != nil {
				return err
			}
		}
	}
	for _, l := range m.Leases {
		if err := c.put(key(leaseRows, ns, l.ID), l); err != nil {
			return err
		}
	}
	for _, img := range m.Images {
		row := imageRow{Image: Image{Name: img.Name, Target: img.Target, Labels: img.Labels, CreatedAt: img.CreatedAt, UpdatedAt: img.UpdatedAt}, Want: img.Want}
		if err := c.complete(&row); err != nil {
			return err
		}
		if len(img.Want) == 0 {
			row.want(wantedFromNowOn(row.Platforms))
			if err := c.complete(&row); err != nil {
				return err
			}
		}
		if err := c.set(key(imageRows, ns, img.Name), nil, row); err != nil {
			return err
		}
	}
	return nil
}

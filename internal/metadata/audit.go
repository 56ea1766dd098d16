package metadata

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// A Ledger is what the rows say of bytes. It is read in short transactions, so that acts of others
// may be in it by halves: [Store.LedgerOf] tells what holds at one moment.
type Ledger struct {
	Blobs   map[image.Digest]int64 // those that are here, with their sizes
	Lacking []image.Descriptor     // what images of any namespace want and do not have, each once
	doomed  map[image.Digest]bool
	held    func(image.Digest) bool
}

// Held tells whether bytes are the business of a running operation or of a collection.
func (l *Ledger) Held(d image.Digest) bool { return l.held(d) || l.doomed[d] }

// Ledger reads what the rows say of bytes. Rows that are damaged are passed over.
func (s *Store) Ledger(ctx context.Context) (*Ledger, error) {
	l := &Ledger{Blobs: map[image.Digest]int64{}, doomed: map[image.Digest]bool{}}
	err := s.eachRow(ctx, blobRows, func(_ view, e kv.Entry, err error) error {
		d, keyErr := lastDigest(e.Key, []byte(blobRows))
		var row blobRow
		if err == nil && keyErr == nil && decode(e.Key, e.Value, &row) == nil {
			l.Blobs[d] = row.Size
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if l.Lacking, err = s.lacking(ctx); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(v view) error {
		for e, err := range v.Scan([]byte(doomedRows)) {
			if err != nil && e.Key == nil {
				return err
			}
			if d, err := lastDigest(e.Key, []byte(doomedRows)); err == nil {
				l.doomed[d] = true
			}
		}
		live, _, err := s.leases(v)
		l.held = held(live)
		return err
	})
	return l, err
}

// LedgerOf is [Store.Ledger] for some blobs, at one moment. What images lack is not in it.
func (s *Store) LedgerOf(ctx context.Context, digests ...image.Digest) (*Ledger, error) {
	l := &Ledger{Blobs: map[image.Digest]int64{}, doomed: map[image.Digest]bool{}}
	err := s.view(ctx, func(v view) error {
		for _, d := range digests {
			size, here, err := v.size(d)
			if ignoreDamage(err) != nil {
				return err
			}
			if err == nil && here {
				l.Blobs[d] = size
			}
			if l.doomed[d], err = v.has(doomedKey(d)); ignoreDamage(err) != nil {
				return err
			}
		}
		live, _, err := s.leases(v)
		l.held = held(live)
		return err
	})
	return l, err
}

// eachRow calls f for each row of a kind, also for those that cannot be read, with the transaction that
// it is read in, of which there are many.
func (s *Store) eachRow(ctx context.Context, kind string, f func(v view, e kv.Entry, err error) error) error {
	for from := []byte(kind); from != nil; {
		err := s.view(ctx, func(v view) error {
			n, until := 0, time.Now().Add(viewTime)
			for e, err := range v.ScanFrom([]byte(kind), from) {
				if err != nil && e.Key == nil {
					return err
				}
				if n++; n > 1 && n%16 == 1 && time.Now().After(until) {
					from = bytes.Clone(e.Key)
					return nil
				}
				if err := f(v, e, err); err != nil {
					return err
				}
			}
			from = nil
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lacking lists what images lack.
func (s *Store) lacking(ctx context.Context) ([]image.Descriptor, error) {
	lacking := map[image.Digest]image.Descriptor{}
	err := s.eachRow(ctx, imageRows, func(v view, e kv.Entry, err error) error {
		var row imageRow
		if err != nil || decode(e.Key, e.Value, &row) != nil || row.State != Partial {
			return nil
		}
		// Without its root, nobody knows what else it lacks.
		if doc, err := v.document(row.Target.Digest); err == nil && doc == nil {
			lacking[row.Target.Digest] = row.Target
		}
		for _, p := range row.Platforms {
			if p.State != Partial {
				continue
			}
			for _, d := range p.Missing {
				lacking[d.Digest] = d
			}
		}
		return nil
	})
	return slices.SortedFunc(maps.Values(lacking), func(a, b image.Descriptor) int {
		return strings.Compare(string(a.Digest), string(b.Digest))
	}), err
}

// A Need is what a blob is needed for.
type Need struct {
	image.Descriptor          // as a document or an image has it; only its digest, if none does
	Place            string   // config, layer i, manifest i or target; empty: nothing points to it
	Images           []string // those above it, as NAMESPACE NAME
	Namespaces       []string // of these
}

// Need finds out what a blob is needed for.
func (s *Store) Need(ctx context.Context, d image.Digest) (need Need, err error) {
	err = s.view(ctx, func(v view) error {
		need = Need{Descriptor: image.Descriptor{Digest: d}}
		above, err := v.above(d)
		if err != nil {
			return err
		}
		for up := range above {
			err := v.imagesOf(up, func(ns, name string) {
				need.Images = append(need.Images, ns+" "+name)
				if !slices.Contains(need.Namespaces, ns) {
					need.Namespaces = append(need.Namespaces, ns)
				}
				if up == d {
					need.Place = "target"
					row, rowErr := v.image(ns, name)
					if rowErr == nil {
						need.Descriptor = row.Target
					}
				}
			})
			if err != nil {
				return err
			}
		}
		slices.Sort(need.Images)
		slices.Sort(need.Namespaces)
		if need.Place != "" {
			return nil
		}
		return v.parents(d, func(parent image.Digest, places []place) error {
			doc, err := v.document(parent)
			if err != nil || doc == nil {
				return err
			}
			for c := range doc.Children() {
				if c.Digest == d {
					need.Descriptor, need.Place = c.Descriptor, placeOf(c).String()
					break
				}
			}
			return nil
		})
	})
	return need, err
}

// ForgetBlobs notes that the bytes of blobs were found to be gone. Every image that reaches one of
// them is partial; documents are kept, so that what is to be fetched again can be told.
func (s *Store) ForgetBlobs(ctx context.Context, digests ...image.Digest) error {
	if err := checkDigests(digests...); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		for _, d := range digests {
			if err := c.forgetBlob(d); err != nil {
				return err
			}
		}
		return c.recompute(nil, digests...)
	})
}

// DeadLeases lists the leases of all namespaces that have expired, or whose process died, by
// namespace. The next operation that looks at leases removes them.
func (s *Store) DeadLeases(ctx context.Context) (dead map[string][]Lease, err error) {
	err = s.view(ctx, func(v view) error {
		_, list, err := s.leases(v)
		dead = map[string][]Lease{}
		for _, l := range list {
			dead[l.namespace] = append(dead[l.namespace], l.Lease)
		}
		return err
	})
	return dead, err
}

// DropDeadLeases removes them.
func (s *Store) DropDeadLeases(ctx context.Context) error {
	return s.update(ctx, func(c change) error {
		_, err := s.dropDead(c)
		return err
	})
}

// An Overstated image has a record that says more is here than there is.
type Overstated struct {
	Namespace, Name string
	Says, Is        State
}

// Overstated lists the images of all namespaces whose records say more than is so. [Store.Recheck]
// puts them right.
func (s *Store) Overstated(ctx context.Context) (list []Overstated, err error) {
	err = s.view(ctx, func(v view) error {
		for e, err := range v.Scan([]byte(imageRows)) {
			if err != nil && e.Key == nil {
				return err
			}
			var row imageRow
			if err != nil || decode(e.Key, e.Value, &row) != nil {
				continue
			}
			now := row
			if err := v.complete(&now); err != nil {
				return err
			}
			if overstates(row.Image, now.Image) {
				ns, name := cut(e.Key, []byte(imageRows))
				list = append(list, Overstated{ns, name, row.State, now.State})
			}
		}
		return nil
	})
	return list, err
}

// overstates tells whether the record says of the image, or of one of its platforms, that it is
// better than it is now found.
func overstates(says, is Image) bool {
	better := []State{Absent, Partial, Lazy, Complete}
	above := func(a, b State) bool { return slices.Index(better, a) > slices.Index(better, b) }
	if above(says.State, is.State) {
		return true
	}
	states := map[image.Digest]State{}
	for _, p := range is.Platforms {
		states[p.Manifest.Digest] = p.State
	}
	return slices.ContainsFunc(says.Platforms, func(p PlatformState) bool {
		now, known := states[p.Manifest.Digest]
		return !known || above(p.State, now)
	})
}

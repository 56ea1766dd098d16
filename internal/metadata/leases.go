package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
)

// A liveLease is a lease that counts, with its namespace.
type liveLease struct {
	Lease
	namespace string
}

// holds tells whether the lease keeps one of digests itself.
func (l Lease) holds(digests map[image.Digest]bool) bool {
	return l.All || slices.ContainsFunc(l.Digests, func(d image.Digest) bool { return digests[d] })
}

// CreateLease makes a lease that keeps what it lists, and all below that, until it expires or is
// deleted. Labels as containerd has them say when (gc.expire), and that it keeps nothing below
// (gc.flat). Without an ID it gets a random one. Errors: [errdefs.ErrAlreadyExists].
func (s *Store) CreateLease(ctx context.Context, ns string, lease Lease) (Lease, error) {
	if lease.ID == "" {
		lease.ID = rand.Text()
	}
	if err := CheckNamespace(ns); err != nil {
		return Lease{}, err
	}
	if err := checkLeaseID(lease.ID); err != nil {
		return Lease{}, err
	}
	if err := checkLabels(lease.Labels); err != nil {
		return Lease{}, err
	}
	if err := lease.resources().check(); err != nil {
		return Lease{}, err
	}
	lease.CreatedAt, lease.Holder, lease.All = time.Now().UTC(), "", false
	err := s.update(ctx, func(c change) error {
		if _, err := s.dropDead(c); err != nil {
			return err
		}
		if exists, err := c.has(key(leaseRows, ns, lease.ID)); err != nil || exists {
			if err == nil {
				err = fmt.Errorf("lease %s: %w", lease.ID, errdefs.ErrAlreadyExists)
			}
			return err
		}
		if err := c.ensureNamespace(ns, lease.CreatedAt); err != nil {
			return err
		}
		return c.put(key(leaseRows, ns, lease.ID), lease)
	})
	return lease, err
}

// DeleteLease ends a lease. Errors: [errdefs.ErrNotFound]; [errdefs.ErrFailedPrecondition] for
// the hold of an operation that is still running.
func (s *Store) DeleteLease(ctx context.Context, ns, id string) error {
	return s.update(ctx, func(c change) error {
		leases, err := s.dropDead(c)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(leases, func(l liveLease) bool { return l.namespace == ns && l.ID == id })
		switch {
		case i < 0:
			return fmt.Errorf("lease %s: %w", id, errdefs.ErrNotFound)
		case leases[i].Holder != "":
			return fmt.Errorf("lease %s belongs to a running operation: %w", id, errdefs.ErrFailedPrecondition)
		}
		return c.w.Delete(key(leaseRows, ns, id))
	})
}

// Leases lists the leases of a namespace that count, by ID: those that have not expired, and the
// holds of running operations.
func (s *Store) Leases(ctx context.Context, ns string) (list []Lease, err error) {
	err = s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		for _, l := range live {
			if l.namespace == ns {
				list = append(list, l.Lease)
			}
		}
		return err
	})
	return list, err
}

// Lease gives a lease that counts. Errors: [errdefs.ErrNotFound].
func (s *Store) Lease(ctx context.Context, ns, id string) (lease Lease, err error) {
	err = s.view(ctx, func(v view) error {
		lease, err = s.lease(v, ns, id)
		return err
	})
	return lease, err
}

// AddToLease has a lease keep more. What of it is here stays, if nobody has condemned it before; what
// is not here may come later. To write nothing new is cheap. Errors: [errdefs.ErrNotFound];
// [errdefs.ErrFailedPrecondition] for the hold of a running operation;
// [errdefs.ErrResourceExhausted] for more than a lease can list, which is [MaxLease].
func (s *Store) AddToLease(ctx context.Context, ns, id string, r LeaseResources) error {
	if err := r.check(); err != nil {
		return err
	}
	return s.changeLease(ctx, ns, id, func(l *Lease) bool { return l.add(r) })
}

// RemoveFromLease has a lease keep less; what it does not list is passed over. Errors: those of
// [Store.AddToLease].
func (s *Store) RemoveFromLease(ctx context.Context, ns, id string, r LeaseResources) error {
	return s.changeLease(ctx, ns, id, func(l *Lease) bool {
		digests, snapshots := without(&l.Digests, r.Digests), without(&l.Snapshots, r.Snapshots)
		images, ingests := without(&l.Images, r.Images), without(&l.Ingests, r.Ingests)
		return digests || snapshots || images || ingests
	})
}

// changeLease writes a lease as f leaves it, if f says that it is another.
func (s *Store) changeLease(ctx context.Context, ns, id string, f func(*Lease) bool) error {
	// Most of what comes in under a lease is there already, and is not worth a flush.
	same := false
	err := s.view(ctx, func(v view) error {
		l, err := s.lease(v, ns, id)
		same = err == nil && !f(&l)
		return err
	})
	if err != nil || same {
		return err
	}
	return s.update(ctx, func(c change) error { return s.putLease(c, ns, id, f) })
}

// putLease is changeLease within a transaction.
func (s *Store) putLease(c change, ns, id string, f func(*Lease) bool) error {
	l, err := s.lease(c.view, ns, id)
	if err != nil {
		return err
	}
	if l.Holder != "" {
		return fmt.Errorf("lease %s belongs to a running operation: %w", id, errdefs.ErrFailedPrecondition)
	}
	if !f(&l) {
		return nil
	}
	if n := len(l.Digests) + len(l.Snapshots) + len(l.Images) + len(l.Ingests); n > MaxLease {
		return fmt.Errorf("lease %s cannot keep %d things, only %d: %w", id, n, MaxLease, errdefs.ErrResourceExhausted)
	}
	return c.put(key(leaseRows, ns, id), l)
}

// resources are what a lease lists.
func (l *Lease) resources() LeaseResources {
	return LeaseResources{l.Digests, l.Snapshots, l.Images, l.Ingests}
}

// add lists more, and tells whether it was not all listed.
func (l *Lease) add(r LeaseResources) bool {
	digests, snapshots := with(&l.Digests, r.Digests), with(&l.Snapshots, r.Snapshots)
	images, ingests := with(&l.Images, r.Images), with(&l.Ingests, r.Ingests)
	return digests || snapshots || images || ingests
}

// with adds those of more to a list that it lacks.
func with[T comparable](list *[]T, more []T) (changed bool) {
	for _, v := range more {
		if !slices.Contains(*list, v) {
			*list, changed = append(*list, v), true
		}
	}
	return changed
}

// without takes those of less out of a list.
func without[T comparable](list *[]T, less []T) (changed bool) {
	n := len(*list)
	*list = slices.DeleteFunc(*list, func(v T) bool { return slices.Contains(less, v) })
	return len(*list) < n
}

func (r LeaseResources) check() error {
	if err := checkDigests(r.Digests...); err != nil {
		return err
	}
	for _, ref := range r.Snapshots {
		if err := errors.Join(checkIdentifier("snapshotter", ref.Snapshotter), checkSnapshotKey(ref.Key)); err != nil {
			return err
		}
	}
	for _, name := range r.Images {
		if err := checkName(name); err != nil {
			return err
		}
	}
	for _, ref := range r.Ingests {
		if err := content.ValidateIngest(ref, content.Want{}); err != nil {
			return err
		}
	}
	return nil
}

// lease reads one that counts. Errors: [errdefs.ErrNotFound].
func (s *Store) lease(v view, ns, id string) (l Lease, err error) {
	err = v.get(key(leaseRows, ns, id), &l)
	counts := false
	if err == nil {
		counts, err = s.counts(l, time.Now())
	}
	if errdefs.IsNotFound(err) || err == nil && !counts {
		return Lease{}, fmt.Errorf("lease %s: %w", id, errdefs.ErrNotFound)
	}
	return l, err
}

// counts tells whether a lease has not expired and its process, if it has one, has not died.
func (s *Store) counts(l Lease, now time.Time) (bool, error) {
	alive := (l.ExpiresAt.IsZero() || now.Before(l.ExpiresAt)) && !marks(l.Labels).expired(now)
	if !alive || l.Holder == "" {
		return alive, nil
	}
	return s.alive(l.Holder)
}

// leases sorts the leases of all namespaces into those that count and those that do not.
func (s *Store) leases(v view) (live, dead []liveLease, err error) {
	prefix := []byte(leaseRows)
	now := time.Now()
	for e, err := range v.Scan(prefix) {
		if err != nil {
			return nil, nil, err
		}
		var l liveLease
		if err := decode(e.Key, e.Value, &l.Lease); err != nil {
			return nil, nil, err
		}
		l.namespace, _ = cut(e.Key, prefix)
		counts, err := s.counts(l.Lease, now)
		if err != nil {
			return nil, nil, err
		}
		if counts {
			live = append(live, l)
		} else {
			dead = append(dead, l)
		}
	}
	return live, dead, nil
}

// dropDead removes the leases that have expired or whose process died, and returns the others.
func (s *Store) dropDead(c change) ([]liveLease, error) {
	live, dead, err := s.leases(c.view)
	if err != nil {
		return nil, err
	}
	for _, l := range dead {
		if err := c.w.Delete(key(leaseRows, l.namespace, l.ID)); err != nil {
			return nil, err
		}
		if l.Holder != "" {
			if err := s.removeHolder(l.Holder); err != nil {
				return nil, err
			}
		}
	}
	return live, nil
}

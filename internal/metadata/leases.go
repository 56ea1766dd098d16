package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

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

// CreateLease makes a lease that keeps lease.Digests and lease.Snapshots, and all below them, until
// it expires or is deleted. Labels as containerd has them say when (gc.expire), and that it keeps
// nothing below (gc.flat). Without an ID it gets a random one. Errors: [errdefs.ErrAlreadyExists].
func (s *Store) CreateLease(ctx context.Context, ns string, lease Lease) (Lease, error) {
	if lease.ID == "" {
		lease.ID = rand.Text()
	}
	if err := CheckNamespace(ns); err != nil {
		return Lease{}, err
	}
	if err := checkIdentifier("lease", lease.ID); err != nil {
		return Lease{}, err
	}
	if err := checkLabels(lease.Labels); err != nil {
		return Lease{}, err
	}
	if err := checkDigests(lease.Digests...); err != nil {
		return Lease{}, err
	}
	for _, ref := range lease.Snapshots {
		if err := errors.Join(checkIdentifier("snapshotter", ref.Snapshotter), checkSnapshotKey(ref.Key)); err != nil {
			return Lease{}, err
		}
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
		alive := (l.ExpiresAt.IsZero() || now.Before(l.ExpiresAt)) && !marks(l.Labels).expired(now)
		if alive && l.Holder != "" {
			if alive, err = s.alive(l.Holder); err != nil {
				return nil, nil, err
			}
		}
		if alive {
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

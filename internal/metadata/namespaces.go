package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// A Namespace is a view of its own on images, blobs and leases. Bytes are shared by all.
type Namespace struct {
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
}

// Namespaces lists the namespaces by name.
func (s *Store) Namespaces(ctx context.Context) (list []Namespace, err error) {
	err = s.view(ctx, func(v view) error {
		list, err = v.namespaces()
		return err
	})
	return list, err
}

func (v view) namespaces() (list []Namespace, err error) {
	for e, err := range v.Scan([]byte(namespaceRows)) {
		if err != nil {
			return nil, err
		}
		var n Namespace
		if err := decode(e.Key, e.Value, &n); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// CreateNamespace makes an empty namespace. Errors: [errdefs.ErrAlreadyExists].
func (s *Store) CreateNamespace(ctx context.Context, name string, labels map[string]string) error {
	if err := CheckNamespace(name); err != nil {
		return err
	}
	if err := checkLabels(labels); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		if exists, err := c.has(key(namespaceRows, name)); err != nil || exists {
			if err == nil {
				err = fmt.Errorf("namespace %s: %w", name, errdefs.ErrAlreadyExists)
			}
			return err
		}
		return c.put(key(namespaceRows, name), Namespace{name, merge(nil, labels), time.Now().UTC()})
	})
}

// ensureNamespace makes a namespace if it is new.
func (c change) ensureNamespace(name string, now time.Time) error {
	if exists, err := c.has(key(namespaceRows, name)); err != nil || exists {
		return err
	}
	return c.put(key(namespaceRows, name), Namespace{name, nil, now})
}

// DeleteNamespace removes a namespace. Errors: [errdefs.ErrNotFound];
// [errdefs.ErrFailedPrecondition] while it has images, blobs,
// leases or snapshots. The names that were removed from it are forgotten.
func (s *Store) DeleteNamespace(ctx context.Context, name string) error {
	if err := CheckNamespace(name); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		if exists, err := c.has(key(namespaceRows, name)); err != nil || !exists {
			if err == nil {
				err = fmt.Errorf("namespace %s: %w", name, errdefs.ErrNotFound)
			}
			return err
		}
		if _, err := s.dropDead(c); err != nil {
			return err
		}
		for _, kind := range []struct{ rows, name string }{{imageRows, "images"}, {knownRows, "blobs"}, {leaseRows, "leases"}, {snapshotRows, "snapshots"}} {
			for _, err := range c.Scan(key(kind.rows, name, "")) {
				if err == nil {
					err = fmt.Errorf("namespace %s has %s: %w", name, kind.name, errdefs.ErrFailedPrecondition)
				}
				return err
			}
		}
		for _, rows := range []string{removedRows, usedRows} {
			if err := c.deleteAll(key(rows, name, "")); err != nil {
				return err
			}
		}
		return c.w.Delete(key(namespaceRows, name))
	})
}

// LabelNamespace sets labels of a namespace; an empty value removes one.
// Errors: [errdefs.ErrNotFound].
func (s *Store) LabelNamespace(ctx context.Context, name string, labels map[string]string) error {
	return s.editNamespace(ctx, name, false, labels, merge)
}

// PutNamespace is LabelNamespace for a namespace that may be new. With whole it gets these labels and
// loses all others.
func (s *Store) PutNamespace(ctx context.Context, name string, labels map[string]string, whole bool) error {
	if err := CheckNamespace(name); err != nil {
		return err
	}
	return s.editNamespace(ctx, name, true, labels, func(old, labels map[string]string) map[string]string {
		if whole {
			old = nil
		}
		return merge(old, labels)
	})
}

// editNamespace gives a namespace the labels that edit makes of those it has.
func (s *Store) editNamespace(ctx context.Context, name string, anew bool, labels map[string]string, edit func(old, labels map[string]string) map[string]string) error {
	if err := checkLabels(labels); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		n := Namespace{Name: name, CreatedAt: time.Now().UTC()}
		err := c.get(key(namespaceRows, name), &n)
		switch {
		case errdefs.IsNotFound(err) && !anew:
			return fmt.Errorf("namespace %s: %w", name, errdefs.ErrNotFound)
		case err != nil && !errdefs.IsNotFound(err):
			return err
		}
		n.Labels = edit(n.Labels, labels)
		return c.put(key(namespaceRows, name), n)
	})
}

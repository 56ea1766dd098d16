package metadata

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
)

// index lists none: what it had when it was an image went with the name.
func (removedRow) index([]byte) []kv.Entry { return nil }

// A RemovedImage is a name that was taken away. Its State, Size and Platforms tell what of it is
// still here; once its target has been collected the state is [Absent].
type RemovedImage struct {
	Image
	RemovedAt time.Time `json:"removedAt"`
}

// removeImage takes a name away and remembers it. Of one whose record is damaged nothing is left.
func (c change) removeImage(ns, name string, now time.Time) error {
	row, err := c.image(ns, name)
	if err == nil {
		err = c.put(key(removedRows, ns, name), removedRow{row, now})
	}
	if err != nil && !errdefs.IsDataLoss(err) {
		return err
	}
	return c.dropImage(ns, name)
}

// present finds anew what of an image is here; absent if its target is not.
func (v view) present(row *imageRow) error {
	doc, err := v.document(row.Target.Digest)
	if err != nil {
		return err
	}
	_, here, err := v.size(row.Target.Digest)
	if err != nil {
		return err
	}
	if doc == nil || !here {
		row.State, row.Size, row.Platforms = Absent, 0, nil
		return nil
	}
	return v.complete(row)
}

// Removed lists the names of a namespace that were taken away since a time, by name: of each the
// last removal. A name that has the same image again is not among them, nor is one whose record is
// damaged.
func (s *Store) Removed(ctx context.Context, ns string, since time.Time) (list []RemovedImage, err error) {
	err = s.inventory().scan(ctx, string(key(removedRows, ns, "")), func(l *look, e kv.Entry) error {
		var row removedRow
		if err := decode(e.Key, e.Value, &row); err != nil || row.RemovedAt.Before(since) {
			return err
		}
		now, err := l.image(ns, row.Name)
		if err == nil && now.Target.Digest == row.Target.Digest {
			return nil
		}
		if err != nil && !unread(err) {
			return err
		}
		if err := l.present(&row.imageRow); err != nil {
			return err
		}
		list = append(list, RemovedImage{row.Image, row.RemovedAt})
		return nil
	})
	return list, err
}

// RestoreImage gives a name back that was taken away, with its labels and what was wanted of it,
// and returns the image as it is now: what was collected meanwhile is missing. A name that was
// given to another image in between is moved back only with force, and that removal is
// remembered in turn.
//
// Errors: [errdefs.ErrNotFound] when no removal is remembered, and when the target is no longer
// here; [errdefs.ErrAlreadyExists] for a name that stands for another image.
func (s *Store) RestoreImage(ctx context.Context, ns, name string, force bool) (img Image, err error) {
	err = s.update(ctx, func(c change) error {
		var row removedRow
		err := c.get(key(removedRows, ns, name), &row)
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("no removal of it is remembered: %w", errdefs.ErrNotFound)
		}
		if err != nil {
			return err
		}
		if err := c.present(&row.imageRow); err != nil {
			return err
		}
		if row.State == Absent {
			return fmt.Errorf("its content was collected: %s: %w", row.Target.Digest, errdefs.ErrNotFound)
		}
		now := time.Now().UTC()
		old, err := c.image(ns, name)
		taken := err == nil && old.Target.Digest != row.Target.Digest
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) { // what is damaged is replaced
			return err
		}
		if taken && !force {
			return fmt.Errorf("it stands for %s: %w", old.Target.Digest, errdefs.ErrAlreadyExists)
		}
		if err := c.w.Delete(key(removedRows, ns, name)); err != nil {
			return err
		}
		if taken || errdefs.IsDataLoss(err) {
			if err := c.removeImage(ns, name, now); err != nil {
				return err
			}
		}
		if err := c.ensureNamespace(ns, now); err != nil {
			return err
		}
		if err := c.touch(ns, row.Target.Digest, now); err != nil {
			return err
		}
		err = c.putImage(ns, &row.imageRow, now)
		img = row.Image
		return err
	})
	return img, err
}

// Forget drops, in all namespaces, the removals before a time, and the notes of when images were used
// that are gone.
func (s *Store) Forget(ctx context.Context, before time.Time) error {
	var keys [][]byte
	for _, kind := range []string{removedRows, usedRows} {
		err := s.inventory().scan(ctx, kind, func(l *look, e kv.Entry) error {
			stale, err := l.stale(e, before)
			if stale {
				keys = append(keys, bytes.Clone(e.Key))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(keys, roundRows) {
		err := s.update(ctx, func(c change) error {
			for _, k := range some {
				// Again: the name may have been removed, or the image have come, in between.
				value, err := c.Get(k)
				var stale bool
				if err == nil {
					stale, err = c.stale(kv.Entry{Key: k, Value: value}, before)
				}
				if stale {
					err = c.w.Delete(k)
				}
				if err != nil && !unread(err) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stale tells whether [Store.Forget] drops a row.
func (v view) stale(e kv.Entry, before time.Time) (bool, error) {
	if bytes.HasPrefix(e.Key, []byte(removedRows)) {
		var row removedRow
		err := decode(e.Key, e.Value, &row)
		return err == nil && row.RemovedAt.Before(before), err
	}
	ns, target, err := parseUsedKey(e.Key)
	if err != nil {
		return false, err
	}
	named, err := v.named(ns, target)
	return !named && err == nil, err
}

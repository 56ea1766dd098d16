package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// A removedRow is what is remembered of a name that was taken away. It keeps nothing.
type removedRow struct {
	imageRow
	RemovedAt time.Time `json:"removedAt"`
}

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
	err = s.view(ctx, func(v view) error {
		for e, err := range v.Scan(key(removedRows, ns, "")) {
			if err != nil && e.Key == nil {
				return err
			}
			var row removedRow
			if err != nil || decode(e.Key, e.Value, &row) != nil || row.RemovedAt.Before(since) {
				continue
			}
			now, err := v.image(ns, row.Name)
			if err == nil && now.Target.Digest == row.Target.Digest {
				continue
			}
			if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
				return err
			}
			if err := v.present(&row.imageRow); err != nil {
				return err
			}
			list = append(list, RemovedImage{row.Image, row.RemovedAt})
		}
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

// Forget drops, in all namespaces, the removals before a time, those whose row is damaged, and the
// notes of when images were used that are gone.
func (s *Store) Forget(ctx context.Context, before time.Time) error {
	var stale [][]byte
	err := s.view(ctx, func(v view) (err error) {
		stale, err = v.stale(before)
		return err
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	return s.update(ctx, func(c change) error {
		// Again: a name may have been removed, or an image have come, in between.
		stale, err := c.stale(before)
		for _, k := range stale {
			err = errors.Join(err, c.w.Delete(k))
		}
		return err
	})
}

// stale lists the keys of what [Store.Forget] drops.
func (v view) stale(before time.Time) (keys [][]byte, err error) {
	for e, err := range v.Scan([]byte(removedRows)) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		var row removedRow
		if err != nil || decode(e.Key, e.Value, &row) != nil || row.RemovedAt.Before(before) {
			keys = append(keys, bytes.Clone(e.Key))
		}
	}
	for e, err := range v.Scan([]byte(usedRows)) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		ns, d, err := parseUsedKey(e.Key)
		if err != nil {
			return nil, err
		}
		named, err := v.named(ns, d)
		if err != nil {
			return nil, err
		}
		if !named {
			keys = append(keys, bytes.Clone(e.Key))
		}
	}
	return keys, nil
}

package metadata

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// image reads the row of an image. Errors: [errdefs.ErrNotFound]; [errdefs.ErrDataLoss] when it
// does not decode.
func (v view) image(ns, name string) (row imageRow, err error) {
	err = v.get(key(imageRows, ns, name), &row)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	}
	return row, err
}

// Image describes an image. Errors: [errdefs.ErrNotFound]; [errdefs.ErrDataLoss] when its record
// is damaged.
func (s *Store) Image(ctx context.Context, ns, name string) (img Image, err error) {
	err = s.view(ctx, func(v view) error {
		row, err := v.image(ns, name)
		img = row.Image
		return err
	})
	return img, err
}

// Images lists the images of a namespace by name. One whose record is damaged does not break
// the list: it is there with its name, no target, and the state [Partial].
func (s *Store) Images(ctx context.Context, ns string) (list []Image, err error) {
	err = s.view(ctx, func(v view) error {
		prefix := key(imageRows, ns, "")
		for e, err := range v.Scan(prefix) {
			if err != nil && e.Key == nil {
				return err
			}
			var row imageRow
			if err != nil || decode(e.Key, e.Value, &row) != nil {
				row.Image = Image{Name: last(e.Key, prefix), State: Partial}
			}
			list = append(list, row.Image)
		}
		return nil
	})
	return list, err
}

// ImagesByPrefix lists the images of a namespace whose target's digest begins with prefix: in
// full, as algorithm:hex, or with its hex alone.
func (s *Store) ImagesByPrefix(ctx context.Context, ns, prefix string) (list []Image, err error) {
	err = s.view(ctx, func(v view) error {
		for _, p := range digestPrefixes(prefix) {
			for e, err := range v.Scan(slices.Concat([]byte(targetRows), p.short)) {
				if err != nil {
					return err
				}
				d, inNS, name, err := parseTargetKey(e.Key)
				if err != nil {
					return err
				}
				if inNS != ns || !p.of(d) {
					continue
				}
				row, err := v.image(ns, name)
				if err != nil {
					return err
				}
				list = append(list, row.Image)
			}
		}
		return nil
	})
	return list, err
}

// ImagesAbove lists the images of a namespace that reach a blob, by name. Damaged ones are left out.
func (s *Store) ImagesAbove(ctx context.Context, ns string, d image.Digest) (list []Image, err error) {
	if err := checkDigests(d); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(v view) error {
		above, err := v.above(d)
		if err != nil {
			return err
		}
		var names []string
		for target := range above {
			err := v.imagesOf(target, func(in, name string) {
				if in == ns {
					names = append(names, name)
				}
			})
			if err != nil {
				return err
			}
		}
		slices.Sort(names)
		for _, name := range names {
			row, err := v.image(ns, name)
			if err == nil {
				list = append(list, row.Image)
			} else if !unread(err) {
				return err
			}
		}
		return nil
	})
	return list, err
}

// Tag names the image src dst as well. Errors: [errdefs.ErrNotFound]; [errdefs.ErrAlreadyExists]
// when dst has another target, unless force moves it.
func (s *Store) Tag(ctx context.Context, ns, src, dst string, force bool) (img Image, err error) {
	if err := errors.Join(CheckNamespace(ns), checkName(dst)); err != nil {
		return Image{}, err
	}
	err = s.update(ctx, func(c change) error {
		row, err := c.image(ns, src)
		if err != nil {
			return err
		}
		now := time.Now().UTC()
		old, err := c.image(ns, dst)
		switch {
		case errdefs.IsNotFound(err), errdefs.IsDataLoss(err): // what is damaged is replaced
			old.CreatedAt = now
		case err != nil:
			return err
		case old.Target.Digest == row.Target.Digest:
			img = old.Image
			return nil
		case !force:
			return fmt.Errorf("it stands for %s: %w", old.Target.Digest, errdefs.ErrAlreadyExists)
		}
		if err := c.dropImage(ns, dst); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		row.CreatedAt = old.CreatedAt
		row.Name = dst
		err = c.putImage(ns, &row, now)
		img = row.Image
		return err
	})
	return img, err
}

// EditImage has f change the labels of an image, and what the descriptor of its target says beside
// the digest and the size. F may be called again. Errors: [errdefs.ErrNotFound]; what f fails with.
func (s *Store) EditImage(ctx context.Context, ns, name string, f func(*Image) error) (img Image, err error) {
	err = s.update(ctx, func(c change) error {
		row, err := c.image(ns, name)
		if err != nil {
			return err
		}
		edited := row.Image
		edited.Labels, edited.Target.Annotations = maps.Clone(row.Labels), maps.Clone(row.Target.Annotations)
		if err := f(&edited); err != nil {
			return err
		}
		if err := checkLabels(edited.Labels); err != nil {
			return err
		}
		edited.Target.Digest, edited.Target.Size = row.Target.Digest, row.Target.Size
		row.Target, row.Labels = edited.Target, merge(nil, edited.Labels)
		err = c.putImage(ns, &row, time.Now().UTC())
		img = row.Image
		return err
	})
	return img, err
}

// RemoveImages removes names, and returns those that were not there. What they named stays until
// it is collected; until then [Store.RestoreImage] brings them back.
func (s *Store) RemoveImages(ctx context.Context, ns string, names ...string) (missing []string, err error) {
	err = s.update(ctx, func(c change) error {
		now := time.Now().UTC()
		for _, name := range names {
			err := c.removeImage(ns, name, now)
			if errdefs.IsNotFound(err) {
				missing = append(missing, name)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return missing, err
}

// RemoveImage is [Store.RemoveImages] of one name, if it stands for target or that is empty. Errors:
// [errdefs.ErrNotFound], also when it stands for something else.
func (s *Store) RemoveImage(ctx context.Context, ns, name string, target image.Digest) error {
	return s.update(ctx, func(c change) error {
		if target != "" {
			row, err := c.image(ns, name)
			if err == nil && row.Target.Digest != target {
				err = fmt.Errorf("image %s stands for %s, and not for %s: %w", name, row.Target.Digest, target, errdefs.ErrNotFound)
			}
			if err != nil {
				return err
			}
		}
		return c.removeImage(ns, name, time.Now().UTC())
	})
}

// dropImage removes a name, also one whose record is damaged.
func (c change) dropImage(ns, name string) error {
	k := key(imageRows, ns, name)
	row, err := c.image(ns, name)
	switch {
	case errdefs.IsDataLoss(err):
		err = c.dropDamaged(k)
	case err == nil:
		err = c.set(k, row, nil)
	}
	if err != nil {
		return err
	}
	c.names.taken(ns, name, time.Now().UTC())
	return nil
}

// LabelImage sets labels of an image; an empty value removes one.
func (s *Store) LabelImage(ctx context.Context, ns, name string, labels map[string]string) (img Image, err error) {
	if err := checkLabels(labels); err != nil {
		return Image{}, err
	}
	err = s.update(ctx, func(c change) error {
		row, err := c.image(ns, name)
		if err != nil {
			return err
		}
		row.Labels = merge(row.Labels, labels)
		err = c.putImage(ns, &row, time.Now().UTC())
		img = row.Image
		return err
	})
	return img, err
}

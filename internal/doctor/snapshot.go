package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
)

// A shelf is what one snapshotter has in one namespace.
type shelf struct {
	*snapshot.Store
	rows   map[string]snapshot.Snapshot // by key; those that can be read
	keys   []string                     // of the rows, in their order
	stacks []*stack                     // of the manifests that rows list
	all    bool                         // stacks are those of all images as well
}

// A stack is an image as a chain of snapshots stands for it, lowest first.
type stack struct {
	manifest image.Digest
	layers   []image.Descriptor
	diffIDs  []image.Digest
	keys     []string
}

// shelves reads what there is of snapshots.
func (e *Exam) shelves(ctx context.Context) (list []*shelf, err error) {
	stores, err := e.Snapshotters(ctx)
	if err != nil {
		return nil, err
	}
	for _, store := range stores {
		s := &shelf{Store: store, rows: map[string]snapshot.Snapshot{}}
		rows, err := store.Walk(ctx)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if row.Damaged {
				continue
			}
			s.rows[row.Key] = row
			s.keys = append(s.keys, row.Key)
		}
		for _, key := range s.keys {
			for _, m := range s.rows[key].Manifests {
				if err := e.addStack(ctx, s, m, key); err != nil {
					return nil, err
				}
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// addStack adds the stack of a manifest, if what says so can be read: the rows, if top is the key of
// its topmost snapshot and all of them are there, or else the config.
func (e *Exam) addStack(ctx context.Context, s *shelf, manifest image.Digest, top string) error {
	if slices.ContainsFunc(s.stacks, func(st *stack) bool { return st.manifest == manifest }) {
		return nil
	}
	doc, err := e.Meta.Document(ctx, manifest)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		return nil
	}
	if err != nil {
		return err
	}
	st := &stack{manifest: manifest, layers: doc.Layers}
	for _, row := range s.chain(top) {
		st.diffIDs = append(st.diffIDs, row.DiffID)
	}
	if len(st.diffIDs) != len(doc.Layers) || len(st.diffIDs) == 0 || slices.Contains(st.diffIDs, "") {
		if st.diffIDs, err = e.diffIDs(ctx, doc); err != nil || len(st.diffIDs) != len(doc.Layers) {
			return err
		}
	}
	for _, id := range image.ChainIDs(st.diffIDs) {
		st.keys = append(st.keys, id.String())
	}
	s.stacks = append(s.stacks, st)
	return nil
}

// diffIDs reads those of an image out of its config. There are none if it cannot be read.
func (e *Exam) diffIDs(ctx context.Context, doc metadata.Document) ([]image.Digest, error) {
	if doc.Config == nil {
		return nil, nil
	}
	body, err := content.ReadBlob(ctx, e.Content, doc.Config.Digest, image.MaxConfig)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	config, err := image.ParseConfig(body)
	if err != nil {
		return nil, nil // of an artifact
	}
	return config.DiffIDs, nil
}

// subject names a snapshot in a finding.
func (s *shelf) subject(key string) string {
	return s.Name() + "/" + s.Namespace() + "/" + key
}

// chain gives the rows of a snapshot and all that it stands on, lowest first; nil if one is not
// there.
func (s *shelf) chain(key string) (rows []snapshot.Snapshot) {
	for key != "" && len(rows) <= len(s.rows) {
		row, ok := s.rows[key]
		if !ok {
			return nil
		}
		rows = append(rows, row)
		key = row.Parent
	}
	slices.Reverse(rows)
	return rows
}

// errUnknown says that no image is known that a snapshot could be unpacked from.
var errUnknown = fmt.Errorf("no image has it: %w", errdefs.ErrNotFound)

// unpack unpacks every image again that has the snapshot key, as far as it is not there.
func (e *Exam) unpack(ctx context.Context, s *shelf, key string) error {
	having := func() (list []*stack) {
		for _, st := range s.stacks {
			if slices.Contains(st.keys, key) {
				list = append(list, st)
			}
		}
		return list
	}
	list := having()
	if len(list) == 0 && !s.all {
		s.all = true
		images, err := e.Meta.Images(ctx, s.Namespace())
		if err != nil {
			return err
		}
		for _, img := range images {
			for _, p := range img.Platforms {
				if err := e.addStack(ctx, s, p.Manifest.Digest, ""); err != nil {
					return err
				}
			}
		}
		list = having()
	}
	if len(list) == 0 {
		return errUnknown
	}
	for _, st := range list {
		if err := e.unpackStack(ctx, s, st); err != nil {
			return err
		}
	}
	return nil
}

// unpackStack unpacks one image, with those layers brought back that are needed for it.
func (e *Exam) unpackStack(ctx context.Context, s *shelf, st *stack) error {
	var want []image.Descriptor
	for i, key := range st.keys {
		row, ok := s.rows[key]
		if ok && (row.Lazy || s.There(row)) {
			continue
		}
		_, err := e.Content.Info(ctx, st.layers[i].Digest)
		if errdefs.IsNotFound(err) {
			want = append(want, st.layers[i])
		} else if err != nil {
			return err
		}
	}
	if len(want) > 0 {
		lost, err := e.Refetch(ctx, want)
		if err != nil {
			return err
		}
		for _, d := range want {
			if err := lost[d.Digest]; err != nil {
				return err
			}
		}
	}
	return e.Unpack(ctx, s.Name(), s.Namespace(), st.manifest)
}

// remove takes a snapshot away that cannot be made again, with all that stands on it. What somebody
// wrote there is moved aside.
func (e *Exam) remove(ctx context.Context, s *shelf, key string) error {
	for _, above := range s.keys {
		if s.rows[above].Parent == key {
			if err := e.remove(ctx, s, above); err != nil {
				return err
			}
		}
	}
	if _, err := s.SetAside(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	delete(s.rows, key)
	return nil
}

// restore unpacks a snapshot again, or removes it if no image has it.
func (e *Exam) restore(ctx context.Context, s *shelf, key string) error {
	err := e.unpack(ctx, s, key)
	if errors.Is(err, errUnknown) {
		return e.remove(ctx, s, key)
	}
	return err
}

// repairOf says what becomes of a snapshot that is not whole.
func repairOf(row snapshot.Snapshot) string {
	if row.Kind == snapshot.Committed && row.DiffID != "" {
		return "unpack it again"
	}
	return "remove it"
}

// lostSnapshots looks for snapshots whose folder is gone.
func (e *Exam) lostSnapshots(ctx context.Context) error {
	shelves, err := e.shelves(ctx)
	if err != nil {
		return err
	}
	for _, s := range shelves {
		for _, key := range s.keys {
			row := s.rows[key]
			if row.Lazy {
				continue
			}
			info, err := os.Lstat(s.Path(row.Folder))
			switch {
			case err == nil && info.IsDir() && row.Folder != "":
				continue
			case err != nil && !errors.Is(err, fs.ErrNotExist):
				return err
			}
			e.report(Finding{
				Subject: s.subject(key),
				Detail:  fmt.Sprintf("the folder %s of this %s snapshot is gone", s.Path(row.Folder), row.Kind),
				Repair:  repairOf(row),
				mend:    func(ctx context.Context) error { return e.restore(ctx, s, key) },
			})
		}
	}
	return nil
}

// orphanSnapshots looks for snapshots whose parent has no row.
func (e *Exam) orphanSnapshots(ctx context.Context) error {
	shelves, err := e.shelves(ctx)
	if err != nil {
		return err
	}
	for _, s := range shelves {
		rows, err := s.Walk(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rows, func(r snapshot.Snapshot) bool { return r.Damaged }) {
			continue // it may be the parent of any
		}
		for _, key := range s.keys {
			row := s.rows[key]
			if _, ok := s.rows[row.Parent]; ok || row.Parent == "" {
				continue
			}
			e.report(Finding{
				Subject: s.subject(key),
				Detail:  fmt.Sprintf("the snapshot %s that it stands on is gone", row.Parent),
				Repair:  strings.Replace(repairOf(row), "it", "that", 1),
				mend: func(ctx context.Context) error {
					err := e.unpack(ctx, s, row.Parent)
					if errors.Is(err, errUnknown) {
						return e.remove(ctx, s, key)
					}
					return err
				},
			})
		}
	}
	return nil
}

package metadata

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// Needs is what one image keeps while it has its name.
type Needs struct {
	Namespace string
	Image     Image
	UsedAt    time.Time      // as in [ImageUse]
	Blobs     []image.Digest // here or not
	Folders   []SnapshotFolder
}

// A SnapshotFolder is a folder of a snapshotter.
type SnapshotFolder struct{ Snapshotter, Folder string }

// EachImage calls f for the images of all namespaces, but for those whose record is damaged, with
// what they need. F must not use the store.
func (s *Store) EachImage(ctx context.Context, f func(Needs)) error {
	return s.inventory().scan(ctx, imageRows, func(l *look, e kv.Entry) error {
		ns, name := cut(e.Key, []byte(imageRows))
		row, err := l.image(ns, name)
		if err != nil {
			return err
		}
		n := Needs{Namespace: ns, Image: row.Image}
		if n.UsedAt, err = l.usedAt(ns, row.Image); err != nil {
			return err
		}
		if err := l.addNeeds(&n); err != nil {
			return err
		}
		f(n)
		return nil
	})
}

// addNeeds walks down from the image.
func (v view) addNeeds(list *Needs) error {
	start := string(key(imageRows, list.Namespace, list.Image.Name))
	met, rest := map[node]bool{start: true}, []node{start}
	for len(rest) > 0 {
		n := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		switch n[:len(knownRows)] {
		case knownRows:
			_, text := cutNode(n)
			if d, _, ok := cutDigest([]byte(text)); ok {
				list.Blobs = append(list.Blobs, d)
			}
		case snapshotRows:
			row, err := v.knownSnapshot(n)
			if err != nil && !unread(err) {
				return err
			}
			if row.Folder != "" {
				list.Folders = append(list.Folders, SnapshotFolder{row.Snapshotter, row.Folder})
			}
		}
		err := v.below(n, func(down node) {
			// Another name that a label keeps has its own account.
			if !met[down] && !strings.HasPrefix(down, imageRows) {
				met[down] = true
				rest = append(rest, down)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// FreedFolders tells what the folders take on the disk that no other row would name if the rows of
// some snapshots were gone, in bytes.
func (s *Store) FreedFolders(ctx context.Context, gone []KnownSnapshot) (size int64, err error) {
	rows := map[string]bool{}
	for _, row := range gone {
		rows[string(snapshotKey(row.Namespace, row.Snapshotter, row.Key))] = true
	}
	met := map[SnapshotFolder]bool{}
	err = s.inventory().looks(ctx, func(l *look) (bool, error) {
		for len(gone) > 0 {
			row := gone[0]
			gone = gone[1:]
			f := SnapshotFolder{row.Snapshotter, row.Folder}
			if met[f] || f.Folder == "" {
				continue
			}
			met[f] = true
			named, err := l.folderRows(f.Snapshotter, f.Folder)
			if err != nil {
				return false, err
			}
			if !slices.ContainsFunc(named, func(k string) bool { return strings.HasPrefix(k, snapshotRows) && !rows[k] }) {
				size += row.Size
			}
			if l.over() {
				return false, nil
			}
		}
		return true, nil
	})
	return size, err
}

package metadata

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/stowage/stowage/internal/kv"
)

// An edgeRow says what two rows are to each other, of which the one that comes first in the key
// is named by the other.
type edgeRow byte

const (
	keepsNamed  edgeRow = 1 << iota // while the one that names it is kept, so is the named one
	keptByNamed                     // while the named one is kept, so is the one that names it
	standsOn                        // the named one is its parent
)

// An indexed row has others beside it, by which it is found; they follow from it alone, and
// are written and removed with it by [change.set].
type indexed interface {
	// index lists them for the row under key.
	index(key []byte) []kv.Entry
}

func (row knownRow) index(key []byte) []kv.Entry {
	m := marksOf(row.Labels)
	return append(m.row(key), edgesOf(key, m, nil)...)
}

func (row imageRow) index(key []byte) []kv.Entry {
	ns, name := cut(key, []byte(imageRows))
	m := marksOf(row.Labels)
	list := append(m.row(key), edgesOf(key, m, nil)...)
	return append(list, kv.Entry{Key: targetKey(row.Target.Digest, ns, name)})
}

func (row Snapshot) index(key []byte) []kv.Entry {
	ns, rest := cut(key, []byte(snapshotRows))
	snapshotter, name, _ := strings.Cut(rest, "\x00")
	named := map[string]edgeRow{}
	if row.Parent != "" {
		named[string(snapshotKey(ns, snapshotter, row.Parent))] = standsOn | keepsNamed
	}
	for _, m := range row.Manifests {
		named[string(knownKey(ns, m))] |= keptByNamed
	}
	list := edgesOf(key, marksOf(row.Labels), named)
	if row.Folder != "" {
		list = append(list, kv.Entry{Key: folderKey(snapshotter, row.Folder, key)})
	}
	if row.Lazy {
		list = append(list, kv.Entry{Key: lazyKey(row.Blob, ns, snapshotter, name)})
	}
	return list
}

func (l UnpackedLayer) index(key []byte) []kv.Entry {
	snapshotter, _ := cut(key, []byte(layerRows))
	return []kv.Entry{{Key: folderKey(snapshotter, l.Folder, key)}}
}

func (row documentRow) index(key []byte) (list []kv.Entry) {
	parent := key[len(documentRows):]
	for _, e := range edges(&Document{Document: row.Document}) {
		places, _ := parentRow(e.places).AppendBinary(nil) // which cannot fail
		list = append(list, kv.Entry{Key: append(digestKey(parentRows, e.child), parent...), Value: places})
	}
	return list
}

// row is the index row that says them of the row under key.
func (m marks) row(key []byte) []kv.Entry {
	if len(m) == 0 {
		return nil
	}
	b, _ := json.Marshal(m) // which cannot fail
	return []kv.Entry{{Key: markKey(string(key)), Value: b}}
}

// edgesOf lists the index rows of the row under key for what its marks name, and for what it
// names otherwise.
func edgesOf(key []byte, m marks, named map[string]edgeRow) (list []kv.Entry) {
	if len(m) == 0 && len(named) == 0 {
		return nil
	}
	if named == nil {
		named = map[string]edgeRow{}
	}
	ns, _ := cut(key, key[:2])
	for _, n := range m.named(refLabel, ns) {
		named[n] |= keepsNamed
	}
	for _, n := range m.named(brefLabel, ns) {
		named[n] |= keptByNamed
	}
	for n, row := range named {
		list = append(list, kv.Entry{Key: append(edgePrefix(n), key...), Value: []byte{byte(row)}})
	}
	return list
}

// set writes a row, or removes it if row is nil, with its index rows. Old is the row as it was;
// nil if there was none.
func (c change) set(key []byte, old, row indexed) error {
	stale := map[string]string{}
	if old != nil {
		for _, e := range old.index(key) {
			stale[string(e.Key)] = string(e.Value)
		}
	}
	if row != nil {
		for _, e := range row.index(key) {
			was, ok := stale[string(e.Key)]
			delete(stale, string(e.Key))
			if ok && was == string(e.Value) {
				continue
			}
			if err := c.w.Put(e.Key, e.Value); err != nil {
				return err
			}
		}
	}
	for k := range stale {
		if err := c.w.Delete([]byte(k)); err != nil {
			return err
		}
	}
	if row == nil {
		return c.w.Delete(key)
	}
	return c.put(key, row)
}

// dropDamaged removes a row that cannot be read. Nobody knows what it said, so that its index rows
// are looked for among all.
func (c change) dropDamaged(row []byte) error {
	gone := [][]byte{row, markKey(string(row))}
	end, own := append([]byte{0}, row...), row[len(imageRows):]
	for _, kind := range []string{edgeRows, folderRows, targetRows, lazyRows} {
		for e, err := range c.Scan([]byte(kind)) {
			if err != nil && e.Key == nil {
				return err
			}
			_, rest, _ := cutDigest(e.Key[len(kind):])
			if bytes.HasSuffix(e.Key, end) || (kind == targetRows || kind == lazyRows) && bytes.Equal(rest, own) {
				gone = append(gone, bytes.Clone(e.Key))
			}
		}
	}
	for _, k := range gone {
		if err := c.w.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

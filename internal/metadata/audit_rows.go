package metadata

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// A recordKind is rows that say something by themselves.
type recordKind struct {
	rows string
	make func() any // an empty one, to decode into
}

func recordKinds() []recordKind {
	return []recordKind{
		{namespaceRows, func() any { return new(Namespace) }},
		{imageRows, func() any { return new(imageRow) }},
		{removedRows, func() any { return new(removedRow) }},
		{usedRows, func() any { return new(usedRow) }},
		{leaseRows, func() any { return new(Lease) }},
		{blobRows, func() any { return new(blobRow) }},
		{doomedRows, func() any { return new(doomedRow) }},
		{goneRows, func() any { return new(goneRow) }},
		{documentRows, func() any { return new(documentRow) }},
		{knownRows, func() any { return new(knownRow) }},
		{layerRows, func() any { return new(UnpackedLayer) }},
		{snapshotRows, func() any { return new(Snapshot) }},
	}
}

// indexKinds are rows that follow from others.
func indexKinds() []string {
	return []string{targetRows, parentRows, lazyRows, edgeRows, folderRows, markRows}
}

// A Fault is a row that is not as it should be.
type Fault struct {
	Subject string // what the row is of
	Detail  string
	key     []byte
}

// describe says what a row is of.
func describe(k []byte) string {
	if len(k) < 2 {
		return fmt.Sprintf("row %q", k)
	}
	rows := string(k[:2])
	before, after := cut(k, k[:2])
	d, rest, isDigest := cutDigest(k[2:])
	_, known, knownErr := parseKnownKey(append([]byte(knownRows), k[2:]...))
	switch {
	case rows == namespaceRows:
		return "namespace " + before
	case rows == imageRows:
		return "image " + before + "/" + after
	case rows == removedRows:
		return "removed image " + before + "/" + after
	case rows == leaseRows:
		return "lease " + before + "/" + after
	case rows == snapshotRows:
		return "snapshot " + before + "/" + strings.ReplaceAll(after, "\x00", "/")
	case rows == knownRows && knownErr == nil:
		return "blob " + before + "/" + known.String()
	case rows == usedRows && knownErr == nil:
		return "use of image " + before + "/" + known.String()
	case rows == layerRows && knownErr == nil:
		return "layer " + before + "/" + known.String()
	case rows == documentRows && isDigest:
		return "document " + d.String()
	case rows == targetRows && isDigest:
		return "name " + strings.ReplaceAll(string(rest), "\x00", "/") + " of " + d.String()
	case rows == parentRows && isDigest:
		if parent, err := lastDigest(rest, nil); err == nil {
			return "edge from " + parent.String() + " to " + d.String()
		}
	case (rows == blobRows || rows == doomedRows || rows == goneRows) && isDigest:
		return "bytes of " + d.String()
	}
	return fmt.Sprintf("row %q", k)
}

// An audit is what is found of rows, in many short transactions. What it says of a record and of the rows
// beside it was so at one moment.
type audit struct {
	damaged []Fault // records that do not decode
	faults  []Fault // index rows that are absent or wrong, and what has no partner
	surplus int     // index rows that follow from nothing; a guess, while others write
}

// audit looks at all rows.
func (s *Store) audit(ctx context.Context) (a audit, err error) {
	for _, kind := range recordKinds() {
		err := s.eachRow(ctx, kind.rows, func(v view, e kv.Entry, err error) error {
			row := kind.make()
			if err == nil {
				err = decode(e.Key, e.Value, row)
			}
			if err != nil {
				a.damaged = append(a.damaged, Fault{describe(e.Key), "its record cannot be read", bytes.Clone(e.Key)})
				return nil
			}
			if err := a.partners(v, e.Key); err != nil {
				return err
			}
			if row, ok := row.(indexed); ok {
				a.index(v, e.Key, row)
			}
			return nil
		})
		if err != nil {
			return a, err
		}
	}
	for _, rows := range indexKinds() {
		err := s.eachRow(ctx, rows, func(view, kv.Entry, error) error {
			a.surplus++
			return nil
		})
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// partners looks for the row that one needs beside it.
func (a *audit) partners(v view, k []byte) error {
	switch string(k[:2]) {
	case knownRows:
		_, d, err := parseKnownKey(k)
		if err != nil {
			a.damaged = append(a.damaged, Fault{describe(k), "its record cannot be read", bytes.Clone(k)})
			return nil
		}
		here, err := v.has(blobKey(d))
		if err == nil && !here {
			a.faults = append(a.faults, Fault{describe(k), "no record says that its bytes are here", bytes.Clone(k)})
		}
		return ignoreDamage(err)
	case doomedRows:
		d, err := lastDigest(k, []byte(doomedRows))
		if err != nil {
			a.damaged = append(a.damaged, Fault{describe(k), "its record cannot be read", bytes.Clone(k)})
			return nil
		}
		here, err := v.has(blobKey(d))
		if err == nil && here {
			a.faults = append(a.faults, Fault{describe(k), "they are to be deleted and to be kept", bytes.Clone(k)})
		}
		return ignoreDamage(err)
	}
	return nil
}

// index compares the index rows of a record with those that there are.
func (a *audit) index(v view, k []byte, row indexed) {
	for _, want := range row.index(k) {
		got, err := v.Get(want.Key)
		switch {
		case errdefs.IsNotFound(err):
			a.faults = append(a.faults, Fault{describe(k), "it cannot be found by " + describe(want.Key), bytes.Clone(k)})
			continue
		case err != nil || !bytes.Equal(got, want.Value) && len(got)+len(want.Value) > 0:
			a.faults = append(a.faults, Fault{describe(k), describe(want.Key) + " is wrong", bytes.Clone(k)})
		}
		a.surplus--
	}
}

// A walk calls f for each row of a kind, also for those that cannot be read: in one transaction, or
// in many.
type walk func(kind string, f func(v view, e kv.Entry, err error) error) error

func (v view) walk(kind string, f func(v view, e kv.Entry, err error) error) error {
	for e, err := range v.Scan([]byte(kind)) {
		if err != nil && e.Key == nil {
			return err
		}
		if err := f(v, e, err); err != nil {
			return err
		}
	}
	return nil
}

// expected are the index rows that follow from the records.
func (w walk) expected() (map[string]string, error) {
	rows := map[string]string{}
	for _, kind := range recordKinds() {
		if _, ok := kind.make().(indexed); !ok {
			continue
		}
		err := w(kind.rows, func(_ view, e kv.Entry, err error) error {
			row := kind.make()
			if err != nil || decode(e.Key, e.Value, row) != nil {
				return nil
			}
			for _, i := range row.(indexed).index(e.Key) {
				rows[string(i.Key)] = string(i.Value)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// surplus lists the index rows that are not expected.
func (w walk) surplus(want map[string]string) (keys [][]byte, err error) {
	for _, rows := range indexKinds() {
		err := w(rows, func(_ view, e kv.Entry, _ error) error {
			if _, ok := want[string(e.Key)]; !ok {
				keys = append(keys, bytes.Clone(e.Key))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// surplus lists the index rows that follow from nothing. Of a record that was written while the others
// were read, they are met the second time.
func (s *Store) surplus(ctx context.Context) ([][]byte, error) {
	w := walk(func(kind string, f func(view, kv.Entry, error) error) error { return s.eachRow(ctx, kind, f) })
	want, err := w.expected()
	if err != nil {
		return nil, err
	}
	keys, err := w.surplus(want)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	if want, err = w.expected(); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(v view) error {
		keys = slices.DeleteFunc(keys, func(k []byte) bool {
			if _, ok := want[string(k)]; ok {
				return true
			}
			_, err := v.Get(k)
			return errdefs.IsNotFound(err)
		})
		return nil
	})
	return keys, err
}

// Damaged lists the records that cannot be read.
func (s *Store) Damaged(ctx context.Context) ([]Fault, error) {
	a, err := s.audit(ctx)
	return a.damaged, err
}

// Dangling lists the rows that lead nowhere, that others should have beside them, or that are
// wrong. What damaged records lead to nobody knows; it is not listed while there are any.
func (s *Store) Dangling(ctx context.Context) ([]Fault, error) {
	a, err := s.audit(ctx)
	list := a.faults
	if err != nil || a.surplus == 0 || len(a.damaged) > 0 {
		return list, err
	}
	keys, err := s.surplus(ctx)
	for _, k := range keys {
		list = append(list, Fault{describe(k), "it leads to nothing", k})
	}
	return list, err
}

// MendRecord writes a damaged record anew from the rows beside it, from the journal of names and from blobs, or
// removes it where it says nothing that cannot be found out again. Errors:
// [errdefs.ErrFailedPrecondition] for what only a person can decide.
func (s *Store) MendRecord(ctx context.Context, f Fault, blobs content.Store) error {
	ns, name := cut(f.key, f.key[:2])
	switch string(f.key[:2]) {
	case imageRows:
		return s.mendImage(ctx, ns, name)
	case snapshotRows:
		if _, snapshot, _ := strings.Cut(name, "\x00"); image.CheckDigest(image.Digest(snapshot)) != nil {
			return fmt.Errorf("it was made by hand, and is lost with its record; `stowage snapshot rm` removes it: %w", errdefs.ErrFailedPrecondition)
		}
	case documentRows:
		if d, err := lastDigest(f.key, []byte(documentRows)); err == nil {
			return s.mendDocument(ctx, d, blobs)
		}
	case blobRows:
		if d, err := lastDigest(f.key, []byte(blobRows)); err == nil {
			return s.mendBlob(ctx, d, blobs)
		}
	}
	return s.update(ctx, func(c change) error {
		if err := c.dropDamaged(f.key); err != nil {
			return err
		}
		switch string(f.key[:2]) {
		case namespaceRows:
			return c.ensureNamespace(ns, time.Now().UTC())
		case knownRows:
			_, d, err := parseKnownKey(f.key)
			if err != nil {
				return nil
			}
			size, here, err := c.size(d)
			if err != nil || !here {
				return err
			}
			now := time.Now().UTC()
			return c.set(f.key, nil, knownRow{Size: size, CreatedAt: now, UpdatedAt: now})
		}
		return nil
	})
}

// mendImage writes the record of an image anew.
func (s *Store) mendImage(ctx context.Context, ns, name string) error {
	names, err := s.journal.names()
	if err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		d, err := c.targetOf(ns, name)
		if err != nil {
			return err
		}
		l, known := names[namedImage{ns, name}]
		if d != "" {
			if !known || l.Target.Digest != d {
				target := image.Descriptor{Digest: d}
				if doc, err := c.document(d); err == nil && doc != nil {
					target.MediaType, target.Size = doc.MediaType, doc.Size
				}
				l, known = line{Target: &target, CreatedAt: time.Now().UTC()}, true
			}
		}
		if !known {
			return fmt.Errorf("nobody knows what it stood for; `stowage rmi` removes it: %w", errdefs.ErrFailedPrecondition)
		}
		if err := c.dropImage(ns, name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		l.Namespace, l.Name = ns, name
		return c.nameAgain(l)
	})
}

// targetOf finds the target of an image among all; empty if it is not there.
func (v view) targetOf(ns, name string) (image.Digest, error) {
	for e, err := range v.Scan([]byte(targetRows)) {
		if err != nil && e.Key == nil {
			return "", err
		}
		if d, inNS, inName, err := parseTargetKey(e.Key); err == nil && inNS == ns && inName == name {
			return d, nil
		}
	}
	return "", nil
}

// nameAgain writes the record of an image that there was.
func (c change) nameAgain(l line) error {
	now := time.Now().UTC()
	if err := c.ensureNamespace(l.Namespace, now); err != nil {
		return err
	}
	row := imageRow{Image: Image{Name: l.Name, Target: *l.Target, Labels: l.Labels, CreatedAt: l.CreatedAt}, Want: l.Want}
	if err := c.complete(&row); err != nil {
		return err
	}
	if len(row.Want) == 0 {
		row.want(wantedFromNowOn(row.Platforms))
		if err := c.complete(&row); err != nil {
			return err
		}
	}
	return c.putImage(l.Namespace, &row, now)
}

// mendDocument reads a document anew from its blob. Without that, there is none.
func (s *Store) mendDocument(ctx context.Context, d image.Digest, blobs content.Store) error {
	var doc *Document
	b, err := content.ReadBlob(ctx, blobs, d, image.MaxDocument)
	switch {
	case err == nil:
		if doc, err = ReadDocument(ctx, blobs, d, b); err != nil {
			return err
		}
	case !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err):
		return err
	}
	return s.update(ctx, func(c change) error {
		if err := c.w.Delete(documentKey(d)); err != nil {
			return err
		}
		if _, here, err := c.size(d); err != nil {
			return err
		} else if here && doc != nil {
			if _, err := c.addDocument(doc); err != nil {
				return err
			}
		}
		return ignoreDamage(c.recompute(nil, d)) // the others are mended in their turn
	})
}

// mendBlob notes whether the bytes of a blob are here.
func (s *Store) mendBlob(ctx context.Context, d image.Digest, blobs content.Store) error {
	info, err := blobs.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return s.ForgetBlobs(ctx, d)
	}
	if err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		if err := c.put(blobKey(d), blobRow{info.Size}); err != nil {
			return err
		}
		if err := c.w.Delete(doomedKey(d)); err != nil {
			return err
		}
		return ignoreDamage(c.recompute(nil, d))
	})
}

// MendDangling gives every row what should be beside it, and removes what leads to nothing. Where a name or
// an edge leads from a record that is gone, the record is written anew if that can be.
func (s *Store) MendDangling(ctx context.Context, blobs content.Store) error {
	a, err := s.audit(ctx)
	if err != nil {
		return err
	}
	keys, err := s.surplus(ctx)
	if err != nil {
		return err
	}
	for _, f := range a.faults {
		var d image.Digest
		switch string(f.key[:2]) {
		case knownRows:
			_, d, err = parseKnownKey(f.key)
		case doomedRows:
			d, err = lastDigest(f.key, []byte(doomedRows))
		default:
			continue
		}
		if err != nil {
			return err
		}
		if err := s.mendBlob(ctx, d, blobs); err != nil {
			return err
		}
	}
	if err := s.mendOrigins(ctx, keys, blobs); err != nil {
		return err
	}
	return s.update(ctx, func(c change) error {
		w := walk(c.walk)
		want, err := w.expected()
		if err != nil {
			return err
		}
		gone, err := w.surplus(want)
		if err != nil {
			return err
		}
		for _, k := range gone {
			if err := c.w.Delete(k); err != nil {
				return err
			}
		}
		for k, value := range want {
			got, err := c.Get([]byte(k))
			if err == nil && string(got) == value {
				continue
			}
			if err := c.w.Put([]byte(k), []byte(value)); err != nil {
				return err
			}
		}
		return nil
	})
}

// mendOrigins writes the records anew that index rows should follow from.
func (s *Store) mendOrigins(ctx context.Context, keys [][]byte, blobs content.Store) error {
	done := map[string]bool{}
	for _, k := range keys {
		var origin []byte
		var mend func() error
		switch string(k[:2]) {
		case targetRows:
			_, ns, name, err := parseTargetKey(k)
			if err != nil {
				continue
			}
			origin = key(imageRows, ns, name)
			mend = func() error { return s.mendImage(ctx, ns, name) }
		case parentRows:
			parent, err := lastDigest(k[len(parentRows):], slices.Clip(childOf(k)))
			if err != nil {
				continue
			}
			origin = documentKey(parent)
			mend = func() error { return s.mendDocument(ctx, parent, blobs) }
		default:
			continue
		}
		there := false
		err := s.view(ctx, func(v view) (err error) {
			there, err = v.has(origin)
			return err
		})
		if err != nil {
			return err
		}
		if there || done[string(origin)] {
			continue
		}
		done[string(origin)] = true
		if err := mend(); err != nil {
			return err
		}
	}
	return nil
}

// childOf is the part of an edge's key that names the child.
func childOf(k []byte) []byte {
	_, rest, ok := cutDigest(k[len(parentRows):])
	if !ok {
		return nil
	}
	return k[len(parentRows) : len(k)-len(rest)]
}

package metadata

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
)

// viewTime is how long an inventory reads in one transaction, in which nobody can write.
const viewTime = 4 * time.Millisecond

// A candidate is what may have to go: the key of an image, a snapshot, a layer that can be shared,
// or a doomed blob; or, by the key of its b row, which it may not have, a blob.
type candidate = string

// An inventory looks for candidates in many short transactions. What it remembers from one to the next
// can be wrong by then in both directions, so that what it finds is looked at again by whoever
// takes it away.
type inventory struct {
	store   *Store
	known   map[node]bool
	without map[node]bool
	list    []candidate
	listed  map[candidate]bool
}

func (s *Store) inventory() *inventory {
	return &inventory{store: s, known: map[node]bool{}, listed: map[candidate]bool{}}
}

func (iv *inventory) add(c candidate) {
	if !iv.listed[c] {
		iv.listed[c] = true
		iv.list = append(iv.list, c)
	}
}

// A look is a search in one of an inventory's transactions.
type look struct {
	*search
	live   []liveLease
	spaces []string // all namespaces
	until  time.Time
	steps  int
}

// over tells, before each step of a look but the first, whether others should have a turn.
func (l *look) over() bool {
	l.steps++
	return l.steps > 1 && time.Now().After(l.until)
}

// looks runs f in one transaction after another until it is done.
func (iv *inventory) looks(ctx context.Context, f func(*look) (done bool, err error)) error {
	for done := false; !done; {
		err := iv.store.view(ctx, func(v view) error {
			live, _, err := iv.store.leases(v)
			if err != nil {
				return err
			}
			l := &look{search: v.search(rootsOf(live)), live: live, until: time.Now().Add(viewTime)}
			l.known, l.without = iv.known, iv.without
			if l.spaces, err = v.spaces(); err != nil {
				return err
			}
			done, err = f(l)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scan calls f for the rows of a kind, a transaction's worth at a time. Damaged ones stay.
func (iv *inventory) scan(ctx context.Context, kind string, f func(l *look, e kv.Entry) error) error {
	from := []byte(kind)
	return iv.looks(ctx, func(l *look) (bool, error) {
		n := 0
		for e, err := range l.ScanFrom([]byte(kind), from) {
			if err != nil && e.Key == nil {
				return false, err
			}
			if n++; n%16 == 1 && l.over() {
				from = slices.Clone(e.Key)
				return false, nil
			}
			if err == nil {
				err = f(l, e)
			}
			if err != nil && !unread(err) {
				return false, err
			}
		}
		return true, nil
	})
}

// everything lists all that nothing needs: images whose time is over, snapshots, layers, and blobs,
// documents first, so that who takes them away in this order need not look through them for each
// blob below.
func (iv *inventory) everything(ctx context.Context) error {
	if err := iv.doomed(ctx); err != nil {
		return err
	}
	err := iv.scan(ctx, markRows+imageRows, func(l *look, e kv.Entry) error {
		n := last(e.Key, []byte(markRows))
		needed, err := l.needed(n)
		if !needed && err == nil {
			iv.add(n)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = iv.scan(ctx, snapshotRows, func(l *look, e kv.Entry) error {
		needed, err := l.needed(string(e.Key))
		if !needed && err == nil {
			iv.add(string(e.Key))
		}
		return err
	})
	if err != nil {
		return err
	}
	err = iv.scan(ctx, layerRows, func(l *look, e kv.Entry) error {
		free, err := l.freeLayer(e.Key)
		if free && err == nil {
			iv.add(string(e.Key))
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, kind := range []string{documentRows, blobRows, goneRows} {
		err := iv.scan(ctx, kind, func(l *look, e kv.Entry) error {
			if _, err := lastDigest(e.Key, []byte(kind)); err != nil {
				return err
			}
			d := string(e.Key[len(kind):])
			drop, none, err := l.spare(d, l.spaces)
			if (none || len(drop) > 0) && err == nil {
				iv.add(blobRows + d)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// doomed lists the blobs that are condemned already, with nobody about to delete them.
func (iv *inventory) doomed(ctx context.Context) error {
	return iv.scan(ctx, doomedRows, func(l *look, e kv.Entry) error {
		var row doomedRow
		_, err := lastDigest(e.Key, []byte(doomedRows))
		if err = errors.Join(err, decode(e.Key, e.Value, &row)); err != nil {
			return err
		}
		busy, err := iv.store.claimed(row)
		if !busy && err == nil && !l.all && !l.held[string(e.Key[len(doomedRows):])] {
			iv.add(string(e.Key))
		}
		return err
	})
}

// below lists what nothing needs of what nodes keep, themselves included.
func (iv *inventory) below(ctx context.Context, nodes ...node) error {
	met := map[node]bool{}
	var snapshots, blobs []candidate
	err := iv.looks(ctx, func(l *look) (bool, error) {
		for len(nodes) > 0 {
			if l.over() {
				return false, nil
			}
			n := nodes[len(nodes)-1]
			nodes = nodes[:len(nodes)-1]
			if met[n] {
				continue
			}
			met[n] = true
			needed, err := l.needed(n)
			if err != nil {
				return false, err
			}
			if needed && len(l.flat[n]) == 0 {
				continue // and so is what it keeps
			}
			switch _, rest := cutNode(n); {
			case needed: // by a flat lease, which leaves what is below
			case strings.HasPrefix(n, knownRows):
				blobs = append(blobs, blobRows+rest)
			case strings.HasPrefix(n, snapshotRows):
				snapshots = append(snapshots, n)
			default:
				iv.add(n)
			}
			if err := l.below(n, func(down node) { nodes = append(nodes, down) }); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	for _, c := range slices.Concat(snapshots, blobs) {
		iv.add(c)
	}
	return err
}

// spare finds the namespaces that know a blob, by the short form of its digest, without needing
// it, and whether none needs it at all.
func (s *search) spare(d string, spaces []string) (drop []string, none bool, err error) {
	none = true
	for _, ns := range spaces {
		n := knownRows + ns + "\x00" + d
		needed, err := s.needed(n)
		if err != nil {
			return nil, false, err
		}
		if needed {
			none = false
			continue
		}
		known, err := s.has([]byte(n))
		if err != nil {
			return nil, false, err
		}
		if known {
			drop = append(drop, ns)
		}
	}
	return drop, none && !s.all && !s.held[d], nil
}

// freeLayer tells whether no snapshot has the folder of a layer, and nobody holds it.
func (s *search) freeLayer(key []byte) (bool, error) {
	var l UnpackedLayer
	if err := s.get(key, &l); err != nil {
		return false, err
	}
	if s.holdsDigest(l.DiffID) {
		return false, nil
	}
	snapshotter, _ := cut(key, []byte(layerRows))
	rows, err := s.folderRows(snapshotter, l.Folder)
	shared := slices.ContainsFunc(rows, func(k string) bool { return strings.HasPrefix(k, snapshotRows) })
	return !shared, err
}

// spaces lists the namespaces by name.
func (v view) spaces() (list []string, err error) {
	for e, err := range v.Scan([]byte(namespaceRows)) {
		if err != nil && e.Key == nil {
			return nil, err
		}
		list = append(list, last(e.Key, []byte(namespaceRows)))
	}
	return list, nil
}

// blobs, snapshots and images that candidates stand for.
func (iv *inventory) found(ctx context.Context) (f Found, err error) {
	rest := iv.list
	err = iv.looks(ctx, func(l *look) (bool, error) {
		for ; len(rest) > 0; rest = rest[1:] {
			if l.over() {
				return false, nil
			}
			if err := l.find(&f, rest[0]); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return f, err
}

// find adds a candidate to what was found.
func (l *look) find(f *Found, c candidate) error {
	switch key := []byte(c); c[:len(blobRows)] {
	case imageRows:
		f.Images = append(f.Images, imageRef(c))
	case snapshotRows:
		row, err := l.knownSnapshot(c)
		if err == nil {
			f.Snapshots = append(f.Snapshots, row)
		}
		if err != nil && !unread(err) {
			return err
		}
	case blobRows, doomedRows:
		d, err := lastDigest(key, key[:len(blobRows)])
		if err != nil {
			return err
		}
		var row doomedRow // of which a b row is the beginning
		err = l.get(key, &row)
		if err == nil {
			_, none, spareErr := l.spare(c[len(blobRows):], l.spaces)
			if c[:len(blobRows)] == doomedRows || none {
				f.Blobs = append(f.Blobs, Garbage{d, row.Size})
			}
			err = spareErr
		}
		if err != nil && !unread(err) {
			return err
		}
	}
	return nil
}

// Found is what a collection takes away, or would take.
type Found struct {
	Blobs     []Garbage
	Snapshots []KnownSnapshot
	Images    []ImageRef // whose time is over
}

// An ImageRef is the name of an image, with its namespace.
type ImageRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func imageRef(n node) ImageRef {
	ns, name := cutNode(n)
	return ImageRef{ns, name}
}

// A KnownSnapshot is a snapshot with who knows it.
type KnownSnapshot struct {
	Namespace   string `json:"namespace"`
	Snapshotter string `json:"snapshotter"`
	Snapshot
}

func (v view) knownSnapshot(n node) (row KnownSnapshot, err error) {
	err = v.get([]byte(n), &row.Snapshot)
	var rest string
	row.Namespace, rest = cutNode(n)
	row.Snapshotter, _, _ = strings.Cut(rest, "\x00")
	return row, err
}

// Only finds what these images alone keep, and what their removal would therefore free: the blobs
// whose bytes would go, and the snapshots. It costs as much as what they keep is large.
func (s *Store) Only(ctx context.Context, ns string, names ...string) (blobs []Garbage, snapshots []KnownSnapshot, err error) {
	iv := s.inventory()
	iv.without = map[node]bool{}
	var nodes []node
	for _, name := range names {
		n := string(key(imageRows, ns, name))
		iv.without[n] = true
		nodes = append(nodes, n)
	}
	if err := iv.below(ctx, nodes...); err != nil {
		return nil, nil, err
	}
	f, err := iv.found(ctx)
	return f.Blobs, f.Snapshots, err
}

// blobNodes are those of digests in all namespaces.
func (s *Store) blobNodes(ctx context.Context, digests []image.Digest) (nodes []node, err error) {
	err = s.view(ctx, func(v view) error {
		spaces, err := v.spaces()
		for _, d := range digests {
			for _, ns := range spaces {
				nodes = append(nodes, blobNode(ns, d))
			}
		}
		return err
	})
	return nodes, err
}

package metadata

import (
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// A node is what may be kept in a namespace, by the key of its row: a blob as the namespace knows
// it (though it may not have that row), an image or a snapshot.
//
// Edges lead from what keeps to what is kept:
//
//	image → target                       t
//	document → what it is made of        u
//	subject → referrer                   d of the referrer
//	manifest → the top of its stack,     the stack's own row, and e
//	snapshot → parent                    e
//	what labels say                      e, and g of who is kept by what it names
//
// Leases and holds are not nodes but roots, and so are the nodes that keep themselves.
type node = string

func blobNode(ns string, d image.Digest) node { return string(knownKey(ns, d)) }

// cutNode divides a node into its namespace and what names it there: the short form of a digest,
// a name, or a snapshotter and a key.
func cutNode(n node) (ns, rest string) {
	ns, rest, _ = strings.Cut(n[len(knownRows):], "\x00")
	return ns, rest
}

// A link says how one node keeps another.
type link struct {
	how   string
	value []byte // of a row u: the places
}

// The links that are not a place in a document.
const (
	asTarget   = "target"
	asReferrer = "subject"
	asStack    = "unpacked" // of a manifest
	asParent   = "parent"
	asLabelled = "label"
)

// roots are what running operations and leases keep.
type roots struct {
	now   time.Time
	all   bool                // somebody holds everything
	held  map[string]bool     // by running operations, in every namespace: short forms of digests
	keeps map[node][]string   // by leases and holds, with all below: their IDs
	flat  map[node][]string   // by leases, alone
	holds map[string]struct{} // the IDs that are holds
}

// rootsOf finds what leases that count keep.
func rootsOf(live []liveLease) *roots {
	r := &roots{now: time.Now(), held: map[string]bool{}, keeps: map[node][]string{}, flat: map[node][]string{}, holds: map[string]struct{}{}}
	for _, l := range live {
		to := r.keeps
		if _, flat := l.Labels[flatLabel]; flat {
			to = r.flat
		}
		if l.Holder != "" {
			r.all = r.all || l.All
			r.holds[l.ID] = struct{}{}
		}
		for _, d := range l.Digests {
			if l.Holder != "" {
				r.held[string(appendDigest(nil, d))] = true
			}
			n := blobNode(l.namespace, d)
			to[n] = append(to[n], l.ID)
		}
		for _, ref := range l.Snapshots {
			n := string(snapshotKey(l.namespace, ref.Snapshotter, ref.Key))
			to[n] = append(to[n], l.ID)
		}
		for _, name := range l.Images {
			n := string(key(imageRows, l.namespace, name))
			to[n] = append(to[n], l.ID)
		}
	}
	return r
}

// holds tells whether a running operation holds a digest.
func (r *roots) holdsDigest(d image.Digest) bool {
	return r.all || r.held[string(appendDigest(nil, d))]
}

// A search finds out what is needed by looking upwards: from a node to all that keeps it, until a
// root is met. It remembers what it found out of the nodes that it met on the way, and not of
// those that it was asked for, of which there are many more.
//
// It is exact within one transaction. Going on with what it remembers in a later one makes it a
// guess.
type search struct {
	view
	*roots
	without map[node]bool // images that are taken for gone
	known   map[node]bool // what is kept, of those met

	met     map[node]node // in this search, with what it keeps
	stack   []node        // of those, the ones to look above
	unasked []node        // and those that may be referrers
}

func (v view) search(r *roots) *search {
	return &search{view: v, roots: r, known: map[node]bool{}, met: map[node]node{}}
}

// needed tells whether a root keeps a node. If none does, met has the node and all that would keep
// it, which are not needed either.
func (s *search) needed(n node) (bool, error) {
	if kept, ok := s.known[n]; ok && kept {
		return true, nil
	}
	clear(s.met)
	if len(s.flat[n]) > 0 {
		return true, nil
	}
	s.met[n], s.stack, s.unasked = "", append(s.stack[:0], n), s.unasked[:0]
	for len(s.stack) > 0 || len(s.unasked) > 0 {
		// To read a document takes as long as all else.
		list, above := &s.stack, s.above
		if len(s.stack) == 0 {
			list, above = &s.unasked, s.aboveReferrer
		}
		at := (*list)[len(*list)-1]
		*list = (*list)[:len(*list)-1]
		found := false
		root, err := above(at, func(up node, _ link) bool {
			if kept, ok := s.known[up]; ok {
				found = kept
				return kept
			}
			if _, met := s.met[up]; !met {
				s.met[up] = at
				s.stack = append(s.stack, up)
			}
			return false
		})
		if err != nil {
			return false, err
		}
		if root != "" || found {
			for ; at != n; at = s.met[at] {
				s.known[at] = true
			}
			return true, nil
		}
		if list == &s.stack && strings.HasPrefix(at, knownRows) {
			s.unasked = append(s.unasked, at)
		}
	}
	for up := range s.met {
		if up != n {
			s.known[up] = false
		}
	}
	return false, nil
}

// above calls f for the nodes that keep n while they are kept, but for those of [search.aboveReferrer],
// until it answers true. If n keeps itself, or a lease does, it says why; f may have been called all the same.
func (s *search) above(n node, f func(up node, l link) (enough bool)) (root string, err error) {
	if s.all {
		return "a running operation holds everything", nil
	}
	if ids := s.keeps[n]; len(ids) > 0 {
		return s.leaseName(ids[0]), nil
	}
	return s.aboveRow(n, f)
}

// aboveRow is above without what leases and running operations keep.
func (s *search) aboveRow(n node, f func(up node, l link) (enough bool)) (root string, err error) {
	switch n[:len(knownRows)] {
	case knownRows:
		return s.aboveBlob(n, f)
	case imageRows:
		return s.aboveImage(n, f)
	default:
		return s.aboveSnapshot(n, f)
	}
}

func (r *roots) leaseName(id string) string {
	if _, ok := r.holds[id]; ok {
		return "running operation " + id
	}
	return "lease " + id
}

func (s *search) aboveBlob(n node, f func(node, link) bool) (root string, err error) {
	ns, d := cutNode(n)
	if s.held[d] {
		return "a running operation", nil
	}
	// What keeps most blobs comes first.
	prefix := append(append(make([]byte, 0, maxDigestKey), parentRows...), d...)
	for e, err := range s.Scan(prefix) {
		if err != nil && e.Key == nil {
			return "", err
		}
		// A referrer does not keep its subject. What is damaged may say anything.
		subjectAlone := err == nil && !slices.ContainsFunc(e.Value, func(p byte) bool { return place(p) != placeSubject })
		if !subjectAlone && f(knownRows+ns+"\x00"+string(e.Key[len(prefix):]), link{value: e.Value}) {
			return "", nil
		}
	}
	prefix = append(append(append(append(prefix[:0], targetRows...), d...), ns...), 0)
	for e, err := range s.Scan(prefix) {
		if err != nil && e.Key == nil {
			return "", err
		}
		if f(imageRows+ns+"\x00"+string(e.Key[len(prefix):]), link{how: asTarget}) {
			return "", nil
		}
	}
	root, m, err := s.marks(n)
	if root != "" || err != nil {
		return root, err
	}
	_, err = s.aboveByLabels(n, m, f)
	return "", err
}

// aboveReferrer is above for the subject of a blob that is a document.
func (s *search) aboveReferrer(n node, f func(node, link) bool) (root string, err error) {
	ns, d := cutNode(n)
	var row documentRow
	switch err := s.get(append([]byte(documentRows), d...), &row); {
	case errdefs.IsNotFound(err):
	case errdefs.IsDataLoss(err):
		return "its record is damaged, and may have a subject", nil
	case err != nil:
		return "", err
	case row.Subject != nil:
		f(blobNode(ns, row.Subject.Digest), link{how: asReferrer})
	}
	return "", nil
}

func (s *search) aboveImage(n node, f func(node, link) bool) (root string, err error) {
	if s.without[n] {
		return "", nil
	}
	root, m, err := s.marks(n)
	if root != "" || err != nil {
		return root, err
	}
	if !m.expired(s.now) {
		there, err := s.has([]byte(n))
		if there || errdefs.IsDataLoss(err) {
			return "image", nil
		}
		if err != nil {
			return "", err
		}
	}
	_, err = s.aboveByLabels(n, m, f)
	return "", err
}

func (s *search) aboveSnapshot(n node, f func(node, link) bool) (root string, err error) {
	ns, rest := cutNode(n)
	if _, key, _ := strings.Cut(rest, "\x00"); s.held[string(appendDigest(nil, image.Digest(key)))] {
		return "a running operation", nil
	}
	if enough, err := s.aboveByLabels(n, nil, f); enough || err != nil {
		return "", err
	}
	var row Snapshot
	err = s.get([]byte(n), &row)
	switch {
	case errdefs.IsNotFound(err):
		return "", nil
	case errdefs.IsDataLoss(err):
		return "its row is damaged", nil
	case err != nil:
		return "", err
	case !row.Expires.IsZero():
		if s.now.Before(row.Expires) {
			return "made lately", nil
		}
	case row.Kind != Committed:
		return row.Kind.String(), nil
	case row.DiffID == "":
		return "committed by hand", nil
	}
	m := marksOf(row.Labels)
	if label := m.keep(s.now); label != "" {
		return "label " + label, nil
	}
	for _, d := range row.Manifests {
		if f(blobNode(ns, d), link{how: asStack}) {
			return "", nil
		}
	}
	for _, up := range m.named(brefLabel, ns) {
		if f(up, link{how: asLabelled}) {
			return "", nil
		}
	}
	return "", nil
}

// marks reads those of a node, and tells whether they keep it.
func (s *search) marks(n node) (root string, m marks, err error) {
	err = s.get(markKey(n), &m)
	switch {
	case errdefs.IsNotFound(err):
		return "", nil, nil
	case errdefs.IsDataLoss(err):
		return "what its labels say is damaged", nil, nil
	case err == nil && m.keep(s.now) != "":
		root = "label " + m.keep(s.now)
	}
	return root, m, err
}

// aboveByLabels calls f for the nodes whose rows name n to keep it, and those that marks of n name.
func (s *search) aboveByLabels(n node, m marks, f func(node, link) bool) (enough bool, err error) {
	prefix := edgePrefix(n)
	for e, err := range s.Scan(prefix) {
		if err != nil && e.Key == nil {
			return false, err
		}
		how := link{how: asLabelled}
		if err == nil && len(e.Value) == 1 {
			row := edgeRow(e.Value[0])
			if row&keepsNamed == 0 {
				continue
			}
			if row&standsOn != 0 {
				how.how = asParent
			}
		}
		if f(last(e.Key, prefix), how) {
			return true, nil
		}
	}
	if len(m) == 0 {
		return false, nil
	}
	ns, _ := cutNode(n)
	return slices.ContainsFunc(m.named(brefLabel, ns), func(up node) bool { return f(up, link{how: asLabelled}) }), nil
}

// below calls f for the nodes that n keeps while it is kept itself, as far as its rows can be read.
func (v view) below(n node, f func(node)) error {
	ns, rest := cutNode(n)
	var m marks
	var err error
	if strings.HasPrefix(n, snapshotRows) {
		var row Snapshot
		err = v.get([]byte(n), &row)
		if snapshotter, _, _ := strings.Cut(rest, "\x00"); row.Parent != "" {
			f(string(snapshotKey(ns, snapshotter, row.Parent)))
		}
		m = marksOf(row.Labels)
	} else {
		err = v.get(markKey(n), &m)
	}
	if err != nil && !unread(err) {
		return err
	}
	switch n[:len(knownRows)] {
	case knownRows:
		err = v.belowBlob(ns, rest, f)
	case imageRows:
		var row imageRow
		if row, err = v.image(ns, rest); err == nil {
			f(blobNode(ns, row.Target.Digest))
		}
	}
	if err != nil && !unread(err) {
		return err
	}
	for _, named := range m.named(refLabel, ns) {
		f(named)
	}
	prefix := edgePrefix(n)
	for e, err := range v.Scan(prefix) {
		if err != nil && e.Key == nil {
			return err
		}
		if err == nil && len(e.Value) == 1 && edgeRow(e.Value[0])&keptByNamed != 0 {
			f(last(e.Key, prefix))
		}
	}
	return nil
}

// belowBlob is below for what a document is made of, and its referrers.
func (v view) belowBlob(ns, short string, f func(node)) error {
	d, _, _ := cutDigest([]byte(short))
	doc, err := v.readDocument(d)
	if err != nil && !unread(err) {
		return err
	}
	if doc != nil {
		for c := range doc.Children() {
			f(blobNode(ns, c.Digest))
		}
	}
	return v.parents(d, func(parent image.Digest, places []place) error {
		if slices.Contains(places, placeSubject) {
			f(blobNode(ns, parent))
		}
		return nil
	})
}

// unread tells whether err says of a row that it is not there, or damaged.
func unread(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) }

package gc_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// What there could be, by names. A blob's bytes are its name.
var (
	universe = map[string]document{
		"i0": {below: []string{"m0", "m1"}},
		"i1": {below: []string{"m1", "m2"}},
		"m0": {below: []string{"c0", "l0", "l1"}},
		"m1": {below: []string{"c1", "l1", "l2"}},
		"m2": {below: []string{"c2", "l0", "l1", "l3"}},
		"r0": {below: []string{"c3", "l4"}, subject: "m0"}, // referrers
		"r1": {below: []string{"c3"}, subject: "r0"},
	}
	documentNames = slices.Sorted(maps.Keys(universe))
	blobNames     = append([]string{"b0", "b1", "c0", "c1", "c2", "c3", "l0", "l1", "l2", "l3", "l4"}, documentNames...)
	namespaces    = []string{"a", "b"}
	imageNames    = []string{"x", "y"}
	handNames     = []string{"w0", "w1"} // of snapshots that no image has
	leaseNames    = []string{"e0", "e1"}
)

const snapshotter = "overlay"

// A document is what a manifest or an index of the universe says.
type document struct {
	below   []string // the manifests of an index, or the config and the layers of a manifest
	subject string
}

// of is the digest of a blob.
func of(blob string) image.Digest { return digests[blob] }

// The digests of blobs, and the blobs of digests.
var (
	digests  = map[string]image.Digest{}
	byDigest = map[string]string{}
	all      []image.Digest
)

func init() {
	for _, b := range blobNames {
		d := id(b)
		digests[b], byDigest[d.String()], all = d, b, append(all, d)
	}
}

func sized(blob string) image.Descriptor {
	return image.Descriptor{Digest: of(blob), Size: int64(len(blob))}
}

func (d document) as(name string) metadata.Document {
	doc := metadata.Document{Digest: of(name), Size: int64(len(name))}
	for i, b := range d.below {
		child := sized(b)
		switch {
		case name[0] == 'i':
			doc.Index, doc.Manifests = true, append(doc.Manifests, child)
		case i == 0:
			doc.Config = &child
		default:
			doc.Layers = append(doc.Layers, child)
		}
	}
	if d.subject != "" {
		s := sized(d.subject)
		doc.Subject = &s
	}
	return doc
}

// closure is a blob and all that is below it.
func closure(name string) []string {
	list := []string{name}
	for _, b := range universe[name].below {
		list = append(list, closure(b)...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// stack names the snapshots of a manifest, lowest first.
func stack(manifest string) (keys []string) {
	below := universe[manifest].below[1:]
	for i := range below {
		keys = append(keys, id("stack "+strings.Join(below[:i+1], " ")).String())
	}
	return keys
}

// layers are the diffIDs of a manifest.
func layers(manifest string) (diffIDs []image.Digest) {
	for _, l := range universe[manifest].below[1:] {
		diffIDs = append(diffIDs, id("diff "+l))
	}
	return diffIDs
}

// snapshotNames are all that there could be.
func snapshotNames() []string {
	names := slices.Clone(handNames)
	for _, m := range documentNames {
		if m[0] == 'm' {
			names = append(names, stack(m)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// A node is a thing of one namespace: a blob that it knows, a snapshot, or an image.
type node struct{ kind, ns, name string }

const (
	aBlob     = "blob"
	aSnapshot = "snapshot"
	anImage   = "image"
)

// A thing is what the model knows of a node.
type thing struct {
	labels    map[string]string
	target    string   // of an image
	parent    string   // of a snapshot
	active    bool     // so is it
	layer     bool     // it is of an image
	manifests []string // whose stack it is
}

type lease struct {
	node      // kind is empty
	digests   []string
	snapshots []string
	flat      bool
	until     time.Time // zero: for ever
}

func (l lease) lives() bool { return l.until.IsZero() || time.Now().Before(l.until) }

// A world is what a store should know, kept in the simplest way.
type world struct {
	things map[node]*thing
	here   map[string]bool // blobs whose bytes are here, for some namespace
	read   map[string]bool // documents that were applied
	leases map[node]lease
	ops    []*op
	strays map[string]time.Time // blobs that no namespace ever knew, and since when their bytes are here
}

// An op is an operation under way.
type op struct {
	p        *process
	ns       string
	hold     *metadata.Hold
	all      bool            // it holds everything
	target   string          // of the image that it makes
	held     []string        // blobs
	unpacked []string        // manifests
	stacks   []string        // their snapshots
	counted  map[string]bool // blobs whose bytes were here while they were held
}

const (
	labelRoot   = "containerd.io/gc.root"
	labelExpire = "containerd.io/gc.expire"
	labelPin    = "stowage.pin"
	labelFlat   = "containerd.io/gc.flat"
	labelRef    = "containerd.io/gc.ref."
	labelBackTo = "containerd.io/gc.bref."
)

// expiry is when a thing expires, if it does.
func (th *thing) expiry() (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339, th.labels[labelExpire])
	return at, err == nil
}

// nodes lists the things in an order of its own.
func (w *world) nodes() []node {
	return slices.SortedFunc(maps.Keys(w.things), func(a, b node) int {
		return strings.Compare(a.kind+a.ns+a.name, b.kind+b.ns+b.name)
	})
}

// isRoot tells whether a node stays for its own sake.
func (n node) isRoot(th *thing) bool {
	at, expires := th.expiry()
	alive := time.Now().Before(at)
	switch {
	case th.labels[labelPin] != "", th.labels[labelRoot] != "", expires && alive:
		return true
	case n.kind == anImage:
		return !expires
	default:
		return n.kind == aSnapshot && !th.layer
	}
}

// refers gives the nodes that labels beginning with prefix name.
func (n node) refers(labels map[string]string, prefix string, names map[string]string) (list []node) {
	for k, v := range labels {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		for kind, what := range map[string]string{aBlob: "content", anImage: "image", aSnapshot: "snapshot." + snapshotter} {
			after, ok := strings.CutPrefix(rest, what)
			if !ok || after != "" && after[0] != '/' && (after[0] != '.' || kind == aSnapshot) {
				continue
			}
			if kind == aBlob {
				v = names[v]
			}
			list = append(list, node{kind, n.ns, v})
		}
	}
	return list
}

// edges are the nodes that n keeps.
func (w *world) edges(n node) (list []node) {
	th := w.things[n]
	if th != nil {
		list = n.refers(th.labels, labelRef, byDigest)
	}
	switch {
	case n.kind == aBlob:
		for name := range w.read {
			if name == n.name {
				for _, b := range universe[name].below {
					list = append(list, node{aBlob, n.ns, b})
				}
			}
			if universe[name].subject == n.name {
				list = append(list, node{aBlob, n.ns, name})
			}
		}
		for m, th := range w.things {
			if m.kind == aSnapshot && m.ns == n.ns && slices.Contains(th.manifests, n.name) {
				list = append(list, m)
			}
		}
	case th == nil:
	case n.kind == anImage:
		list = append(list, node{aBlob, n.ns, th.target})
	case th.parent != "":
		list = append(list, node{aSnapshot, n.ns, th.parent})
	}
	for m, th := range w.things {
		if m.ns == n.ns && slices.Contains(m.refers(th.labels, labelBackTo, byDigest), n) {
			list = append(list, m)
		}
	}
	return list
}

// kept is what stays: all that roots reach. Of what is generous the model leaves open whether it
// stays: with what a running operation holds, what other namespaces know of it; and what back
// references of flat leases keep, or those to what a running operation unpacks, in another snapshotter.
// Images that are left out are taken for gone.
func (w *world) kept(generous bool, without ...node) map[node]bool {
	kept := map[node]bool{}
	var todo []node
	add := func(list ...node) {
		for _, n := range list {
			if !kept[n] && !slices.Contains(without, n) {
				kept[n] = true
				todo = append(todo, n)
			}
		}
	}
	for n, th := range w.things {
		if n.isRoot(th) {
			add(n)
		}
	}
	var flat []node
	for _, l := range w.leases {
		if !l.lives() {
			continue
		}
		var list []node
		for _, d := range l.digests {
			list = append(list, node{aBlob, l.ns, d})
		}
		for _, s := range l.snapshots {
			list = append(list, node{aSnapshot, l.ns, s})
		}
		if !l.flat {
			add(list...)
			continue
		}
		flat = append(flat, list...)
		for m, th := range w.things {
			if generous && slices.ContainsFunc(m.refers(th.labels, labelBackTo, byDigest), func(n node) bool { return slices.Contains(list, n) }) {
				add(m)
			}
		}
	}
	for _, o := range w.ops {
		for _, ns := range namespaces {
			if ns != o.ns && !generous {
				continue
			}
			for _, b := range o.held {
				add(node{aBlob, ns, b})
			}
			for _, s := range o.stacks {
				add(node{aSnapshot, ns, s})
			}
		}
		for n, th := range w.things {
			if o.all && (n.kind != anImage || generous) {
				add(n)
			}
			for k, v := range th.labels {
				if generous && strings.HasPrefix(k, labelBackTo+"snapshot.") && slices.Contains(o.stacks, v) {
					add(n)
				}
			}
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		add(w.edges(n)...)
	}
	for _, n := range flat {
		kept[n] = true
	}
	return kept
}

// keeps tells whether one namespace at least keeps the bytes of a blob.
func keeps(kept map[node]bool, blob string) bool {
	return slices.ContainsFunc(namespaces, func(ns string) bool { return kept[node{aBlob, ns, blob}] })
}

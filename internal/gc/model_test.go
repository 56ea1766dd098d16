package gc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/vfs"
)

var sequences = flag.Int("sequences", 500, "how many sequences of acts the model of collection goes through")

// TestModel has two processes pull, tag, remove, lease, label, unpack and collect in random
// sequences, die at any step, and act while the other collects. Time is the bubble's, which passes
// when the sequence says so. What the model says is kept can be read and verified at every moment;
// what it says is not kept is gone after a collection.
func TestModel(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	was := checks.String()
	if err := checks.Set(strconv.Itoa(*sequences)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := checks.Set(was); err != nil {
			t.Error(err)
		}
	}()
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		var failed any
		synctest.Test(t, func(t *testing.T) {
			defer func() { failed = recover() }() // rapid ends a sequence so
			newModel(t.Context(), rt, filepath.Join(base, strconv.Itoa(n))).run()
		})
		if err := os.RemoveAll(filepath.Join(base, strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
		// Where it panics is how rapid tells a failure from a sequence that cannot be.
		switch {
		case failed == nil:
		case fmt.Sprintf("%T", failed) == "rapid.invalidData":
			panic(failed)
		default:
			panic(failed)
		}
	})
}

// A model is a world beside a store of two processes.
type model struct {
	*rapid.T
	ctx context.Context
	world
	disk      content.Store
	eye       *metadata.Store // of nobody
	processes []*process
	nested    bool // another process is collecting
	folders   map[string]bool
	made      int // folders
}

func newModel(ctx context.Context, rt *rapid.T, dirName string) *model {
	m := &model{T: rt, ctx: ctx, folders: map[string]bool{}, world: world{
		things: map[node]*thing{}, here: map[string]bool{}, read: map[string]bool{},
		leases: map[node]lease{}, strays: map[string]time.Time{},
	}}
	blobs, err := dir.Open(vfs.NewMem())
	m.must(err)
	m.disk = blobs
	m.must(os.Mkdir(dirName, 0o700))
	inFile, shared := m.chance(5, "in a file"), kv.DB(mem.New()) // a file takes five times as long
	for range 2 {
		db := shared
		if inFile {
			db, err = bolt.Open(filepath.Join(dirName, "meta.db"), bolt.Options{NoSync: true})
			m.must(err)
		}
		m.processes = append(m.processes, newProcess(db, blobs, filepath.Join(dirName, "holders")))
	}
	m.eye = metadata.New(m.processes[0].DB, filepath.Join(dirName, "holders"))
	return m
}

func (m *model) run() {
	acts := m.acts()
	repeated := map[string]func(*rapid.T){}
	for name, act := range acts {
		repeated[name] = func(*rapid.T) {
			act()
			m.settle(false)
		}
	}
	for range rapid.IntRange(0, 3).Draw(m.T, "pulled before") {
		m.pull()
	}
	m.Repeat(repeated)
	for len(m.ops) > 0 {
		m.end(m.ops[0])
	}
	m.collectAll()
}

// acts are what a process can do, and the more often, the more names an act has.
func (m *model) acts() map[string]func() {
	return map[string]func(){
		"pull": m.pull, "pull again": m.pull,
		"hold": m.hold, "hold again": m.hold, "put": m.put, "put again": m.put, "finish": m.finish, "finish again": m.finish, "cancel": m.cancel,
		"tag": m.tag, "remove image": m.removeImage, "remove image again": m.removeImage,
		"lease": m.lease, "end lease": m.endLease, "label": m.label, "label again": m.label, "ask": m.ask, "ask why": m.askOnly,
		"prepare": m.prepare, "commit": m.commit, "remove snapshot": m.removeSnapshot,
		"wait": m.wait, "die": m.die,
		"collect": m.collect, "collect again": m.collect, "collect thrice": m.collect, "collect at last": m.collect,
	}
}

func (m *model) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// one draws from a list that has something.
func one[T any](m *model, list []T, what string) T {
	return list[rapid.IntRange(0, len(list)-1).Draw(m.T, what)]
}

func (m *model) chance(of int, what string) bool {
	return rapid.IntRange(1, of).Draw(m.T, what) == 1
}

func (m *model) some(list []string, what string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(list), 0, 3, rapid.ID).Draw(m.T, what)
}

func (m *model) process() *process {
	if m.nested {
		return m.processes[1]
	}
	return one(m, m.processes, "process")
}

// node draws one of a kind that there is.
func (m *model) node(kind string) (n node, ok bool) {
	list := slices.DeleteFunc(m.nodes(), func(n node) bool { return n.kind != kind })
	if len(list) == 0 {
		return n, false
	}
	return one(m, list, kind), true
}

// op draws an operation of a process that may act.
func (m *model) op() *op {
	var list []*op
	for _, o := range m.ops {
		if !m.nested || o.p == m.processes[1] {
			list = append(list, o)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return one(m, list, "operation")
}

func (m *model) hold() {
	o := &op{p: m.process(), ns: one(m, namespaces, "namespace"), counted: map[string]bool{}}
	switch one(m, []string{"pull", "pull", "pull", "ingest", "import"}, "operation") {
	case "pull":
		o.target = one(m, documentNames, "target")
		o.held = closure(o.target)
	case "ingest":
		o.held = m.some(blobNames, "blobs")
		for _, b := range o.held {
			o.held = append(o.held, closure(b)...)
		}
		slices.Sort(o.held)
		o.held = slices.Compact(o.held)
	case "import":
		o.target, o.all = one(m, documentNames, "target"), true
		o.held = closure(o.target)
	}
	if !o.all && len(o.held) == 0 {
		return
	}
	var ids []image.Digest
	if !o.all {
		for _, b := range o.held {
			ids = append(ids, of(b))
			if b[0] == 'm' && m.chance(2, "unpack") {
				o.unpacked, o.stacks = append(o.unpacked, b), append(o.stacks, stack(b)...)
			}
		}
	}
	ctx := m.impatient(o.p)
	var err error
	first := ids[:min(1, len(ids))] // a pull learns little by little what it needs
	if o.hold, err = o.p.meta.Hold(ctx, o.ns, first...); m.waited(o.p, err) {
		return
	}
	m.must(err)
	ids = ids[len(first):]
	for _, b := range o.unpacked {
		ids = append(ids, layers(b)...)
	}
	for _, s := range o.stacks {
		ids = append(ids, image.Digest(s))
	}
	if len(ids) > 0 {
		ctx := m.impatient(o.p)
		if err := o.hold.Add(ctx, ids...); m.waited(o.p, err) {
			o.p.cancel = nil
			m.must(o.hold.Release(m.ctx))
			return
		} else {
			m.must(err)
		}
	}
	o.p.cancel = nil
	m.ops = append(m.ops, o)
	for _, b := range o.held {
		if _, err := m.disk.Info(m.ctx, of(b)); err == nil {
			o.counted[b] = true
		}
	}
}

// impatient gives a context for a hold that does not wait for another process that is collecting
// meanwhile, which would not go on.
func (m *model) impatient(p *process) context.Context {
	if !m.nested {
		return m.ctx
	}
	ctx, cancel := context.WithCancel(m.ctx)
	p.cancel = cancel
	return ctx
}

func (m *model) waited(p *process, err error) bool {
	if m.nested && errors.Is(err, context.Canceled) {
		p.cancel = nil
		return true
	}
	return false
}

// bring puts a blob that an operation holds into the store, unless it is counted on.
func (m *model) bring(o *op, blob string) {
	if o.counted[blob] {
		return
	}
	if _, err := m.disk.Info(m.ctx, of(blob)); errdefs.IsNotFound(err) {
		m.strays[blob] = time.Now()
	}
	m.must(content.Put(m.ctx, m.disk, of(blob), []byte(blob)))
	o.counted[blob] = true
}

func (m *model) put() {
	if o := m.op(); o != nil && len(o.held) > 0 {
		m.bring(o, one(m, o.held, "blob"))
	}
}

// pull does one from its beginning to its end, and perhaps names nothing.
func (m *model) pull() {
	n := len(m.ops)
	if m.hold(); len(m.ops) == n {
		return
	}
	o := m.ops[n]
	if m.chance(2, "without a name") {
		o.target = ""
	}
	m.apply(o)
}

func (m *model) finish() {
	if o := m.op(); o != nil {
		m.apply(o)
	}
}

// apply brings all blobs of an operation, and ends it with their rows.
func (m *model) apply(o *op) {
	b := metadata.Batch{Release: o.hold}
	for _, blob := range o.held {
		m.bring(o, blob)
		b.Blobs = append(b.Blobs, metadata.Blob{Digest: of(blob), Size: int64(len(blob))})
		if doc, ok := universe[blob]; ok {
			b.Documents = append(b.Documents, doc.as(blob))
		}
	}
	unpacked := m.unpack(o)
	if len(o.unpacked) > 0 {
		b.Unpacked = []metadata.Unpacked{unpacked}
	}
	name := one(m, imageNames, "name")
	if o.target != "" {
		b.Images = []metadata.PutImage{{Name: name, Target: sized(o.target)}}
	}
	o.p.left = m.deadline()
	_, err := o.p.meta.Apply(m.ctx, o.ns, b)
	if o.p.dead == (err == nil) {
		m.Fatalf("apply: %v", err)
	}
	if o.p.committed {
		for _, blob := range o.held {
			m.thing(node{aBlob, o.ns, blob})
			m.here[blob] = true
			delete(m.strays, blob)
			if _, ok := universe[blob]; ok {
				m.read[blob] = true
			}
		}
		for _, s := range unpacked.Snapshots {
			th := m.thing(node{aSnapshot, o.ns, s.Key})
			th.parent, th.layer = s.Parent, true
			for _, d := range s.Manifests {
				th.manifests = append(th.manifests, byDigest[d.String()])
			}
		}
		if o.target != "" {
			m.thing(node{anImage, o.ns, name}).target = o.target
		}
	}
	if !o.p.dead {
		m.drop(o)
	}
	m.bury(o.p)
}

// unpack makes the snapshots of an operation, of folders that others have or that it fills.
func (m *model) unpack(o *op) metadata.Unpacked {
	u := metadata.Unpacked{Snapshotter: snapshotter}
	folders := map[image.Digest]string{}
	for _, manifest := range o.unpacked {
		keys := stack(manifest)
		for i, diffID := range layers(manifest) {
			if folders[diffID] == "" {
				l, err := m.eye.UnpackedLayer(m.ctx, snapshotter, diffID)
				if errdefs.IsNotFound(err) {
					l = metadata.UnpackedLayer{DiffID: diffID, Folder: m.folder()}
					u.Layers = append(u.Layers, l)
				} else {
					m.must(err)
				}
				folders[diffID] = l.Folder
			}
			s := metadata.Snapshot{Key: keys[i], Kind: metadata.Committed, DiffID: diffID, Folder: folders[diffID]}
			if i > 0 {
				s.Parent = keys[i-1]
			}
			if i == len(keys)-1 {
				s.Manifests = []image.Digest{of(manifest)}
			}
			u.Snapshots = append(u.Snapshots, s)
		}
	}
	return u
}

// folder makes one, with a name that no other ever has.
func (m *model) folder() string {
	name := fmt.Sprint("folder ", m.made)
	m.made++
	m.folders[name] = true
	return name
}

// deadline draws how many calls a process still does; mostly it does not die.
func (m *model) deadline() int {
	if m.nested || !m.chance(4, "it dies") {
		return -1
	}
	return rapid.IntRange(0, 8).Draw(m.T, "calls before it dies")
}

// thing is what is known of a node, which there is from now on.
func (m *model) thing(n node) *thing {
	if m.things[n] == nil {
		m.things[n] = &thing{}
	}
	return m.things[n]
}

func (m *model) drop(o *op) {
	m.ops = slices.DeleteFunc(m.ops, func(other *op) bool { return other == o })
}

// bury puts another process in the place of one that died.
func (m *model) bury(p *process) {
	p.left = -1
	if !p.dead {
		return
	}
	var holds []*metadata.Hold
	for _, o := range slices.Clone(m.ops) {
		if o.p == p {
			holds = append(holds, o.hold)
			m.drop(o)
		}
	}
	next, err := p.again(holds)
	m.must(err)
	m.processes[slices.Index(m.processes, p)] = next
}

func (m *model) die() {
	p := m.process()
	p.dead = true
	m.bury(p)
}

func (m *model) end(o *op) {
	m.must(o.hold.Release(m.ctx))
	m.drop(o)
}

func (m *model) cancel() {
	if o := m.op(); o != nil {
		m.end(o)
	}
}

func (m *model) tag() {
	ns, src, dst := one(m, namespaces, "namespace"), one(m, imageNames, "source"), one(m, imageNames, "target")
	img, ok := m.things[node{anImage, ns, src}]
	_, err := m.process().meta.Tag(m.ctx, ns, src, dst, true)
	if ok != (err == nil) {
		m.Fatalf("tag: %v", err)
	}
	if old := m.things[node{anImage, ns, dst}]; ok && (old == nil || old.target != img.target) {
		m.things[node{anImage, ns, dst}] = &thing{target: img.target, labels: maps.Clone(img.labels)}
	}
}

func (m *model) removeImage() {
	n := node{anImage, one(m, namespaces, "namespace"), one(m, imageNames, "name")}
	missing, err := m.process().meta.RemoveImages(m.ctx, n.ns, n.name)
	if err != nil || (m.things[n] != nil) != (len(missing) == 0) {
		m.Fatalf("remove image: %v, %v", missing, err)
	}
	delete(m.things, n)
}

func (m *model) lease() {
	l := lease{node: node{ns: one(m, namespaces, "namespace"), name: one(m, leaseNames, "lease")}}
	l.digests = m.some(blobNames, "blobs")
	made := metadata.Lease{ID: l.name}
	for _, d := range l.digests {
		made.Digests = append(made.Digests, of(d))
	}
	l.snapshots = m.some(snapshotNames(), "snapshots")
	for _, s := range l.snapshots {
		made.Snapshots = append(made.Snapshots, metadata.SnapshotRef{Snapshotter: snapshotter, Key: s})
	}
	if l.flat = m.chance(3, "flat"); l.flat {
		made.Labels = map[string]string{labelFlat: "yes"}
	}
	switch until := time.Now().Add(time.Duration(rapid.IntRange(-1, 1).Draw(m.T, "hours")) * time.Hour).UTC().Truncate(time.Second); one(m, []string{"never", "at", "label"}, "expires") {
	case "at":
		l.until, made.ExpiresAt = until, until
	case "label":
		l.until = until
		if made.Labels == nil {
			made.Labels = map[string]string{}
		}
		made.Labels[labelExpire] = until.Format(time.RFC3339)
	}
	_, err := m.process().meta.CreateLease(m.ctx, l.ns, made)
	if m.leases[l.node].name != "" && m.leases[l.node].lives() {
		if !errdefs.IsAlreadyExists(err) {
			m.Fatalf("lease: %v", err)
		}
		return
	}
	m.must(err)
	m.leases[l.node] = l
}

func (m *model) endLease() {
	n := node{ns: one(m, namespaces, "namespace"), name: one(m, leaseNames, "lease")}
	l, ok := m.leases[n]
	err := m.process().meta.DeleteLease(m.ctx, n.ns, n.name)
	if (ok && l.lives()) != (err == nil) {
		m.Fatalf("end lease: %v", err)
	}
	delete(m.leases, n)
}

func (m *model) label() {
	n, ok := m.node(one(m, []string{aBlob, aSnapshot, anImage}, "kind"))
	if !ok {
		return
	}
	labels := map[string]string{}
	value := func(v string) string {
		if m.chance(4, "remove") {
			return ""
		}
		return v
	}
	suffix := one(m, []string{"", ".1", "/1"}, "suffix")
	switch one(m, []string{"root", "pin", "expire", "ref", "ref", "back", "back"}, "label") {
	case "root":
		labels[labelRoot] = value("2026-01-01T00:00:00Z")
	case "pin":
		labels[labelPin] = value("pinned")
	case "expire":
		in := time.Duration(rapid.IntRange(-1, 1).Draw(m.T, "hours")) * time.Hour
		labels[labelExpire] = value(one(m, []string{time.Now().Add(in).UTC().Format(time.RFC3339), "tomorrow"}, "when"))
	case "ref":
		k, v := m.reference(suffix)
		labels[labelRef+k] = value(v)
	case "back":
		k, v := m.reference(suffix)
		labels[labelBackTo+k] = value(v)
	}
	meta := m.process().meta
	var err error
	switch n.kind {
	case aBlob:
		_, err = meta.LabelBlob(m.ctx, n.ns, of(n.name), labels)
	case aSnapshot:
		_, err = meta.LabelSnapshot(m.ctx, n.ns, snapshotter, n.name, labels)
	case anImage:
		_, err = meta.LabelImage(m.ctx, n.ns, n.name, labels)
	}
	m.must(err)
	th := m.things[n]
	if th.labels == nil {
		th.labels = map[string]string{}
	}
	for k, v := range labels {
		th.labels[k] = v
		if v == "" {
			delete(th.labels, k)
		}
	}
}

// reference draws what a label may refer to: the rest of its name, and its value.
func (m *model) reference(suffix string) (key, value string) {
	switch one(m, []string{aBlob, anImage, aSnapshot}, "of") {
	case aBlob:
		return "content" + suffix, of(one(m, blobNames, "blob")).String()
	case anImage:
		return "image" + suffix, one(m, imageNames, "image")
	default:
		return "snapshot." + snapshotter + suffix, one(m, snapshotNames(), "snapshot")
	}
}

// prepare makes a snapshot that no image has.
func (m *model) prepare() {
	n := node{aSnapshot, one(m, namespaces, "namespace"), one(m, handNames, "snapshot")}
	row := metadata.Snapshot{Key: n.name, Kind: metadata.Active, Folder: m.folder()}
	if parent, ok := m.node(aSnapshot); ok && parent.ns == n.ns && !m.things[parent].active {
		row.Parent = parent.name
	}
	err := m.process().meta.AddSnapshot(m.ctx, n.ns, snapshotter, row)
	if m.things[n] != nil {
		if !errdefs.IsAlreadyExists(err) {
			m.Fatalf("prepare: %v", err)
		}
		return
	}
	m.must(err)
	m.things[n] = &thing{parent: row.Parent, active: true}
}

func (m *model) commit() {
	n, ok := m.node(aSnapshot)
	if !ok || !m.things[n].active {
		return
	}
	name := one(m, handNames, "name")
	err := m.process().meta.CommitSnapshot(m.ctx, n.ns, snapshotter, name, n.name, func(*metadata.Snapshot) {})
	if to := (node{aSnapshot, n.ns, name}); to == n || m.things[to] == nil {
		m.must(err)
		th := m.things[n]
		delete(m.things, n)
		m.things[to] = &thing{parent: th.parent, labels: th.labels}
	} else if !errdefs.IsAlreadyExists(err) {
		m.Fatalf("commit: %v", err)
	}
}

func (m *model) removeSnapshot() {
	n, ok := m.node(aSnapshot)
	if !ok {
		return
	}
	for other, th := range m.things {
		if other.kind == aSnapshot && other.ns == n.ns && th.parent == n.name {
			return
		}
	}
	_, err := m.process().meta.RemoveSnapshot(m.ctx, n.ns, snapshotter, n.name)
	m.must(err)
	delete(m.things, n)
}

func (m *model) wait() {
	time.Sleep(time.Duration(rapid.IntRange(1, 25).Draw(m.T, "hours")) * time.Hour)
}

// collect has one process collect, perhaps until it dies, and the other do some acts meanwhile,
// which may be to collect as well.
func (m *model) collect() {
	if !m.nested && m.chance(2, "the other") {
		slices.Reverse(m.processes) // while it collects, a process is the first
	}
	p, quiet := m.processes[0], true
	if m.nested {
		p = m.processes[1]
	} else {
		p.pause = one(m, []time.Duration{0, 0, time.Millisecond, 3 * time.Millisecond}, "pause")
		p.left = m.deadline()
		p.others = m.others(&quiet)
	}
	p.calls = 0
	o := gc.Options{}
	var below []string
	switch one(m, []string{"all", "all", "all", "old", "below", "dry"}, "how") {
	case "all":
		o.All = true
		clear(m.strays) // it may condemn them, and die
	case "below":
		below = m.some(documentNames, "documents")
		for _, b := range below {
			o.Below = append(o.Below, of(b))
		}
	case "dry":
		o.DryRun = true
	}
	doomed := m.below(below)
	_, err := gc.Run(m.ctx, m.store(p), o)
	if o.All {
		clear(m.strays) // those that were brought meanwhile, and that nobody holds any more, as well
	}
	p.others, p.pause = nil, 0
	died := p.dead
	if died == (err == nil) {
		m.Fatalf("collect: %v", err)
	}
	m.bury(p)
	m.settle(!o.DryRun)
	switch {
	case !quiet || died || o.DryRun || m.nested:
	case len(below) > 0:
		for _, n := range doomed {
			if m.things[n] != nil || n.kind == aBlob && m.here[n.name] && !keeps(m.world.kept(true), n.name) {
				m.Fatalf("%v was not collected", n)
			}
		}
	default:
		m.clean(o.All)
	}
}

// others lets the second process do some acts between the calls of the first.
func (m *model) others(quiet *bool) func(bool) {
	acts := m.acts()
	for _, name := range []string{"tag", "lease", "label", "pull", "hold", "hold again"} { // what needs more than before
		for i := range 3 {
			acts[fmt.Sprint(name, i)] = acts[name]
		}
	}
	names := slices.Sorted(maps.Keys(acts))
	left := rapid.IntRange(0, 4).Draw(m.T, "acts meanwhile")
	return func(changed bool) {
		of := 10 // it looks around for long before it takes anything away
		if changed {
			of = 2
		}
		if left == 0 || m.nested || !m.chance(of, "now") {
			return
		}
		left--
		*quiet = false
		m.settle(true)
		m.nested = true
		acts[one(m, names, "act")]()
		m.settle(false)
		m.nested = false
	}
}

// below are those that blobs keep and nothing else does.
func (m *model) below(blobs []string) (list []node) {
	kept, met := m.world.kept(true), map[node]bool{}
	var todo []node
	for _, b := range blobs {
		for _, ns := range namespaces {
			todo = append(todo, node{aBlob, ns, b})
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !kept[n] && !met[n] {
			met[n] = true
			list = append(list, n)
			todo = append(todo, m.edges(n)...)
		}
	}
	return list
}

// store is what a process collects.
func (m *model) store(p *process) gc.Store {
	return gc.Store{Meta: p.meta, Content: p, Snapshotters: []string{snapshotter}, Open: func(string) (gc.Folders, error) {
		return folders{m, p}, nil
	}}
}

// folders are those of the snapshotter, as a process has them.
type folders struct {
	m *model
	p *process
}

func (f folders) Discard(ctx context.Context, names ...string) (u snapshot.Usage, err error) {
	return u, f.p.call(true, func() error {
		rows, err := f.m.eye.SnapshotFolders(ctx, snapshotter, names...)
		for _, name := range names {
			if !rows[name] && err == nil {
				delete(f.m.folders, name)
			}
		}
		return err
	})
}

func (f folders) Sweep(ctx context.Context) (snapshot.Usage, error) {
	return f.Discard(ctx, slices.Sorted(maps.Keys(f.m.folders))...)
}

// collectAll takes all that is not needed, which is what a dry run says, and then finds nothing
// more.
func (m *model) collectAll() {
	p := m.processes[0]
	clear(m.strays)
	dry, err := gc.Run(m.ctx, m.store(p), gc.Options{All: true, DryRun: true})
	m.must(err)
	m.settle(false)
	done, err := gc.Run(m.ctx, m.store(p), gc.Options{All: true})
	m.must(err)
	if got, want := reported(done), reported(dry); !slices.Equal(got, want) {
		m.Fatalf("collected: got %q, want what the dry run said: %q", got, want)
	}
	m.settle(true)
	m.clean(true)
	again, err := gc.Run(m.ctx, m.store(p), gc.Options{All: true})
	if err != nil || len(reported(again)) > 0 {
		m.Fatalf("a second collection: %+v, %v", again, err)
	}
}

func reported(r gc.Report) (list []string) {
	for _, b := range r.Blobs {
		list = append(list, b.Digest.String())
	}
	for _, s := range r.Snapshots {
		list = append(list, s.Namespace+" "+s.Key)
	}
	slices.Sort(list)
	return append(list, slices.Sorted(slices.Values(append(r.Images, r.Ingests...)))...)
}

// settle compares the store with the model. What is kept must be there, and nothing may be there
// that the model does not know. What a collection took the model forgets.
func (m *model) settle(collected bool) {
	m.Helper()
	kept := m.world.kept(false)
	gone := func(what any, kept bool) {
		m.Helper()
		if !collected || kept {
			m.Fatalf("%v is gone", what)
		}
	}
	here, err := m.eye.HasBlobs(m.ctx, all...)
	m.must(err)
	for _, b := range blobNames {
		switch {
		case here[of(b)] && !m.here[b]:
			m.Fatalf("the bytes of %s are believed to be here", b)
		case here[of(b)]:
			m.verify(b)
		case m.here[b]:
			gone("blob "+b, keeps(kept, b))
			delete(m.here, b)
		}
	}
	for _, o := range m.ops {
		for b := range o.counted {
			m.verify(b)
		}
	}
	docs, err := m.eye.Documents(m.ctx, all...)
	m.must(err)
	read := map[string]bool{}
	for _, d := range docs {
		read[byDigest[d.Digest.String()]] = true
	}
	for d := range m.read {
		if !read[d] {
			gone("document "+d, keeps(kept, d))
			delete(m.read, d)
		}
	}
	if len(read) != len(m.read) {
		m.Fatalf("documents are %v, want %v", read, m.read)
	}
	for name := range m.named() {
		if !m.folders[name] {
			m.Fatalf("%s is gone, and a snapshot has it", name)
		}
	}
	seen := m.seen()
	for _, n := range m.nodes() {
		if !seen[n] {
			gone(n, kept[n])
			delete(m.things, n)
		}
	}
	for n := range seen {
		if m.things[n] == nil {
			m.Fatalf("%v is there", n)
		}
	}
}

// named are the folders that rows name.
func (m *model) named() map[string]bool {
	names, err := m.eye.SnapshotFolders(m.ctx, snapshotter, slices.Collect(maps.Keys(m.folders))...)
	m.must(err)
	return names
}

// seen are the things that the store knows.
func (m *model) seen() map[node]bool {
	m.Helper()
	seen := map[node]bool{}
	for _, ns := range namespaces {
		blobs, err := m.eye.Blobs(m.ctx, ns)
		m.must(err)
		for _, b := range blobs {
			seen[node{aBlob, ns, byDigest[b.Digest.String()]}] = true
		}
		images, err := m.eye.Images(m.ctx, ns)
		m.must(err)
		for _, img := range images {
			seen[node{anImage, ns, img.Name}] = true
		}
		snapshots, err := m.eye.Snapshots(m.ctx, ns, snapshotter)
		m.must(err)
		for _, s := range snapshots {
			seen[node{aSnapshot, ns, s.Key}] = true
		}
	}
	return seen
}

func (m *model) verify(blob string) {
	m.Helper()
	if b, err := content.ReadBlob(m.ctx, m.disk, of(blob), 100); err != nil || string(b) != blob {
		m.Fatalf("read %s: %q, %v", blob, b, err)
	}
}

// clean sees that a collection that nobody disturbed left nothing that is not kept.
func (m *model) clean(all bool) {
	m.Helper()
	kept := m.world.kept(true)
	for _, n := range m.nodes() {
		if !kept[n] {
			m.Fatalf("%v was not collected", n)
		}
	}
	everything := slices.ContainsFunc(m.ops, func(o *op) bool { return o.all }) // also what no namespace knows any more
	for _, known := range []map[string]bool{m.here, m.read} {
		for b := range known {
			if !everything && !keeps(kept, b) {
				m.Fatalf("blob %s was not collected", b)
			}
		}
	}
	named := m.named()
	for name := range m.folders {
		if !named[name] {
			m.Fatalf("%s was not collected", name)
		}
	}
	there := map[string]bool{}
	for info, err := range m.disk.Blobs(m.ctx) {
		m.must(err)
		b := byDigest[info.Digest.String()]
		there[b] = true
		held := slices.ContainsFunc(m.ops, func(o *op) bool { return o.all || slices.Contains(o.held, b) })
		if young := !all && time.Since(info.CreatedAt) <= 24*time.Hour; !m.here[b] && !held && !young && !keeps(kept, b) {
			m.Fatalf("the bytes of %s were not deleted: all %v, age %v", b, all, time.Since(info.CreatedAt))
		}
	}
	for b, since := range m.strays {
		if !all && time.Since(since) < 24*time.Hour && !there[b] {
			m.Fatalf("the bytes of %s were deleted after %v", b, time.Since(since))
		}
	}
}

// ask asks of something whether it is needed, and why.
func (m *model) ask() {
	n := node{one(m, []string{aBlob, aSnapshot, anImage}, "kind"), one(m, namespaces, "namespace"), ""}
	var what metadata.Subject
	switch n.kind {
	case aBlob:
		n.name = one(m, blobNames, "blob")
		what.Digest = of(n.name)
	case aSnapshot:
		n.name = one(m, snapshotNames(), "snapshot")
		what.Snapshotter, what.Key = snapshotter, n.name
	default:
		n.name = one(m, imageNames, "image")
		what.Image = n.name
	}
	if n.kind != aBlob && m.things[n] == nil {
		return
	}
	meta := m.process().meta
	got, err := meta.Needed(m.ctx, n.ns, what)
	m.must(err)
	all := slices.ContainsFunc(m.ops, func(o *op) bool { return o.all }) // also what is not there
	if !got && m.world.kept(false)[n] || got && !all && !m.world.kept(true)[n] {
		m.Fatalf("%v is needed: got %v", n, got)
	}
	paths, total, err := meta.Why(m.ctx, n.ns, what, 2)
	if err != nil || len(paths) != min(total, 2) || (total > 0) != got {
		m.Fatalf("%v is needed: %v, by %v, of %d, %v", n, got, paths, total, err)
	}
}

// askOnly asks what only some images keep.
func (m *model) askOnly() {
	ns, names := one(m, namespaces, "namespace"), m.some(imageNames, "images")
	var without []node
	for _, name := range names {
		without = append(without, node{anImage, ns, name})
	}
	blobs, snapshots, err := m.process().meta.Only(m.ctx, ns, names...)
	m.must(err)
	got := map[node]bool{}
	for _, b := range blobs {
		got[node{aBlob, "", byDigest[b.Digest.String()]}] = true
	}
	for _, s := range snapshots {
		got[node{aSnapshot, s.Namespace, s.Key}] = true
	}
	kept, most, least := m.world.kept(false), m.world.kept(false, without...), m.world.kept(true, without...)
	for n := range m.things {
		if n.kind == aSnapshot && (got[n] && most[n] || !got[n] && kept[n] && !least[n]) {
			m.Fatalf("only %v keep %v: got %v", names, n, got[n])
		}
	}
	all := slices.ContainsFunc(m.ops, func(o *op) bool { return o.all }) // also bytes that no namespace knows
	for b := range m.here {
		n := node{aBlob, "", b}
		if got[n] && keeps(most, b) || !got[n] && !all && keeps(kept, b) && !keeps(least, b) {
			m.Fatalf("only %v keep %v: got %v", names, n, got[n])
		}
	}
}

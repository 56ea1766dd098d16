package gc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
)

const ns = "default"

// A disk is as much of a content store as collection sees.
type disk struct {
	mu      sync.Mutex
	blobs   map[image.Digest]time.Time
	failed  image.Digest // cannot be deleted
	ingests []content.Status
	taken   string // an ingest that somebody took up since it was listed
	onDel   func(image.Digest)
}

func (d *disk) put(names ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range names {
		d.blobs[id(n)] = time.Now()
	}
}

func (d *disk) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.blobs[id(name)]
	return ok
}

func (d *disk) Delete(_ context.Context, b image.Digest) error {
	if d.onDel != nil {
		d.onDel(b)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if b == d.failed {
		return errdefs.ErrPermissionDenied
	}
	if _, ok := d.blobs[b]; !ok {
		return errdefs.ErrNotFound
	}
	delete(d.blobs, b)
	return nil
}

func (d *disk) Digests(context.Context) iter.Seq2[image.Digest, error] {
	d.mu.Lock()
	defer d.mu.Unlock()
	there := maps.Clone(d.blobs)
	return func(yield func(image.Digest, error) bool) {
		for b := range there {
			if !yield(b, nil) {
				return
			}
		}
	}
}

func (d *disk) Info(_ context.Context, b image.Digest) (content.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.blobs[b]
	if !ok {
		return content.Info{}, errdefs.ErrNotFound
	}
	return content.Info{Digest: b, Size: 10, CreatedAt: at}, nil
}

func (d *disk) Ingests(context.Context) ([]content.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.ingests), nil
}

func (d *disk) Abort(_ context.Context, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, in := range d.ingests {
		switch {
		case in.Key == key && d.taken == key:
			return errdefs.ErrUnavailable
		case in.Key == key:
			d.ingests = slices.Delete(d.ingests, i, i+1)
			return nil
		}
	}
	return errdefs.ErrNotFound
}

func id(name string) image.Digest { return digest.FromString(name) }

func desc(name string) image.Descriptor { return image.Descriptor{Digest: id(name), Size: 10} }

func manifest(name string, layers ...string) metadata.Document {
	config := desc(layers[0])
	doc := metadata.Document{Digest: id(name), Size: 10, Document: image.Document{Config: &config}}
	for _, l := range layers[1:] {
		doc.Layers = append(doc.Layers, desc(l))
	}
	return doc
}

func blobs(names ...string) (list []metadata.Blob) {
	for _, n := range names {
		list = append(list, metadata.Blob{Digest: id(n), Size: 10})
	}
	return list
}

type store struct {
	*testing.T
	meta *metadata.Store
	disk *disk
}

func newStore(t *testing.T, db kv.DB) store {
	t.Helper()
	return store{t, metadata.New(db, filepath.Join(t.TempDir(), "holders")), &disk{blobs: map[image.Digest]time.Time{}}}
}

// add stores blobs, and manifests with names.
func (s store) add(ns string, b metadata.Batch, names ...string) {
	s.Helper()
	s.disk.put(names...)
	b.Blobs = blobs(names...)
	if _, err := s.meta.Apply(s.Context(), ns, b); err != nil {
		s.Fatal(err)
	}
}

func (s store) collected() gc.Store { return gc.Store{Meta: s.meta, Content: s.disk} }

func (s store) run(o gc.Options) gc.Report {
	s.Helper()
	r, err := gc.Run(s.Context(), s.collected(), o)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// want checks what is on disk, and that collecting again finds nothing to do.
func (s store) want(names ...string) {
	s.Helper()
	if got, want := len(s.disk.blobs), len(names); got != want {
		s.Errorf("blobs on disk: got %d, want %d", got, want)
	}
	for _, n := range names {
		if !s.disk.has(n) {
			s.Errorf("blob %s is gone", n)
		}
	}
}

func TestRoots(t *testing.T) {
	s := newStore(t, mem.New())
	index := metadata.Document{Digest: id("index"), Size: 10, Document: image.Document{Index: true, Manifests: []image.Descriptor{desc("m1"), desc("absent")}}}
	signature := manifest("signature", "sc")
	subject := desc("m1")
	signature.Subject = &subject
	ofSignature := manifest("of signature", "sc")
	subject2 := desc("signature")
	ofSignature.Subject = &subject2
	loose := manifest("loose", "lc")
	s.add(ns, metadata.Batch{
		Documents: []metadata.Document{index, manifest("m1", "c1", "l1"), signature, ofSignature, loose},
		Images:    []metadata.PutImage{{Name: "x", Target: desc("index")}},
	}, "index", "m1", "c1", "l1", "signature", "of signature", "sc", "loose", "lc", "leased", "expired")
	s.add("other", metadata.Batch{
		Documents: []metadata.Document{manifest("m2", "c2", "l1")},
		Images:    []metadata.PutImage{{Name: "y", Target: desc("m2")}},
	}, "m2", "c2", "l1", "l2")
	for name, until := range map[string]time.Time{"leased": {}, "expired": time.Now().Add(-time.Second)} {
		if _, err := s.meta.CreateLease(t.Context(), ns, metadata.Lease{ID: name, Digests: []image.Digest{id(name)}, ExpiresAt: until}); err != nil {
			t.Fatal(err)
		}
	}
	all := len(s.disk.blobs)
	dry := s.run(gc.Options{DryRun: true})
	if got := len(s.disk.blobs); got != all {
		t.Errorf("after a dry run: got %d blobs, want %d", got, all)
	}
	r := s.run(gc.Options{})
	if got, want := len(r.Blobs), 4; got != want || r.Bytes != 40 || !slices.Equal(dry.Blobs, r.Blobs) {
		t.Errorf("report: got %+v, want %d blobs, as the dry run said: %+v", r, want, dry)
	}
	kept := []string{"index", "m1", "c1", "l1", "signature", "of signature", "sc", "leased", "m2", "c2"}
	s.want(kept...)
	for _, gone := range []string{"loose", "lc", "expired", "l2"} {
		if _, err := s.meta.Blob(t.Context(), ns, id(gone)); !errdefs.IsNotFound(err) {
			t.Errorf("row of %s: got %v, want not found", gone, err)
		}
	}
	if _, err := s.meta.Document(t.Context(), id("loose")); !errdefs.IsNotFound(err) {
		t.Errorf("document: got %v, want not found", err)
	}
	if edges, err := s.meta.ReferencedBy(t.Context(), id("lc")); err != nil || len(edges) != 0 {
		t.Errorf("edges of what is gone: got %v, %v", edges, err)
	}
	if r := s.run(gc.Options{All: true}); len(r.Blobs) != 0 {
		t.Errorf("second run: got %+v, want nothing", r)
	}

	if _, err := s.meta.RemoveImages(t.Context(), ns, "x"); err != nil {
		t.Fatal(err)
	}
	s.run(gc.Options{})
	s.want("leased", "m2", "c2", "l1")
	if known, err := s.meta.Blobs(t.Context(), ns); err != nil || len(known) != 1 {
		t.Errorf("what a namespace knows and does not need: got %v, %v, want it forgotten", known, err)
	}
}

// Bytes without a row are left alone while they are young, or somebody holds them.
func TestStrays(t *testing.T) {
	s := newStore(t, mem.New())
	s.disk.put("young", "held", "old")
	s.disk.blobs[id("old")] = time.Now().Add(-25 * time.Hour)
	hold, err := s.meta.Hold(t.Context(), ns, id("held"))
	if err != nil {
		t.Fatal(err)
	}
	s.run(gc.Options{})
	s.want("young", "held")
	s.run(gc.Options{All: true})
	s.want("held")
	if err := hold.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run(gc.Options{All: true})
	s.want()
}

func TestRemoveAndSweep(t *testing.T) {
	s := newStore(t, mem.New())
	s.add(ns, metadata.Batch{}, "a", "b")
	if err := s.meta.RemoveBlob(t.Context(), ns, id("a"), false); err != nil {
		t.Fatal(err)
	}
	r, err := gc.Sweep(t.Context(), s.collected())
	if err != nil || len(r.Blobs) != 1 || r.Bytes != 10 {
		t.Errorf("sweep: got %+v, %v, want a", r, err)
	}
	s.want("b") // though nothing needs it
}

// What could not be deleted is reported, does not keep the rest, and is tried again.
func TestDeleteFails(t *testing.T) {
	s := newStore(t, mem.New())
	s.add(ns, metadata.Batch{}, "a", "b")
	s.disk.failed = id("a")
	r, err := gc.Run(t.Context(), s.collected(), gc.Options{})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || len(r.Blobs) != 1 {
		t.Errorf("got %+v, %v, want one blob gone, and an error", r, err)
	}
	if has, err := s.meta.HasBlobs(t.Context(), id("a")); err != nil || has[id("a")] {
		t.Errorf("condemned: got %v, %v, want it not believed", has, err)
	}
	s.disk.failed = ""
	s.run(gc.Options{})
	s.want()
}

// A collector stops, as if killed, between two deletions. The marks that it leaves make nobody
// wait, and who holds a blob finds its bytes or not, but loses none.
func TestCollectorDies(t *testing.T) {
	s := newStore(t, mem.New())
	s.add(ns, metadata.Batch{}, "a", "b", "c")
	sweep := s.meta.NewSweep()
	if err := sweep.Everything(t.Context()); err != nil {
		t.Fatal(err)
	}
	round, err := sweep.Round(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.disk.Delete(t.Context(), id("a")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.meta.Hold(ctx, ns, id("b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hold while it lives: got %v, want it to wait", err)
	}
	if err := round.End(); err != nil { // as the kernel does when a process dies
		t.Fatal(err)
	}
	hold, err := s.meta.Hold(t.Context(), ns, id("a"), id("b"))
	if err != nil {
		t.Fatal(err)
	}
	s.run(gc.Options{All: true})
	s.want("b")
	s.disk.put("a")
	if _, err := s.meta.Apply(t.Context(), ns, metadata.Batch{Blobs: blobs("a", "b"), Release: hold}); err != nil {
		t.Fatal(err)
	}
}

// Pulls and collections run at once. No blob that a pull held, or that a name reaches, is ever
// gone.
func TestRaces(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) kv.DB{
		"mem": func(*testing.T) kv.DB { return mem.New() },
		"bolt": func(t *testing.T) kv.DB {
			db, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), bolt.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			return db
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, open(t))
			s.disk.onDel = func(image.Digest) { time.Sleep(10 * time.Microsecond) } // room for others
			done := make(chan struct{})
			var pulls, collectors sync.WaitGroup
			for i := range 3 {
				pulls.Go(func() {
					for range 15 {
						s.pullAndRemove(fmt.Sprint("image", i))
					}
				})
			}
			for range 2 {
				collectors.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						if _, err := gc.Run(t.Context(), s.collected(), gc.Options{All: true}); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			pulls.Wait()
			close(done)
			collectors.Wait()
			s.run(gc.Options{All: true})
			s.want()
		})
	}
}

// pullAndRemove takes a random manifest through its life.
func (s store) pullAndRemove(name string) {
	layers := []string{"config"}
	for _, l := range rand.Perm(5)[:3] {
		layers = append(layers, fmt.Sprint("layer", l))
	}
	slices.Sort(layers)
	m := fmt.Sprint("manifest of ", layers)
	all := append([]string{m}, layers...)
	fail := func(what string, err error) bool {
		if err != nil {
			s.Errorf("%s: %v", what, err)
		}
		return err != nil
	}
	stays := func(when string) {
		for _, b := range all {
			if !s.disk.has(b) {
				s.Errorf("%s: blob %s is gone", when, b)
			}
		}
	}

	hold, err := s.meta.Hold(s.Context(), ns, id(m))
	if fail("hold", err) {
		return
	}
	for _, l := range layers {
		if fail("hold more", hold.Add(s.Context(), id(l))) {
			return
		}
	}
	for _, b := range all {
		if !s.disk.has(b) { // what is there is counted on
			s.disk.put(b)
		}
	}
	stays("while it is held")
	images, err := s.meta.Apply(s.Context(), ns, metadata.Batch{
		Blobs: blobs(all...), Documents: []metadata.Document{manifest(m, layers...)},
		Images: []metadata.PutImage{{Name: name, Target: desc(m)}}, Release: hold,
	})
	if fail("apply", err) {
		return
	}
	if images[0].State != metadata.Complete {
		s.Errorf("image: got %s, want complete", images[0].State)
	}
	stays("while it is named")
	_, err = s.meta.RemoveImages(s.Context(), ns, name)
	fail("remove", err)
}

// A shelf is as much of a snapshotter as collection sees.
type shelf struct {
	folders map[string]bool
	failed  error
	swept   int
}

func (f *shelf) Discard(_ context.Context, names ...string) (freed snapshot.Usage, err error) {
	if f.failed != nil {
		return freed, f.failed
	}
	for _, name := range names {
		if f.folders[name] {
			freed.Inodes++
		}
		delete(f.folders, name)
	}
	return freed, nil
}

func (f *shelf) Sweep(context.Context) (snapshot.Usage, error) {
	f.swept++
	return snapshot.Usage{}, nil
}

// Folders go by name behind their rows: those that no snapshot of any namespace has. Only a run of
// everything looks for others.
func TestFolders(t *testing.T) {
	s := newStore(t, mem.New())
	f := &shelf{folders: map[string]bool{"base": true, "top": true}}
	at := s.collected()
	at.Snapshotters, at.Open = []string{"overlay"}, func(string) (gc.Folders, error) { return f, nil }
	for _, ns := range []string{ns, "other"} {
		s.add(ns, metadata.Batch{
			Documents: []metadata.Document{manifest("m", "c", "l")}, Images: []metadata.PutImage{{Name: "x", Target: desc("m")}},
			Unpacked: []metadata.Unpacked{{
				Snapshotter: "overlay",
				Layers:      []metadata.UnpackedLayer{{DiffID: id("base"), Folder: "base"}},
				Snapshots: []metadata.Snapshot{
					{Key: "base", Kind: metadata.Committed, Folder: "base", DiffID: id("base")},
					{Key: "top", Kind: metadata.Committed, Parent: "base", Folder: "top", DiffID: id("top"), Manifests: []image.Digest{id("m")}},
				},
			}},
		}, "m", "c", "l")
	}
	run := func(ns string, failed error, o gc.Options) gc.Report {
		t.Helper()
		if _, err := s.meta.RemoveImages(t.Context(), ns, "x"); err != nil {
			t.Fatal(err)
		}
		f.failed = failed
		r, err := gc.Run(t.Context(), at, o)
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		return r
	}
	if r := run("other", nil, gc.Options{Below: []image.Digest{id("m")}}); len(r.Snapshots) != 2 || len(f.folders) != 2 || f.swept != 0 {
		t.Errorf("while another namespace has them: took %v, left %v, swept %d times", r.Snapshots, f.folders, f.swept)
	}
	// What the snapshotter cannot remove is an error, and the rest goes all the same.
	r := run(ns, errdefs.ErrPermissionDenied, gc.Options{})
	if len(r.Snapshots) != 2 || len(r.Blobs) != 3 || f.swept != 1 {
		t.Errorf("took %v and %v, swept %d times", r.Snapshots, r.Blobs, f.swept)
	}
	s.want()
}

// Ingests that nobody goes on with are thrown away when they are old, or all are asked for; those
// that somebody writes, or a lease keeps, are not, nor does that fail.
func TestIngests(t *testing.T) {
	s := newStore(t, mem.New())
	old := time.Now().Add(-25 * time.Hour)
	leased, err := metadata.IngestKey(ns, "leased")
	if err != nil {
		t.Fatal(err)
	}
	lease := metadata.Lease{ID: "lease", Ingests: []string{"leased"}}
	if _, err := s.meta.CreateLease(t.Context(), ns, lease); err != nil {
		t.Fatal(err)
	}
	ingests := []content.Status{
		{Key: "old", UpdatedAt: old},
		{Key: "old, being written", UpdatedAt: old, Busy: true},
		{Key: "old, taken up", UpdatedAt: old},
		{Key: leased, UpdatedAt: old},
		{Key: "young", StartedAt: old, UpdatedAt: time.Now()},
	}
	for name, tt := range map[string]struct {
		o          gc.Options
		want, left []string
	}{
		"dry":   {gc.Options{DryRun: true}, []string{"old", "old, taken up"}, []string{"old", "old, being written", "old, taken up", leased, "young"}},
		"grace": {gc.Options{}, []string{"old"}, []string{"old, being written", "old, taken up", leased, "young"}},
		"all":   {gc.Options{All: true}, []string{"old", "young"}, []string{"old, being written", "old, taken up", leased}},
		"below": {gc.Options{All: true, Below: []image.Digest{id("x")}}, nil, []string{"old", "old, being written", "old, taken up", leased, "young"}},
	} {
		s.disk.ingests, s.disk.taken = slices.Clone(ingests), "old, taken up"
		if r := s.run(tt.o); !slices.Equal(r.Ingests, tt.want) {
			t.Errorf("%s: got %q, want %q", name, r.Ingests, tt.want)
		}
		var left []string
		for _, in := range s.disk.ingests {
			left = append(left, in.Key)
		}
		if !slices.Equal(left, tt.left) {
			t.Errorf("%s: left %q, want %q", name, left, tt.left)
		}
	}
}

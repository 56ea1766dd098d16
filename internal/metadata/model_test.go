package metadata_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

// A world is what a store should know, kept in the simplest way. Blobs are m0 to m2,
// manifests of two layers each out of four; i0 and i1, indexes of two manifests; and configs and
// layers.
type world struct {
	docs   map[string]metadata.Document // all that could be
	below  map[string][]string          // what a document holds
	known  map[string]map[string]bool   // namespace, blob
	lost   map[string][]string          // the namespaces that know a blob again when it comes back
	read   map[string]bool              // documents that were applied
	images map[string]modelImage        // by "namespace name"
}

type modelImage struct {
	target string
	want   map[string]bool
}

var archs = map[string]string{"m0": "amd64", "m1": "arm64", "m2": "riscv64"}

func newWorld() *world {
	w := &world{
		docs: map[string]metadata.Document{}, below: map[string][]string{},
		known: map[string]map[string]bool{"a": {}, "b": {}}, lost: map[string][]string{}, read: map[string]bool{}, images: map[string]modelImage{},
	}
	for i, layers := range [][]string{{"l0", "l1"}, {"l1", "l2"}, {"l2", "l3"}} {
		name, config := fmt.Sprint("m", i), fmt.Sprint("c", i)
		w.docs[name] = manifest(name, config, layers...)
		w.below[name] = append([]string{config}, layers...)
	}
	for name, manifests := range map[string][]string{"i0": {"m0", "m1"}, "i1": {"m1", "m2"}} {
		var list []image.Descriptor
		for _, m := range manifests {
			list = append(list, on(m, archs[m]))
		}
		w.docs[name] = index(name, list...)
		w.below[name] = manifests
	}
	return w
}

func (w *world) here(blob string) bool { return w.known["a"][blob] || w.known["b"][blob] }

func (w *world) whole(m string) bool {
	return w.here(m) && w.read[m] && !slices.ContainsFunc(w.below[m], func(b string) bool { return !w.here(b) })
}

func (w *world) manifests(target string) []string {
	if strings.HasPrefix(target, "i") {
		return w.below[target]
	}
	return []string{target}
}

// states is what an image should look like, as the function of the same name shows it.
func (w *world) states(img modelImage) string {
	complete, gaps, list := false, false, ""
	for _, m := range w.manifests(img.target) {
		state := metadata.Absent
		switch {
		case w.whole(m) && w.here(img.target):
			state, complete = metadata.Complete, true
		case img.want[m]:
			state, gaps = metadata.Partial, true
		}
		arch := archs[m]
		if m == img.target {
			arch = ""
		}
		list += fmt.Sprintf(" %s=%s", arch, state)
	}
	if complete && !gaps {
		return "complete" + list
	}
	return "partial" + list
}

// wish adds to what is wanted of an image.
func (w *world) wish(img modelImage, want []string) {
	if len(want) == 0 {
		for _, m := range w.manifests(img.target) {
			if w.whole(m) && w.here(img.target) {
				want = append(want, m)
			}
		}
	}
	if len(want) == 0 {
		want = w.manifests(img.target)
	}
	for _, m := range want {
		img.want[m] = true
	}
}

// reaches tells whether target needs blob.
func (w *world) reaches(target, blob string) bool {
	return target == blob || w.read[target] && slices.ContainsFunc(w.below[target], func(b string) bool { return w.reaches(b, blob) })
}

// lose takes a blob away from a namespace, or all. What something points to is remembered.
func (w *world) lose(blob string, namespaces ...string) {
	pointed := false
	for doc, below := range w.below {
		pointed = pointed || w.read[doc] && slices.Contains(below, blob)
	}
	for _, img := range w.images {
		pointed = pointed || img.target == blob
	}
	var knew []string
	for _, ns := range namespaces {
		if w.known[ns][blob] {
			knew = append(knew, ns)
			delete(w.known[ns], blob)
		}
	}
	if pointed && len(knew) > 0 && !w.here(blob) {
		w.lost[blob] = knew
	}
}

func (w *world) check(t *rapid.T, s *metadata.Store) {
	for _, ns := range []string{"a", "b"} {
		list, err := s.Images(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, img := range list {
			got[ns+" "+img.Name] = states(img)
		}
		for name, img := range w.images {
			if !strings.HasPrefix(name, ns) {
				continue
			}
			if want := w.states(img); got[name] != want {
				t.Fatalf("%s, of %s: got %q, want %q", name, img.target, got[name], want)
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Fatalf("images that should be gone: %v", got)
		}
	}
}

// Whatever is applied, tagged and removed, an image says of itself what is true.
func TestModel(t *testing.T) {
	blobNames := []string{"m0", "m1", "m2", "i0", "i1", "c0", "c1", "c2", "l0", "l1", "l2", "l3"}
	namespaces, names := []string{"a", "b"}, []string{"x", "y"}
	holders := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s, w := metadata.New(mem.New(), holders), newWorld()
		one := func(from []string, what string) string { return rapid.SampledFrom(from).Draw(t, what) }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { w.check(t, s) },
			"apply": func(t *rapid.T) {
				ns := one(namespaces, "namespace")
				var b metadata.Batch
				for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(blobNames), 0, 9, rapid.ID).Draw(t, "blobs") {
					b.Blobs = append(b.Blobs, blob(name))
					for _, ns := range append(w.lost[name], ns) {
						w.known[ns][name] = true
					}
					delete(w.lost, name)
				}
				for _, name := range blobNames[:5] {
					if w.here(name) && rapid.Bool().Draw(t, "read") {
						b.Documents = append(b.Documents, w.docs[name])
						w.read[name] = true
					}
				}
				apply := func() {
					var held []image.Digest
					for _, blob := range b.Blobs {
						held = append(held, blob.Digest) // it may have been removed before
					}
					var err error
					if b.Release, err = s.Hold(t.Context(), ns, held...); err != nil {
						t.Fatal(err)
					}
					if _, err := s.Apply(t.Context(), ns, b); err != nil {
						t.Fatal(err)
					}
				}
				target := one(blobNames[:5], "target")
				if !w.here(target) || !w.read[target] {
					apply()
					return
				}
				name := one(names, "name")
				img, ok := w.images[ns+" "+name]
				if !ok || img.target != target {
					img = modelImage{target, map[string]bool{}}
				}
				w.images[ns+" "+name] = img
				want := rapid.SliceOfN(rapid.SampledFrom(w.manifests(target)), 0, 2).Draw(t, "want")
				w.wish(img, want)
				b.Images = []metadata.PutImage{put(name, target, want...)}
				apply()
			},
			"tag": func(t *rapid.T) {
				ns, src, dst := one(namespaces, "namespace"), one(names, "source"), one(names, "target")
				img, ok := w.images[ns+" "+src]
				_, err := s.Tag(t.Context(), ns, src, dst, true)
				if ok != (err == nil) {
					t.Fatalf("tag: got %v", err)
				}
				if old, exists := w.images[ns+" "+dst]; ok && (!exists || old.target != img.target) {
					copied := modelImage{img.target, map[string]bool{}}
					for m := range img.want {
						copied.want[m] = true
					}
					w.images[ns+" "+dst] = copied
				}
			},
			"remove image": func(t *rapid.T) {
				ns, name := one(namespaces, "namespace"), one(names, "name")
				_, ok := w.images[ns+" "+name]
				missing, err := s.RemoveImages(t.Context(), ns, name)
				if err != nil || ok != (len(missing) == 0) {
					t.Fatalf("remove: got %v, %v", missing, err)
				}
				delete(w.images, ns+" "+name)
			},
			"remove blob": func(t *rapid.T) {
				ns, name, force := one(namespaces, "namespace"), one(blobNames, "blob"), rapid.Bool().Draw(t, "force")
				last := !w.known["a"][name] || !w.known["b"][name]
				needed := false
				for full, img := range w.images {
					needed = needed || (last || strings.HasPrefix(full, ns)) && w.reaches(img.target, name)
				}
				err := s.RemoveBlob(t.Context(), ns, desc(name).Digest, force)
				switch {
				case !w.known[ns][name]:
					if !errdefs.IsNotFound(err) {
						t.Fatalf("remove %s: got %v, want not found", name, err)
					}
				case needed && !force:
					if !errdefs.IsFailedPrecondition(err) {
						t.Fatalf("remove %s: got %v, want failed precondition", name, err)
					}
				case err != nil:
					t.Fatalf("remove %s: %v", name, err)
				default:
					w.lose(name, ns)
				}
			},
			"recheck": func(t *rapid.T) {
				full, name := one(namespaces, "namespace")+" "+one(names, "name"), one(blobNames, "blob")
				if _, ok := w.images[full]; !ok {
					return
				}
				if _, err := s.Recheck(t.Context(), full[:1], full[2:], []image.Digest{desc(name).Digest}); err != nil {
					t.Fatal(err)
				}
				w.lose(name, namespaces...)
			},
		})
	})
}

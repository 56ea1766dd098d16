package metadata_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// All that keeps something is told, each with its shortest path, and not only the first that is met.
func TestWhy(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pulled(t, s, ns, "app", "a", "b")
	pulled(t, s, ns, "base", "a")
	names := map[image.Digest]string{}
	for _, n := range []string{"app", "base", "a", "b", "config of app"} {
		names[desc(n).Digest] = n
	}
	why := func(what metadata.Subject, most int) (texts []string, roots int) {
		t.Helper()
		paths, roots, err := s.Why(ctx, ns, what, most)
		must(t, err)
		for _, p := range paths {
			var steps []string
			for _, step := range p {
				steps = append(steps, fmt.Sprintf("%s: %s%s%s", step.By, names[step.Digest], step.Image, strings.TrimPrefix(step.Key, "sha256:")))
			}
			texts = append(texts, strings.Join(steps, ", "))
		}
		slices.Sort(texts)
		return texts, roots
	}
	want := func(what metadata.Subject, want ...string) {
		t.Helper()
		got, roots := why(what, -1)
		if diff := cmp.Diff(want, got); diff != "" || roots != len(want) {
			t.Errorf("%+v: %d roots (-want +got):\n%s", what, roots, diff)
		}
	}
	layer := metadata.Subject{Digest: desc("a").Digest}
	byNames := []string{"image: app, target: app, layer 0: a", "image: base, target: base, layer 0: a"}
	want(layer, byNames...)
	if got, roots := why(layer, 1); len(got) != 1 || roots != 2 {
		t.Errorf("one path of two: %v, of %d", got, roots)
	}
	want(metadata.Subject{Image: "app"}, "image: app")
	stack := strings.TrimPrefix(chain("a", "b"), "sha256:")
	want(metadata.Subject{Snapshotter: overlay, Key: chain("a", "b")}, "image: app, target: app, unpacked: "+stack)

	// A lease, and what is held, do not hide the names.
	_, err := s.CreateLease(ctx, ns, metadata.Lease{ID: "deep", Digests: []image.Digest{desc("app").Digest}})
	must(t, err)
	want(layer, append(slices.Clone(byNames), "lease deep: app, layer 0: a")...)
	_, err = s.CreateLease(ctx, ns, metadata.Lease{ID: "flat", Labels: map[string]string{"containerd.io/gc.flat": "yes"}, Digests: []image.Digest{desc("app").Digest}})
	must(t, err)
	want(layer, append(slices.Clone(byNames), "lease deep: app, layer 0: a")...)
	want(metadata.Subject{Digest: desc("app").Digest}, "image: app, target: app", "lease deep: app", "lease flat: app")
	must(t, s.DeleteLease(ctx, ns, "deep"))
	must(t, s.DeleteLease(ctx, ns, "flat"))
	_, err = s.LabelImage(ctx, ns, "base", map[string]string{metadata.PinLabel: "yes"})
	must(t, err)
	want(layer, byNames[0], "label stowage.pin: base, target: base, layer 0: a")
	want(metadata.Subject{Digest: desc("nothing").Digest})

	// What only one image needs does not include what it shares.
	blobs, snapshots, err := s.Only(ctx, ns, "app")
	must(t, err)
	var got []string
	for _, b := range blobs {
		got = append(got, names[b.Digest])
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"app", "b", "config of app"}) || len(snapshots) != 1 || snapshots[0].Key != chain("a", "b") {
		t.Errorf("only app needs %v, snapshots %v", got, snapshots)
	}
	if size, err := s.FreedFolders(ctx, snapshots); err != nil || size != 10 {
		t.Errorf("its folder takes %d, %v", size, err)
	}
	apply(t, s, "other", metadata.Batch{Unpacked: []metadata.Unpacked{stackOf("app", "a", "b")}}) // the same folders
	if size, err := s.FreedFolders(ctx, snapshots); err != nil || size != 0 {
		t.Errorf("a folder that is shared takes %d, %v", size, err)
	}
}

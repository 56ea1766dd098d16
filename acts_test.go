package stowage

import (
	"bytes"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// Acts are told when they have ended: of every namespace, each once, with what they moved; plans and
// dry runs are none.
func TestActs(t *testing.T) {
	ctx := t.Context()
	reg, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(1, 20_000))}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Push(ctx, reg.Host, "app", "1", img); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var acts []Act
	root := filepath.Join(t.TempDir(), "store")
	first, err := Open(root, Options{NoSync: true, Ended: func(a Act) {
		mu.Lock()
		defer mu.Unlock()
		acts = append(acts, a)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := first.In("other")
	if err != nil {
		t.Fatal(err)
	}
	name := reg.Host + "/app:1"
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func(_ any, err error) {
		t.Helper()
		if err == nil {
			t.Fatal("it did not fail")
		}
	}
	none := UnpackOptions{NoUnpack: true}
	must(s.Pull(ctx, name, PullOptions{OnlyPlan: true}))
	must(s.Pull(ctx, name, PullOptions{UnpackOptions: none}))
	fails(s.Pull(ctx, reg.Host+"/app:2", PullOptions{}))
	must(s.Push(ctx, name, reg.Host+"/app:3", PushOptions{}))
	var tar bytes.Buffer
	must(nil, s.Export(ctx, &tar, []string{name}, ExportOptions{}))
	must(first.Import(ctx, &tar, ImportOptions{UnpackOptions: none}))
	must(s.Prune(ctx, PruneOptions{DryRun: true}))
	must(s.Prune(ctx, PruneOptions{}))
	must(s.Doctor(ctx, DoctorOptions{}))

	type told struct {
		kind          string
		moved, reused int
		failed        bool
	}
	var got []told
	for _, a := range acts {
		got = append(got, told{a.Kind, a.Moved.Blobs, a.Reused.Blobs, a.Err != nil})
		if a.Kind == CollectAct && a.Collected == nil || a.Kind == PullAct && a.Err == nil && (a.Took <= 0 || a.Moved.Bytes == 0) {
			t.Errorf("an act says too little: %+v", a)
		}
	}
	want := []told{
		{PullAct, 3, 0, false},
		{PullAct, 0, 0, true},
		{PushAct, 0, 3, false},
		{ExportAct, 0, 0, false},
		{ImportAct, 0, 3, false},
		{CollectAct, 0, 0, false},
		{ExamineAct, 0, 0, false},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(told{})); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
	if err := acts[1].Err; !strings.Contains(err.Error(), "app:2") {
		t.Errorf("what failed: %v", err)
	}
}

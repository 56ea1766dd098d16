package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCRI(t *testing.T) {
	got, err := Load(write(t, "[cri]\nsnapshotter = 'erofs'\npinned_images = ['registry.k8s.io/pause:3.10']\n[cri.runtime_snapshotters]\nkata = 'native'\n"), env("HOME", "/h"), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := CRI{Snapshotter: "erofs", RuntimeSnapshotters: map[string]string{"kata": "native"}, PinnedImages: []string{"registry.k8s.io/pause:3.10"}}
	if diff := cmp.Diff(want, got.CRI); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

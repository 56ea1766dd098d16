package erofs

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/layertest"
)

// The corpus becomes what GNU tar makes of it.
func TestCorpus(t *testing.T) {
	for _, c := range layertest.Corpus() {
		t.Run(c.Name, func(t *testing.T) {
			reference := filepath.Join(t.TempDir(), "tree")
			layertest.Reference(t, c, reference)
			want, err := layertest.Describe(reference)
			if err != nil {
				t.Fatal(err)
			}
			layers := keepAll(t, c.Layers...)
			mounted := mountIndex(t, writeIndexOf(t, layers), layers)
			got, err := layertest.Describe(mounted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("differs (-want +got):\n%s", diff)
			}
			sameTree(t, layers, show(t, mounted))
			compareAll(t, c.Layers, layers)
		})
	}
}

// compareAll compares what was kept of each layer with its tar.
func compareAll(t *testing.T, archives [][]byte, layers []string) {
	t.Helper()
	for i, archive := range archives {
		if len(archives) > 20 && i < len(archives)-1 {
			continue // each reads all that is below
		}
		below, err := Open(layers[:i])
		if err != nil {
			t.Fatal(err)
		}
		tree, err := Open(layers[:i+1])
		if err != nil {
			t.Fatal(err)
		}
		_, losses := keep(t, archive, layer.Options{ReportLosses: true})
		list, _, err := layer.Compare(t.Context(), bytes.NewReader(archive), below, tree, layer.CompareOptions{Losses: losses.Losses})
		if err != nil || len(list) > 0 {
			t.Errorf("layer %d: error %v, and differs: %q", i, err, list)
		}
		closing(t, below)
		closing(t, tree)
	}
}

package erofs

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		})
	}
}

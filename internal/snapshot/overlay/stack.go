package overlay

import (
	"errors"
	"path/filepath"
	"slices"

	"github.com/stowage/stowage/internal/layer"
)

// A stack is what the layers of a chain come to.
type stack struct {
	// lowers are the trees as overlay wants them: from the topmost down, each once, and none that
	// is hidden entirely.
	lowers []string
	// like is the tree of the layer that says what the root is like, or empty if none does. One
	// that hides what is in the root does not hide what the root itself is like.
	like string
}

func readStack(chain []string) (s stack, err error) {
	hidden := false
	for i, folder := range slices.Backward(chain) {
		// A layer that stands further up as well adds nothing here, and the kernel refuses it.
		if slices.Contains(chain[i+1:], folder) {
			continue
		}
		f, err := readFacts(folder)
		if err != nil {
			return stack{}, err
		}
		tree := filepath.Join(folder, treeDir)
		if !hidden {
			s.lowers = append(s.lowers, tree)
		}
		if f.Root && s.like == "" {
			s.like = tree
		}
		hidden = hidden || f.Opaque
		if hidden && s.like != "" {
			break
		}
	}
	return s, nil
}

// bottomFirst lists the trees as [layer.OpenStack] wants them.
func (s stack) bottomFirst() []string {
	list := slices.Clone(s.lowers)
	slices.Reverse(list)
	return list
}

// root is what the root is like; nil if no layer says.
func (s stack) root() (*layer.Node, error) {
	if s.like == "" {
		return nil, nil
	}
	t, err := layer.OpenStack(layer.Whole, []string{s.like})
	if err != nil {
		return nil, err
	}
	n, err := t.Lookup(".")
	return n, errors.Join(err, t.Close())
}

// A rooted is a tree whose root has the attributes that its layers say: those of the topmost
// one that says any.
type rooted struct {
	layer.Tree
	root layer.Attr
}

// Lookup implements [layer.Tree].
func (t *rooted) Lookup(path string) (*layer.Node, error) {
	n, err := t.Tree.Lookup(path)
	if err != nil || path != "." {
		return n, err
	}
	changed := *n
	changed.Attr = t.root
	changed.Same = layer.FileID{} // that is for the folders alone
	return &changed, nil
}

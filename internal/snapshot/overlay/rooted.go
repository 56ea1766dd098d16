package overlay

import (
	"errors"

	"github.com/stowage/stowage/internal/layer"
)

// A rooted is a tree whose root has the attributes that its layers say: those of the topmost
// one that says any.
type rooted struct {
	layer.Tree
	root layer.Attr
}

// newRooted takes the root's attributes from the folder like, or the default ones if it is
// empty. It closes t when it fails.
func newRooted(t layer.Tree, like string) (layer.Tree, error) {
	other, err := layer.Empty(), error(nil)
	if like != "" {
		other, err = layer.OpenStack(layer.Whole, []string{like})
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	n, err := other.Lookup(".")
	if err = errors.Join(err, other.Close()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &rooted{t, n.Attr}, nil
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

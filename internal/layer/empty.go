package layer

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Empty is the tree of no layers: a root as it is when nothing says otherwise.
func Empty() Tree { return empty{} }

type empty struct{}

func (empty) Lookup(path string) (*Node, error) {
	if path != "." {
		return nil, fmt.Errorf("%s: %w", path, errdefs.ErrNotFound)
	}
	return &Node{Path: ".", Attr: Attr{Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}}, nil
}

func (empty) List(*Node) ([]*Node, error) { return nil, nil }

func (empty) Open(n *Node) (File, error) {
	return nil, fmt.Errorf("%s: %w", n.Path, errdefs.ErrNotFound)
}

func (empty) Close() error { return nil }

package layer

import (
	"errors"
	"os"
)

// MakeRoot makes the folder dir for the root of a tree, with the attributes of like, which is
// another root; without one it is as [PlainRoot] leaves it.
func MakeRoot(dir string, like *Node) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if like == nil {
		return PlainRoot(dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(SetAttr(f, like.Attr), f.Close())
}

// PlainRoot gives an empty folder the mode and time of a root of which no layer says anything. The
// owner is left: users other than root cannot give folders away.
func PlainRoot(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(os.FileMode(unnamed.mode)), SetTime(f, unnamed.mtime), f.Close())
}

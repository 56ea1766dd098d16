package snapshot

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/mount"
)

// NotMounted is an [errdefs.ErrFailedPrecondition] while tree, a folder within the folder of a
// snapshot, is mounted somewhere, by itself or as a part of an overlay. Such a mount is not ours
// to take away: the kernel knows it only as that of who made it.
func NotMounted(tree string) error {
	list, err := mount.Beneath("/")
	if err != nil {
		return err
	}
	// By whatever way the folder was reached; its own name is random enough.
	end := "/" + filepath.Join(filepath.Base(filepath.Dir(tree)), filepath.Base(tree))
	ours := func(dir string) bool { return strings.HasSuffix(dir, end) }
	for _, m := range list {
		over := m.Type == "overlay" && slices.ContainsFunc(append(m.Dirs("upperdir"), m.Dirs("lowerdir")...), ours)
		if over || ours(m.Root) {
			return fmt.Errorf("it is mounted at %s: %w", m.Target, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

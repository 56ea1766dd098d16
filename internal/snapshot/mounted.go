package snapshot

import (
	"fmt"
	"os"
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

// Shows lists those folders of the snapshotter that a mount shows anything of, or is made in.
func (s *Store) Shows(m mount.Info) (names []string) {
	add := func(path string) {
		if rest, ok := strings.CutPrefix(path, s.dir+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	add(m.Target)
	add(m.Source)
	for _, dir := range slices.Concat(m.Dirs("upperdir"), m.Dirs("lowerdir")) {
		add(dir)
	}
	// A bind is told by where it is in its filesystem, whose root may be elsewhere.
	ours := "/" + filepath.Join(filepath.Base(filepath.Dir(s.dir)), filepath.Base(s.dir)) + "/"
	if _, rest, ok := strings.Cut(m.Root, ours); ok {
		path := filepath.Join(s.dir, rest)
		here, err := os.Stat(path)
		there, targetErr := os.Stat(m.Target)
		if err == nil && targetErr == nil && os.SameFile(here, there) {
			add(path)
		}
	}
	return names
}

package erofs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// find gives the folder at a path, or nil where there is none. Links on the way are followed.
func (m *merger) find(path string) (*inode, error) { return m.walk(path, false) }

// makeFolder is find, and makes what is missing.
func (m *merger) makeFolder(path string) (*inode, error) { return m.walk(path, true) }

// walk goes along a path as if the root were "/".
func (m *merger) walk(path string, create bool) (*inode, error) {
	if path == m.lastPath {
		return m.last, nil
	}
	// Folders that are missing become part of the tree when the whole way is known: it may
	// lead out of them again.
	type missing struct {
		*inode
		name string
	}
	var made []missing
	dir, rest, links := m.root, path, 0
	for rest != "" {
		var base string
		base, rest, _ = strings.Cut(rest, "/")
		switch base {
		case "", ".":
			continue
		case "..":
			dir = dir.folder.parent
			continue
		}
		if len(base) > maxName {
			return nil, fmt.Errorf("follow %q: a link to a name of %d bytes: %w", path, len(base), errdefs.ErrInvalidArgument)
		}
		next := dir.folder.names[base]
		switch {
		case next.inode != nil && next.folder != nil:
			dir = next.inode
			continue
		case next.inode != nil && next.mode&unix.S_IFMT == unix.S_IFLNK:
			if links++; links > maxLinks || len(next.text)+len(rest) > maxRest {
				return nil, fmt.Errorf("follow %q: too many links: %w", path, errdefs.ErrInvalidArgument)
			}
			if next.text[0] == '/' {
				dir = m.root
			}
			rest = next.text + "/" + rest
			continue
		case next.inode != nil && next.layer == m.layer:
			return nil, fmt.Errorf("follow %q: %q is no folder: %w", path, base, errdefs.ErrInvalidArgument)
		case !create:
			return nil, nil
		}
		if err := m.room(dir); err != nil {
			return nil, err
		}
		// Also where a layer below has something else: the entry of a folder may stand
		// behind those of what is in it.
		dir = m.newFolder(dir)
		made = append(made, missing{dir, base})
	}
	at := dir
	for _, n := range slices.Backward(made) {
		if n.inode == at {
			at = n.folder.parent
			at.folder.names[n.name] = name{n.inode, m.layer}
			m.changed(at)
		}
	}
	m.lastPath, m.last = path, dir
	return dir, nil
}

func splitPath(path string) (dir, base string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

func joinPath(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

package stowage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/metadata"
)

// DiskUsage is what a store takes on the disk. All sizes are bytes in blocks; a file counts once,
// however many names it has and however many images need it.
type DiskUsage struct {
	Images []ImageDiskUsage `json:"images"` // of the namespace, by name
	Totals []DiskTotal      `json:"totals"` // of the whole store, by type
	Size   int64            `json:"size"`   // all of it, as du -s of the root says
	// Unreferenced is the part of Size that is blobs and unpacked layers that no image of any namespace needs.
	Unreferenced int64 `json:"unreferenced"`
}

// ImageDiskUsage is what one image takes: Shared and Unique together are Size.
type ImageDiskUsage struct {
	Name     string    `json:"name"`
	Digest   Digest    `json:"digest"`
	Size     int64     `json:"size"`
	Shared   int64     `json:"shared"`   // what other images, of whatever namespace, need as well
	Unique   int64     `json:"unique"`   // what goes with the image
	Unpacked int64     `json:"unpacked"` // the part of Size that is unpacked layers
	UsedAt   time.Time `json:"usedAt"`   // when it was last pulled, imported, mounted, exported or pushed
}

// DiskTotal is what files of one type take.
type DiskTotal struct {
	Type         string `json:"type"`                  // blobs, snapshots, ingests, quarantine, metadata, mounted or other
	Snapshotter  string `json:"snapshotter,omitempty"` // of snapshots
	Count        int    `json:"count,omitempty"`       // of blobs, and of folders of snapshots
	Size         int64  `json:"size"`
	Unreferenced int64  `json:"unreferenced,omitempty"` // the part that no image needs
}

// A part is a blob or the folder of a snapshot.
type part struct {
	size  int64
	users int // images that need it
}

// DiskUsage measures what the store takes on the disk, and what of it is for which image; of a peer it is
// told what its records say of the namespace. After an
// error about a file that cannot be read the usage is what could be. It walks over all files, and
// keeps nobody from working meanwhile; what comes or goes then may be counted or not.
func (s *Store) DiskUsage(ctx context.Context) (*DiskUsage, error) {
	var files *disk
	var diskErr error
	if s.peer != nil {
		files, diskErr = s.readPeer(ctx)
	} else {
		files, diskErr = s.readDisk()
	}
	if files == nil {
		return nil, diskErr
	}
	blobs, folders := map[Digest]*part{}, map[metadata.SnapshotFolder]*part{}
	for d, size := range files.blobs {
		blobs[d] = &part{size: size}
	}
	for f, size := range files.folders {
		folders[f] = &part{size: size}
	}
	u := &DiskUsage{Images: []ImageDiskUsage{}, Size: files.total()}
	var needs [][]*part // of the images of u
	err := s.meta.EachImage(ctx, func(n metadata.Needs) {
		parts, unpacked := make([]*part, 0, len(n.Blobs)), int64(0)
		for _, d := range n.Blobs {
			if p := blobs[d]; p != nil {
				parts = append(parts, p)
			}
		}
		met := map[metadata.SnapshotFolder]bool{}
		for _, f := range n.Folders {
			if p := folders[f]; p != nil && !met[f] {
				parts, unpacked = append(parts, p), unpacked+p.size
			}
			met[f] = true
		}
		for _, p := range parts {
			p.users++
		}
		if n.Namespace == s.ns {
			u.Images = append(u.Images, ImageDiskUsage{
				Name: n.Image.Name, Digest: n.Image.Target.Digest, Unpacked: unpacked, UsedAt: n.UsedAt,
			})
			needs = append(needs, parts)
		}
	})
	if err != nil {
		return nil, errors.Join(diskErr, fmt.Errorf("usage: %w", err))
	}
	for i, parts := range needs {
		for _, p := range parts {
			u.Images[i].Size += p.size
			if p.users > 1 {
				u.Images[i].Shared += p.size
			}
		}
		u.Images[i].Unique = u.Images[i].Size - u.Images[i].Shared
	}
	u.count(files, blobs, folders)
	return u, diskErr
}

// count adds up what there is by type.
func (u *DiskUsage) count(files *disk, blobs map[Digest]*part, folders map[metadata.SnapshotFolder]*part) {
	packed := DiskTotal{Type: "blobs", Size: files.rest[restContent]}
	for _, p := range blobs {
		packed.add(p)
	}
	unpacked := map[string]*DiskTotal{}
	of := func(snapshotter string) *DiskTotal {
		if unpacked[snapshotter] == nil {
			unpacked[snapshotter] = &DiskTotal{Type: "snapshots", Snapshotter: snapshotter}
		}
		return unpacked[snapshotter]
	}
	for f, p := range folders {
		of(f.Snapshotter).add(p)
	}
	var others []DiskTotal
	for kind, size := range files.rest {
		switch kind {
		case restContent:
		case restIngests, restQuarantine, restMetadata, restOther:
			others = append(others, DiskTotal{Type: kind, Size: size})
		default:
			of(kind).Size += size
		}
	}
	if files.mounted > 0 {
		others = append(others, DiskTotal{Type: "mounted", Size: files.mounted})
	}
	var snapshots []DiskTotal
	for _, t := range unpacked {
		snapshots = append(snapshots, *t)
	}
	slices.SortFunc(snapshots, func(a, b DiskTotal) int { return strings.Compare(a.Snapshotter, b.Snapshotter) })
	slices.SortFunc(others, func(a, b DiskTotal) int { return strings.Compare(a.Type, b.Type) })
	u.Totals = slices.Concat([]DiskTotal{packed}, snapshots, others)
	for _, t := range u.Totals {
		u.Unreferenced += t.Unreferenced
	}
}

func (t *DiskTotal) add(p *part) {
	t.Count++
	t.Size += p.size
	if p.users == 0 {
		t.Unreferenced += p.size
	}
}

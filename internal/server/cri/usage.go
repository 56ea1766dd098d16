package cri

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
)

// ImageFsInfo tells where images are kept and what they take, of all namespaces: a place for each
// snapshotter, and one for blobs. kubelet looks at the first alone, which is that of pulls. It is
// also how clients find out whether anybody is there.
//
// What snapshots and blobs take is known from when they came; nothing is measured.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	own, err := s.store.Snapshotter(s.o.Snapshotter)
	if err != nil {
		return nil, err
	}
	unpacked, blobs, err := s.used(ctx)
	if err != nil {
		return nil, err
	}
	var others []string
	for name := range unpacked {
		if name != own.Name() {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	res := &runtime.ImageFsInfoResponse{}
	now := time.Now().UnixNano()
	add := func(u used, folder ...string) {
		res.ImageFilesystems = append(res.ImageFilesystems, &runtime.FilesystemUsage{
			Timestamp:  now,
			FsId:       &runtime.FilesystemIdentifier{Mountpoint: filepath.Join(append([]string{s.store.Root()}, folder...)...)},
			UsedBytes:  &runtime.UInt64Value{Value: u.bytes},
			InodesUsed: &runtime.UInt64Value{Value: u.inodes},
		})
	}
	for _, name := range append([]string{own.Name()}, others...) {
		add(unpacked[name], "snapshots", name)
	}
	add(blobs, "content")
	return res, nil
}

// used is what files take.
type used struct{ bytes, inodes uint64 }

func (u *used) add(bytes, inodes int64) {
	u.bytes += uint64(max(bytes, 0))
	u.inodes += uint64(max(inodes, 0))
}

// used adds up the snapshots of each snapshotter, and the blobs. What several share counts once.
func (s *Server) used(ctx context.Context) (unpacked map[string]used, blobs used, err error) {
	meta := s.store.Metadata()
	spaces, err := meta.Namespaces(ctx)
	if err != nil {
		return nil, used{}, err
	}
	unpacked = map[string]used{}
	type folder struct{ snapshotter, name string }
	folders, digests := map[folder]bool{}, map[stowage.Digest]bool{}
	for _, ns := range spaces {
		list, err := meta.Blobs(ctx, ns.Name)
		if err != nil {
			return nil, used{}, err
		}
		for _, b := range list {
			if !digests[b.Digest] {
				digests[b.Digest] = true
				blobs.add(b.Size, 1)
			}
		}
		names, err := meta.Snapshotters(ctx, ns.Name)
		if err != nil {
			return nil, used{}, err
		}
		for _, name := range names {
			rows, err := meta.Snapshots(ctx, ns.Name, name)
			if err != nil {
				return nil, used{}, err
			}
			u := unpacked[name]
			for _, row := range rows {
				if f := (folder{name, row.Folder}); !folders[f] {
					folders[f] = true
					u.add(row.Size, row.Inodes)
				}
			}
			unpacked[name] = u
		}
	}
	return unpacked, blobs, nil
}

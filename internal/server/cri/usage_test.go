package cri_test

import (
	"os"
	"path/filepath"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/server/cri"
)

// The places of images are there, the first is that of pulls, and what is shared counts once.
func TestImageFsInfo(t *testing.T) {
	n := newNode(t, cri.Options{})
	usage := func(folders ...string) (list []*runtime.FilesystemUsage) {
		t.Helper()
		res, err := n.images.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.ImageFilesystems) != len(folders) {
			t.Fatalf("there are %d places, want %d: %v", len(res.ImageFilesystems), len(folders), res)
		}
		for i, folder := range folders {
			u := res.ImageFilesystems[i]
			if want := filepath.Join(n.store.Root(), folder); u.FsId.Mountpoint != want || u.Timestamp <= 0 {
				t.Errorf("place %d is %s at %d, want %s", i, u.FsId.Mountpoint, u.Timestamp, want)
			}
			if _, err := os.Stat(u.FsId.Mountpoint); err != nil {
				t.Error(err)
			}
		}
		return res.ImageFilesystems
	}
	for _, u := range usage("snapshots/native", "content") {
		if u.UsedBytes.Value != 0 || u.InodesUsed.Value != 0 {
			t.Errorf("an empty store has %v", u)
		}
	}
	img := n.push(app(1, imagetest.Gzip), "app", "v1")
	n.pull(n.host + "/app:v1")
	once := usage("snapshots/native", "content")
	if got := once[1]; got.UsedBytes.Value != uint64(img.Size()) || got.InodesUsed.Value != uint64(len(img.Blobs)) {
		t.Errorf("blobs take %v, want %d bytes of %d", got, img.Size(), len(img.Blobs))
	}
	if got := once[0]; got.UsedBytes.Value < 6144 || got.InodesUsed.Value < 8 {
		t.Errorf("8 files of 6144 bytes take %v", got)
	}
	o := stowage.PullOptions{}
	o.Snapshotter = "overlay"
	other, err := n.store.In("default")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Pull(t.Context(), n.host+"/app:v1", o); err != nil {
		t.Fatal(err)
	}
	twice := usage("snapshots/native", "snapshots/overlay", "content")
	if twice[0].UsedBytes.Value != once[0].UsedBytes.Value || twice[2].UsedBytes.Value != once[1].UsedBytes.Value || twice[1].UsedBytes.Value < 6144 {
		t.Errorf("of two namespaces and snapshotters it is %v, of one %v", twice, once)
	}
}

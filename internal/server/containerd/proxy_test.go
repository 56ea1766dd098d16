package containerd_test

import (
	"path/filepath"
	"testing"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/proxy"
	"github.com/stowage/stowage/internal/snapshot/snapshottest"
)

// A snapshotter behind a socket, here one of ours, is as good as one of our own.
func TestProxySnapshotter(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) *snapshot.Store {
		there, address, _ := serve(t, stowage.Options{NoSync: true})
		t.Cleanup(func() { unmountBeneath(t, there.Root()) })
		d, err := proxy.New(address, proxy.Options{Name: "overlayfs", Namespace: "default", NoSync: true})
		must(t, err)
		t.Cleanup(func() { must(t, d.Close()) })
		meta := metadata.New(mem.New(), filepath.Join(t.TempDir(), "holders"))
		s, err := snapshot.Open("remote", t.TempDir(), d, meta, snapshot.Options{Namespace: "default", NoSync: true})
		must(t, err)
		return s
	})
}

package containerd_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/containerd"
	"github.com/stowage/stowage/internal/containerd/containerdtest"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
)

// start runs a containerd until the test ends.
func start(t *testing.T, o containerdtest.Options) *containerdtest.Process {
	t.Helper()
	p, err := containerdtest.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// dial connects to a peer until the test ends.
func dial(t *testing.T, address, namespace string) *containerd.Client {
	t.Helper()
	c, err := containerd.Dial(t.Context(), address, containerd.Options{Namespace: namespace, Aside: filepath.Join(t.TempDir(), "aside")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestContent(t *testing.T) {
	p := start(t, containerdtest.Options{Isolated: true})
	n := 0
	contenttest.Run(t, func(t *testing.T) content.Store {
		n++ // each namespace is a store of its own
		c := dial(t, p.Address, fmt.Sprint("test", n))
		return contenttest.Limited{Store: c, Algorithms: []digest.Algorithm{digest.SHA256}} // containerd hashes with it whatever is asked for
	})
}

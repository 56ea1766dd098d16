package interop

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/stowage/stowage/internal/containerd/containerdtest"
	"github.com/stowage/stowage/internal/imagetest"
)

// A node is a containerd that has lost a blob of an image, the way it does: an image is pulled whose
// layers are unpacked already, because another has the same in another compression, and so their blobs
// are not fetched.
type node struct {
	*bench
	*containerdtest.Process
	ref     string
	missing string
}

const nodeNamespace = "node"

func newNode(t *testing.T) *node {
	b := newBench(t)
	p, err := containerdtest.Start(t.Context(), containerdtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	n := &node{bench: b, Process: p, ref: b.host + "/app:zstd"}
	tars, err := imagetest.Machine(2<<20, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	same, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Zstd, tars...)}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Push(t.Context(), b.host, "app", "zstd", same); err != nil {
		t.Fatal(err)
	}
	n.missing = same.Manifest().Layers[0].Digest.String()
	c, err := client.New(p.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	plain := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
	for _, ref := range []string{b.host + "/app:1", n.ref} {
		ctx := namespaces.WithNamespace(t.Context(), nodeNamespace)
		if _, err := c.Pull(ctx, ref, client.WithPullUnpack, client.WithResolver(plain)); err != nil {
			t.Fatalf("pull %s: %v", ref, err)
		}
	}
	return n
}

func (n *node) command(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(context.WithoutCancel(n.t.Context()), name, args...)
	cmd.Env = append(os.Environ(), "STOWAGE_CONFIG=/dev/null", "STOWAGE_ROOT="+filepath.Join(n.dir, "none"), "TMPDIR="+n.dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// ctr runs containerd's client on the node.
func (n *node) ctr(args ...string) (string, error) {
	return n.command("ctr", append([]string{"--address", n.Address, "--namespace", nodeNamespace}, args...)...)
}

// on runs stowage on the node.
func (n *node) on(args ...string) (string, error) {
	return n.command(n.bin, append([]string{"--progress", "none", "--address", n.Address, "-n", nodeNamespace}, args...)...)
}

// must is for a command that must succeed.
func (n *node) must(out string, err error) string {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func TestRepair(t *testing.T) {
	n := newNode(t)
	archive := filepath.Join(n.dir, "out.tar")

	if out, err := n.ctr("images", "export", archive, n.ref); err == nil {
		t.Fatalf("containerd exports the image: it has lost nothing\n%s", out)
	}
	out, err := n.on("image", "check", n.ref)
	if err == nil || !strings.Contains(out, n.missing) {
		t.Fatalf("check says %v, and nothing of %s:\n%s", err, n.missing, out)
	}
	out, err = n.on("doctor")
	if err == nil || !strings.Contains(out, "missing-blob") || !strings.Contains(out, n.missing) {
		t.Fatalf("doctor says %v, and nothing of %s:\n%s", err, n.missing, out)
	}

	out = n.must(n.on("doctor", "--repair"))
	if !strings.Contains(out, "mended") {
		t.Errorf("repair says:\n%s", out)
	}
	n.must(n.ctr("images", "export", archive, n.ref))
	n.loads("-i", archive)
	n.must(n.on("image", "check", "--verify"))
	n.must(n.on("doctor"))

	// Containerd's own collection leaves what came.
	n.must(n.on("gc"))
	n.must(n.ctr("images", "export", archive, n.ref))
	n.must(n.on("save", "-o", archive, n.ref))
	n.loads("-i", archive)
}

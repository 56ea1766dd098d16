package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/stowage/stowage/internal/containerd"
	"github.com/stowage/stowage/internal/containerd/containerdtest"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/imagetest"
)

// A node is a containerd that has lost a blob of an image, the way it does: an image is pulled whose
// layers are unpacked already, because another has the same in another compression, and so their blobs
// are not fetched.
type node struct {
	*bench
	address string // of its socket
	root    string // of containerd; empty: it is a daemon of ours
	ref     string
	missing string
}

const nodeNamespace = "node"

// pushSame pushes an image that has the layers of app:1 in another compression.
func (n *node) pushSame() {
	n.t.Helper()
	tars, err := imagetest.Machine(2<<20, 1<<20)
	if err != nil {
		n.t.Fatal(err)
	}
	same, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Zstd, tars...)}.Build("")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := imagetest.Push(n.t.Context(), n.host, "app", "zstd", same); err != nil {
		n.t.Fatal(err)
	}
	n.ref = n.host + "/app:zstd"
	n.missing = same.Manifest().Layers[0].Digest.String()
}

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
	n := &node{bench: b, address: p.Address, root: p.Root}
	n.pushSame()
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
	return n.command("ctr", append([]string{"--address", n.address, "--namespace", nodeNamespace}, args...)...)
}

// on runs stowage on the node.
func (n *node) on(args ...string) (string, error) {
	return n.command(n.bin, append([]string{"--progress", "none", "--address", n.address, "-n", nodeNamespace}, args...)...)
}

// must is for a command that must succeed.
func (n *node) must(out string, err error) string {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// in is the node for a part of a test.
func (n *node) in(t *testing.T) *node {
	b, part := *n.bench, *n
	b.t, part.bench = t, &b
	return &part
}

func TestRepair(t *testing.T) {
	n := newNode(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *node)
	}{{"a blob that was not pulled", repairSkipped}, {"damage", repairDamage}, {"other work", workOnNode}} {
		t.Run(part.name, func(t *testing.T) { part.run(t, n.in(t)) })
	}
	if out := n.must(n.ctr("plugins", "ls", "-d", "id==overlayfs")); strings.Contains(out, "rebase") { // since containerd 2.2
		t.Run("side by side", func(t *testing.T) { unpacksSideBySide(t, n.in(t)) })
	}
}

func repairSkipped(t *testing.T, n *node) {
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

// blobFile is where the node's containerd keeps a blob.
func (n *node) blobFile(digest string) string {
	return filepath.Join(n.root, "io.containerd.content.v1.content", "blobs", strings.Replace(digest, ":", "/", 1))
}

// repairDamage: what a disk, or somebody with a shell, does to a node.
func repairDamage(t *testing.T, n *node) {
	archive := filepath.Join(n.dir, "out.tar")
	other := n.one.Manifest().Layers[1].Digest.String()
	root := n.one.Root.Digest.String()

	// A wrong bit in one layer; the file of another is gone, and containerd has not noticed.
	wrong := n.blobFile(n.missing)
	b, err := os.ReadFile(wrong)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Remove(wrong); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wrong, b, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(n.blobFile(other)); err != nil {
		t.Fatal(err)
	}
	out, err := n.on("doctor", "--verify")
	if err == nil {
		t.Fatalf("doctor finds nothing:\n%s", out)
	}
	for kind, digest := range map[string]string{"corrupt-blob": n.missing, "missing-blob": other} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), kind+" "+digest) {
			t.Errorf("doctor does not say %s of %s:\n%s", kind, digest, out)
		}
	}
	n.must(n.on("doctor", "--verify", "--repair"))
	// Now the manifest of an image, with which its layers go at containerd's next collection.
	n.must(n.ctr("content", "rm", root))
	n.must(n.on("gc"))
	n.must(n.on("doctor", "--repair"))
	for _, ref := range []string{n.ref, n.host + "/app:1"} {
		n.must(n.ctr("images", "export", archive, ref))
		n.loads("-i", archive)
	}
	aside, err := filepath.Glob(filepath.Join(n.dir, "none", "quarantine", "*"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("in quarantine: %v, %v", aside, err)
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, b) {
		t.Errorf("the wrong bytes were not kept: %v", err)
	}

	// Nor would its collection notice that the image needs them, with the labels gone.
	out = n.must(n.ctr("content", "ls"))
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); fields[0] == root {
			for _, label := range strings.Split(fields[len(fields)-1], ",") {
				if key, _, _ := strings.Cut(label, "="); strings.HasPrefix(key, "containerd.io/gc.ref.content.") {
					n.must(n.ctr("content", "label", root, key+"="))
				}
			}
		}
	}
	if out, err := n.on("doctor"); err == nil || !strings.Contains(out, "unlinked-blob") {
		t.Errorf("doctor says %v of blobs that nothing leads to:\n%s", err, out)
	}
	n.must(n.on("doctor", "--repair"))
	n.must(n.on("gc"))
	n.must(n.on("image", "check", "--verify"))
}

// workOnNode works on a daemon by way of stowage, and has containerd's client look at it.
func workOnNode(t *testing.T, n *node) {
	if n.root != "" {
		n.must(n.on("rmi", "--gc", n.ref, n.host+"/app:1"))
	}
	if out := n.must(n.on("content", "ls", "-q")) + n.must(n.ctr("snapshots", "ls")); strings.Contains(out, "sha256:") {
		t.Fatalf("after everything was removed there is\n%s", out)
	}

	// Both come whole, though they have their layers in common.
	archive := filepath.Join(n.dir, "out.tar")
	for _, ref := range []string{n.host + "/app:1", n.ref} {
		n.must(n.on("pull", ref))
	}
	n.must(n.on("gc"))
	for _, ref := range []string{n.host + "/app:1", n.ref} {
		out := n.must(n.ctr("images", "check", "name=="+ref))
		if !strings.Contains(out, "complete") || !strings.Contains(out, "true") {
			t.Errorf("ctr says of %s:\n%s", ref, out)
		}
		n.must(n.ctr("images", "export", archive, ref))
		n.loads("-i", archive)
	}

	n.must(n.on("tag", n.ref, n.host+"/app:mine"))
	n.must(n.on("image", "label", n.host+"/app:mine", "a=b"))
	if out := n.must(n.ctr("images", "ls", "name=="+n.host+"/app:mine")); !strings.Contains(out, "a=b") {
		t.Errorf("ctr knows of the tag:\n%s", out)
	}
	n.must(n.on("push", n.host+"/app:mine"))
	n.must(n.on("save", "-o", archive, n.host+"/app:mine"))
	n.must(n.on("rmi", "--gc", n.host+"/app:mine", n.ref, n.host+"/app:1"))
	n.must(n.on("load", "-i", archive))
	n.must(n.on("image", "check", "--verify", n.host+"/app:mine"))

	at := filepath.Join(n.dir, "mounted")
	n.must(n.on("image", "mount", n.host+"/app:mine", at))
	entries, err := os.ReadDir(at)
	if err != nil || len(entries) == 0 {
		t.Errorf("what is mounted has %v, %v", entries, err)
	}
	n.must(n.on("image", "unmount", at))
	if out := n.must(n.on("snapshot", "ls", "-q")); strings.Contains(out, at) {
		t.Errorf("the mount leaves its snapshot:\n%s", out)
	}
	for _, args := range [][]string{{"du"}, {"why", n.host + "/app:mine"}, {"image", "usage", n.host + "/app:mine"}, {"image", "info", n.host + "/app:mine"}, {"snapshot", "usage"}} {
		n.must(n.on(args...))
	}

	top := strings.Fields(n.must(n.on("snapshot", "ls", "-q")))[0]
	n.must(n.on("snapshot", "prepare", "work", top))
	n.must(n.command("sh", "-c", n.must(n.on("snapshot", "mounts", at, "work"))))
	if err := os.WriteFile(filepath.Join(at, "written"), []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.must(n.command("umount", at))
	n.must(n.on("gc"))
	n.must(n.on("snapshot", "commit", "done", "work"))
	if out := n.must(n.on("snapshot", "diff", "done")); !strings.Contains(out, "written") || !strings.Contains(out, "by hand") || strings.Contains(out, "round") {
		t.Errorf("a diff of %d bytes, not of what was written", len(out))
	}
	n.must(n.on("snapshot", "rm", "done"))

	n.must(n.on("lease", "create", "--id", "held"))
	if out := n.must(n.ctr("leases", "ls")); !strings.Contains(out, "held") || strings.Contains(out, "stowage-") {
		t.Errorf("leases:\n%s", out)
	}
	n.must(n.on("lease", "rm", "held"))
	n.must(n.on("namespace", "create", "other", "k=v"))
	if out := n.must(n.ctr("namespaces", "ls")); !strings.Contains(out, "k=v") {
		t.Errorf("namespaces:\n%s", out)
	}
	n.must(n.on("namespace", "rm", "other"))

	// What it cannot do it says.
	for _, args := range [][]string{{"gc", "--dry-run"}, {"content", "prune", "--evict"}} {
		out, err := n.on(args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 6 {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	out, err := n.command(n.bin, "--address", filepath.Join(n.dir, "nobody"), "images")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("where nobody listens: %v\n%s", err, out)
	}
}

// TestOwnDaemon works on a daemon of ours in the same ways, and as on any other store.
func TestOwnDaemon(t *testing.T) {
	b := newBench(t)
	dir, err := os.MkdirTemp("", "own") // short: the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	n := &node{bench: b, address: filepath.Join(dir, "sock")}
	n.pushSame()
	daemon := exec.CommandContext(context.WithoutCancel(t.Context()), b.bin, "--root", filepath.Join(b.dir, "served"), "serve", "--address", n.address)
	daemon.Env = append(os.Environ(), "STOWAGE_CONFIG=/dev/null")
	var log bytes.Buffer
	daemon.Stderr = &log
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(daemon.Process.Signal(syscall.SIGTERM), daemon.Wait(), os.RemoveAll(dir)); err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	})
	for n.ready() != nil {
		select {
		case <-t.Context().Done():
			t.Fatal("it does not listen")
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Run("content", func(t *testing.T) {
		stores := 0
		contenttest.Run(t, func(t *testing.T) content.Store {
			stores++ // each namespace is a store of its own
			c, err := containerd.Dial(t.Context(), n.address, containerd.Options{Namespace: fmt.Sprint("test", stores), Aside: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
			return contenttest.Limited{Store: c, MaxKey: 400} // its own keys have the namespace in them
		})
	})
	t.Run("images", func(t *testing.T) { workOnNode(t, n.in(t)) })
	t.Run("side by side", func(t *testing.T) { unpacksSideBySide(t, n.in(t)) })
}

// ready asks whether the daemon listens.
func (n *node) ready() error {
	conn, err := net.Dial("unix", n.address)
	if err != nil {
		return err
	}
	return conn.Close()
}

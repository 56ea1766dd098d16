package interop

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/containerd/containerdtest"
)

// TestProxyPlugins has a containerd whose content store and snapshotter is stowage pull, mount, export and
// remove images. What it keeps is in the store for as long as it wants it, whatever stowage collects.
func TestProxyPlugins(t *testing.T) {
	b := newBench(t)
	sockets, err := os.MkdirTemp("", "stow") // short: the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(sockets); err != nil {
			t.Error(err)
		}
	})
	plugin := filepath.Join(sockets, "plugin")
	b.daemon(filepath.Join(sockets, "sock"), "--plugin", plugin)
	node, err := containerdtest.Start(t.Context(), containerdtest.Options{Plugin: plugin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Stop(); err != nil {
			t.Error(err)
		}
	})
	ctr := func(args ...string) string {
		t.Helper()
		return b.run("ctr", append([]string{"--address", node.Address}, args...)...)
	}
	kept := func() []string { return strings.Fields(b.stowage("-n", "containerd", "content", "ls", "-q")) }

	ref := b.host + "/app:1"
	pull := []string{"images", "pull", "--plain-http", "--snapshotter", "stowage", ref}
	if strings.Contains(ctr("images", "pull", "--help"), "--local") { // later clients than Debian's leave pulls to the daemon
		pull = slices.Insert(pull, 2, "--local")
	}
	ctr(pull...)
	var want []string
	for _, blob := range b.one.Blobs {
		want = append(want, blob.Digest.String())
	}
	slices.Sort(want)
	if got := kept(); !slices.Equal(got, want) {
		t.Errorf("the store has %v, want %v", got, want)
	}
	if left, err := os.ReadDir(filepath.Join(node.Root, "io.containerd.content.v1.content")); err == nil {
		t.Errorf("containerd keeps blobs of its own: %v", left)
	}
	b.stowage("-n", "containerd", "gc", "--all")

	at := filepath.Join(b.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	b.stowage("pull", ref)
	b.stowage("image", "unpack", ref, filepath.Join(b.dir, "tree"))
	ctr("images", "mount", "--snapshotter", "stowage", ref, at)
	out, err := exec.CommandContext(t.Context(), "diff", "-r", "--no-dereference", filepath.Join(b.dir, "tree"), at).CombinedOutput()
	ctr("images", "unmount", "--rm", "--snapshotter", "stowage", at)
	if err != nil {
		t.Errorf("the mount and the tree: %v\n%s", err, out)
	}
	b.stowage("rmi", "--gc", ref)
	archive := filepath.Join(b.dir, "out.tar")
	ctr("images", "export", archive, ref)

	// Its own collection takes away what it does not need any more; in another namespace it needs it.
	ctr(append([]string{"-n", "other"}, pull...)...)
	ctr("images", "rm", "--sync", ref)
	if got := kept(); !slices.Equal(got, want) {
		t.Errorf("after one of two namespaces the store has %v, want %v", got, want)
	}
	ctr("-n", "other", "images", "rm", "--sync", ref)
	if got := append(kept(), strings.Fields(b.stowage("-n", "containerd", "snapshot", "ls", "-q"))...); len(got) > 0 {
		t.Errorf("after both it has %v", got)
	}
	b.loads("-i", archive)
}

// daemon serves the store until the test ends.
func (b *bench) daemon(socket string, args ...string) {
	b.t.Helper()
	cmd := exec.Command(b.bin, append([]string{"serve", "--address", socket}, args...)...)
	cmd.Env = append(os.Environ(), "STOWAGE_ROOT="+filepath.Join(b.dir, "store"), "STOWAGE_CONFIG=/dev/null", "TMPDIR="+b.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			b.t.Errorf("the daemon: %v\n%s", err, log.String())
		}
	})
	for range 1000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			if err := conn.Close(); err != nil {
				b.t.Fatal(err)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatal("the daemon does not answer")
}

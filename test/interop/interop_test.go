// Package interop runs stowage beside the programs that its users have: what they export loads
// here, and what is exported here loads there. The programs are Debian's; `make deps` installs
// them, and a missing one fails the test.
package interop

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// A bench is a registry with images in it, a store, and the built command.
type bench struct {
	t    *testing.T
	dir  string
	bin  string
	host string
	one  *imagetest.Image // app:1, one platform, OCI
	old  *imagetest.Image // redis:2.8.23, with a config that says application/octet-stream
	many *imagetest.Image // multi:1, an index of two platforms
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.bin = filepath.Join(b.dir, "stowage")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.bin, "github.com/stowage/stowage/cmd/stowage").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	reg, err := registrytest.StartDebian(context.WithoutCancel(t.Context()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Stop(); err != nil {
			t.Errorf("stop the registry: %v", err)
		}
	})
	b.host = reg.Host
	tars, err := imagetest.Machine(2<<20, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	build := func(s imagetest.Spec) *imagetest.Image {
		img, err := s.Build("")
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	b.one = build(imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...)})
	b.old = build(imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...), Docker: true, ConfigType: imagetest.OctetStream})
	arm := build(imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars[1]), Platform: image.Platform{OS: "linux", Architecture: "arm64"}})
	b.many = imagetest.Index(b.one, arm)
	for name, img := range map[string]*imagetest.Image{"app:1": b.one, "redis:2.8.23": b.old, "multi:1": b.many} {
		repo, tag, _ := strings.Cut(name, ":")
		if err := imagetest.Push(t.Context(), b.host, repo, tag, img); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// run runs a program, which must succeed, and gives its standard output.
func (b *bench) run(name string, args ...string) string {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "STOWAGE_ROOT="+filepath.Join(b.dir, "store"), "STOWAGE_CONFIG=/dev/null", "TMPDIR="+b.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

func (b *bench) stowage(args ...string) string {
	b.t.Helper()
	return b.run(b.bin, append([]string{"--progress", "none"}, args...)...)
}

// empty takes everything out of the store.
func (b *bench) empty() {
	b.t.Helper()
	if names := strings.Fields(b.stowage("images", "-q")); len(names) > 0 {
		b.stowage(append([]string{"rmi", "--gc"}, names...)...)
	}
}

// loads loads an archive into an empty store and sees that an image is whole then.
func (b *bench) loads(args ...string) string {
	b.t.Helper()
	b.empty()
	out := b.stowage(append([]string{"load"}, args...)...)
	b.stowage("image", "check", "--verify")
	return out
}

func TestSkopeo(t *testing.T) {
	b := newBench(t)
	app := "docker://" + b.host + "/app:1"
	at := func(name string) string { return filepath.Join(b.dir, name) }

	// Theirs, here.
	b.run("skopeo", "copy", "-q", "--src-tls-verify=false", app, "docker-archive:"+at("docker.tar")+":example.com/app:1")
	if out := b.loads("-i", at("docker.tar")); !strings.Contains(out, "example.com/app:1@sha256:") {
		t.Errorf("a docker archive gave %q", out)
	}
	b.run("skopeo", "copy", "-q", "--src-tls-verify=false", app, "oci-archive:"+at("oci.tar")+":example.com/app:1")
	if out := b.loads("-i", at("oci.tar")); !strings.Contains(out, "example.com/app:1@"+b.one.Root.Digest.String()) {
		t.Errorf("an OCI archive gave %q", out)
	}
	b.run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", "docker://"+b.host+"/multi:1", "oci:"+at("layout")+":latest")
	if out := b.loads("-i", at("layout"), "--all-platforms", "--tag", "example.com/multi:1"); !strings.Contains(out, b.many.Root.Digest.String()) {
		t.Errorf("an OCI layout folder gave %q", out)
	}

	// Ours, there.
	b.empty()
	for _, name := range []string{"app:1", "redis:2.8.23", "multi:1"} {
		ref := b.host + "/" + name
		b.stowage("pull", ref)
		b.stowage("save", "-o", at("ours.tar"), ref)
		for _, transport := range []string{"oci-archive", "docker-archive"} {
			to := t.TempDir()
			b.run("skopeo", "copy", "-q", "--insecure-policy", transport+":"+at("ours.tar"), "dir:"+to)
		}
	}
}

func TestPodman(t *testing.T) {
	b := newBench(t)
	podman := func(args ...string) string {
		t.Helper()
		return b.run("podman", append([]string{
			"--root", filepath.Join(b.dir, "podman"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs",
		}, args...)...)
	}
	at := func(name string) string { return filepath.Join(b.dir, name) }
	ref := b.host + "/app:1"
	podman("pull", "-q", "--tls-verify=false", ref)
	for _, form := range []string{"docker-archive", "oci-archive"} {
		podman("save", "-q", "--format", form, "-o", at(form+".tar"), ref)
		if out := b.loads("-i", at(form+".tar")); !strings.Contains(out, ref+"@sha256:") {
			t.Errorf("%s gave %q", form, out)
		}
	}
	podman("rmi", "-af")

	b.empty()
	for _, name := range []string{"app:1", "redis:2.8.23", "multi:1"} {
		ref := b.host + "/" + name
		b.stowage("pull", ref)
		b.stowage("save", "-o", at("ours.tar"), ref)
		if out := podman("load", "-i", at("ours.tar")); !strings.Contains(out, ref) {
			t.Errorf("podman loaded %s as %q", ref, out)
		}
		podman("rmi", "-af")
	}
}

func TestContainerd(t *testing.T) {
	b := newBench(t)
	socket := startContainerd(t, b.dir)
	ctr := func(args ...string) string {
		t.Helper()
		return b.run("ctr", append([]string{"--address", socket}, args...)...)
	}
	at := func(name string) string { return filepath.Join(b.dir, name) }

	// Theirs, here: one platform of an index, and all of them.
	ref := b.host + "/multi:1"
	ctr("content", "fetch", "--plain-http", "--all-platforms", ref)
	ctr("images", "export", "--platform", "linux/amd64", at("one.tar"), ref)
	if out := b.loads("-i", at("one.tar")); !strings.Contains(out, ref+"@"+b.many.Root.Digest.String()) {
		t.Errorf("an export of one platform gave %q", out)
	}
	ctr("images", "export", "--all-platforms", at("all.tar"), ref)
	b.loads("-i", at("all.tar"), "--all-platforms")
	ctr("images", "rm", ref)

	// Ours, there.
	b.empty()
	for _, name := range []string{"app:1", "redis:2.8.23", "multi:1"} {
		ref := b.host + "/" + name
		b.stowage("pull", ref)
		b.stowage("save", "-o", at("ours.tar"), ref)
		ctr("images", "import", "--snapshotter", "native", at("ours.tar"))
		if out := ctr("images", "ls", "-q"); !strings.Contains(out, ref) {
			t.Errorf("ctr imported %s as %q", ref, out)
		}
		if out := ctr("images", "check", "--snapshotter", "native"); strings.Contains(out, "incomplete") {
			t.Errorf("ctr finds it incomplete:\n%s", out)
		}
		ctr("images", "rm", ref)
	}
}

// startContainerd runs Debian's containerd on a socket of its own.
func startContainerd(t *testing.T, dir string) string {
	t.Helper()
	config := filepath.Join(dir, "containerd.toml")
	text := "version = 2\nroot = '" + filepath.Join(dir, "containerd") + "'\nstate = '" + filepath.Join(dir, "containerd-state") + "'\n" +
		"disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.internal.v1.opt']\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "c.sock")
	log, err := os.Create(filepath.Join(dir, "containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "containerd", "--config", config, "--address", socket)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended by itself, which the test has seen
		_ = cmd.Wait()                       // ended by our signal
		_ = log.Close()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if exec.CommandContext(t.Context(), "ctr", "--address", socket, "version").Run() == nil {
			return socket
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name()) // best effort: the failure is reported either way
			t.Fatalf("containerd did not answer:\n%s", text)
		}
	}
}

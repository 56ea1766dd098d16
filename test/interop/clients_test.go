package interop

import (
	"archive/tar"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// Programs that Debian does not have, or has only in an old version, are named by environment
// variables. What they do is tested where they are:
//
//	STOWAGE_CTR         a ctr beside Debian's: the newest, for example
//	STOWAGE_CONTAINERD  the containerd that goes with it
//	STOWAGE_NERDCTL     nerdctl
//	STOWAGE_BUILDKITD   buildkitd
//	STOWAGE_BUILDCTL    the buildctl that goes with it
//
// With -peers, as `make interop` runs the tests, each of them has to be there.
var peers = flag.Bool("peers", false, "fail unless every program is named by its environment variable")

// peer is the program that an environment variable names; empty: there is none.
func peer(t *testing.T, variable string) string {
	t.Helper()
	name := os.Getenv(variable)
	if name == "" {
		if *peers {
			t.Fatalf("%s names no program", variable)
		}
		return ""
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return path
}

// A daemon is what a client talks to.
type daemon struct {
	name  string // "stowage" or "containerd"
	args  func(dir, socket string) []string
	after func(dir string) error // what has to be so when it has ended; nil: nothing
}

func stowageDaemon(bin, config string) daemon {
	root := func(dir string) []string {
		return []string{"--root", filepath.Join(dir, "store"), "--config", config}
	}
	return daemon{
		name: "stowage",
		args: func(dir, socket string) []string {
			return append([]string{bin, "serve", "--address", socket}, root(dir)...)
		},
		after: func(dir string) error {
			if left, err := mount.Beneath(dir); err != nil || len(left) > 0 {
				return errors.Join(fmt.Errorf("mounts are left: %v", left), err)
			}
			if out, err := exec.Command(bin, append([]string{"doctor", "--verify"}, root(dir)...)...).CombinedOutput(); err != nil {
				return fmt.Errorf("doctor: %w\n%s", err, out)
			}
			return nil
		},
	}
}

// containerdDaemon shows that a script asks for no more than what a client is used to.
func containerdDaemon(bin string) daemon {
	return daemon{name: "containerd", args: func(dir, socket string) []string {
		return []string{bin, "--config", filepath.Join(dir, "containerd.toml"), "--address", socket}
	}}
}

const containerdConfig = `version = 2
root = '%[1]s/root'
state = '%[1]s/state'
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.internal.v1.opt']
[plugins.'io.containerd.gc.v1.scheduler']
startup_delay = '1h' # it collects when it is told to, not what a script has just written
`

// start runs the daemon, with its state below dir, until stop is called. It has to end as it should.
func (d daemon) start(dir string) (socket string, stop func() error, err error) {
	if err := os.WriteFile(filepath.Join(dir, "containerd.toml"), fmt.Appendf(nil, containerdConfig, dir), 0o600); err != nil {
		return "", nil, err
	}
	var log strings.Builder
	socket = filepath.Join(dir, "sock")
	args := d.args(dir, socket)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
		if d.after != nil {
			err = errors.Join(err, d.after(dir))
		}
		left, mountErr := mount.Beneath(dir)
		err = errors.Join(err, mountErr)
		for _, m := range left {
			err = errors.Join(err, mount.Unmount(m.Target))
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", d.name, err, log.String())
		}
		return nil
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			return socket, stop, conn.Close()
		}
		if time.Now().After(deadline) {
			return "", nil, errors.Join(fmt.Errorf("%s does not answer", d.name), stop())
		}
	}
}

// Clients are programs that belong together, with the scripts of its commands.
type clients struct {
	scripts  string            // the folder below testdata
	programs map[string]string // what scripts call: name to path
	newest   bool              // condition [newest] of the scripts: not Debian's
}

// run runs the scripts of these clients, each with a daemon of its own, whose address every one of the
// programs finds in its environment. $REG is a registry with
//
//	app:1     three layers, gzip: etc/motd says "hello" in the first and "hello again" in the second, the third removes etc/gone
//	app:2     the same layers, zstd
//	multi:1   an index of app:1 and an image for linux/arm64
//
// $CLOSED is another with the same images, for "me" with the password "correct-horse" alone,
// $APP1, $APP2 and $MULTI1 are their digests, $LAYER0..2 those of the layers of app:1,
// $CHAIN0..2 their chainIDs, and $CONFIG that of its config. Conditions are the name of the daemon and [newest].
func (c clients) run(t *testing.T, daemons ...daemon) {
	for _, d := range daemons {
		t.Run(d.name, func(t *testing.T) {
			env := registries(t)
			testscript.Run(t, testscript.Params{
				Dir:   filepath.Join("testdata", c.scripts),
				Setup: func(e *testscript.Env) error { return c.setup(t, e, d, env) },
				Condition: func(cond string) (bool, error) {
					switch cond {
					case "stowage", "containerd":
						return cond == d.name, nil
					case "newest":
						return c.newest, nil
					}
					return false, fmt.Errorf("no condition %s", cond)
				},
			})
		})
	}
}

// registries starts those of the scripts, and gives the variables that say where they are and what
// is in them.
func registries(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	start := func(o registrytest.ProcessOptions) string {
		reg, err := registrytest.StartDebianWith(context.WithoutCancel(t.Context()), dir, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := reg.Stop(); err != nil {
				t.Error(err)
			}
		})
		return reg.Host
	}
	host := start(registrytest.ProcessOptions{})
	env, err := images(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	env["REG"], env["CLOSED"] = host, start(registrytest.ProcessOptions{Htpasswd: true})
	return env
}

// setup starts the daemon of a script, and puts the programs first in its path.
func (c clients) setup(t *testing.T, e *testscript.Env, d daemon, env map[string]string) error {
	bin, dir := filepath.Join(e.WorkDir, ".bin"), filepath.Join(e.WorkDir, ".daemon")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	for name, path := range c.programs {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	socket, stop, err := d.start(dir)
	if err != nil {
		return err
	}
	e.Defer(func() {
		// A script that failed half-way leaves what it mounted.
		left, err := mount.Beneath(e.WorkDir)
		for _, m := range left {
			if !strings.HasPrefix(m.Target, dir) {
				err = errors.Join(err, mount.Unmount(m.Target))
			}
		}
		if err := errors.Join(err, stop()); err != nil {
			t.Error(err)
		}
	})
	e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("CONTAINERD_ADDRESS", socket)
	for k, v := range env {
		e.Setenv(k, v)
	}
	return nil
}

// files is a layer of small files by their names; an empty body of a name that begins with ".wh."
// removes what lies beneath.
func files(bodies ...[2]string) imagetest.Tar {
	return func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, f := range bodies {
			h := &tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1])), ModTime: time.Unix(1700000000, 0)}
			if strings.HasSuffix(f[0], "/") {
				h.Typeflag, h.Mode = tar.TypeDir, 0o755
			}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if _, err := io.WriteString(tw, f[1]); err != nil {
				return err
			}
		}
		return tw.Close()
	}
}

// images fills a registry for the scripts, and gives their variables.
func images(ctx context.Context, host string) (map[string]string, error) {
	tars := []imagetest.Tar{
		files([2]string{"etc/"}, [2]string{"etc/motd", "hello\n"}, [2]string{"etc/gone", "bye\n"}, [2]string{"data", strings.Repeat("stowage\n", 50_000)}),
		files([2]string{"etc/"}, [2]string{"etc/motd", "hello again\n"}),
		files([2]string{"etc/"}, [2]string{"etc/.wh.gone", ""}),
	}
	created := time.Unix(1700000000, 0).UTC() // clients of Docker's kind do not expect that an image has no date
	one, err := imagetest.Spec{Created: &created, Layers: imagetest.Layers(imagetest.Gzip, tars...)}.Build("")
	if err != nil {
		return nil, err
	}
	two, err := imagetest.Spec{Created: &created, Layers: imagetest.Layers(imagetest.Zstd, tars...)}.Build("")
	if err != nil {
		return nil, err
	}
	arm, err := imagetest.Spec{Created: &created, Layers: imagetest.Layers(imagetest.Gzip, tars[0]), Platform: image.Platform{OS: "linux", Architecture: "arm64"}}.Build("")
	if err != nil {
		return nil, err
	}
	multi := imagetest.Index(one, arm)
	for _, p := range []struct {
		repo, tag string
		img       *imagetest.Image
	}{{"app", "1", one}, {"app", "2", two}, {"multi", "1", multi}} {
		if err := imagetest.Push(ctx, host, p.repo, p.tag, p.img); err != nil {
			return nil, err
		}
	}
	env := map[string]string{
		"APP1": one.Root.Digest.String(), "APP2": two.Root.Digest.String(), "MULTI1": multi.Root.Digest.String(),
		"CONFIG": one.Manifest().Config.Digest.String(),
	}
	for i, l := range one.Manifest().Layers {
		env[fmt.Sprintf("LAYER%d", i)] = l.Digest.String()
	}
	config, _ := one.Blob(one.Manifest().Config.Digest)
	body, err := config.Bytes()
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseConfig(body)
	if err != nil {
		return nil, err
	}
	for i, chainID := range image.ChainIDs(parsed.DiffIDs) {
		env[fmt.Sprintf("CHAIN%d", i)] = chainID.String()
	}
	return env, nil
}

// build builds the command.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "stowage")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/stowage/stowage/cmd/stowage").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func TestCtr(t *testing.T) {
	debian, err := exec.LookPath("ctr")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("debian", func(t *testing.T) {
		clients{scripts: "ctr", programs: map[string]string{"ctr": debian}}.run(t, daemons(t, "containerd")...)
	})
	newest, containerd := peer(t, "STOWAGE_CTR"), peer(t, "STOWAGE_CONTAINERD")
	if newest == "" {
		return
	}
	t.Run("newest", func(t *testing.T) {
		clients{scripts: "ctr", programs: map[string]string{"ctr": newest}, newest: true}.run(t, daemons(t, containerd)...)
	})
}

func TestNerdctl(t *testing.T) {
	nerdctl, containerd := peer(t, "STOWAGE_NERDCTL"), peer(t, "STOWAGE_CONTAINERD")
	if nerdctl != "" {
		clients{scripts: "nerdctl", programs: map[string]string{"nerdctl": nerdctl}}.run(t, daemons(t, containerd)...)
	}
}

func TestBuildKit(t *testing.T) {
	buildkitd, buildctl, containerd := peer(t, "STOWAGE_BUILDKITD"), peer(t, "STOWAGE_BUILDCTL"), peer(t, "STOWAGE_CONTAINERD")
	if buildkitd != "" && buildctl != "" {
		clients{scripts: "buildkit", programs: map[string]string{"buildkitd": buildkitd, "buildctl": buildctl}}.run(t, daemons(t, containerd)...)
	}
}

// daemons are ours and, where it is named, a containerd.
func daemons(t *testing.T, containerd string) []daemon {
	all := []daemon{stowageDaemon(build(t), os.DevNull)}
	if containerd != "" {
		all = append(all, containerdDaemon(containerd))
	}
	return all
}

package mount

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const nobody = 65534

// insideVar names the test whose body a process runs that was started for it.
const insideVar = "STOWAGE_MOUNT_TEST"

// unprivileged runs the body of a test in a process that is nobody to the rest of the machine.
// With namespaces it is root in a user and a mount namespace of its own, where no other id is
// mapped. Before is called outside, first, by root.
func unprivileged(t *testing.T, namespaces bool, before, body func()) {
	t.Helper()
	if os.Getenv(insideVar) == t.Name() {
		body()
		return
	}
	before()
	// By this name the file can be run by whoever cannot reach it by path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), insideVar+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if namespaces {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			Credential:  &syscall.Credential{NoSetGroups: true},
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("inside: %v\n%s", err, out)
	}
}

func TestInUserNamespace(t *testing.T) {
	unprivileged(t, true, func() {
		if InUserNamespace() {
			t.Error("outside counts as a user namespace")
		}
	}, func() {
		if !InUserNamespace() {
			t.Error("inside counts as no user namespace")
		}
	})
}

func TestUnprivilegedOverlay(t *testing.T) {
	unprivileged(t, true, func() {}, func() {
		dir := t.TempDir()
		probe, err := ProbeOverlay(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("probe: %+v", probe)
		if !probe.UserXattr || !slices.Contains(probe.Options, "index=off") {
			t.Errorf("probe says %+v", probe)
		}
		wantList(t, dir)
		if _, err := ProbeErofs(dir); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "outside of user namespaces") {
			t.Errorf("probe of erofs: %v", err)
		}
		wantList(t, dir)

		onRoutes(t, func(t *testing.T, r route) {
			for _, layers := range []int{2, 128, 300} {
				base := t.TempDir()
				lower := stack(t, base, layers, "-"+strings.Repeat("x", 60))
				upper := folders(t, "upper/", "work/")
				// The topmost layer hides a file and a folder's content of the lowest.
				lowest := lower[layers-1]
				for _, sub := range []string{lowest + "/opaque", lower[0] + "/opaque"} {
					if err := os.Mkdir(sub, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				for _, name := range []string{"opaque/file", "hidden"} {
					if err := os.WriteFile(filepath.Join(lowest, name), nil, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if err := unix.Mknod(filepath.Join(lower[0], "hidden"), unix.S_IFCHR, 0); err != nil {
					t.Fatal(err)
				}
				if err := unix.Setxattr(lower[0]+"/opaque", "user.overlay.opaque", []byte("y"), 0); err != nil {
					t.Fatal(err)
				}
				options := append(probe.Options, "userxattr", Dirs("lowerdir", lower...),
					Dirs("upperdir", upper+"/upper"), Dirs("workdir", upper+"/work"))
				target := mounts(t, r, Mount{Type: "overlay", Source: "overlay", Options: options})
				wantFile(t, target+"/which", "0")
				wantList(t, target+"/opaque")
				if err := os.Remove(target + "/which"); err != nil {
					t.Error(err)
				}
				if err := os.WriteFile(target+"/opaque/new", nil, 0o644); err != nil {
					t.Error(err)
				}
				entries, err := os.ReadDir(target)
				if err != nil || len(entries) != layers+1 { // a file of each, and opaque
					t.Errorf("%d entries, want %d, error %v", len(entries), layers+1, err)
				}
				wantList(t, upper+"/upper", "opaque", "which")
				if err := Unmount(target); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// Flags that a mount brought into the namespace are locked: a call that would drop them is
// refused.
func TestUnprivilegedBind(t *testing.T) {
	const dir = "/run/stowage-mount-test"
	unprivileged(t, true, func() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "mode=777"); err != nil {
			t.Fatal(err)
		}
		unmountLater(t, dir)
	}, func() {
		onRoutes(t, func(t *testing.T, r route) {
			target := mounts(t, r, Mount{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
			info, _, err := At(target)
			if err != nil {
				t.Fatal(err)
			}
			for _, flag := range []string{"ro", "nosuid", "nodev", "noexec", "noatime"} {
				if !slices.Contains(info.Options, flag) {
					t.Errorf("%s is not among %q", flag, info.Options)
				}
			}
			if err := Unmount(target); err != nil {
				t.Error(err)
			}
		})
		if err := Unmount(dir); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "outside of this user namespace") {
			t.Errorf("unmount what was mounted outside: %v", err)
		}
	})
}

// Who has no right to mount is told so.
func TestUnprivilegedOutside(t *testing.T) {
	unprivileged(t, false, func() {}, func() {
		dir := t.TempDir()
		if _, err := ProbeOverlay(dir); err == nil {
			t.Error("overlay works")
		} else if t.Log(err); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "only root may mount") {
			t.Errorf("probe of overlay: %v", err)
		}
		if _, err := ProbeErofs(dir); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "only root outside") {
			t.Errorf("probe of erofs: %v", err)
		}
		wantList(t, dir)
		onRoutes(t, func(t *testing.T, r route) {
			for _, m := range []Mount{
				{Type: "bind", Source: dir},
				{Type: "overlay", Source: "overlay", Options: []string{Dirs("lowerdir", dir, "/etc")}},
				{Type: "erofs", Source: os.Args[0]},
			} {
				if err := r.all([]Mount{m}, dir); !errdefs.IsPermissionDenied(err) {
					t.Errorf("mount %s: %v", m.Type, err)
				}
			}
			if err := Unmount("/proc"); !errdefs.IsPermissionDenied(err) {
				t.Errorf("unmount: %v", err)
			}
		})
	})
}

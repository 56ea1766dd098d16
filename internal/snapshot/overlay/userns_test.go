package overlay_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot/overlay"
	"github.com/stowage/stowage/internal/snapshot/snapshottest"
)

// insideVar is set in the process that has namespaces of its own.
const insideVar = "STOWAGE_OVERLAY_TEST"

// firstID is what 0 in the namespace is outside.
const firstID = 200_000

// In a user namespace the marks are user.overlay.*, and everything else is as it is for root.
func TestUserNamespace(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		if !mount.InUserNamespace() {
			t.Fatal("this is no user namespace")
		}
		snapshottest.Run(t, open)
		return
	}
	dir := t.TempDir()
	// Every folder on the way may be entered by all but this one's parent, which is the test's own.
	for _, name := range []string{dir + "/..", dir} {
		if err := os.Chmod(name, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, firstID, firstID); err != nil {
		t.Fatal(err)
	}
	// By this name the file can be run by whoever cannot reach it by path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), insideVar+"=1", "TMPDIR="+dir)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: firstID, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("inside: %v\n%s", err, out)
	}
}

// The form of the layers is that of the first who came. What was unpacked in a user namespace can
// be mounted by root, and not the other way round.
func TestForms(t *testing.T) {
	dir := t.TempDir()
	if _, err := overlay.OpenUnmounted(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := overlay.Open(dir); err != nil {
			t.Errorf("root opens what a user made: %v", err)
		}
	}
	dir = t.TempDir()
	if _, err := overlay.Open(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := overlay.OpenUnmounted(dir); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a user opens what root made: %v", err)
	}
	if err := os.WriteFile(dir+"/form", []byte("odd\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := overlay.Open(dir); !errdefs.IsDataLoss(err) {
		t.Errorf("a form that nobody knows: %v", err)
	}
}

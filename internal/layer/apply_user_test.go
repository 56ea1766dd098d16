package layer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/layer"
)

// userLayer has what cannot be made without privileges.
func userLayer() []byte {
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service
	return archive(
		entry{kind: '5', name: "locked", mode: 0o500, mtime: 5},
		file("locked/a", "1"),
		entry{kind: '5', name: "locked/none", mtime: 6, mode: 0o1000},
		file("locked/none/b", "2").with("SCHILY.xattr.user.x", "1"),
		entry{kind: '0', name: "read-only", mode: 0o444, content: "3"}.with("SCHILY.xattr.user.x", "1", "SCHILY.xattr.trusted.y", "2"),
		entry{kind: '0', name: "capable", mode: 0o755, content: "4"}.with("SCHILY.xattr.security.capability", capability),
		entry{kind: '0', name: "acl", mode: 0o755, content: "5"}.with("SCHILY.xattr.system.posix_acl_access", acl),
		device("null", '3', 1, 3),
		device("loop", '4', 7, 0),
		device("null-too", '3', 1, 3),
		device("whiteout", '3', 0, 0),
		entry{kind: '0', name: "setuid", mode: 0o4755, content: "6"},
		entry{kind: '0', name: "theirs", mode: 0o6755, uid: 1000, gid: 1000},
		entry{kind: '2', name: "link", target: "x", uid: 1000, gid: 1000},
		entry{kind: '6', name: "fifo", mode: 0o600}.with("SCHILY.xattr.user.x", "1", "SCHILY.xattr.trusted.overlay.opaque", "y"),
		file("flags", "").with("SCHILY.fflags", "uchg"),
		file("implied/c", ""),
		file("implied/.wh.d", ""),
		entry{kind: '5', name: "implied/e"},
		file("implied/e/.wh..wh..opq", ""),
	)
}

// always are the losses of that layer that everybody has.
var always = []layer.Loss{
	{Kind: layer.LostDevice, Path: "whiteout", Detail: "c 0:0: it stands for a whiteout", Count: 1},
	{Kind: layer.LostXattr, Path: "fifo", Detail: "trusted.overlay.opaque: overlay's own", Count: 1},
	{Kind: layer.LostFlags, Path: "flags", Detail: "uchg", Count: 1},
}

func TestLossesOfRoot(t *testing.T) {
	result := applyTo(t, userLayer(), newRoot(t), layer.Options{ReportLosses: true})
	want := []layer.Loss{
		always[0],
		always[1],
		{Kind: layer.LostXattr, Path: "fifo", Detail: "user.x: operation not permitted", Count: 1},
		always[2],
	}
	if diff := cmp.Diff(want, result.Losses); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	_, err := layer.Apply(t.Context(), bytes.NewReader(userLayer()), newRoot(t), layer.Options{})
	var lost *layer.LossError
	if !errors.As(err, &lost) || lost.Loss != want[2] {
		t.Errorf("refused with %v, want the xattr of the fifo", err)
	}
}

func TestLossesInUserNamespace(t *testing.T) {
	got := asUser(t, &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	})
	want := []layer.Loss{
		{Kind: layer.LostXattr, Path: "read-only", Detail: "trusted.y: operation not permitted", Count: 1},
		{Kind: layer.LostDevice, Path: "null", Detail: "c 1:3", Count: 2},
		{Kind: layer.LostDevice, Path: "loop", Detail: "b 7:0", Count: 1},
		always[0],
		{Kind: layer.LostMode, Path: "theirs", Detail: "6000", Count: 1},
		{Kind: layer.LostOwner, Path: "theirs", Detail: "1000:1000", Count: 2},
		always[1],
		{Kind: layer.LostXattr, Path: "fifo", Detail: "user.x: operation not permitted", Count: 1},
		always[2],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
}

func TestLossesOfUser(t *testing.T) {
	got := asUser(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	want := []layer.Loss{
		{Kind: layer.LostOwner, Path: "locked", Detail: "0:0", Count: 13},
		{Kind: layer.LostXattr, Path: "read-only", Detail: "trusted.y: operation not permitted", Count: 1},
		{Kind: layer.LostXattr, Path: "capable", Detail: "security.capability: operation not permitted", Count: 1},
		{Kind: layer.LostDevice, Path: "null", Detail: "c 1:3", Count: 2},
		{Kind: layer.LostDevice, Path: "loop", Detail: "b 7:0", Count: 1},
		always[0],
		{Kind: layer.LostMode, Path: "setuid", Detail: "4000", Count: 1},
		{Kind: layer.LostMode, Path: "theirs", Detail: "6000", Count: 1},
		{Kind: layer.LostOwner, Path: "theirs", Detail: "1000:1000", Count: 2},
		always[1],
		{Kind: layer.LostXattr, Path: "fifo", Detail: "user.x: operation not permitted", Count: 1},
		always[2],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
}

// asUser applies the layer in a process with other credentials, in all forms, and returns what
// was lost.
func asUser(t *testing.T, how *syscall.SysProcAttr) []layer.Loss {
	t.Helper()
	place, err := os.MkdirTemp("", "user")
	must(t, err)
	t.Cleanup(func() { must(t, layer.RemoveAll(place)) })
	must(t, os.Chown(place, 65534, 65534))
	// The test itself is where nobody else may look.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestAsUser$", "-test.count=1")
	cmd.Env = append(os.Environ(), "LAYER_TEST_PLACE="+place)
	cmd.Dir = place
	cmd.SysProcAttr = how
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var losses []layer.Loss
	b, err := os.ReadFile(filepath.Join(place, "losses.json"))
	must(t, err)
	must(t, json.Unmarshal(b, &losses))

	// Only its owner could make the folder so.
	info, err := os.Stat(filepath.Join(place, "kept", "locked"))
	must(t, err)
	if info.Mode().Perm() != 0o500 || info.ModTime().Unix() != 5 {
		t.Errorf("locked is %v of %v; want 0500 of the time 5", info.Mode(), info.ModTime().Unix())
	}
	return losses
}

// TestAsUser is what the other process does.
func TestAsUser(t *testing.T) {
	place := os.Getenv("LAYER_TEST_PLACE")
	if place == "" {
		return // only run by others
	}
	var losses []byte
	for _, form := range []layer.Form{layer.Whole, layer.Overlay, layer.UserOverlay} {
		root := filepath.Join(place, "root")
		must(t, os.Mkdir(root, 0o755))
		tar := userLayer()
		if form == layer.Overlay { // whose marks are only for the privileged
			tar = archive(file("a", ""), file(".wh.b", ""))
		}
		o := layer.Options{Form: form, ReportLosses: true}
		result := applyTo(t, tar, root, o)
		encoded, err := json.Marshal(result.Losses)
		must(t, err)
		switch {
		case form == layer.Overlay:
			must(t, layer.RemoveAll(root))
			continue
		case losses == nil:
			losses = encoded
			// It can be applied again to what is locked by now.
			again := applyTo(t, archive(file("locked/none/c", "3"), file("locked/.wh.a", "")), root, o)
			if len(again.Losses) > 1 {
				t.Errorf("lost %v in what was locked", again.Losses)
			}
			must(t, os.Rename(root, filepath.Join(place, "kept")))
		default:
			if diff := cmp.Diff(string(losses), string(encoded)); diff != "" {
				t.Errorf("form %d loses something else (-whole +form):\n%s", form, diff)
			}
			must(t, layer.RemoveAll(root))
		}
	}
	must(t, os.WriteFile(filepath.Join(place, "losses.json"), losses, 0o644))
}

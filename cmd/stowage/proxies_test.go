package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A snapshotter of another program, here that of another store's daemon, is used by the name that the
// configuration gives it, and what it keeps for us goes with the image.
func TestProxies(t *testing.T) {
	r := newRig(t, 0)
	r.push("app", "1", 1<<20, 2<<20)
	other := *r
	other.root = filepath.Join(t.TempDir(), "other")
	served := other.serve()
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, []byte("[snapshotters.there]\naddress = '"+served.address+"'\nname = 'native'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must := func(args ...string) string {
		t.Helper()
		return r.must(append([]string{"--config", config}, args...)...)
	}
	there := func() string {
		t.Helper()
		return other.must("-n", "stowage", "snapshot", "ls", "-q", "--snapshotter", "native")
	}
	ref := r.host + "/app:1"
	must("pull", "--snapshotter", "there", ref)
	if out := there(); strings.Count(out, "-committed") != 2 {
		t.Errorf("the other program has %q", out)
	}
	dir := t.TempDir()
	must("image", "mount", "--snapshotter", "there", ref, dir)
	entries, err := os.ReadDir(dir)
	if len(entries) == 0 || err != nil {
		t.Errorf("the mount shows %v, error %v", entries, err)
	}
	must("image", "unmount", dir)
	must("rmi", "--gc", ref)
	if out := there(); out != "" {
		t.Errorf("the other program still has %q", out)
	}
	r.fails(2, "want one of overlay, erofs, native", "snapshot", "ls", "--snapshotter", "there")
}

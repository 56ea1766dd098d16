package server

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestClaim(t *testing.T) {
	root := t.TempDir()
	name := filepath.Join(root, "daemon.json")
	if err := os.WriteFile(name, []byte(`{"address":"/a/much/longer/one/of/a/daemon/that/was/killed","pid":1,"version":"0"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	release, err := Claim(root, "/s", "1")
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	if b, err := os.ReadFile(name); err != nil || string(b) != `{"address":"/s","pid":`+pid+`,"version":"1"}`+"\n" {
		t.Errorf("daemon.json: %q, %v", b, err)
	}
	if _, err := Claim(root, "/other", "1"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "process id "+pid+" serves it on /s") {
		t.Errorf("a second claim: %v, want failed precondition that says who has it", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); !os.IsNotExist(err) {
		t.Errorf("daemon.json after the end: %v, want not exist", err)
	}
	if release, err = Claim(root, "/other", "1"); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

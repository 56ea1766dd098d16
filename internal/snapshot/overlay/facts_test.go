package overlay_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/overlay"
)

// What a layer needs below, which may be long, is read to fit it and for nothing else. Damage is
// noticed where it matters.
func TestDamagedFacts(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	d, err := overlay.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "layer")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unpack(ctx, folder, strings.NewReader(""), layer.Options{}); err != nil {
		t.Fatal(err)
	}
	mounts := func() error {
		_, err := d.Mounts(ctx, filepath.Join(dir, "view"), []string{folder}, snapshot.View)
		return err
	}
	fit := func() error {
		_, err := d.Fit(ctx, folder, nil, false)
		return err
	}
	for _, file := range []struct {
		name      string
		uses, not func() error
	}{{"needs.json", fit, mounts}, {"layer.json", mounts, fit}} {
		name := filepath.Join(folder, file.name)
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for what, damage := range map[string]func() error{
			"cut off":  func() error { return os.WriteFile(name, []byte("{"), 0o644) },
			"too long": func() error { return os.Truncate(name, 300<<20) },
			"gone":     func() error { return os.Remove(name) },
		} {
			if err := errors.Join(os.WriteFile(name, whole, 0o644), damage()); err != nil {
				t.Fatal(err)
			}
			if err := file.uses(); !errdefs.IsDataLoss(err) {
				t.Errorf("%s, %s: %v", file.name, what, err)
			}
			if err := file.not(); err != nil {
				t.Errorf("%s, %s, where it does not matter: %v", file.name, what, err)
			}
		}
		if err := os.WriteFile(name, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(mounts(), fit()); err != nil {
		t.Errorf("with all as it was: %v", err)
	}
}

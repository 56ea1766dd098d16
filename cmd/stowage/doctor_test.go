package main

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestDoctorBesideWork looks through a store, and is ready to mend it, while images are pulled,
// mounted, removed and collected there. It finds nothing, and breaks nothing.
func TestDoctorBesideWork(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	base := filepath.Join(t.TempDir(), "mounts")
	detachLater(t, base)
	doctor := []string{"doctor", "--verify", "--progress", "none"}
	n := 0
	r.repeat(func() {
		n++
		name, dir := r.image(), filepath.Join(base, fmt.Sprint(n))
		r.against(func() {
			r.do([]string{"pull", "-q", name})
			r.verified(name)
			r.do([]string{"image", "mount", "--progress", "none", name, dir})
			r.do([]string{"rmi", "--gc", name})
			r.do([]string{"image", "unmount", dir})
			r.do(collectAll)
		}, doctor, append(doctor, "--repair"))
	})
}

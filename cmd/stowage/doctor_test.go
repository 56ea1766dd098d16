package main

import "testing"

// TestDoctorBesideWork looks through a store, and is ready to mend it, while images are pulled,
// removed and collected there. It finds nothing, and breaks nothing.
func TestDoctorBesideWork(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	doctor := []string{"doctor", "--repair", "--verify", "--progress", "none"}
	r.repeat(func() {
		name := r.image()
		r.against(func() {
			r.do([]string{"pull", "-q", name})
			r.verified(name)
			r.do([]string{"rmi", name})
			r.do(collectAll)
		}, doctor)
	})
}

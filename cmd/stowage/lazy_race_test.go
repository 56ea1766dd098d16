package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// evictAll gives up all that may be.
var evictAll = []string{"content", "prune", "--evict"}

// TestRaceEvictRead has other processes evict layers while they are read: exports are whole, blobs are
// what they were, and nobody is told that something is not there.
func TestRaceEvictRead(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	want := map[string][]byte{}
	files := r.archives()
	for name, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want[name] = b
		r.do([]string{"pull", "-q", name})
	}
	layers := strings.Fields(r.must("image", "info", "--format", "{{range .layers}}{{.digest}} {{end}}", r.names[2]))
	blobs := map[string]string{}
	for _, d := range layers {
		blobs[d] = r.must("content", "get", d)
	}
	file := filepath.Join(t.TempDir(), "saved.tar")
	r.repeat(func() {
		name, other := r.image(), r.image()
		r.against(func() {
			if r.rnd.IntN(2) == 0 {
				d := layers[r.rnd.IntN(len(layers))]
				if got, _, _ := r.do([]string{"content", "get", d}); got != blobs[d] {
					t.Errorf("content get %s gave %d bytes, want %d", d, len(got), len(blobs[d]))
				}
				return
			}
			also := make(chan struct{})
			go func() {
				defer close(also)
				r.do([]string{"save", "-o", file + ".also", other})
			}()
			r.do([]string{"save", "-o", file, name})
			<-also
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want[name]) {
				t.Errorf("an archive of %s has %d bytes that differ from the %d it should have: %v", name, len(got), len(want[name]), err)
			}
		}, evictAll, collectAll)
	})
	r.do(evictAll)
	for _, name := range r.names {
		if state := strings.TrimSpace(r.must("image", "info", "--format", "{{.state}}", name)); state != "lazy" {
			t.Errorf("%s is %s in the end, want lazy", name, state)
		}
	}
	r.verified()
	r.do([]string{"doctor"})
}

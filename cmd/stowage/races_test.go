package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var races = flag.Int("races", 20, "how often each race of a collection with something else is run")

// What collects, as users have it.
var (
	collectAll = []string{"gc", "--all"}
	pruneAll   = []string{"image", "prune", "--all"}
)

// A racer is a rig whose store is written without flushes: nobody cuts its power.
type racer struct {
	*rig
	rnd   *rand.Rand
	names []string // images that share layers
}

func newRacer(t *testing.T) *racer {
	t.Helper()
	r := newRig(t, 0)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return &racer{r, rand.New(rand.NewPCG(seed, 0)), r.family(8, 3<<10)}
}

// do runs a command, which must do well or end with a status that is allowed.
func (r *racer) do(args []string, allowed ...int) (stdout, stderr string, status int) {
	r.t.Helper()
	stdout, stderr, status = r.patient(append([]string{"--sync=none"}, args...)...)
	for _, s := range append(allowed, 0) {
		if s == status {
			return stdout, stderr, status
		}
	}
	r.t.Errorf("stowage %s: status %d: %s%s", strings.Join(args, " "), status, stdout, stderr)
	return stdout, stderr, status
}

// against does f while others do theirs, again and again and at least once. Either begins at a random
// moment after the other.
func (r *racer) against(f func(), others ...[]string) {
	r.t.Helper()
	done := make(chan struct{})
	wait := time.Duration(r.rnd.Int64N(int64(120*time.Millisecond))) - 60*time.Millisecond
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(wait)
		for {
			for _, args := range others {
				r.do(args, 3) // a name is gone after the first time
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	time.Sleep(-wait)
	f()
	close(done)
	<-ended
}

// image draws one of those that share layers.
func (r *racer) image() string { return r.names[r.rnd.IntN(len(r.names))] }

// verified sees that images are there, whole.
func (r *racer) verified(names ...string) {
	r.t.Helper()
	r.do(append([]string{"image", "check", "--verify"}, names...))
}

func (r *racer) repeat(f func()) {
	r.t.Helper()
	for i := range *races {
		if f(); r.t.Failed() {
			r.t.Fatalf("in round %d", i)
		}
	}
}

// TestRaceCollectPull has a pull count on blobs and unpacked layers that nothing needs any more,
// while they are collected.
func TestRaceCollectPull(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	r.repeat(func() {
		name := r.image()
		r.against(func() { r.do([]string{"pull", "-q", name}) }, collectAll)
		r.verified(name)
		r.do([]string{"rmi", name})
	})
}

// archives gives an archive of each image.
func (r *racer) archives() map[string]string {
	r.t.Helper()
	files, dir := map[string]string{}, r.t.TempDir()
	for i, name := range r.names {
		files[name] = filepath.Join(dir, fmt.Sprint(i, ".tar"))
		r.do([]string{"pull", "-q", name})
		r.do([]string{"save", "-o", files[name], name})
	}
	r.do(append([]string{"rmi"}, r.names...))
	return files
}

// TestRaceCollectImport does the same with an archive, of which nobody knows beforehand what is
// in it.
func TestRaceCollectImport(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	files := r.archives()
	r.repeat(func() {
		name := r.image()
		r.against(func() { r.do([]string{"load", "-q", "-i", files[name]}) }, collectAll)
		r.verified(name)
		r.do([]string{"rmi", name})
	})
}

// TestRaceCollectExport removes an image and collects it while it is exported. An archive is whole,
// or the name was gone before.
func TestRaceCollectExport(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	want := map[string][]byte{}
	for name, file := range r.archives() {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want[name] = b
	}
	begun := false
	r.repeat(func() {
		begun = !begun
		name := r.image()
		r.do([]string{"pull", "-q", name})
		var got []byte
		if begun { // it is, when the name goes
			got = r.saveBegun(name)
		} else {
			file := filepath.Join(t.TempDir(), "saved.tar")
			status, stderr := 0, ""
			r.against(func() { _, stderr, status = r.do([]string{"save", "-o", file, name}, 3) }, []string{"rmi", name}, collectAll)
			if status == 3 {
				r.noName("export", name, stderr)
				return
			}
			var err error
			if got, err = os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want[name]) {
			t.Errorf("an archive of %s has %d bytes that differ from the %d it should have", name, len(got), len(want[name]))
		}
	})
}

// saveBegun removes an image once the first bytes of its archive are there.
func (r *racer) saveBegun(name string) []byte {
	r.t.Helper()
	cmd := r.command("--sync=none", "save", name)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	first := make([]byte, 1+r.rnd.IntN(4096))
	if _, err := io.ReadFull(out, first); err != nil {
		r.t.Fatalf("%v: %s", err, errs.String())
	}
	r.do([]string{"rmi", name})
	r.do(collectAll)
	rest, err := io.ReadAll(out)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		r.t.Errorf("save %s: %v: %s", name, err, errs.String())
	}
	return append(first, rest...)
}

// noName sees that a command found no name, and nothing else missing.
func (r *racer) noName(command, name, stderr string) {
	r.t.Helper()
	if line, _, _ := strings.Cut(stderr, "\n"); line != "stowage: "+command+": image "+name+": not found" {
		r.t.Errorf("%s: got %q, want that there is no such name", command, stderr)
	}
}

// TestRacePrunePull has another process prune images while one is pulled. The pull does well, and
// what is listed after both is whole.
func TestRacePrunePull(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	r.repeat(func() {
		name := r.image()
		r.against(func() { r.do([]string{"pull", "-q", name}) }, pruneAll)
		r.verified(strings.Fields(r.must("images", "-q"))...)
		r.do([]string{"rmi", name}, 3)
	})
}

// TestRaceRemoveMount removes an image and collects it while it is mounted. It is mounted whole,
// and stays so, or the name was gone before.
func TestRaceRemoveMount(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	want := map[string]map[string]string{}
	for _, name := range r.names {
		r.do([]string{"pull", "-q", name})
		want[name] = r.mounted("", name)
	}
	base := filepath.Join(t.TempDir(), "mounts")
	detachLater(t, base)
	mounted, n := 0, 0
	r.repeat(func() {
		n++
		name, dir := r.image(), filepath.Join(base, fmt.Sprint(n))
		r.do([]string{"pull", "-q", name})
		status, stderr := 0, ""
		r.against(func() {
			_, stderr, status = r.do([]string{"image", "mount", "--progress", "none", name, dir}, 3)
		}, []string{"rmi", name}, collectAll)
		if status == 3 {
			r.noName("mount "+name, name, stderr)
			return
		}
		mounted++
		r.do(collectAll)
		if diff := cmp.Diff(want[name], treeOf(t, dir)); diff != "" {
			t.Errorf("%s is mounted other than it was (-):\n%s", name, diff)
		}
		r.do([]string{"image", "unmount", dir})
	})
	t.Logf("%d of %d were mounted", mounted, n)
	if mounted == 0 {
		t.Error("no mount was quick enough")
	}
}

// TestRaceEvict drops the packed layers of images while they are pulled and exported. What an export
// needs is there, or is fetched again.
func TestRaceEvict(t *testing.T) {
	t.Parallel()
	r := newRacer(t)
	want := map[string][]byte{}
	for name, file := range r.archives() {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want[name] = b
	}
	evict, file := []string{"content", "prune", "--evict"}, filepath.Join(t.TempDir(), "saved.tar")
	r.repeat(func() {
		name := r.image()
		r.against(func() {
			r.do([]string{"pull", "-q", name})
			r.do([]string{"save", "-o", file, name})
		}, evict, collectAll)
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want[name]) {
			t.Errorf("an archive of %s has %d bytes that differ from the %d it should have, %v", name, len(got), len(want[name]), err)
		}
		if r.rnd.IntN(2) == 0 {
			r.do([]string{"rmi", name})
		}
	})
	r.do([]string{"doctor"})
}

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage"
)

var randomKills = flag.Int("random-kills", 15, "how often the drill of random operations kills one")

// A killer does random operations, of which it kills many, and knows what images there must be.
type killer struct {
	*rig
	rnd      *rand.Rand
	images   []string          // that can be pulled or imported
	archives map[string]string // of them
	mounts   []string          // folders
	out      string            // a folder for archives

	there  map[string]string        // names that were reported, and the image that each is; empty: one of them
	takes  map[string]time.Duration // the longest that an operation took
	killed map[string]int
}

// An act is a command with what it does to names when it ends well.
type act struct {
	args  []string
	gives string // a name
	of    string // the image that it gives the name to
	takes string // a name
}

// what names the operation.
func (a act) what() string {
	n := slices.IndexFunc(a.args, func(arg string) bool { return strings.ContainsAny(arg, "-/:") })
	if n < 0 {
		n = len(a.args)
	}
	return strings.Join(a.args[:n], " ")
}

// act draws an operation.
func (k *killer) act() act {
	image, dir := k.one(k.images), k.one(k.mounts)
	name := k.one(slices.Sorted(maps.Keys(k.there)))
	alias := fmt.Sprintf("%s/alias:%d", k.host, k.rnd.IntN(3))
	snapshotter := k.one(drivers)
	pull := act{args: []string{"pull", "-q", "--snapshotter", snapshotter, image}, gives: image, of: image}
	list := []act{
		pull, pull, pull, pull, pull,
		{args: []string{"load", "-q", "-i", k.archives[image]}, gives: image, of: image},
		{args: []string{"gc", "--all"}},
		{args: []string{"gc"}},
		{args: []string{"content", "prune", "--all"}},
		{args: []string{"content", "prune", "--evict"}},
		{args: []string{"image", "prune"}},
		{args: []string{"image", "unmount", "--rm", dir}},
		{args: []string{"content", "rm", k.blob()}},
		{args: []string{"doctor", "--repair", "--progress", "none"}},
		{args: []string{"content", "verify", "--all"}},
	}
	if name != "" {
		of := k.there[name]
		tag := act{args: []string{"tag", "--force", name, alias}, gives: alias, of: of}
		list = append(list, tag, tag,
			act{args: [][]string{{"rmi", name}, {"rmi", "--gc", name}}[k.rnd.IntN(2)], takes: name},
			act{args: []string{"image", "mount", "--progress", "none", "--snapshotter", snapshotter, name, dir}},
			act{args: []string{"image", "mount", "--progress", "none", "--snapshotter", snapshotter, "--rw", name, dir}},
			act{args: []string{"save", "-o", filepath.Join(k.out, "saved.tar"), name}},
		)
	}
	return list[k.rnd.IntN(len(list))]
}

// one draws from a list; empty if there is nothing.
func (k *killer) one(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[k.rnd.IntN(len(list))]
}

// blob draws a digest, of what is there or not.
func (k *killer) blob() string {
	files, err := filepath.Glob(filepath.Join(k.root, "content/blobs/sha256/*"))
	if err != nil {
		k.t.Fatal(err)
	}
	return "sha256:" + filepath.Base(k.one(append(files, strings.Repeat("0", 64))))
}

// do does an operation, kills it at a random moment unless it is done by then, and says whether it
// was killed.
func (k *killer) do(a act) (killed bool) {
	k.t.Helper()
	what := a.what()
	cmd := k.command(append([]string{"--sync=none"}, a.args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its status is looked at below
		close(ended)
	}()
	most := k.takes[what]
	if most == 0 {
		most = 200 * time.Millisecond
	}
	if k.rnd.IntN(3) == 0 { // most would not come to their end
		most = patience
	}
	wait := time.NewTimer(time.Duration(k.rnd.Int64N(int64(most))))
	defer wait.Stop()
	select {
	case <-ended:
	case <-wait.C:
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			k.t.Fatal(err)
		}
		<-ended
	}
	status := cmd.ProcessState.ExitCode()
	if killed = status < 0; !killed {
		k.takes[what] = max(k.takes[what], time.Since(begun)*5/4)
	}
	if a.takes != "" && (killed || status == 0) { // it may be gone
		delete(k.there, a.takes)
	}
	switch was, ok := k.there[a.gives]; {
	case a.gives == "":
	case status == 0:
		k.there[a.gives] = a.of
	case killed && ok && was != a.of:
		k.there[a.gives] = ""
	}
	if !killed {
		k.answered(a.args, status, out.String())
	}
	return killed
}

// answered sees that a command did its work, or found nothing to do it on. What others left when
// they were killed must not be in its way.
func (k *killer) answered(args []string, status int, out string) {
	k.t.Helper()
	const notThere, inUse = 3, 6
	if status != 0 && status != notThere && status != inUse {
		k.t.Errorf("stowage %s: status %d: %s", strings.Join(args, " "), status, out)
	}
}

// beside does an operation that nobody kills while f goes on.
func (k *killer) beside(args []string, f func()) {
	k.t.Helper()
	var out, errs string
	var status int
	var others sync.WaitGroup
	others.Go(func() { out, errs, status = k.patient(append([]string{"--sync=none"}, args...)...) })
	f()
	others.Wait()
	k.answered(args, status, out+errs)
}

// examine has the doctor look, and gives what it found.
func (k *killer) examine(args ...string) []stowage.Finding {
	k.t.Helper()
	out, errs, status := k.patient(append([]string{"doctor", "--format", "json"}, args...)...)
	var list []stowage.Finding
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		k.t.Errorf("doctor %s: status %d, %v: %s%s", strings.Join(args, " "), status, err, out, errs)
	}
	return list
}

// TestRandomKills kills random operations at random moments. All names that were reported are
// complete afterwards, before any repair. Then one repair makes the store clean, and the images
// are what they were.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	k := &killer{
		rig: r, rnd: rand.New(rand.NewPCG(seed, 0)), images: r.family(8, 3<<10), archives: map[string]string{}, out: t.TempDir(),
		there: map[string]string{}, takes: map[string]time.Duration{}, killed: map[string]int{},
	}
	whole := r.at(t, filepath.Join(t.TempDir(), "store"))
	trees := map[string]map[string]string{}
	for i, image := range k.images {
		whole.quick("pull", "-q", image)
		trees[image] = whole.mounted("", image)
		k.archives[image] = filepath.Join(k.out, fmt.Sprint(i, ".tar"))
		whole.quick("save", "-o", k.archives[image], image)
		k.mounts = append(k.mounts, filepath.Join(t.TempDir(), "mnt"))
	}
	for _, dir := range append(k.mounts, r.root) {
		detachLater(t, dir)
	}

	var acts []string
	for kills := 0; kills < *randomKills; {
		a := k.act()
		acts = append(acts, strings.Join(a.args, " "))
		do := func() {
			if k.do(a) {
				acts[len(acts)-1] += ": killed"
				k.killed[a.what()]++
				kills++
			}
		}
		if beside := k.rnd.IntN(6); beside < 2 {
			k.beside([][]string{{"gc", "--all"}, {"doctor", "--repair", "--progress", "none"}}[beside], do)
		} else {
			do()
		}
		if t.Failed() {
			t.Fatalf("after %d kills, at the end of:\n%s", kills, strings.Join(acts[max(0, len(acts)-10):], "\n"))
		}
	}
	t.Logf("killed: %v; reported: %d names", k.killed, len(k.there))

	states := k.states()
	for name := range k.there {
		if states[name] != stowage.Complete && states[name] != stowage.Lazy { // evicted
			t.Errorf("%s was reported, and is %q", name, states[name])
		}
	}
	found := map[string]int{}
	for _, f := range k.examine("--repair") {
		found[f.Kind]++
	}
	t.Logf("repaired: %v", found)
	k.examine()
	k.quick("content", "verify", "--all")
	if len(k.there) > 0 {
		k.quick(append([]string{"image", "check", "--verify"}, slices.Sorted(maps.Keys(k.there))...)...)
	}
	for name, image := range k.there {
		tree := k.mounted(k.one(drivers), name)
		if image != "" && !maps.Equal(tree, trees[image]) {
			t.Errorf("%s is other than it was (-):\n%s", name, cmp.Diff(trees[image], tree))
		}
	}
	for _, dir := range k.mounts {
		k.answered([]string{"image", "unmount"}, func() int { _, _, status := k.patient("image", "unmount", "--rm", dir); return status }(), "")
	}
	k.quick("gc", "--all")
	for _, snapshotter := range drivers {
		k.tidy(snapshotter)
	}
	k.examine("--verify")
}

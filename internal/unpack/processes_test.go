package unpack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/unpack"
)

// patience is how long those may take who wait for one another.
const patience = time.Minute

// other is the same store, as another run of the same process has it.
func (w *world) other() *world {
	return worldOf(w.TB, w.Snapshots.Name(), w.dir, w.Content, w.Meta)
}

// Two runs have one layer each, and want that of the other. Neither waits for ever, and no layer
// is unpacked twice.
func TestCrossed(t *testing.T) {
	for _, driver := range drivers[:2] {
		for round := range 10 {
			a := newWorld(t, driver)
			b := a.other()
			layers := plain()
			images := []unpack.Image{a.imageOf(layers[0], layers[1]), a.imageOf(layers[1], layers[0])}
			var all sync.WaitGroup
			within(t, patience, "unpacking crosswise", func() {
				worlds := []*world{a, b}
				var runs []*unpack.Run
				for i, w := range worlds {
					r := w.Begin()
					s, err := r.Stream(t.Context(), images[i].Layers[0].Digest, images[i].DiffIDs[0])
					must(t, err)
					must(t, send(t, s, gzipped(layers[i]), 1000))
					runs = append(runs, r)
				}
				for i, r := range runs {
					all.Go(func() {
						if err := r.Add(context.Background(), images[i]); err != nil {
							t.Errorf("round %d: %v", round, err)
						}
						worlds[i].keep(r)
					})
				}
				all.Wait()
			})
			a.looks(images[0], layers[0], layers[1])
			a.looks(images[1], layers[1], layers[0])
			a.nothing()
		}
	}
}

// Many who unpack images with common layers in all orders all come to an end.
func TestManyRuns(t *testing.T) {
	for _, driver := range drivers {
		w := newWorld(t, driver)
		layers := plain()
		layers = append(layers, layerOf(link('1', "hard", "etc/c"), file("more", "more")), layerOf(file("etc/implied", "")))
		orders := [][]int{{0, 1, 2, 3, 4}, {0, 1, 4, 3}, {0, 4, 1, 3}, {0, 2, 1, 4, 3}, {4, 0, 1, 3}, {0, 1, 3}}
		var images []unpack.Image
		var stacks [][][]byte
		for _, order := range orders {
			var stack [][]byte
			for _, i := range order {
				stack = append(stack, layers[i])
			}
			images, stacks = append(images, w.imageOf(stack...)), append(stacks, stack)
		}
		var all sync.WaitGroup
		within(t, patience, "many runs", func() {
			for i := range 6 {
				all.Go(func() {
					w := w.other()
					r := w.Begin()
					// Every run has two images, in another order.
					for _, n := range []int{i, (i + 3) % len(images)} {
						img := images[n]
						for k, d := range slices.Backward(img.Layers) {
							s, err := r.Stream(t.Context(), d.Digest, img.DiffIDs[k])
							if err == nil && s != nil {
								err = send(t, s, gzipped(stacks[n][k]), 1000)
							}
							if err != nil {
								t.Error(err)
							}
						}
						if err := r.Add(context.Background(), img); err != nil {
							t.Error(err)
						}
					}
					w.keep(r)
				})
			}
			all.Go(func() {
				for range 20 {
					if _, err := w.Snapshots.Sweep(context.Background()); err != nil {
						t.Error(err)
					}
				}
			})
			all.Wait()
		})
		for i, img := range images {
			w.looks(img, stacks[i]...)
		}
		w.nothing()
	}
}

// Who waits for a layer that somebody else unpacks gives up with its context.
func TestWaitCancelled(t *testing.T) {
	a := newWorld(t, "overlay")
	b := a.other()
	img := a.imageOf(plain()...)
	r := a.Begin()
	s, err := r.Stream(t.Context(), img.Layers[0].Digest, img.DiffIDs[0])
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	q := b.Begin()
	within(t, patience, "a wait that was cancelled", func() {
		if err := q.Add(ctx, img); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	must(t, q.Close(t.Context()))
	must(t, s.Abort())
	must(t, r.Close(t.Context()))
	// What the second published before it waited is nobody's.
	a.nothing()
}

// An image that fails after the run has published does not bring back what was published: by then
// others may have removed it.
func TestFailAfterPublishing(t *testing.T) {
	w := newWorld(t, "native")
	layers := plain()
	one, two := w.imageOf(layers[0]), w.imageOf(layers[0], layers[1])
	chain := image.ChainIDs(two.DiffIDs)
	lock, err := w.Snapshots.LockLayer(t.Context(), chain[1], false)
	must(t, err)
	r := w.Begin()
	must(t, r.Add(t.Context(), one))
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { // the run publishes before it waits for the lock
		defer cancel()
		for range time.Tick(time.Millisecond) {
			if done, err := w.Done(t.Context(), one); done || err != nil {
				return
			}
		}
	})
	within(t, patience, "a wait that was cancelled", func() {
		if err := r.Add(ctx, two); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	watch.Wait()
	rows, err := r.Rows()
	must(t, err)
	if len(rows.Snapshots)+len(rows.Layers) > 0 {
		t.Errorf("rows that were published are there again: %+v", rows)
	}
	must(t, r.Close(t.Context()))
	must(t, lock.Unlock())
	w.looks(one, layers[0])
	w.nothing()
}

// childVar has the store of the process that a test starts.
const childVar = "STOWAGE_UNPACK_TEST"

// Several processes unpack the same images. One that is killed holds up nobody, and what it left
// is swept.
func TestProcesses(t *testing.T) {
	layers := processLayers()
	if dir := os.Getenv(childVar); dir != "" {
		w := openWorld(t, "overlay", dir)
		r := w.Begin()
		img := w.imageOf(layers...)
		must(t, r.Add(t.Context(), img))
		w.keep(r)
		return
	}
	dir := t.TempDir()
	start := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestProcesses$")
		cmd.Env = append(os.Environ(), childVar+"="+dir)
		cmd.Stdout = new(bytes.Buffer)
		cmd.Stderr = cmd.Stdout
		must(t, cmd.Start())
		return cmd
	}
	for _, after := range []time.Duration{30 * time.Millisecond, 80 * time.Millisecond} {
		killed := start()
		time.Sleep(after)
		must(t, killed.Process.Kill())
		if err := killed.Wait(); err == nil {
			t.Log("it was quicker")
		}
	}
	var all []*exec.Cmd
	for range 4 {
		all = append(all, start())
	}
	within(t, patience, "four processes", func() {
		for _, cmd := range all {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, cmd.Stdout)
			}
		}
	})
	w := openWorld(t, "overlay", dir)
	img := w.imageOf(layers...)
	if done, err := w.Done(t.Context(), img); !done || err != nil {
		t.Errorf("done %v, error %v", done, err)
	}
	_, err := w.Snapshots.Sweep(t.Context())
	must(t, err)
	w.looks(img, layers...)
	folders, _ := w.left()
	if len(folders) != len(layers) {
		t.Errorf("%d folders of %d layers", len(folders), len(layers))
	}
}

// processLayers take some time to be unpacked.
func processLayers() (layers [][]byte) {
	for i := range 4 {
		var members []member
		for n := range 300 {
			members = append(members, file(fmt.Sprintf("%d/%d", i, n), strings.Repeat(fmt.Sprint(n), 3000)))
		}
		layers = append(layers, layerOf(members...))
	}
	return append(layers, layerOf(link('1', "hard", "0/1"), file("1/implied", "")))
}

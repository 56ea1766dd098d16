package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
)

var unpackKills = flag.Int("unpack-kills", 30, "how often the kill drill kills a pull that unpacks")

// swelling is a layer that takes many times the room of its blob.
func swelling(seed uint64, files int, size int) imagetest.Tar {
	return func(w io.Writer) error {
		random := rand.New(rand.NewPCG(seed, 2))
		piece := make([]byte, 512)
		tw := tar.NewWriter(w)
		for i := range files {
			for j := range piece {
				piece[j] = byte(random.Uint32())
			}
			body := bytes.Repeat(piece, size/len(piece))
			h := &tar.Header{Name: fmt.Sprintf("big%d/%d", seed, i), Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1700000000, 0)}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if _, err := tw.Write(body); err != nil {
				return err
			}
		}
		return tw.Close()
	}
}

// used is how many bytes and inodes a filesystem has given away.
func used(t *testing.T, dir string) (bytes, inodes int64) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, int64(st.Files - st.Ffree)
}

// sizeOf is what the files below a folder take on the disk, in bytes.
func sizeOf(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestFullDiskUnpacking has room for the blobs of an image and not for its files. The pull says
// so and leaves no files; the store stays usable, and with more room the same pull ends well.
func TestFullDiskUnpacking(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	tree := furnish(1, 40, 4<<10)
	small := r.pushTars("small", tree)
	big := r.pushTars("big", tree, swelling(1, 12, 1<<20), swelling(2, 12, 1<<20), furnish(2, 40, 4<<10))
	for _, snapshotter := range drivers {
		t.Run(snapshotter, func(t *testing.T) {
			t.Parallel()
			r := r.at(t, filepath.Join(t.TempDir(), "store"))
			mount(t, r.root, "20m")
			pull := []string{"pull", "-q", "--snapshotter", snapshotter}
			r.quick(append(pull, small)...)
			before := r.mounted(snapshotter, small)
			bytesBefore, _ := used(t, r.root)
			blobsBefore := sizeOf(t, filepath.Join(r.root, "content"))

			// The first time the layers come from the registry, then from the store.
			for range 2 {
				r.fails(1, "^pull "+big+": (fetch|unpack) layer sha256:[0-9a-f]{64}: .*no space left on device$", append(pull, big)...)
				_, errs, _ := r.patient(append(pull, big)...)
				if !strings.Contains(errs, "\nhint: the disk is full; ") {
					t.Errorf("got %q, want a hint about the disk", errs)
				}
				r.tidy(snapshotter)
				bytesAfter, _ := used(t, r.root)
				blobs := sizeOf(t, filepath.Join(r.root, "content")) - blobsBefore
				const rows = 256 << 10 // the metadata may grow
				if over := bytesAfter - bytesBefore - blobs; over > rows {
					t.Errorf("%d bytes were not given back, of %d that were used before and %d of blobs", over, bytesBefore, blobs)
				}
			}
			r.named(small)
			r.quick("content", "verify", "--all")
			r.whole(snapshotter, small, before)

			remount(t, r.root, 0, "size=128m")
			r.quick(append(pull, big)...)
			r.named(big, small)
			r.quick("image", "check", "--verify")
			r.whole(snapshotter, small, before)
			if n := len(r.mounted(snapshotter, big)); n < 24+2*40 {
				t.Errorf("the image that was pulled at last has %d files", n)
			}
			r.tidy(snapshotter)
		})
	}
}

// TestInodesExhausted has a disk with room for bytes and not for files. Only a snapshotter that
// makes few files can unpack there.
func TestInodesExhausted(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	small, big := r.pushTars("small", furnish(1, 10, 1000)), r.pushTars("big", furnish(1, 10, 1000), swelling(1, 900, 512))
	dir := filepath.Join(t.TempDir(), "disk")
	disk(t, dir+".img", dir, "barrier=0", "-N", "500", "64m")
	r.root = filepath.Join(dir, "store")
	for _, snapshotter := range []string{"overlay", "native"} {
		pull := []string{"pull", "-q", "--snapshotter", snapshotter}
		r.quick(append(pull, small)...)
		_, before := used(t, dir)
		r.fails(1, "^pull "+big+": (fetch|unpack) layer .*no space left on device$", append(pull, big)...)
		_, errs, _ := r.patient(append(pull, big)...)
		if !strings.Contains(errs, "\nhint: ") {
			t.Errorf("got %q, want a hint", errs)
		}
		const blobs = 20 // those of the image, and what is known of them
		if _, after := used(t, dir); after > before+blobs {
			t.Errorf("%s keeps %d files of a pull that failed", snapshotter, after-before)
		}
		r.tidy(snapshotter)
		r.named(small)
		r.quick("image", "check", "--verify")
		r.quick("content", "verify", "--all")
	}
	r.quick("pull", "-q", "--snapshotter", "erofs", big)
	if n := len(r.mounted("erofs", big)); n < 900 {
		t.Errorf("there are %d files, want 900 and more", n)
	}
	r.tidy("erofs")
}

// TestKilledUnpacks kills pulls that unpack, at random moments. Whatever the moment, images are
// then absent, or partial, or complete and to be mounted; and what the killed ones left is gone
// after the next pull, or when it is collected.
func TestKilledUnpacks(t *testing.T) {
	r := newRig(t, 24<<20)
	names := r.family(100, 4<<10)
	dir := filepath.Join(t.TempDir(), "disk")
	disk(t, dir+".img", dir, "barrier=0", "256m") // where flushing takes no time
	killed := 0
	for _, snapshotter := range drivers {
		t.Run(snapshotter, func(t *testing.T) {
			r := r.at(t, filepath.Join(dir, snapshotter))
			pull := []string{"pull", "-q", "--snapshotter", snapshotter}
			trees := map[string]map[string]string{}
			whole := map[string]time.Duration{}
			for _, name := range names {
				begun := time.Now()
				r.quick(append(pull, name)...)
				whole[name] = time.Since(begun)
				trees[name] = r.mounted(snapshotter, name)
			}
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			complete := 0
			for range *unpackKills / len(drivers) {
				name := names[rnd.IntN(len(names))]
				for other := range r.states() {
					if other == name || rnd.IntN(3) == 0 {
						r.quick("rmi", "--gc", other)
					}
				}
				cmd := r.command(append(pull, name)...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(rnd.Int64N(int64(whole[name] + whole[name]/8))))
				if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				_ = cmd.Wait() // killed, or done just before: both are meant
				if !cmd.ProcessState.Exited() {
					killed++
				}
				for name, state := range r.states() {
					if state == stowage.Complete {
						complete++
						r.whole(snapshotter, name, trees[name])
					}
				}
				if rnd.IntN(2) == 0 {
					r.quick("content", "prune")
					r.tidy(snapshotter)
				}
			}
			t.Logf("%d times an image was complete and as before", complete)
			for _, name := range names {
				r.quick(append(pull, name)...)
				r.whole(snapshotter, name, trees[name])
			}
			r.tidy(snapshotter)
			r.quick("content", "prune", "--all")
			r.tidy(snapshotter)
			for _, name := range names {
				r.whole(snapshotter, name, trees[name])
			}
		})
	}
	t.Logf("%d kills hit a running pull", killed)
	if killed == 0 {
		t.Errorf("no kill hit a running pull")
	}
}

// TestUnpacksShareTheWork has processes pull images that share layers at once, with and without
// another that collects meanwhile. Each layer ends up in one folder, and all images are whole.
func TestUnpacksShareTheWork(t *testing.T) {
	t.Parallel()
	r := newRig(t, 12<<20)
	names := r.family(100, 4<<10)
	dir := filepath.Join(t.TempDir(), "disk")
	disk(t, dir+".img", dir, "barrier=0", "512m")
	for _, snapshotter := range []string{"overlay", "erofs"} {
		pull := []string{"pull", "-q", "--snapshotter", snapshotter}
		trees := map[string]map[string]string{}
		alone := r.at(t, filepath.Join(dir, snapshotter))
		for _, name := range names {
			alone.quick(append(pull, name)...)
			trees[name] = alone.mounted(snapshotter, name)
		}
		for _, tt := range []struct {
			name   string
			images []string // one for each process
			layers int      // that they have together
			prune  bool
		}{
			{"two of one image", []string{names[2], names[2]}, 4, false},
			{"two that share", []string{names[2], names[3]}, 6, false},
			{"four that share", names, 6, false},
			{"four of one image", []string{names[2], names[2], names[2], names[2]}, 4, false},
			{"two and a collector", []string{names[2], names[3]}, 6, true},
			{"four and a collector", names, 6, true},
		} {
			t.Run(snapshotter+" "+tt.name, func(t *testing.T) {
				r := r.at(t, filepath.Join(dir, strings.ReplaceAll(snapshotter+tt.name, " ", "-")))
				var wg, collector sync.WaitGroup
				ended := make(chan struct{})
				for _, name := range tt.images {
					wg.Go(func() {
						if out, errs, status := r.patient(append(pull, name)...); status != 0 {
							t.Errorf("pull %s: status %d: %s%s", name, status, out, errs)
						}
					})
				}
				if tt.prune {
					collector.Go(func() {
						for {
							if out, errs, status := r.patient("content", "prune"); status != 0 {
								t.Errorf("prune: status %d: %s%s", status, out, errs)
							}
							select {
							case <-ended:
								return
							default:
							}
						}
					})
				}
				wg.Wait()
				close(ended)
				collector.Wait()
				folders := map[string]bool{}
				for _, row := range r.snapshotRows(snapshotter) {
					folders[row.Folder] = true
				}
				if len(folders) != tt.layers {
					t.Errorf("%d layers are in %d folders", tt.layers, len(folders))
				}
				r.tidy(snapshotter)
				for _, name := range tt.images {
					r.whole(snapshotter, name, trees[name])
				}
			})
		}
	}
}

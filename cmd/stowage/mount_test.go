package main

import (
	"archive/tar"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	stowagemount "github.com/stowage/stowage/internal/mount"
)

var mountKills = flag.Int("mount-kills", 30, "how often the kill drill kills a mount")

// isMounted tells whether anything is mounted at dir.
func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	_, mounted, err := stowagemount.At(dir)
	if err != nil {
		t.Fatal(err)
	}
	return mounted
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// texts reads every regular file of a tree.
func texts(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for name, what := range treeOf(t, dir) {
		if !strings.HasPrefix(what, "10") { // octal, as in S_IFREG
			continue
		}
		b, err := os.ReadFile(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(b)
	}
	return got
}

// A layerEntry is one of a layer; its text makes it a file.
type layerEntry struct {
	tar.Header
	text string
}

func textFile(name, text string) layerEntry {
	return layerEntry{tar.Header{Name: name, Mode: 0o644}, text}
}

func entriesTar(list ...layerEntry) imagetest.Tar {
	return func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, e := range list {
			h := e.Header
			h.Size, h.ModTime = int64(len(e.text)), time.Unix(1700000000, 0)
			if err := tw.WriteHeader(&h); err != nil {
				return err
			}
			if _, err := io.WriteString(tw, e.text); err != nil {
				return err
			}
		}
		return tw.Close()
	}
}

// changed is an image whose upper layer removes, replaces and hides files of the lower one, and
// what is to be seen of it.
func (r *rig) changed() (name string, want map[string]string) {
	r.t.Helper()
	name = r.pushTars("changed",
		entriesTar(textFile("etc/kept", "kept"), textFile("etc/replaced", "old"), textFile("etc/gone", "gone"), textFile("hidden/old", "old")),
		entriesTar(textFile("etc/replaced", "new"), textFile("etc/.wh.gone", ""), textFile("hidden/.wh..wh..opq", ""), textFile("hidden/new", "new")))
	return name, map[string]string{"/etc/kept": "kept", "/etc/replaced": "new", "/hidden/new": "new"}
}

// looks compares the files of a tree.
func looks(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, texts(t, dir)); diff != "" {
		t.Errorf("%s has other files (+) than wanted (-):\n%s", dir, diff)
	}
}

// TestMounts mounts images with every snapshotter, reads and writes them, and does what cannot
// be done.
func TestMounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	name, want := r.changed()
	other := r.pushTars("other", entriesTar(textFile("other", "other")))
	artifact := r.host + "/artifact:1"
	if err := imagetest.Push(t.Context(), r.host, "artifact", "1", imagetest.Artifact("application/vnd.example.sbom", []byte("{}\n"), nil)); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(t.TempDir(), "disk")
	disk(t, base+".img", base, "barrier=0", "64m")
	for _, snapshotter := range drivers {
		t.Run(snapshotter, func(t *testing.T) {
			r := r.at(t, filepath.Join(base, snapshotter))
			dir := filepath.Join(t.TempDir(), "mnt")
			detachLater(t, dir)
			mountIt := []string{"image", "mount", "--progress", "none", "--snapshotter", snapshotter}
			for _, image := range []string{name, other, artifact} {
				r.quick("pull", "-q", "--snapshotter", snapshotter, image)
			}

			// To be read.
			if out := r.quick(append(mountIt, name, dir)...); out != dir+"\n" {
				t.Errorf("got %q, want the folder", out)
			}
			looks(t, dir, want)
			if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
				t.Errorf("a write to it gives %v, want %v", err, syscall.EROFS)
			}
			r.fails(6, "^mount "+name+": .* is mounted at "+dir, append(mountIt, name, dir)...)
			r.fails(6, "^mount "+other+": .* is mounted at "+dir, append(mountIt, "--rw", other, dir)...)
			looks(t, dir, want)
			f, err := os.Open(filepath.Join(dir, "etc/kept"))
			if err != nil {
				t.Fatal(err)
			}
			r.fails(6, "^unmount "+dir+": ", "image", "unmount", dir)
			looks(t, dir, want)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			r.quick("image", "unmount", dir)
			r.fails(3, "^unmount "+dir+": no image .* is mounted there", "image", "unmount", dir)
			r.tidy(snapshotter)

			// To be written.
			r.quick(append(mountIt, "--rw", name, dir)...)
			write(t, filepath.Join(dir, "etc/replaced"), "newer")
			if err := os.RemoveAll(filepath.Join(dir, "hidden")); err != nil {
				t.Fatal(err)
			}
			written := map[string]string{"/etc/kept": "kept", "/etc/replaced": "newer"}
			looks(t, dir, written)
			_, errs, status := r.patient("image", "unmount", dir)
			if status != 0 || !strings.Contains(errs, "kept in snapshot "+dir) {
				t.Errorf("status %d, want 0 and where it is kept: %s", status, errs)
			}
			r.tidy(snapshotter)
			r.fails(6, "^mount "+name+": snapshot "+dir+" is there", append(mountIt, name, dir)...)
			r.fails(6, "^mount "+other+": snapshot "+dir+" is there", append(mountIt, "--rw", other, dir)...)
			r.quick("content", "prune", "--all")
			r.quick(append(mountIt, "--rw", name, dir)...)
			looks(t, dir, written)
			r.quick("image", "unmount", "--rm", dir)
			r.tidy(snapshotter)
			r.quick(append(mountIt, "--rw", name, dir)...)
			looks(t, dir, want)
			r.quick("image", "unmount", "--rm", dir)

			// By another name of the folder, and as the only thing that keeps the image's files.
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			r.quick(append(mountIt, name, link)...)
			r.quick("rmi", "--gc", name)
			r.quick("content", "prune", "--all")
			looks(t, dir, want)
			r.quick("image", "unmount", dir)
			r.quick("content", "prune", "--all")
			r.tidy(snapshotter)

			r.fails(3, name, append(mountIt, name, dir)...)
			_, errs, status = r.patient(append(mountIt, artifact, dir)...)
			r.failed(status, 1, errs, "^mount "+artifact+": .*artifact", append(mountIt, artifact, dir)...)
			for _, row := range r.snapshotRows(snapshotter) {
				if row.Kind != stowage.Committed {
					t.Errorf("a %v snapshot %s is left", row.Kind, row.Key)
				}
			}
		})
	}
}

// TestUnmountOfOthers leaves alone what others have mounted.
func TestUnmountOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	name := r.pushTars("app", entriesTar(textFile("file", "text")))
	r.must("pull", "-q", name)
	dir := filepath.Join(t.TempDir(), "other")
	mount(t, dir, "1m")
	r.fails(3, "^unmount "+dir+": no image", "image", "unmount", dir)
	r.fails(6, "^mount "+name+": .* is mounted at "+dir, "image", "mount", name, dir)
	if !isMounted(t, dir) {
		t.Error("it is gone")
	}
	r.fails(3, "^unmount "+r.root+": no image", "image", "unmount", r.root)
	gone := filepath.Join(t.TempDir(), "gone")
	r.fails(3, "^unmount "+gone+": no image", "image", "unmount", gone)
}

// TestUnpackToFolder unpacks an image as plain files, and only where nothing is.
func TestUnpackToFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	name, want := r.changed()
	r.must("pull", "-q", "--no-unpack", name)
	dir := filepath.Join(t.TempDir(), "to")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mine"), "mine")
	before := treeOf(t, dir)
	r.fails(6, "^unpack "+name+": "+dir+" is not empty", "image", "unpack", "--progress", "none", name, dir)
	if diff := cmp.Diff(before, treeOf(t, dir)); diff != "" {
		t.Errorf("the folder was changed:\n%s", diff)
	}
	if err := os.Remove(filepath.Join(dir, "mine")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{dir, filepath.Join(t.TempDir(), "a/b")} {
		r.must("image", "unpack", "--progress", "none", name, to)
		looks(t, to, want)
	}
	full := filepath.Join(t.TempDir(), "full")
	mount(t, full, "8k")
	r.fails(1, "^unpack "+name+": .*no space left on device$", "image", "unpack", "--progress", "none", name, full)
	if got := entries(t, full); len(got) > 0 {
		t.Errorf("%q is left of what did not fit", got)
	}
}

// TestKilledMounts kills mounts at random moments. Whatever the moment, the next command that
// mounts, unmounts or collects leaves either a mount that is whole, or nothing.
func TestKilledMounts(t *testing.T) {
	r := newRig(t, 0)
	name, want := r.changed()
	base := filepath.Join(t.TempDir(), "disk")
	disk(t, base+".img", base, "barrier=0", "64m")
	for _, snapshotter := range drivers {
		t.Run(snapshotter, func(t *testing.T) {
			r := r.at(t, filepath.Join(base, snapshotter))
			r.quick("pull", "-q", "--snapshotter", snapshotter, name)
			dir, elsewhere := filepath.Join(t.TempDir(), "mnt"), filepath.Join(t.TempDir(), "mnt")
			detachLater(t, dir)
			detachLater(t, elsewhere)
			mountIt := []string{"image", "mount", "--progress", "none", "--snapshotter", snapshotter}
			begun := time.Now()
			r.quick(append(mountIt, "--rw", name, dir)...)
			whole := time.Since(begun)
			r.quick("image", "unmount", "--rm", dir)

			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			left := map[string]int{}
			for i := range *mountKills / len(drivers) {
				args := append(slices.Clone(mountIt), name, dir)
				if i%2 == 1 {
					args = append(args, "--rw")
				}
				cmd := r.command(args...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(whole/4 + time.Duration(rnd.Int64N(int64(whole))))
				if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				_ = cmd.Wait() // killed, or done just before: both are meant

				next := []string{"mount", "unmount", "prune"}[rnd.IntN(3)]
				switch next {
				case "mount":
					r.quick(append(mountIt, name, elsewhere)...)
					looks(t, elsewhere, want)
					r.quick("image", "unmount", elsewhere)
				case "unmount":
					if _, errs, status := r.patient("image", "unmount", dir); status != 0 && status != 3 {
						t.Errorf("unmount: status %d: %s", status, errs)
					}
				case "prune":
					r.quick("content", "prune")
				}
				var row *stowage.Snapshot
				for _, s := range r.snapshotRows(snapshotter) {
					if s.Kind != stowage.Committed {
						row = &s
					}
				}
				mounted := isMounted(t, dir)
				switch {
				case row == nil && mounted, row != nil && row.Kind == stowage.View && (!mounted || next == "unmount"):
					t.Errorf("after %s: mounted %v, snapshot %+v", next, mounted, row)
				case row != nil && row.Labels["stowage.mounting"] != "":
					t.Errorf("after %s: snapshot %s is left half-mounted", next, row.Key)
				}
				if row == nil {
					left["nothing"]++
				} else {
					left[string(row.Kind)]++
					if mounted {
						looks(t, dir, want)
					}
					r.quick("image", "unmount", "--rm", dir)
				}
				if next == "unmount" {
					r.quick("content", "prune") // folders without a row are not its business
				}
				r.tidy(snapshotter)
				if isMounted(t, dir) {
					t.Fatal("it is still mounted")
				}
			}
			t.Logf("what the killed mounts had made: %v", left)
		})
	}
}

// TestMountsAtOnce has processes mount at one folder, of which one gets it, and at others, which
// all get theirs, while another collects.
func TestMountsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	name, want := r.changed()
	base := filepath.Join(t.TempDir(), "disk")
	disk(t, base+".img", base, "barrier=0", "64m")
	r.root = filepath.Join(base, "store")
	for _, snapshotter := range drivers {
		t.Run(snapshotter, func(t *testing.T) {
			r := r.at(t, r.root)
			dirs := make([]string, 4)
			for i := range dirs {
				dirs[i] = filepath.Join(t.TempDir(), "mnt")
				detachLater(t, dirs[i])
			}
			r.quick("pull", "-q", "--no-unpack", name) // the first mount unpacks
			status := make([]int, 2*len(dirs))
			var wg sync.WaitGroup
			for i := range status {
				dir := dirs[0]
				if i < len(dirs) {
					dir = dirs[i]
				}
				wg.Go(func() {
					var errs string
					_, errs, status[i] = r.patient("image", "mount", "--progress", "none", "--snapshotter", snapshotter, name, dir)
					if status[i] != 0 && status[i] != 6 {
						t.Errorf("mount at %s: status %d: %s", dir, status[i], errs)
					}
				})
			}
			wg.Go(func() {
				if _, errs, status := r.patient("content", "prune"); status != 0 {
					t.Errorf("prune: status %d: %s", status, errs)
				}
			})
			wg.Wait()
			slices.Sort(status)
			if diff := cmp.Diff([]int{0, 0, 0, 0, 6, 6, 6, 6}, status); diff != "" {
				t.Errorf("not one mount for each folder:\n%s", diff)
			}
			for _, dir := range dirs {
				looks(t, dir, want)
				if n := len(beneath(t, dir)); n != 1 {
					t.Errorf("%d mounts are at %s", n, dir)
				}
				r.quick("image", "unmount", dir)
			}
			r.tidy(snapshotter)
		})
	}
}

// insideVar is set in the process that [TestUserNamespace] starts.
const insideVar = "STOWAGE_TEST_IN_USER_NAMESPACE"

// TestUserNamespace does it all as nobody, who is root in a user namespace where no other id is.
func TestUserNamespace(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		for _, snapshotter := range []string{"", "overlay", "native"} {
			t.Run("snapshotter "+snapshotter, func(t *testing.T) { inUserNamespace(t, snapshotter) })
		}
		return
	}
	t.Parallel()
	// Others do not get through to the folders of the test.
	dir, err := os.MkdirTemp("", "stowage-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "tests")
	sh(t, "cp", self, bin)
	const nobody = 65534
	for _, name := range []string{dir, bin} {
		if err := errors.Join(os.Chmod(name, 0o755), os.Chown(name, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), bin, "-test.run=^TestUserNamespace$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), insideVar+"=yes", "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUserNamespace") {
		t.Errorf("inside: %v\n%s", err, out)
	}
}

func inUserNamespace(t *testing.T, snapshotter string) {
	r := newRig(t, 0)
	name, want := r.changed()
	odd := r.pushTars("odd", entriesTar(
		textFile("file", "text"),
		layerEntry{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		layerEntry{tar.Header{Name: "bin/su", Mode: 0o4755, Uid: 1000, Gid: 1000}, "su"}))
	flags := []string{"--snapshotter", snapshotter, "--progress", "none"}
	pull := append([]string{"pull"}, flags...)
	mountIt := append([]string{"image", "mount"}, flags...)
	dir := filepath.Join(t.TempDir(), "mnt")
	detachLater(t, dir)

	r.quick(append(pull, name)...)
	r.quick(append(mountIt, name, dir)...)
	looks(t, dir, want)
	r.quick("image", "unmount", dir)
	r.quick(append(mountIt, "--rw", name, dir)...)
	write(t, filepath.Join(dir, "etc/kept"), "changed")
	write(t, filepath.Join(dir, "added"), "added")
	if err := errors.Join(os.Remove(filepath.Join(dir, "etc/replaced")), os.RemoveAll(filepath.Join(dir, "hidden"))); err != nil {
		t.Fatal(err)
	}
	written := map[string]string{"/etc/kept": "changed", "/added": "added"}
	looks(t, dir, written)
	r.quick("image", "unmount", dir)
	r.quick(append(mountIt, "--rw", name, dir)...)
	looks(t, dir, written)
	r.quick("image", "unmount", "--rm", dir)

	plain := filepath.Join(t.TempDir(), "plain")
	r.quick("image", "unpack", name, plain)
	looks(t, plain, want)

	// What nobody can keep is told, and is no failure.
	check := func(what, errs string, status int) {
		t.Helper()
		if status != 0 {
			t.Fatalf("%s: status %d: %s", what, status, errs)
		}
		for _, lost := range []string{"dev/null", "bin/su"} {
			if !strings.Contains(errs, lost) {
				t.Errorf("%s: %q does not tell what became of %s", what, errs, lost)
			}
		}
	}
	_, errs, status := r.patient(append(pull, odd)...)
	check("pull", errs, status)
	r.quick("rmi", "--gc", odd)
	_, errs, status = r.patient("pull", "--snapshotter", snapshotter, "--progress", "plain", odd)
	check("pull --progress plain", errs, status)
	r.quick(append(mountIt, odd, dir)...)
	if got := texts(t, dir); got["/bin/su"] != "su" || got["/file"] != "text" {
		t.Errorf("got %q, want the files", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/su")); err != nil || info.Mode()&os.ModeSetuid != 0 {
		t.Errorf("%v, %v: a program of another's must not become setuid for its new owner", info.Mode(), err)
	}
	r.quick("image", "unmount", dir)
	plain = filepath.Join(t.TempDir(), "odd")
	_, errs, status = r.patient("image", "unpack", "--progress", "none", odd, plain)
	check("unpack", errs, status)

	if snapshotter == "" {
		snapshotter = "overlay" // it works here, and is the best
	}
	r.quick("image", "check", "--verify")
	r.tidy(snapshotter)
	r.quick("rmi", "--gc", name)
	r.quick("content", "prune", "--all")
	r.tidy(snapshotter)
}

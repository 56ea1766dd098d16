package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	stowagemount "github.com/stowage/stowage/internal/mount"
)

var cuts = flag.Int("cuts", 6, "how often the power cut drill cuts the power")

// drivers are the snapshotters that every drill goes through.
var drivers = []string{"overlay", "erofs", "native"}

// patience is how long a command may take before it counts as hanging.
const patience = 2 * time.Minute

// quick is must with an end to its patience.
func (r *rig) quick(args ...string) string {
	r.t.Helper()
	out, errs, status := r.patient(args...)
	if status != 0 {
		r.t.Fatalf("stowage %s: status %d: %s%s", strings.Join(args, " "), status, out, errs)
	}
	return out
}

// patient is run with an end to its patience. Goroutines may share it.
func (r *rig) patient(args ...string) (stdout, stderr string, status int) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, r.bin, args...)
	cmd.Env = r.command().Env
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		return out.String(), fmt.Sprintf("%s%v, %v", errs.String(), err, ctx.Err()), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// at is the same rig with its store elsewhere, for a part of the test.
func (r *rig) at(t *testing.T, root string) *rig {
	other := *r
	other.t, other.root = t, root
	return &other
}

// disk puts an ext4 of its own at dir until the test ends, from a file that is made unless it is
// there.
func disk(t *testing.T, file, dir, options string, mkfs ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		// With all of its tables written, the kernel has nothing left to do in the background.
		args := append([]string{"-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, mkfs...)
		sh(t, "mkfs.ext4", append(args[:len(args)-1], file, args[len(args)-1])...)
	}
	sh(t, "mount", "-o", "loop,"+options, file, dir)
	detachLater(t, dir)
}

// detachLater takes away what is mounted at dir and below it when the test ends.
func detachLater(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		for _, m := range beneath(t, dir) {
			if err := syscall.Unmount(m.Target, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", m.Target, err)
			}
		}
	})
}

func sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// beneath lists the mounts at dir and below it, the deepest first.
func beneath(t *testing.T, dir string) []stowagemount.Info {
	t.Helper()
	list, err := stowagemount.Beneath(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// furnish is a layer with what makes unpacking hard: some files in folders that other layers have
// as well, owners, modes, times to the nanosecond, links. Extra entries come last.
func furnish(seed uint64, files int, size int64, extra ...tar.Header) imagetest.Tar {
	return func(w io.Writer) error {
		random := rand.New(rand.NewPCG(seed, 1))
		tw := tar.NewWriter(w)
		add := func(h tar.Header, body []byte) error {
			h.Format, h.Size = tar.FormatPAX, int64(len(body))
			if h.Mode == 0 {
				h.Mode = 0o644
			}
			if h.ModTime.IsZero() {
				h.ModTime = time.Unix(1600000000+int64(random.IntN(1e8)), int64(random.IntN(1e9)))
			}
			if err := tw.WriteHeader(&h); err != nil {
				return err
			}
			_, err := tw.Write(body)
			return err
		}
		own := fmt.Sprintf("usr/lib/l%d/", seed)
		for _, dir := range []string{"usr/", "usr/lib/", "usr/share/", own} {
			if err := add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil); err != nil {
				return err
			}
		}
		for i := range files {
			name := fmt.Sprintf("%sf%d", own, i)
			if i%4 == 0 {
				name = fmt.Sprintf("usr/share/l%d-%d", seed, i)
			}
			body := make([]byte, size/2+random.Int64N(size))
			for j := range body[:len(body)/2] {
				body[j] = byte(random.Uint32())
			}
			h := tar.Header{Typeflag: tar.TypeReg, Name: name, Uid: i % 3, Gid: i % 5, Mode: []int64{0o644, 0o755, 0o4755, 0o600}[i%4]}
			if err := add(h, body); err != nil {
				return err
			}
			switch i % 10 {
			case 3:
				h = tar.Header{Typeflag: tar.TypeLink, Name: name + "-hard", Linkname: name}
			case 7:
				h = tar.Header{Typeflag: tar.TypeSymlink, Name: name + "-soft", Linkname: filepath.Base(name)}
			default:
				continue
			}
			if err := add(h, nil); err != nil {
				return err
			}
		}
		for _, h := range extra {
			if err := add(h, nil); err != nil {
				return err
			}
		}
		return tw.Close()
	}
}

// pushTars puts an image of layers into the registry and gives its name.
func (r *rig) pushTars(repo string, tars ...imagetest.Tar) string {
	r.t.Helper()
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...)}.Build("")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := imagetest.Push(r.t.Context(), r.host, repo, "1", img); err != nil {
		r.t.Fatal(err)
	}
	return r.host + "/" + repo + ":1"
}

// family pushes four images that share layers. Of theirs, one has a hard link to a file of a layer
// below, a whiteout and an opaque folder.
func (r *rig) family(files int, size int64) []string {
	r.t.Helper()
	base, second := furnish(1, files, size), furnish(2, files, size)
	bound := furnish(3, files/2, size,
		tar.Header{Typeflag: tar.TypeLink, Name: "usr/bound", Linkname: "usr/share/l1-0"},
		tar.Header{Typeflag: tar.TypeReg, Name: "usr/lib/l1/.wh.f1"},
		tar.Header{Typeflag: tar.TypeReg, Name: "usr/lib/l2/.wh..wh..opq"})
	return []string{
		r.pushTars("a", base),
		r.pushTars("b", base, second),
		r.pushTars("c", base, second, bound, furnish(4, files/2, size)),
		r.pushTars("d", furnish(5, files/2, size), second, furnish(6, files, size)),
	}
}

// treeOf describes everything in a tree: what it is, whose, how old, what is in it.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d links %d bytes %x", st.Nlink, st.Size, sha256.Sum256(b))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			text += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		tree[strings.TrimPrefix(path, dir)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// mounted mounts an image and describes what is to be seen.
func (r *rig) mounted(snapshotter, name string) map[string]string {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "mnt")
	detachLater(r.t, dir)
	r.quick("image", "mount", "--snapshotter", snapshotter, "--progress", "none", name, dir)
	tree := treeOf(r.t, dir)
	r.quick("image", "unmount", dir)
	return tree
}

// snapshotRows are the snapshots of one snapshotter.
func (r *rig) snapshotRows(snapshotter string) []stowage.Snapshot {
	r.t.Helper()
	var rows []stowage.Snapshot
	if err := json.Unmarshal([]byte(r.quick("snapshot", "--snapshotter", snapshotter, "ls", "--format", "json")), &rows); err != nil {
		r.t.Fatal(err)
	}
	return rows
}

// tidy sees that a snapshotter's folder has what its snapshots name and nothing else, that
// nothing is locked, and that nothing is mounted in the store.
func (r *rig) tidy(snapshotter string) {
	r.t.Helper()
	want := []string{"busy"}
	if snapshotter == "overlay" {
		want = append(want, "form")
	}
	for _, row := range r.snapshotRows(snapshotter) {
		if !slices.Contains(want, row.Folder) {
			want = append(want, row.Folder)
		}
	}
	slices.Sort(want)
	dir := filepath.Join(r.root, "snapshots", snapshotter)
	if diff := cmp.Diff(want, entries(r.t, dir)); diff != "" {
		r.t.Errorf("%s holds other folders (+) than its snapshots name (-):\n%s", dir, diff)
	}
	if got := entries(r.t, filepath.Join(dir, "busy")); len(got) > 0 {
		r.t.Errorf("nobody holds the locks %q any more", got)
	}
	for _, m := range beneath(r.t, filepath.Join(r.root, "snapshots")) {
		r.t.Errorf("%s is still mounted", m.Target)
	}
}

// states says how the store lists each image.
func (r *rig) states() map[string]stowage.State {
	r.t.Helper()
	var images []struct {
		Name  string
		State stowage.State
	}
	if err := json.Unmarshal([]byte(r.quick("images", "--format", "json")), &images); err != nil {
		r.t.Fatal(err)
	}
	states := map[string]stowage.State{}
	for _, img := range images {
		states[img.Name] = img.State
	}
	return states
}

// A powered disk is an ext4 with a journal, at dir, whose power can be cut.
//
// Its backing file is on a filesystem of its own, outer. Freezing that one stops the disk between
// two writes: every write that was done until then is in the file, and none that comes later,
// while the filesystem on the disk knows nothing of it and flushes nothing.
type powered struct {
	t     *testing.T
	outer string
	dir   string
}

func newPowered(t *testing.T, size string) *powered {
	t.Helper()
	p := &powered{t, filepath.Join(t.TempDir(), "outer"), filepath.Join(t.TempDir(), "disk")}
	// What holds the disk must keep its writes for as long as the test runs, and no longer.
	disk(t, filepath.Join(filepath.Dir(p.outer), "file"), p.outer, "barrier=0", "-O", "^has_journal", "1g")
	disk(t, filepath.Join(p.outer, "disk"), p.dir, "commit=1", size)
	return p
}

// cut copies what the disk holds at one instant to a file.
func (p *powered) cut(to string) {
	p.t.Helper()
	dir, err := os.Open(p.outer)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = dir.Close() }() // a folder
	const freeze, thaw = 0xc0045877, 0xc0045878
	if err := unix.IoctlSetInt(int(dir.Fd()), freeze, 0); err != nil {
		p.t.Fatalf("freeze %s: %v", p.outer, err)
	}
	out, err := exec.CommandContext(context.WithoutCancel(p.t.Context()), "cp", "--sparse=always", filepath.Join(p.outer, "disk"), to).CombinedOutput()
	if thawErr := unix.IoctlSetInt(int(dir.Fd()), thaw, 0); thawErr != nil {
		p.t.Fatalf("thaw %s: %v", p.outer, thawErr)
	}
	if err != nil {
		p.t.Fatalf("copy the disk: %v: %s", err, out)
	}
}

// TestPowerCuts cuts the power at random moments while images that share layers are pulled one
// after the other and the first is removed again, and right after a pull was acknowledged.
// Whatever the moment, images are then absent, or partial, or complete: those can be verified and
// mounted, and look as they did before. What was acknowledged is complete.
func TestPowerCuts(t *testing.T) {
	r := newRig(t, 16<<20)
	names := r.family(240, 10<<10)

	// What it is like if nothing happens.
	whole := map[string]time.Duration{}
	trees := map[string]map[string]string{}
	for _, snapshotter := range drivers {
		t.Run("never "+snapshotter, func(t *testing.T) {
			q := r.at(t, filepath.Join(newPowered(t, "192m").dir, "store"))
			begun := time.Now()
			for _, name := range names {
				q.quick("pull", "-q", "--snapshotter", snapshotter, name)
			}
			whole[snapshotter] = time.Since(begun)
			for _, name := range names {
				tree := q.mounted(snapshotter, name)
				if trees[name] == nil {
					trees[name] = tree
				}
				if diff := cmp.Diff(trees[name], tree); diff != "" {
					t.Errorf("%s of %s differs from that of %s:\n%s", name, snapshotter, drivers[0], diff)
				}
			}
		})
	}

	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	absent, complete, acknowledged := 0, 0, 0
	for i := range *cuts {
		snapshotter := drivers[i%len(drivers)]
		wait := time.Duration(rnd.Int64N(int64(whole[snapshotter] * 5 / 4)))
		exact := i/len(drivers)%2 == 1 // just when a pull has ended
		busy := rnd.IntN(2) == 0       // others flush their own files meanwhile
		t.Run(fmt.Sprintf("%d %s", i, snapshotter), func(t *testing.T) {
			t.Logf("seed %d: cut after %v, at the end of a pull: %v, others flush: %v", seed, wait, exact, busy)
			c := r.cutPulls(t, snapshotter, names, wait, exact, busy)
			acknowledged += len(c.done)
			c.reboot()
			states := c.states()
			for _, name := range c.done {
				if states[name] != stowage.Complete && name != c.removed {
					t.Errorf("%s was pulled before the cut, and is %q after it", name, states[name])
				}
			}
			for _, name := range names {
				if states[name] != stowage.Complete {
					absent++
					continue
				}
				complete++
				c.whole(snapshotter, name, trees[name])
			}
			// What was cut off is in order, once it is put in order.
			c.quick("doctor", "--repair")
			c.quick("doctor", "--verify")
			// And it goes on.
			for _, name := range names {
				c.quick("pull", "-q", "--snapshotter", snapshotter, name)
			}
			c.quick("content", "prune", "--all")
			c.quick("content", "verify", "--all")
			for _, name := range names {
				c.whole(snapshotter, name, trees[name])
			}
			c.tidy(snapshotter)
		})
	}
	t.Logf("%d cuts: of %d images %d were acknowledged, %d complete and as before, %d absent or partial",
		*cuts, *cuts*len(names), acknowledged, complete, absent)
}

// whole sees that an image that is listed as complete is so.
func (r *rig) whole(snapshotter, name string, tree map[string]string) {
	r.t.Helper()
	if out, errs, status := r.patient("image", "check", "--verify", name); status != 0 {
		r.t.Fatalf("%s is listed as complete, but: status %d\n%s%s", name, status, out, errs)
	}
	if diff := cmp.Diff(tree, r.mounted(snapshotter, name)); diff != "" {
		r.t.Fatalf("%s is other than it was (-):\n%s", name, diff)
	}
}

// A cutRig is a store on a disk whose power was cut.
type cutRig struct {
	*rig
	done    []string // the images whose pull had ended well by then
	removed string   // the image that was being removed, or had been, if any
}

// cutPulls pulls images one after the other, removes the first when there are two, cuts the power,
// and gives the store as it is found on the disk afterwards.
func (r *rig) cutPulls(t *testing.T, snapshotter string, names []string, wait time.Duration, exact, busy bool) *cutRig {
	t.Helper()
	p := newPowered(t, "192m")
	root := filepath.Join(p.dir, "store")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run := func(args ...string) bool {
		cmd := exec.CommandContext(ctx, r.bin, args...)
		cmd.Env = r.at(t, root).command().Env
		out, err := cmd.CombinedOutput()
		if err != nil && ctx.Err() == nil { // it was not killed
			t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
		return err == nil
	}
	ended := make(chan string, len(names))
	var removing atomic.Bool
	go func() {
		defer close(ended)
		for i, name := range names {
			if i == 2 {
				removing.Store(true)
				if !run("rmi", "--gc", names[0]) {
					return
				}
			}
			if !run("pull", "-q", "--snapshotter", snapshotter, name) {
				return
			}
			ended <- name
		}
	}()
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		for busy && ctx.Err() == nil {
			if err := flush(p.dir); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()

	time.Sleep(wait)
	c := &cutRig{}
	for open := true; open; {
		select {
		case name, ok := <-ended:
			if open = ok; ok {
				c.done = append(c.done, name)
			}
		default:
			open = false
		}
	}
	if exact {
		if name, ok := <-ended; ok {
			c.done = append(c.done, name)
		}
	}
	file := filepath.Join(t.TempDir(), "copy")
	p.cut(file)
	if removing.Load() { // by now, and perhaps by then
		c.removed = names[0]
	}
	cancel()
	for range ended { // until it is killed
	}
	<-flushed
	dir := filepath.Join(t.TempDir(), "copied")
	disk(t, file, dir, "commit=1")
	c.rig = r.at(t, filepath.Join(dir, "store"))
	return c
}

// reboot makes the mark of a store one of another boot, and has the store opened: what was written
// last is verified, if the mark was set, and nothing of it is damaged.
func (r *rig) reboot() {
	r.t.Helper()
	name := filepath.Join(r.root, "metadata", "mark")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) { // cut before anything was written
		return
	}
	if err != nil {
		r.t.Fatal(err)
	}
	words := strings.Fields(string(b))
	set := len(words) == 5
	if set {
		text := strings.Replace(string(b), words[3], strings.Repeat("0", len(words[3])), 1)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	_, errs, status := r.patient("images")
	if verified := strings.Contains(errs, "all are whole"); status != 0 || verified != set {
		r.t.Errorf("images after a cut: status %d, the mark was set: %t, and it said: %s", status, set, errs)
	}
}

// flush makes the filesystem of dir durable.
func flush(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

package dir_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

// A store vouches for a blob until somebody touches it.
func TestVouch(t *testing.T) {
	for name, c := range map[string]struct {
		touch func(t *testing.T, name string)
		want  bool
	}{
		"untouched": {func(*testing.T, string) {}, true},
		"written to": {func(t *testing.T, name string) {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte{1}, 5)
			must(t, err)
			must(t, f.Close())
		}, false},
		"cut": {func(t *testing.T, name string) { must(t, os.Truncate(name, 100)) }, false},
		"replaced": {func(t *testing.T, name string) {
			must(t, os.Remove(name))
			must(t, os.WriteFile(name, large, 0o644))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, openOS(t, root))
			d := digest.FromBytes(large)
			must(t, content.Put(t.Context(), s, d, large))
			file := filepath.Join(root, "content/blobs/sha256", d.Encoded())
			// The clock of file times ticks a few times a second; a blob as old as it is
			// later has both of its times apart.
			must(t, os.Chtimes(file, time.Time{}, time.Now().Add(-time.Minute)))
			c.touch(t, file)
			r, err := s.Open(t.Context(), d)
			must(t, err)
			var b bytes.Buffer
			if got := r.(content.Voucher).Vouched(); got != c.want {
				t.Errorf("vouched %v, want %v", got, c.want)
			}
			n, err := content.Send(t.Context(), &b, r, d)
			if (err == nil) != bytes.Equal(b.Bytes(), large) || err == nil && n != int64(len(large)) {
				t.Errorf("sent %d bytes: %v", n, err)
			}
			must(t, r.Close())
		})
	}
}

// What was stored while nothing was synced is made durable by the first who counts on it and syncs.
func TestUnsyncedBlobIsSettled(t *testing.T) {
	mem := vfs.NewMem()
	d := digest.FromBytes(large)
	must(t, content.Put(t.Context(), open(t, vfs.NoSync(mem)), d, large))
	readable(t, open(t, mem), large)
	if _, err := open(t, vfs.NoSync(mem)).Begin(t.Context(), "k", wantOf(large)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("unsynced, asked by one who does not sync: got %v, want %v", err, errdefs.ErrAlreadyExists)
	}
	if _, err := open(t, mem).Begin(t.Context(), "k", wantOf(large)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v, want %v", err, errdefs.ErrAlreadyExists)
	}
	for seed := range uint64(20) {
		readable(t, open(t, mem.AfterCrashSeed(seed)), large)
	}
}

// What a power loss took of it is found, and put away.
func TestUnsyncedBlobThatWasLost(t *testing.T) {
	lost := 0
	for seed := range uint64(40) {
		mem := vfs.NewMem()
		disk := vfs.NoSync(mem)
		s := open(t, disk)
		must(t, mem.SyncAll())
		d := digest.FromBytes(large)
		must(t, content.Put(t.Context(), s, d, large))
		after := mem.AfterCrashSeed(seed)
		in, err := open(t, after).Begin(t.Context(), d.String(), wantOf(large))
		if errdefs.IsAlreadyExists(err) {
			readable(t, open(t, after), large)
			continue
		}
		must(t, err)
		lost++
		must(t, in.Abort())
		must(t, content.Put(t.Context(), open(t, after), d, large))
		readable(t, open(t, after.AfterCrash()), large)
	}
	if lost == 0 {
		t.Error("no power loss took anything")
	}
}

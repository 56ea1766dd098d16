package dir_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

// ingestFile is where the bytes of the ingest called key are kept.
func ingestFile(root, key string) string {
	return filepath.Join(root, "content/ingest", digest.FromString(key).Encoded())
}

func TestDamageHeals(t *testing.T) {
	halfWritten := func(t *testing.T, root string) string {
		t.Helper()
		must(t, leave(t.Context(), open(t, openOS(t, root)), "k", large, large[:65<<10]))
		return ingestFile(root, "k")
	}
	for name, damage := range map[string]func(t *testing.T, root string){
		"junk in place of the data": func(t *testing.T, root string) {
			must(t, os.WriteFile(ingestFile(root, "k"), []byte("junk"), 0o600))
		},
		"a dangling link in place of the data": func(t *testing.T, root string) {
			must(t, os.Symlink("nowhere", ingestFile(root, "k")))
		},
		"an empty folder in place of the data": func(t *testing.T, root string) {
			must(t, os.Mkdir(ingestFile(root, "k"), 0o700))
		},
		"a full folder in place of the data": func(t *testing.T, root string) {
			must(t, os.MkdirAll(ingestFile(root, "k")+"/deep/er", 0o700))
		},
		"a link in place of the data": func(t *testing.T, root string) {
			must(t, os.Symlink("../../outside", ingestFile(root, "k")))
		},
		"a fifo in place of the data": func(t *testing.T, root string) {
			must(t, unix.Mkfifo(ingestFile(root, "k"), 0o600))
		},
		"data without state": func(t *testing.T, root string) {
			must(t, os.Remove(halfWritten(t, root)+".state"))
		},
		"state without data": func(t *testing.T, root string) {
			must(t, os.Remove(halfWritten(t, root)))
		},
		"short data": func(t *testing.T, root string) {
			must(t, os.Truncate(halfWritten(t, root), 100))
		},
		"a state cut short": func(t *testing.T, root string) {
			must(t, os.Truncate(halfWritten(t, root)+".state", 100))
		},
		"an empty state": func(t *testing.T, root string) {
			must(t, os.Truncate(halfWritten(t, root)+".state", 0))
		},
		"a huge state": func(t *testing.T, root string) {
			must(t, os.Truncate(halfWritten(t, root)+".state", 1<<40))
		},
		"a changed state": func(t *testing.T, root string) {
			name := halfWritten(t, root) + ".state"
			p, err := os.ReadFile(name)
			must(t, err)
			must(t, os.WriteFile(name, []byte(strings.Replace(string(p), `"offset":66560`, `"offset":66559`, 1)), 0o600))
		},
		"the state of another key": func(t *testing.T, root string) {
			must(t, leave(t.Context(), open(t, openOS(t, root)), "other", large, large[:65<<10]))
			must(t, os.Rename(ingestFile(root, "other"), ingestFile(root, "k")))
			must(t, os.Rename(ingestFile(root, "other")+".state", ingestFile(root, "k")+".state"))
		},
		"a folder in place of the state": func(t *testing.T, root string) {
			name := halfWritten(t, root) + ".state"
			must(t, os.Remove(name))
			must(t, os.MkdirAll(name+"/deep", 0o700))
		},
		"read-only data": func(t *testing.T, root string) {
			must(t, os.Chmod(halfWritten(t, root), 0o444))
		},
		"a state that was being written": func(t *testing.T, root string) {
			must(t, os.WriteFile(halfWritten(t, root)+".state.tmp", []byte("junk"), 0o600))
		},
		"strangers beside the data": func(t *testing.T, root string) {
			must(t, os.WriteFile(root+"/content/ingest/junk", nil, 0o600))
			must(t, os.MkdirAll(root+"/content/ingest/deep/data", 0o700))
			must(t, os.WriteFile(root+"/content/blobs/sha256/junk", nil, 0o600))
			must(t, os.Mkdir(root+"/content/blobs/sha256/"+strings.Repeat("a", 64), 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, openOS(t, root))
			damage(t, root)
			if _, err := s.Ingests(t.Context()); err != nil {
				t.Errorf("Ingests: %v", err)
			}
			if err := s.Abort(t.Context(), "innocent"); !errdefs.IsNotFound(err) {
				t.Errorf("Abort of another key: got %v, want %v", err, errdefs.ErrNotFound)
			}
			must(t, write(t.Context(), s, "innocent", small, 400, func([]byte) {}))
			must(t, write(t.Context(), s, "k", large, 40<<10, func([]byte) {}))
			readable(t, s, small)
			readable(t, s, large)
			for info, err := range s.Blobs(t.Context()) {
				if err != nil || info.Size != int64(len(small)) && info.Size != int64(len(large)) {
					t.Errorf("Blobs: got %v, %v", info, err)
				}
			}
			if _, err := os.Lstat(ingestFile(root, "k")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the data is still there: %v", err)
			}
			if _, err := os.Lstat(root + "/outside"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it wrote outside: %v", err)
			}
		})
	}
}

// A process that died between the rename and the end of its commit leaves the mode of a blob that
// is on its way. The blob is there, but its name may not be durable.
func TestUnfinishedCommitIsFinished(t *testing.T) {
	root := t.TempDir()
	disk := &tracer{FS: openOS(t, root)}
	s := open(t, disk)
	must(t, content.Put(t.Context(), s, digest.FromBytes(small), small))
	blob := filepath.Join(root, "content/blobs/sha256", digest.FromBytes(small).Encoded())
	must(t, os.Chmod(blob, 0o400))
	disk.take()
	for _, want := range []bool{true, false} {
		if _, err := s.Begin(t.Context(), "k", wantOf(small)); !errdefs.IsAlreadyExists(err) {
			t.Errorf("got %v, want %v", err, errdefs.ErrAlreadyExists)
		}
		if calls := fmt.Sprint(disk.take()); strings.Contains(calls, "syncdir blobs/sha256") != want {
			t.Errorf("the name was made durable: %v, want %v: %s", !want, want, calls)
		}
	}
	if fi, err := os.Lstat(blob); err != nil || fi.Mode().Perm() != 0o444 {
		t.Errorf("got %v, %v, want mode 0444", fi, err)
	}
}

func TestLeftoversAreCleared(t *testing.T) {
	root := t.TempDir()
	s := open(t, openOS(t, root))
	left := []string{ingestFile(root, "k"), ingestFile(root, "l") + ".state", ingestFile(root, "m") + ".state.tmp"}
	for _, name := range left {
		must(t, os.WriteFile(name, small, 0o600))
	}
	if list, err := s.Ingests(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("Ingests: got %v, %v, want none", list, err)
	}
	for _, name := range left {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s, which nothing can come of, is still there: %v", filepath.Base(name), err)
		}
	}
}

// Without a state that was synced, bytes are believed until the machine goes down.
func TestUnsyncedIsBelievedInOneBoot(t *testing.T) {
	mem := vfs.NewMem()
	must(t, leave(t.Context(), open(t, vfs.NoSync(mem)), "k", large, large[:65<<10]))
	resumedAt := func(disk vfs.FS) int64 {
		t.Helper()
		in, err := open(t, disk).Begin(t.Context(), "k", wantOf(large))
		must(t, err)
		defer func() { must(t, in.Close()) }()
		return in.Offset()
	}
	must(t, mem.SyncAll()) // luck, of which the store knows nothing
	if got := resumedAt(mem.AfterCrash()); got != 0 {
		t.Errorf("after a power loss: got %d bytes, want 0", got)
	}
	if got, want := resumedAt(mem), int64(65<<10); got != want {
		t.Errorf("in the same boot: got %d bytes, want %d", got, want)
	}
	if got, want := resumedAt(mem.AfterCrash()), int64(65<<10); got != want {
		t.Errorf("after a Close that synced and a power loss: got %d bytes, want %d", got, want)
	}
}

// A failed flush leaves nothing that is believed: the kernel tells of it only once.
func TestFailedFlushIsNotBelieved(t *testing.T) {
	mem := vfs.NewMem()
	must(t, leave(t.Context(), open(t, mem), "k", large, large[:65<<10]))
	s := open(t, flushless{mem})
	in, err := s.Begin(t.Context(), "k", wantOf(large))
	must(t, err)
	_, err = in.WriteAt(large[in.Offset():], in.Offset())
	must(t, err)
	if err := s.Commit(t.Context(), in); !errors.Is(err, syscall.EIO) {
		t.Errorf("Commit: got %v, want EIO", err)
	}
	in, err = open(t, mem).Begin(t.Context(), "k", wantOf(large))
	must(t, err)
	if in.Offset() != 0 {
		t.Errorf("got %d bytes, want 0", in.Offset())
	}
	must(t, in.Abort())
}

// flushless is a disk whose files cannot be flushed.
type flushless struct{ *vfs.Mem }

func (d flushless) Create(name string, perm fs.FileMode) (vfs.File, error) {
	f, err := d.Mem.Create(name, perm)
	return flushlessFile{f}, err
}

type flushlessFile struct{ vfs.File }

func (flushlessFile) Sync() error { return syscall.EIO }

func TestReadOnlyDisk(t *testing.T) {
	mem := vfs.NewMem()
	must(t, content.Put(t.Context(), open(t, mem), digest.FromBytes(small), small))
	for name, disk := range map[string]*vfs.Mem{"a store": mem, "no store": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			s := open(t, readOnly{disk})
			if disk == mem {
				readable(t, s, small)
			}
			if _, err := s.Info(t.Context(), digest.FromBytes(large)); !errdefs.IsNotFound(err) {
				t.Errorf("Info: got %v, want %v", err, errdefs.ErrNotFound)
			}
			for _, err := range s.Blobs(t.Context()) {
				must(t, err)
			}
			if _, err := s.Ingests(t.Context()); err != nil {
				t.Errorf("Ingests: %v", err)
			}
			err := content.Put(t.Context(), s, digest.FromBytes(large), large)
			if !errors.Is(err, syscall.EROFS) || !strings.HasPrefix(err.Error(), "begin ingest sha256:") {
				t.Errorf("Put: got %v, want EROFS", err)
			}
			if disk == mem {
				if err := s.Delete(t.Context(), digest.FromBytes(small)); !errors.Is(err, syscall.EROFS) {
					t.Errorf("Delete: got %v, want EROFS", err)
				}
			}
		})
	}
}

// readOnly is a disk mounted read-only, as far as a store without ingests can tell.
type readOnly struct{ *vfs.Mem }

func (d readOnly) Create(name string, _ fs.FileMode) (vfs.File, error) {
	return nil, refuse("create", name)
}

func refuse(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: syscall.EROFS} }

func (readOnly) Mkdir(name string, _ fs.FileMode) error { return refuse("mkdir", name) }
func (readOnly) Remove(name string) error               { return refuse("remove", name) }
func (readOnly) Chmod(name string, _ fs.FileMode) error { return refuse("chmod", name) }

// Two processes (stores that share nothing but the disk) and many goroutines each, with few keys.
func TestManyWritersFewKeys(t *testing.T) {
	root := t.TempDir()
	stores := []*dir.Store{open(t, openOS(t, root)), open(t, openOS(t, root))}
	blobs := [][]byte{small, large, other}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var listing, writing sync.WaitGroup
	listing.Go(func() {
		for ctx.Err() == nil {
			if _, err := stores[0].Ingests(t.Context()); err != nil {
				t.Errorf("Ingests: %v", err)
			}
		}
	})
	for i := range 12 {
		writing.Go(func() {
			s := stores[i%2]
			for j := range 9 {
				p := blobs[(i+j)%3]
				want := wantOf(p)
				want.Wait = true
				in, err := s.Begin(t.Context(), "k", want)
				if errdefs.IsAlreadyExists(err) {
					continue
				}
				if err != nil {
					t.Errorf("Begin: %v", err)
					return
				}
				if _, err := in.WriteAt(p[in.Offset():], in.Offset()); err != nil {
					t.Errorf("WriteAt: %v", err)
				}
				end := func() error { return s.Commit(t.Context(), in) }
				switch j % 3 {
				case 1:
					end = in.Close
				case 2:
					end = in.Abort
				}
				if err := end(); err != nil {
					t.Errorf("end: %v", err)
				}
			}
		})
	}
	writing.Wait()
	cancel()
	listing.Wait()
	for _, p := range blobs {
		must(t, write(t.Context(), stores[0], "k", p, len(p), func([]byte) {}))
		readable(t, stores[1], p)
	}
}

func TestModeAndLayout(t *testing.T) {
	root := t.TempDir()
	s := open(t, openOS(t, root))
	d := digest.SHA512.FromBytes(small)
	must(t, content.Put(t.Context(), s, d, small))
	fi, err := os.Stat(filepath.Join(root, "content/blobs/sha512", d.Encoded()))
	if err != nil || fi.Mode() != 0o444 || fi.Size() != int64(len(small)) {
		t.Errorf("got %v, %v, want %d bytes of mode 0444", fi, err, len(small))
	}
}

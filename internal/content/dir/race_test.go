package dir_test

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

// Another process has its whole turn before each of the calls of a Begin.
func TestBeginIsOvertakenAnywhere(t *testing.T) {
	for name, turn := range map[string]func(context.Context, *dir.Store) (content.Ingest, error){
		"commit": func(ctx context.Context, s *dir.Store) (content.Ingest, error) {
			return nil, content.Put(ctx, s, digest.FromBytes(small), small)
		},
		"abort": func(ctx context.Context, s *dir.Store) (content.Ingest, error) {
			return nil, leave(ctx, s, keyOf(small), small, nil) // closed without bytes: gone
		},
		"abort and begin": func(ctx context.Context, s *dir.Store) (content.Ingest, error) {
			if err := leave(ctx, s, keyOf(small), small, nil); err != nil {
				return nil, err
			}
			return s.Begin(ctx, keyOf(small), wantOf(small))
		},
	} {
		for at, reached := 1, true; reached; at++ {
			mem := vfs.NewMem()
			disk := &tracer{FS: mem}
			s, second := open(t, disk), open(t, mem)
			var n int
			var want error // of our Begin
			var held content.Ingest
			disk.before = func() {
				if n++; n != at {
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
				defer cancel()
				var err error
				held, err = turn(ctx, second)
				switch {
				case errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded): // we were first
				case err != nil:
					t.Errorf("%s before call %d: %v", name, at, err)
				case held != nil:
					want = errdefs.ErrUnavailable
				case name == "commit":
					want = errdefs.ErrAlreadyExists
				}
			}
			in, err := s.Begin(t.Context(), keyOf(small), wantOf(small))
			reached = n >= at
			if !errors.Is(err, want) {
				t.Errorf("%s before call %d: got %v, want %v", name, at, err, want)
			}
			if held != nil {
				must(t, held.Close())
			}
			if in != nil {
				must(t, in.Close())
			}
			must(t, content.Put(t.Context(), s, digest.FromBytes(small), small))
			readable(t, s, small)
		}
	}
}

// A crash may keep both names of a rename. The blob's bytes must not be written through the
// other one.
func TestSecondNameOfABlobIsNotWritten(t *testing.T) {
	for name, want := range map[string]content.Want{
		"any digest":    {Size: -1},
		"another":       wantOf(large),
		"the same":      {Digest: digest.FromBytes(small), Size: -1},
		"the same size": wantOf(small),
	} {
		for seed := range uint64(40) {
			mem := vfs.NewMem()
			s := open(t, mem)
			in, err := s.Begin(t.Context(), "k", content.Want{Size: -1})
			must(t, err)
			_, err = in.WriteAt(small, 0)
			must(t, err)
			must(t, mem.SyncAll())
			must(t, s.Commit(t.Context(), in))
			s = open(t, sameBoot{mem.AfterCrashSeed(seed), mem.BootID()})
			next, err := s.Begin(t.Context(), "k", want)
			if errdefs.IsAlreadyExists(err) {
				continue
			}
			must(t, err)
			_, err = next.WriteAt(other[:100], next.Offset())
			if err == nil {
				must(t, next.Close())
			} else {
				must(t, next.Abort())
			}
			readable(t, s, small)
			if t.Failed() {
				t.Fatalf("%s, seed %d", name, seed)
			}
		}
	}
}

// sameBoot is a disk after a crash whose unsynced state happens to be believed.
type sameBoot struct {
	*vfs.Mem
	boot string
}

func (d sameBoot) BootID() string { return d.boot }

// A disk that becomes full takes a part of a write. The ingest knows which.
func TestShortWriteIsHashed(t *testing.T) {
	for _, size := range []int{1000, len(large)} {
		p := large[:size]
		mem := vfs.NewMem()
		in, err := open(t, halfWriting{mem}).Begin(t.Context(), "k", content.Want{Digest: digest.FromBytes(p), Size: int64(size)})
		must(t, err)
		n, err := in.WriteAt(p, 0)
		if n != size/2 || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d bytes: got %d, %v, want %d, ENOSPC", size, n, err, size/2)
		}
		if in.Offset() != int64(size/2) || in.Digest() != digest.FromBytes(p[:size/2]) {
			t.Errorf("%d bytes: got the digest of something else at %d", size, in.Offset())
		}
		must(t, in.Close())
		s := open(t, mem)
		must(t, write(t.Context(), s, "k", p, size, func([]byte) {}))
		readable(t, s, p)
	}
}

// halfWriting is a disk that is full for data, and has room for a state.
type halfWriting struct{ *vfs.Mem }

func (d halfWriting) Create(name string, perm fs.FileMode) (vfs.File, error) {
	f, err := d.Mem.Create(name, perm)
	if path.Ext(name) == "" {
		return halfWritingFile{f}, err
	}
	return f, err
}

type halfWritingFile struct{ vfs.File }

func (f halfWritingFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p[:len(p)/2], off)
	return n, errors.Join(err, syscall.ENOSPC)
}

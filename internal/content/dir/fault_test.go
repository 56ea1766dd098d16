package dir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

// The blobs of the stories. The large ones are kept durably by a Close.
var (
	small = contenttest.Bytes(1, 1500)
	large = contenttest.Bytes(2, 64<<10+3000)
	other = contenttest.Bytes(3, 64<<10+5000)
)

// A story is something done to a store, on a disk that may fail at any moment. It calls ack for
// each blob whose commit was acknowledged, goes on after errors as a caller would, and leaves no
// ingest open.
type story func(ctx context.Context, s *dir.Store, ack func(p []byte)) error

var stories = map[string]story{
	"put": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		return putAck(ctx, s, small, ack)
	},
	"commit several": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		var list []content.Ingest
		for _, p := range [][]byte{small, large, other} {
			in, err := s.Begin(ctx, keyOf(p), wantOf(p))
			if err != nil {
				continue
			}
			if _, err := in.WriteAt(p, 0); err != nil {
				_ = in.Close()
				continue
			}
			list = append(list, in)
		}
		err := s.Commit(ctx, list...)
		if err == nil && len(list) == 3 {
			ack(small)
			ack(large)
			ack(other)
		}
		return err
	},
	"write in pieces": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		return write(ctx, s, keyOf(small), small, 400, ack)
	},
	"close and resume": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := leave(ctx, s, "k", large, large[:64<<10+500])
		return errors.Join(err, write(ctx, s, "k", large, 40<<10, ack))
	},
	"reset": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		// Right bytes, then wrong ones in their place, then right ones again.
		err := leave(ctx, s, "k", large, large[:64<<10+500])
		for _, p := range [][]byte{other[:64<<10+700], large} {
			in, beginErr := s.Begin(ctx, "k", wantOf(large))
			if beginErr != nil {
				return errors.Join(err, beginErr)
			}
			resetErr := in.Reset()
			if resetErr == nil {
				_, resetErr = in.WriteAt(p, 0)
			}
			if resetErr != nil || len(p) < len(large) {
				err = errors.Join(err, resetErr, in.Close())
				continue
			}
			commitErr := s.Commit(ctx, in)
			if commitErr == nil {
				ack(large)
			}
			err = errors.Join(err, commitErr)
		}
		return err
	},
	"another blob by the same key": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := leave(ctx, s, "k", large, large[:64<<10+500])
		return errors.Join(err, leave(ctx, s, "k", other, other[:64<<10+700]), leave(ctx, s, "k", large, large[:66<<10]))
	},
	"commit, then another by the same key": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := write(ctx, s, "k", large, len(large), ack)
		return errors.Join(err, leave(ctx, s, "k", other, other[:64<<10+700]))
	},
	"abort": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := leave(ctx, s, "k", large, large[:64<<10+500])
		return errors.Join(err, s.Abort(ctx, "k"), leave(ctx, s, "k", other, other[:64<<10+700]))
	},
	"delete": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := putAck(ctx, s, large, func([]byte) {})
		return errors.Join(err, s.Delete(ctx, digest.FromBytes(large)), putAck(ctx, s, large, ack))
	},
	"resume, commit, delete and again": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := leave(ctx, s, "k", large, large[:64<<10+500])
		err = errors.Join(err, write(ctx, s, "k", large, len(large), func([]byte) {}))
		return errors.Join(err, s.Delete(ctx, digest.FromBytes(large)), write(ctx, s, "k", large, len(large), ack))
	},
	"lists": func(ctx context.Context, s *dir.Store, ack func([]byte)) error {
		err := leave(ctx, s, "k", large, large[:64<<10+500])
		_, listErr := s.Ingests(ctx)
		for _, blobErr := range s.Blobs(ctx) {
			listErr = errors.Join(listErr, blobErr)
		}
		return errors.Join(err, listErr)
	},
}

func keyOf(p []byte) string { return digest.FromBytes(p).String() }

func wantOf(p []byte) content.Want {
	return content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
}

func putAck(ctx context.Context, s *dir.Store, p []byte, ack func([]byte)) error {
	err := content.Put(ctx, s, digest.FromBytes(p), p)
	if err == nil {
		ack(p)
	}
	return err
}

// leave writes some bytes of an ingest that wants p, and closes it.
func leave(ctx context.Context, s *dir.Store, key string, p, bytes []byte) error {
	in, err := s.Begin(ctx, key, wantOf(p))
	if err != nil {
		return err
	}
	if off := min(int(in.Offset()), len(bytes)); off < len(bytes) {
		_, err = in.WriteAt(bytes[off:], in.Offset())
	}
	return errors.Join(err, in.Close())
}

// write brings p to its end from wherever it is.
func write(ctx context.Context, s *dir.Store, key string, p []byte, piece int, ack func([]byte)) error {
	in, err := s.Begin(ctx, key, wantOf(p))
	if errdefs.IsAlreadyExists(err) {
		ack(p)
		return nil
	}
	if err != nil {
		return err
	}
	for off := int(in.Offset()); off < len(p); off = int(in.Offset()) {
		if _, err := in.WriteAt(p[off:min(off+piece, len(p))], int64(off)); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	if err := s.Commit(ctx, in); err != nil {
		return err
	}
	ack(p)
	return nil
}

// verify checks a disk on which a story came to a sudden end.
func verify(ctx context.Context, disk vfs.FS, acked [][]byte) error {
	s, err := dir.Open(disk)
	if err != nil {
		return err
	}
	for _, p := range [][]byte{small, large, other} {
		got, err := content.ReadBlob(ctx, s, digest.FromBytes(p), int64(len(p)))
		switch {
		case err == nil && !bytes.Equal(got, p):
			return errors.New("a blob reads as another")
		case err != nil && !errdefs.IsNotFound(err):
			return fmt.Errorf("torn blob: %w", err)
		}
	}
	for _, p := range acked {
		if _, err := s.Info(ctx, digest.FromBytes(p)); err != nil {
			return fmt.Errorf("acknowledged blob lost: %w", err)
		}
	}
	if _, err := s.Ingests(ctx); err != nil {
		return err
	}
	// Whatever is left, each blob can be brought to its end, and is then right.
	for _, p := range [][]byte{large, other, small} {
		for _, key := range []string{"k", keyOf(p)} {
			if _, err := disk.Lstat("content/ingest/" + digest.FromString(key).Encoded()); err != nil && key != keyOf(small) {
				continue // nothing is left by this key
			}
			if err := bring(ctx, s, key, p); err != nil {
				return fmt.Errorf("bringing a blob to its end: %w", err)
			}
		}
	}
	// An ingest whose blob came to be all the same is left, and can be thrown away.
	list, err := s.Ingests(ctx)
	for _, st := range list {
		err = errors.Join(err, s.Abort(ctx, st.Key))
	}
	return err
}

// bring brings p to its end by key, checks it, and deletes it.
func bring(ctx context.Context, s *dir.Store, key string, p []byte) error {
	err := write(ctx, s, key, p, len(p), func([]byte) {})
	if errdefs.IsDataLoss(err) { // the story had put wrong bytes there
		err = write(ctx, s, key, p, len(p), func([]byte) {})
	}
	if err != nil {
		return err
	}
	if _, err := content.ReadBlob(ctx, s, digest.FromBytes(p), int64(len(p))); err != nil {
		return err
	}
	return s.Delete(ctx, digest.FromBytes(p))
}

// Every call of every story fails in turn. The store must go on at once, and after a power loss
// of one flavour or another.
func TestEveryCallFails(t *testing.T) {
	for name, run := range stories {
		for kind, faults := range map[string]func(vfs.FS, int) *vfs.Faulty{"EIO": vfs.FailNth, "ENOSPC": vfs.FullNth} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				for n, fired := 0, true; fired; n++ {
					mem := vfs.NewMem()
					faulty := faults(mem, n)
					var acked [][]byte
					s, err := dir.Open(faulty)
					if err == nil {
						err = run(t.Context(), s, func(p []byte) { acked = append(acked, p) })
					}
					if err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) && !faulty.Fired {
						t.Fatalf("call %d: %v", n, err)
					}
					seed := uint64(n % 5)
					if err := verify(t.Context(), mem.AfterCrashSeed(seed), acked); err != nil {
						t.Fatalf("call %d failed, then the power (flavour %d): %v", n, seed, err)
					}
					if err := verify(t.Context(), mem, acked); err != nil {
						t.Fatalf("call %d failed: %v", n, err)
					}
					fired = faulty.Fired
				}
			})
		}
	}
}

// The power goes before every call of every story.
func TestPowerGoesAnyTime(t *testing.T) {
	for name, run := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			disk := &tracer{FS: mem}
			var acked [][]byte
			n := 0 // calls made
			disk.before = func() {
				n++
				// Flavour 21 once brought a state back beside the bytes of the next writer of its key.
				for _, seed := range []uint64{0, 1, 21, uint64(n + 2), uint64(n + 1002)} {
					if err := verify(t.Context(), mem.AfterCrashSeed(seed), acked); err != nil {
						t.Fatalf("power loss before call %d (flavour %d): %v\nafter %v", n, seed, err, disk.take())
					}
				}
			}
			if err := run(t.Context(), open(t, disk), func(p []byte) { acked = append(acked, p) }); err != nil {
				t.Fatal(err)
			}
			disk.before()
		})
	}
}

// An errno of the disk reaches whoever asks for it.
func TestErrnoIsReachable(t *testing.T) {
	for _, c := range []struct {
		disk *vfs.Faulty
		want error
	}{
		{vfs.FullNth(vfs.NewMem(), 15), syscall.ENOSPC},
		{vfs.FailNth(vfs.NewMem(), 15), syscall.EIO},
	} {
		s := open(t, c.disk)
		err := content.Put(t.Context(), s, digest.FromBytes(small), small)
		if !errors.Is(err, c.want) {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
}

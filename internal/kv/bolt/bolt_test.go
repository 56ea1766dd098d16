package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/kv/kvtest"
)

// The test binary is also the other process.
func TestMain(m *testing.M) {
	if path := os.Getenv("BOLT_TEST_COUNT"); path != "" {
		os.Exit(count(path))
	}
	os.Exit(m.Run())
}

// count increments two counters in step, in several goroutines, and prints each number that was
// acknowledged.
func count(path string) int {
	rounds, err := strconv.Atoi(os.Getenv("BOLT_TEST_ROUNDS"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	db, err := bolt.Open(path, bolt.Options{NoSync: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var work errgroup.Group
	var done atomic.Int64
	for range 4 {
		work.Go(func() error {
			for {
				i := int(done.Add(1))
				if i > rounds {
					return nil
				}
				var n int
				err := db.Update(context.Background(), func(w kv.Writer) (err error) {
					n, err = increment(w)
					return err
				})
				if err != nil {
					return err
				}
				fmt.Println(n)
				if i%50 == 0 {
					if err := db.Compact(context.Background()); err != nil {
						return err
					}
				}
			}
		})
	}
	if err := work.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func increment(w kv.Writer) (n int, err error) {
	old, err := w.Get([]byte("a"))
	if err != nil && !errdefs.IsNotFound(err) {
		return 0, err
	}
	n, _ = strconv.Atoi(string(old)) // nothing is zero
	n++
	value := []byte(strconv.Itoa(n))
	filler := bytes.Repeat(value, 500) // so that pages split and go
	return n, errors.Join(w.Put([]byte("a"), value), w.Put(fmt.Appendf(nil, "f/%d", n%40), filler), w.Put([]byte("z"), value))
}

// counters returns the two, which must be the same.
func counters(t *testing.T, db kv.DB) int {
	t.Helper()
	var a, z []byte
	err := db.View(t.Context(), func(r kv.Reader) error {
		var errA, errZ error
		a, errA = r.Get([]byte("a"))
		z, errZ = r.Get([]byte("z"))
		a, z = bytes.Clone(a), bytes.Clone(z)
		return errors.Join(errA, errZ)
	})
	if err != nil || !bytes.Equal(a, z) {
		t.Fatalf("counters: got %s and %s, %v, want them the same", a, z, err)
	}
	n, err := strconv.Atoi(string(a))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func open(t testing.TB, path string, opts bolt.Options) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestDB(t *testing.T) {
	for _, opts := range []bolt.Options{{}, {NoSync: true}} {
		t.Run(fmt.Sprintf("NoSync=%t", opts.NoSync), func(t *testing.T) {
			kvtest.Run(t, func(t *testing.T) kv.DB { return open(t, filepath.Join(t.TempDir(), "meta.db"), opts) })
		})
	}
}

func TestSeveralProcesses(t *testing.T) {
	const processes, rounds = 3, 60
	path := filepath.Join(t.TempDir(), "meta.db")
	var running []*exec.Cmd
	for range processes {
		running = append(running, start(t, path, rounds, new(strings.Builder)))
	}
	db := open(t, path, bolt.Options{NoSync: true})
	for range rounds {
		if err := db.Update(t.Context(), func(w kv.Writer) error { _, err := increment(w); return err }); err != nil {
			t.Fatal(err)
		}
		counters(t, db)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := counters(t, db), (processes+1)*rounds; got != want {
		t.Errorf("increments of %d processes: got %d, want %d", processes+1, got, want)
	}
}

func start(t *testing.T, path string, rounds int, out *strings.Builder) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BOLT_TEST_COUNT="+path, fmt.Sprint("BOLT_TEST_ROUNDS=", rounds))
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// A process is killed at random moments of its Updates and Compacts. What it had acknowledged is
// there, nothing is there by half, and nothing stays locked.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db := open(t, path, bolt.Options{Patience: 5 * time.Second})
	for range 20 {
		var out strings.Builder
		cmd := start(t, path, 1000, &out)
		time.Sleep(time.Duration(10+rand.IntN(60)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		acknowledged := 0
		for line := range strings.Lines(out.String()) {
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			acknowledged = max(acknowledged, n)
		}
		if acknowledged == 0 {
			continue
		}
		if got := counters(t, db); got < acknowledged {
			t.Fatalf("after a kill: got %d, want at least the acknowledged %d", got, acknowledged)
		}
		if err := db.Update(t.Context(), func(w kv.Writer) error { _, err := increment(w); return err }); err != nil {
			t.Fatalf("update after a kill: %v", err)
		}
	}
}

func TestHeldByAnotherProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db := open(t, path, bolt.Options{Patience: 10 * time.Millisecond})
	write := func() error {
		return db.Update(t.Context(), func(w kv.Writer) error { return w.Put([]byte("a"), nil) })
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	other, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "database " + path + " is held by another program for more than 10ms: unavailable"
	for name, got := range map[string]error{
		"view":    db.View(t.Context(), func(kv.Reader) error { return nil }),
		"update":  write(),
		"compact": db.Compact(t.Context()),
	} {
		if !errdefs.IsUnavailable(got) || got.Error() != want {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Errorf("after it was let go: %v", err)
	}
}

// Readers of another owner that follow each other without a gap do not keep a writer out.
func TestWriterAmongReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	opts := bolt.Options{NoSync: true, Patience: 5 * time.Second}
	writer := open(t, path, opts)
	write := func(w kv.Writer) error { return w.Put([]byte("a"), []byte("1")) }
	if err := writer.Update(t.Context(), write); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	const readers = 4
	reading := make(chan struct{}, readers)
	for range readers {
		reader := open(t, path, opts)
		go func() {
			for ctx.Err() == nil {
				err := reader.View(t.Context(), func(kv.Reader) error {
					select {
					case reading <- struct{}{}:
					default:
					}
					time.Sleep(2 * time.Millisecond) // long enough to overlap
					return nil
				})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range readers {
		<-reading
	}
	for range 10 {
		if err := writer.Update(t.Context(), write); err != nil {
			t.Error(err)
		}
	}
	cancel()
	for range readers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestReadOnlyFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "meta.db")
	db := open(t, path, bolt.Options{})
	if err := db.Update(t.Context(), func(w kv.Writer) error { return w.Put([]byte("a"), []byte("1")) }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".lock"} {
		if err := os.Chmod(name, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	want := syscall.EACCES
	if os.Getuid() == 0 { // whom permissions do not stop
		want = readOnly(t, dir, path+".lock")
	}
	err := db.View(t.Context(), func(r kv.Reader) error {
		_, err := r.Get([]byte("a"))
		return err
	})
	if err != nil {
		t.Errorf("view: %v", err)
	}
	if err := db.Update(t.Context(), func(kv.Writer) error { return nil }); !errors.Is(err, want) {
		t.Errorf("update: got %v, want %v", err, want)
	}
}

// readOnly keeps root from writing into dir, and returns the error that it gets: by a mount, or
// where those are not allowed, by a folder in the place of the lock file.
func readOnly(t *testing.T, dir, lock string) syscall.Errno {
	t.Helper()
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
			t.Fatal(err)
		}
		return syscall.EISDIR
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return syscall.EROFS
}

func TestCompactShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db := open(t, path, bolt.Options{NoSync: true})
	for _, write := range []func(w kv.Writer, key []byte) error{
		func(w kv.Writer, key []byte) error { return w.Put(key, bytes.Repeat(key, 100)) },
		func(w kv.Writer, key []byte) error { return w.Delete(key) },
	} {
		err := db.Update(t.Context(), func(w kv.Writer) (err error) {
			for i := range 1000 {
				err = errors.Join(err, write(w, fmt.Appendf(nil, "%020d", i)))
			}
			return errors.Join(err, w.Put([]byte("kept"), nil))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := size(); after > before/10 {
		t.Errorf("compact: got %d bytes of %d, want less than a tenth", after, before)
	}
	err := db.View(t.Context(), func(r kv.Reader) error { _, err := r.Get([]byte("kept")); return err })
	if err != nil {
		t.Error(err)
	}
}

// A transaction on a warm file of 30 MB.
func BenchmarkTransaction(b *testing.B) {
	path := filepath.Join(b.TempDir(), "meta.db")
	db := open(b, path, bolt.Options{NoSync: true})
	err := db.Update(b.Context(), func(w kv.Writer) (err error) {
		for range 100_000 {
			err = errors.Join(err, w.Put(fmt.Appendf(nil, "%032x", rand.Uint64()), make([]byte, 200)))
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("view", func(b *testing.B) {
		for b.Loop() {
			if err := db.View(b.Context(), func(kv.Reader) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("first view of a process", func(b *testing.B) {
		for b.Loop() {
			err := open(b, path, bolt.Options{}).View(b.Context(), func(kv.Reader) error { return nil })
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("first update of a process", func(b *testing.B) {
		for b.Loop() {
			err := open(b, path, bolt.Options{NoSync: true}).Update(b.Context(), func(kv.Writer) error { return nil })
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		for b.Loop() {
			if err := db.Update(b.Context(), func(w kv.Writer) error { return w.Put([]byte("a"), nil) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Each transaction and each compaction tells for how long it had the file locked.
func TestHeld(t *testing.T) {
	var held []time.Duration
	db := open(t, filepath.Join(t.TempDir(), "meta.db"), bolt.Options{NoSync: true, Held: func(d time.Duration) { held = append(held, d) }})
	const nap = 20 * time.Millisecond
	sleep := func() error { time.Sleep(nap); return nil }
	err := errors.Join(
		db.Update(t.Context(), func(w kv.Writer) error { return w.Put([]byte("a"), nil) }),
		db.Update(t.Context(), func(kv.Writer) error { return sleep() }),
		db.View(t.Context(), func(kv.Reader) error { return sleep() }),
		db.Compact(t.Context()),
	)
	if err != nil || len(held) != 4 {
		t.Fatalf("told %d times, %v, want 4", len(held), err)
	}
	if held[1] < nap || held[2] < nap {
		t.Errorf("held for %v, want %v of the second and the third", held, nap)
	}
}

// Updates that wait for each other are made durable together.
func TestUpdatesTogether(t *testing.T) {
	const updates = 50
	var held atomic.Int64
	db := open(t, filepath.Join(t.TempDir(), "meta.db"), bolt.Options{Held: func(time.Duration) { held.Add(1) }})
	err := db.Update(t.Context(), func(w kv.Writer) error { return w.Put([]byte("a"), []byte("0")) })
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for range updates {
		work.Go(func() {
			if err := db.Update(t.Context(), func(w kv.Writer) error { _, err := increment(w); return err }); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if got := counters(t, db); got != updates {
		t.Errorf("got %d, want %d", got, updates)
	}
	if n := held.Load(); n > updates/2 {
		t.Errorf("%d Updates at once: the file was opened %d times, want far less", updates, n)
	}
}

// Views that overlap without end share the file, and keep no writer of another DB out.
func TestViewsOverlap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db, other := open(t, path, bolt.Options{NoSync: true}), open(t, path, bolt.Options{NoSync: true})
	increments := func() {
		t.Helper()
		if err := other.Update(t.Context(), func(w kv.Writer) error { _, err := increment(w); return err }); err != nil {
			t.Fatal(err)
		}
	}
	increments()
	ctx, stop := context.WithCancel(t.Context())
	var views sync.WaitGroup
	for range 4 {
		views.Go(func() {
			for ctx.Err() == nil {
				err := db.View(ctx, func(r kv.Reader) error {
					a, err := r.Get([]byte("a"))
					if err != nil {
						return err
					}
					time.Sleep(time.Millisecond)
					z, err := r.Get([]byte("z"))
					if !bytes.Equal(a, z) {
						t.Errorf("one View sees %s and %s", a, z)
					}
					return err
				})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		increments()
		counters(t, db)
	}
	stop()
	views.Wait()
	if got := counters(t, db); got != 21 {
		t.Errorf("got %d, want 21", got)
	}
}

// The file stays open for the next View, but neither for long, nor when the DB is closed, nor in the way
// of an Update of the same DB.
func TestViewsInTurn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db, other := open(t, path, bolt.Options{NoSync: true}), open(t, path, bolt.Options{NoSync: true})
	for n := 1; n <= 20; n++ {
		by := []*bolt.DB{db, other}[n%2]
		if err := by.Update(t.Context(), func(w kv.Writer) error { _, err := increment(w); return err }); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if a, b := counters(t, db), counters(t, other); a != n || b != n {
				t.Fatalf("after %d increments: got %d and %d", n, a, b)
			}
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	counters(t, db)
	if err := errors.Join(db.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	if free, err := flock.TryLock(f, flock.Exclusive); !free || err != nil {
		t.Errorf("both are closed: got the lock %t, %v, want true", free, err)
	}
}

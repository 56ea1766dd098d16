package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
)

// sound is a database with branches, leaves, free pages and an entry of several pages.
func sound(t *testing.T, entries int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	db := open(t, path, bolt.Options{NoSync: true})
	for _, size := range []int{150, 60} {
		err := db.Update(t.Context(), func(w kv.Writer) (err error) {
			for i := range entries {
				err = errors.Join(err, w.Put(fmt.Appendf(nil, "key/%05d", i), bytes.Repeat([]byte{'v'}, size)))
			}
			return errors.Join(err, w.Put([]byte("large"), bytes.Repeat([]byte{'v'}, 100*size)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// use does a bit of everything, and reports what went wrong. An entry that is there must be right.
func use(t *testing.T, path string) error {
	db := open(t, path, bolt.Options{NoSync: true, Patience: 100 * time.Millisecond})
	read := func(r kv.Reader) (err error) {
		for e, scanErr := range r.Scan(nil) {
			if err = errors.Join(err, scanErr); scanErr == nil && strings.Trim(string(e.Value), "v") != "" {
				t.Errorf("entry %q has a wrong value", e.Key)
			}
		}
		return err
	}
	ctx := context.Background()
	return errors.Join(
		db.View(ctx, read),
		db.Update(ctx, func(w kv.Writer) (err error) {
			for i := range 40 {
				err = errors.Join(err, w.Put(fmt.Appendf(nil, "key/%05d", 17*i), []byte("v")), w.Delete(fmt.Appendf(nil, "key/%05d", 17*i+1)))
			}
			return errors.Join(err, w.Delete([]byte("large")))
		}),
		db.Compact(ctx),
		db.View(ctx, read),
	)
}

func write(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSound(t *testing.T) {
	if err := use(t, write(t, sound(t, 700))); err != nil {
		t.Fatal(err)
	}
}

// wantDamage checks that use found the damage, and said so in one line for each step.
func wantDamage(t *testing.T, what string, err error) {
	t.Helper()
	if !errdefs.IsDataLoss(err) {
		t.Errorf("%s: got %v, want data loss", what, err)
	}
}

func TestTruncated(t *testing.T) {
	data := sound(t, 700)
	path := filepath.Join(t.TempDir(), "meta.db")
	used := len(bytes.TrimRight(data, "\x00"))
	for size := 1; size < used; size += 1 + size/3 + size%5 {
		for _, size := range []int{size, size &^ 4095} {
			if size == 0 {
				continue // is an empty database
			}
			if err := os.WriteFile(path, data[:size], 0o600); err != nil {
				t.Fatal(err)
			}
			wantDamage(t, fmt.Sprintf("cut to %d bytes", size), use(t, path))
		}
	}
}

// The file is cut while a View has it open.
func TestTruncatedWhileOpen(t *testing.T) {
	path := write(t, sound(t, 700))
	err := open(t, path, bolt.Options{}).View(t.Context(), func(r kv.Reader) error {
		if err := os.Truncate(path, 8192); err != nil {
			return err
		}
		_, err := r.Get([]byte("key/00300"))
		for _, scanErr := range r.Scan(nil) {
			err = errors.Join(err, scanErr)
		}
		return err
	})
	wantDamage(t, "cut while it is read", err)
}

func TestForeign(t *testing.T) {
	for name, data := range map[string][]byte{
		"text":   []byte("not a database\n"),
		"zeros":  make([]byte, 64<<10),
		"sqlite": append([]byte("SQLite format 3\x00"), make([]byte, 8176)...),
	} {
		path := write(t, data)
		wantDamage(t, name, use(t, path))
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	for _, buckets := range []string{"", "v1", "v1 v2", "stowage v1"} {
		path := filepath.Join(t.TempDir(), "meta.db")
		other, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = other.Update(func(tx *bbolt.Tx) (err error) {
			for _, name := range strings.Fields(buckets) {
				_, bucketErr := tx.CreateBucket([]byte(name))
				err = errors.Join(err, bucketErr)
			}
			return err
		})
		if err := errors.Join(err, other.Close()); err != nil {
			t.Fatal(err)
		}
		err = use(t, path)
		wantDamage(t, "buckets "+buckets, err)
		if got, want := err.Error(), "belongs to another program"; !strings.Contains(got, want) {
			t.Errorf("buckets %s: got %q, want %q in it", buckets, got, want)
		}
	}
}

// Whatever byte is wrong, nothing crashes, hangs or reads a wrong value. Bytes that nothing looks
// at may go unnoticed.
func TestFlippedBytes(t *testing.T) {
	for _, entries := range []int{3, 250} {
		data := sound(t, entries)
		path := filepath.Join(t.TempDir(), "meta.db")
		noticed, n := 0, 0
		for page := 0; page < len(data); page += 4096 {
			// The headers and the first elements, where damage leads astray, in samples.
			for at := page; at < page+80 && at < len(data); at += 3 + n%9 {
				n++
				damaged := bytes.Clone(data)
				damaged[at] ^= []byte{0x01, 0xff, 0x80}[n%3]
				if err := os.WriteFile(path, damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				switch err := use(t, path); {
				case errdefs.IsDataLoss(err):
					noticed++
				case err != nil:
					t.Errorf("byte %d: got %v, want data loss or nothing", at, err)
				}
			}
		}
		if noticed == 0 {
			t.Errorf("database of %d entries: no flipped byte was noticed", entries)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, patch []byte, at int) {
		data := sound(t, 30)
		if at < 0 || at >= len(data) {
			return
		}
		copy(data[at:], patch)
		if err := use(t, write(t, data)); err != nil && !errdefs.IsDataLoss(err) {
			t.Errorf("got %v, want data loss or nothing", err)
		}
	})
}

package doctor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/image"
)

// A run goes on where another was interrupted, however often, and reads again what that one found
// damaged, did not finish, or could not have seen as it is now.
func TestVerifyResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "verify")
		var sizes []int
		for i := range 100 {
			sizes = append(sizes, i/2) // two of each size
		}
		s, list := sized(t, sizes...)
		bad := list[90].Digest
		s.bad[bad] = true
		time.Sleep(time.Hour)

		done := map[image.Digest]bool{}
		for run, resume := range []bool{false, true, true} {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			err := VerifyAll(ctx, s, file, resume, VerifyOptions{}, func(f BlobFinding) {
				if done[f.Digest] {
					t.Errorf("run %d read %s again", run, f.Digest)
				}
				done[f.Digest] = f.Verdict == OK
				if n++; n == 20 {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("run %d: got %v, want %v", run, err, context.Canceled)
			}
			time.Sleep(time.Hour)
		}
		touched := list[95]
		if !done[touched.Digest] {
			t.Fatalf("of two large blobs %v one was not read", touched)
		}
		if err := s.Delete(t.Context(), touched.Digest); err != nil {
			t.Fatal(err)
		}
		if err := content.Put(t.Context(), s, touched.Digest, contenttest.Bytes(95, int(touched.Size))); err != nil {
			t.Fatal(err)
		}
		fresh := contenttest.Bytes(1000, 1000) // larger than any other
		if err := content.Put(t.Context(), s, digest.FromBytes(fresh), fresh); err != nil {
			t.Fatal(err)
		}
		want := []image.Digest{touched.Digest, digest.FromBytes(fresh)}
		for _, b := range list {
			if !done[b.Digest] {
				want = append(want, b.Digest)
			}
		}
		slices.Sort(want)
		s.take()
		var found []image.Digest
		err := VerifyAll(t.Context(), s, file, true, VerifyOptions{}, func(f BlobFinding) {
			if f.Verdict != OK {
				found = append(found, f.Digest)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.take(); !slices.Equal(got, want) {
			t.Errorf("the last run read %d blobs:\n%v\nwant %d:\n%v", len(got), got, len(want), want)
		}
		if !slices.Equal(found, []image.Digest{bad}) {
			t.Errorf("found %v, want %s", found, bad)
		}
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a run came to its end, and left its file: %v", err)
		}
	})
}

// A process that is killed loses no more than a few seconds of its work.
func TestVerifyKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "verify")
		var sizes []int
		for range 100 {
			sizes = append(sizes, 1000)
		}
		s, _ := sized(t, sizes...)
		time.Sleep(time.Hour)
		n := 0
		err := VerifyAll(t.Context(), s, file, false, VerifyOptions{Rate: 1000}, func(BlobFinding) {
			if n++; n < 10 || n == 100 {
				return
			}
			kept := readCheckpoint(file)
			if kept == nil {
				t.Fatalf("nothing is kept of %d blobs", n)
			}
			list := 0
			for b, err := range s.Blobs(t.Context()) {
				if err == nil && kept.wants(b) {
					list++
				}
			}
			if most := 100 - n + 6 + smallAtOnce*runtime.GOMAXPROCS(0); list > most {
				t.Errorf("after %d blobs, another run would read %d of 100, want at most %d", n, list, most)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// What is collected while a run is under way is not missing.
func TestVerifyBesideCollection(t *testing.T) {
	var sizes []int
	for i := range 100 {
		sizes = append(sizes, 100-i)
	}
	s, list := sized(t, sizes...)
	n := 0
	err := VerifyAll(t.Context(), s, filepath.Join(t.TempDir(), "verify"), false, VerifyOptions{}, func(f BlobFinding) {
		if n++; n == 1 {
			if err := s.Delete(t.Context(), list[99].Digest); err != nil {
				t.Error(err)
			}
		}
		if f.Verdict != OK {
			t.Errorf("%s is %s", f.Digest, f.Verdict)
		}
	})
	if err != nil || n < 99 {
		t.Errorf("%d blobs were reported, %v; want the other 99", n, err)
	}
}

// What is not a checkpoint as it is written makes a run start anew.
func TestDamagedCheckpoint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "verify")
	s, list := sized(t, 1, 2, 3)
	c := &checkpoint{StartedAt: time.Now().Add(time.Hour), Size: 0, Digest: list[0].Digest, Again: map[image.Digest]bool{}}
	good, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	run := func(p []byte, want int) {
		t.Helper()
		if err := os.WriteFile(file, p, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := VerifyAll(t.Context(), s, file, true, VerifyOptions{}, func(BlobFinding) {}); err != nil {
			t.Fatal(err)
		}
		if got := s.take(); len(got) != want {
			t.Errorf("%q: read %d blobs, want %d", p, len(got), want)
		}
	}
	run(good, 0)
	for n := range good {
		if decodeCheckpoint(good[:n]) != nil {
			t.Errorf("cut at %d, it is taken", n)
		}
		changed := slices.Clone(good)
		changed[n] ^= 0x20
		if decodeCheckpoint(changed) != nil {
			t.Errorf("changed at %d, it is taken", n)
		}
	}
	run(good[:len(good)-1], 3)
	run(nil, 3)
	for _, body := range []string{
		`{}`, `{"again":{"../x":true}}`, `{"digest":"x","again":{}}`, `{"size":-1,"again":{}}`, `{"again":{}}` + strings.Repeat(" ", maxCheckpoint),
	} {
		if c := decodeCheckpoint(signed(body)); c != nil {
			t.Errorf("%.80q is taken: %+v", body, c)
		}
	}
}

// A store with much damage is not made to keep a large file.
func TestCheckpointIsBounded(t *testing.T) {
	c := &checkpoint{Again: map[image.Digest]bool{}}
	for i := range maxAgain {
		c.Again[image.Digest(fmt.Sprintf("sha512:%0128x", i))] = true
	}
	p, err := c.encode()
	if err != nil || !reflect.DeepEqual(decodeCheckpoint(p), c) {
		t.Errorf("%d bytes, %v: does not come back", len(p), err)
	}
	c.Again[digest.FromString("")] = true
	if _, err := c.encode(); err == nil {
		t.Error("one more is taken")
	}
}

func signed(body string) []byte {
	return fmt.Appendf(nil, "%s%x\n%s", checkpointMagic, sha256.Sum256([]byte(body)), body)
}

func FuzzCheckpoint(f *testing.F) {
	f.Add(`{"startedAt":"2026-11-21T16:00:00Z","size":5,"digest":"` + digest.FromString("a").String() + `","again":{}}`)
	f.Add(`{"again":{"` + digest.FromString("a").String() + `":true}}`)
	f.Fuzz(func(t *testing.T, body string) {
		_ = decodeCheckpoint([]byte(body)) // as it is, it hardly ever has the right sum
		c := decodeCheckpoint(signed(body))
		if c == nil {
			return
		}
		p, err := c.encode()
		if err != nil {
			return // a time that JSON reads and does not write
		}
		if again := decodeCheckpoint(p); len(p) <= maxCheckpoint && !reflect.DeepEqual(again, c) {
			t.Errorf("%+v comes back as %+v", c, again)
		}
	})
}

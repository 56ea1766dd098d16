package metadata_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
)

// journaled makes a store that keeps a journal, and tells where it is.
func journaled(t testing.TB, db kv.DB) (*metadata.Store, string) {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "names.log")
	return metadata.New(db, filepath.Join(dir, "holders")).KeepNames(name, true), name
}

// agree checks that a journal and the rows say the same.
func agree(t *testing.T, s *metadata.Store, journal string, namespaces ...string) {
	t.Helper()
	f, err := os.Open(journal)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	got, err := metadata.ReadNames(f)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, ns := range namespaces {
		images, err := s.Images(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			want[ns+" "+img.Name] = fmt.Sprint(img.Target.Digest, " ", img.Labels)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the journal says\n%v\nand the rows\n%v", got, want)
	}
}

func TestJournalSaysWhatTheRowsSay(t *testing.T) {
	s, journal := journaled(t, mem.New())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		agree(t, s, journal, "default", "other")
	}
	for _, ns := range []string{"default", "other"} {
		_, err := s.Apply(t.Context(), ns, app(1))
		must(err)
	}
	_, err := s.Tag(t.Context(), "default", "app:1", "app:latest", false)
	must(err)
	_, err = s.Apply(t.Context(), "default", app(2))
	must(err)
	_, err = s.Tag(t.Context(), "default", "app:2", "app:latest", true)
	must(err)
	_, err = s.LabelImage(t.Context(), "default", "app:latest", map[string]string{"stowage.pin": "yes"})
	must(err)
	_, err = s.RemoveImages(t.Context(), "default", "app:1", "nothing:1")
	must(err)
	_, err = s.Apply(t.Context(), "default", app(1))
	must(err)
}

// app is a batch with the image app:n.
func app(n int) metadata.Batch {
	m, c, l := fmt.Sprint("manifest ", n), fmt.Sprint("config ", n), fmt.Sprint("layer ", n)
	return metadata.Batch{
		Blobs: blobs(m, c, l), Documents: []metadata.Document{manifest(m, c, l)}, Images: []metadata.PutImage{put(fmt.Sprint("app:", n), m)},
	}
}

func TestUnchangedNameWritesNothing(t *testing.T) {
	s, journal := journaled(t, mem.New())
	var sizes []int
	for range 3 {
		if _, err := s.Apply(t.Context(), "default", app(1)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(journal)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(b))
	}
	if sizes[0] == 0 || sizes[1] != sizes[0] || sizes[2] != sizes[0] {
		t.Errorf("after one pull and the same twice more the journal has %v bytes", sizes)
	}
}

func TestJournalSurvivesDamage(t *testing.T) {
	s, journal := journaled(t, mem.New())
	for n := range 3 {
		if _, err := s.Apply(t.Context(), "default", app(n)); err != nil {
			t.Fatal(err)
		}
	}
	good, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	flip := bytes.Clone(lines[1])
	flip[len(flip)/2] ^= 1
	for name, c := range map[string]struct {
		bytes []byte
		left  int
	}{
		"cut off":        {good[:len(good)-5], 2},
		"a flipped bit":  {slices.Concat(lines[0], flip, lines[2], lines[3]), 2},
		"zeros":          {slices.Concat(good, make([]byte, 1<<20)), 3},
		"other words":    {slices.Concat([]byte("hello\n\n{}\n00000000 {}\n"), good), 3},
		"a line too far": {slices.Concat(bytes.Repeat([]byte("x"), 1<<20), []byte("\n"), good), 3},
	} {
		got, err := metadata.ReadNames(bytes.NewReader(c.bytes))
		if err != nil || len(got) != c.left {
			t.Errorf("%s: got %v, %v, want %d names", name, got, err, c.left)
		}
	}
	// What is cut off does not swallow the next line.
	if err := os.WriteFile(journal, good[:len(good)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(t.Context(), "default", "app:0", "further:1", false); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := metadata.ReadNames(bytes.NewReader(b)); err != nil || len(got) != 3 || got["default further:1"] == "" {
		t.Errorf("got %v, %v", got, err)
	}
}

// A removal is written after its transaction. Another process may give the name again before
// that, whose line then stands before it.
func TestLateRemoval(t *testing.T) {
	s, journal := journaled(t, mem.New())
	if _, err := s.Apply(t.Context(), "default", app(1)); err != nil {
		t.Fatal(err)
	}
	given := func() []byte {
		b, err := os.ReadFile(journal)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := len(given())
	if _, err := s.RemoveImages(t.Context(), "default", "app:1"); err != nil {
		t.Fatal(err)
	}
	removal := given()[before:]
	again := len(given())
	if _, err := s.Apply(t.Context(), "default", app(1)); err != nil {
		t.Fatal(err)
	}
	all := given()
	got, err := metadata.ReadNames(bytes.NewReader(slices.Concat(all[:before], all[again:], removal)))
	if err != nil || got["default app:1"] == "" {
		t.Errorf("the name is gone: %v, %v", got, err)
	}
}

func TestLostDatabase(t *testing.T) {
	dir := t.TempDir()
	open := func() *metadata.Store {
		db, err := bolt.Open(filepath.Join(dir, "meta.db"), bolt.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.New(db, filepath.Join(dir, "holders")).KeepNames(filepath.Join(dir, "names.log"), true)
	}
	s := open()
	if list, err := s.Images(t.Context(), "default"); err != nil || len(list) > 0 {
		t.Errorf("a new store: got %v, %v", list, err)
	}
	if _, err := s.Apply(t.Context(), "default", app(1)); err != nil {
		t.Fatal(err)
	}
	for _, lose := range []func(name string) error{
		func(name string) error { return os.WriteFile(name, nil, 0o600) },
		os.Remove,
	} {
		if err := lose(filepath.Join(dir, "meta.db")); err != nil {
			t.Fatal(err)
		}
		_, readErr := open().Images(t.Context(), "default")
		_, writeErr := open().Apply(t.Context(), "default", app(2))
		if !errdefs.IsDataLoss(readErr) || !errdefs.IsDataLoss(writeErr) {
			t.Errorf("got %v and %v, want %v", readErr, writeErr, errdefs.ErrDataLoss)
		}
	}
}

func TestCompactedJournal(t *testing.T) {
	s, journal := journaled(t, mem.New())
	if _, err := s.Apply(t.Context(), "default", app(1)); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 2000)
	var before, after int64
	for i := range 400 {
		if _, err := s.LabelImage(t.Context(), "default", "app:1", map[string]string{"n": long + fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		size := func() int64 {
			info, err := os.Stat(journal)
			if err != nil {
				t.Fatal(err)
			}
			return info.Size()
		}
		before = max(before, size())
		if err := s.CompactNames(t.Context()); err != nil {
			t.Fatal(err)
		}
		after = size()
		agree(t, s, journal, "default")
	}
	if before < 256<<10 || before > 400<<10 || after > 256<<10 {
		t.Errorf("it grew to %d bytes, and has %d at the end", before, after)
	}
}

// Names are given and taken by several, some of whom find the journal long enough to write it
// anew. No line is lost.
func TestJournalIsCompactedBesideWriters(t *testing.T) {
	dir := t.TempDir()
	open := func() *metadata.Store {
		db, err := bolt.Open(filepath.Join(dir, "meta.db"), bolt.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.New(db, filepath.Join(dir, "holders")).KeepNames(filepath.Join(dir, "names.log"), true)
	}
	if _, err := open().Apply(t.Context(), "default", app(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writers, compactors sync.WaitGroup
	for w := range 3 {
		s := open()
		writers.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("w%d:%d", w, i%7)
				if _, err := s.Tag(ctx, "default", "app:1", name, true); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					if _, err := s.RemoveImages(ctx, "default", name); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 2 {
		s := open()
		compactors.Go(func() {
			for ctx.Err() == nil {
				if err := metadata.RewriteNames(ctx, s); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	cancel()
	compactors.Wait()
	agree(t, open(), filepath.Join(dir, "names.log"), "default")
}

func FuzzReadNames(f *testing.F) {
	s, journal := journaled(f, mem.New())
	if _, err := s.Apply(f.Context(), "default", app(1)); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(journal)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// With the checksums right, it is the content that is looked at.
		for _, p := range [][]byte{b, metadata.Checksummed(b)} {
			if _, err := metadata.ReadNames(bytes.NewReader(p)); err != nil {
				t.Error(err)
			}
		}
	})
}

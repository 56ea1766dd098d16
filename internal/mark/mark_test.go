package mark

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/vfs"
)

// A machine is a disk that counts its flushes, at one boot.
type machine struct {
	vfs.FS
	boot   string
	synced int
}

func (m *machine) BootID() string { return m.boot }
func (m *machine) SyncAll() error { m.synced++; return nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open is a process that opens the store: it says since when it found it unclean, or the zero time.
func open(t *testing.T, name string, disk vfs.FS) (m *Mark, since time.Time) {
	t.Helper()
	m = New(name, disk)
	must(t, m.Check(t.Context(), func(at time.Time) error { since = at; return nil }))
	return m, since
}

func TestMark(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mark")
	disk := &machine{FS: vfs.NewMem(), boot: "one"}
	next := &machine{FS: vfs.NewMem(), boot: "two"}
	begun := time.Now()
	unclean := func(what string, want bool) {
		t.Helper()
		if _, since := open(t, name, disk); !since.IsZero() {
			t.Errorf("%s: it is unclean while the machine is up", what)
		}
		b, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		later := filepath.Join(t.TempDir(), "mark") // as the next boot finds it
		must(t, os.WriteFile(later, b, 0o600))
		_, since := open(t, later, next)
		if got := !since.IsZero(); got != want {
			t.Errorf("%s: unclean at the next boot: got %t, want %t", what, got, want)
		}
		if want && (since.Before(begun) || since.After(time.Now())) {
			t.Errorf("%s: since %v, want from %v on", what, since, begun)
		}
		if _, since := open(t, later, next); !since.IsZero() {
			t.Errorf("%s: it is unclean again when it was verified", what)
		}
	}
	unclean("nobody wrote", false)
	a, _ := open(t, name, disk)
	a.Enter()
	unclean("somebody is about to write", false)
	must(t, a.Write())
	must(t, a.Write())
	unclean("somebody writes", true)
	b, _ := open(t, name, disk)
	b.Enter()
	must(t, b.Write())
	must(t, a.Leave())
	unclean("another still writes", true)
	b.Enter()
	must(t, b.Leave())
	unclean("another still writes something", true)
	must(t, b.Leave())
	unclean("all is written", false)
	if disk.synced > 0 {
		t.Errorf("%d flushes, where each had done its own", disk.synced)
	}
}

// Who does not flush leaves the mark to whoever does.
func TestUnsynced(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mark")
	disk := &machine{FS: vfs.NewMem(), boot: "one"}
	set := func() bool {
		t.Helper()
		b, err := os.ReadFile(name)
		must(t, err)
		return parse(string(b)).set
	}
	lazy, tidy := New(name, vfs.NoSync(disk)), New(name, disk)
	tidy.Enter()
	must(t, tidy.Write())
	lazy.Enter()
	must(t, lazy.Write())
	must(t, lazy.Leave())
	if !set() {
		t.Error("the mark is gone")
	}
	must(t, tidy.Leave())
	if set() || disk.synced != 1 {
		t.Errorf("set %t after %d flushes, want clean after one", set(), disk.synced)
	}
	lazy.Enter()
	must(t, lazy.Write())
	must(t, lazy.Leave())
	if !set() || disk.synced != 1 {
		t.Errorf("set %t, %d flushes", set(), disk.synced)
	}
}

// A mark that makes no sense is one of ever since; one that could not be verified stays.
func TestDamaged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mark")
	disk := &machine{FS: vfs.NewMem(), boot: "one"}
	m := New(name, disk)
	whole := string(state{true, "zero", time.Now(), false}.encode())
	for _, text := range []string{"words", "\x00", strings.Repeat("\x00", fileSize), head + "zero later\n", whole[:20], whole} {
		must(t, os.WriteFile(name, []byte(text), 0o600))
		broken := errors.New("broken")
		if err := m.Check(t.Context(), func(time.Time) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("%q: error %v", text, err)
		}
		asked := false
		must(t, m.Check(t.Context(), func(since time.Time) error {
			asked = true
			if since.IsZero() != (text != whole) {
				t.Errorf("%q: since %v", text, since)
			}
			return nil
		}))
		if !asked {
			t.Errorf("%q is not verified", text)
		}
	}
	must(t, os.WriteFile(name, nil, 0o600))
	must(t, m.Check(t.Context(), func(time.Time) error { return errors.New("it was never set") }))
}

// While anybody writes the mark is set, and when nobody does it is not.
func TestSideBySide(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mark")
	disk := &machine{FS: vfs.NewMem(), boot: "one"}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			m := New(name, disk)
			for range 50 {
				m.Enter()
				if err := m.Write(); err != nil {
					t.Error(err)
				}
				if b, err := os.ReadFile(name); err != nil || !parse(string(b)).set {
					t.Errorf("it is not set, error %v", err)
				}
				if err := m.Leave(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(name)
	must(t, err)
	if parse(string(b)).set {
		t.Error("it is set when all have ended")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(string(state{true, "boot", time.Now(), true}.encode()))
	f.Add(string(state{}.encode()))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		s := parse(text)
		if s.set && !s.since.IsZero() {
			if again := parse(string(s.encode())); again.boot != s.boot || !again.since.Equal(s.since) {
				t.Errorf("%q became %q", s.boot, again.boot)
			}
		}
	})
}

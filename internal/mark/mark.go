// Package mark tells, after the machine went down, whether what was written last can be believed.
//
// A store has one mark, a small file. It is set by whoever is about to write, before the first
// byte, which costs one flush; and it is taken away, which costs none, by the last of those who
// write, when all is flushed. A mark that is set and is of an earlier boot says that the machine
// went down in between, and since when that may be.
//
// Who writes has the shared lock of the file, and who takes the mark away the exclusive one.
package mark

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/vfs"
)

// A Mark is that of a store, in one process. Goroutines may share it.
type Mark struct {
	name string
	disk vfs.FS

	mu    sync.Mutex
	users int
	file  *os.File // set and locked by us; nil: it is not
}

// New is the mark in the file called name, of what is written to disk.
func New(name string, disk vfs.FS) *Mark { return &Mark{name: name, disk: disk} }

// Enter says that an operation begins which may write, and Leave that it has ended, and has flushed
// what counts. When none is left the mark goes.
func (m *Mark) Enter() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users++
}

// Leave ends what Enter began.
func (m *Mark) Leave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users--; m.users > 0 {
		return nil
	}
	return m.clear()
}

// Write sets the mark, unless this process has. What is written after it has returned is told apart
// from what was there before.
func (m *Mark) Write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		return nil
	}
	f, err := m.set()
	if err != nil {
		return fmt.Errorf("mark the store as being written: %w", err)
	}
	m.file = f
	return nil
}

func (m *Mark) set() (*os.File, error) {
	f, err := os.OpenFile(m.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		s, err := m.trySet(f)
		if err == nil && s.set && !vfs.Syncs(m.disk) && !s.unsynced {
			_, err = f.WriteAt([]byte(unsynced), unsyncedAt) // the same by whoever shares the lock
		}
		if err != nil || m.old(s) { // who verifies it one day must not have to wait for us
			return nil, errors.Join(err, flock.Unlock(f), f.Close())
		}
		if s.set {
			return f, nil
		}
	}
}

// trySet sets the mark if nobody else has, and shares its lock. Should somebody take it away in
// between, it is not set.
func (m *Mark) trySet(f *os.File) (state, error) {
	alone, err := flock.TryLock(f, flock.Exclusive)
	if err != nil {
		return state{}, err
	}
	if alone {
		s, err := read(f)
		if err != nil || s.set {
			return s, errors.Join(err, flock.Lock(context.Background(), f, flock.Shared))
		}
		if err := m.begin(f); err != nil {
			return state{}, err
		}
	}
	// From exclusive to shared the lock is nobody's for a moment.
	if err := flock.Lock(context.Background(), f, flock.Shared); err != nil {
		return state{}, err
	}
	return read(f)
}

// begin writes the mark and makes it durable, whatever else is not flushed: without it nobody would
// know.
func (m *Mark) begin(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s := state{set: true, boot: m.disk.BootID(), since: time.Now()}
	if _, err := f.WriteAt(s.encode(), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || info.Size() > 0 {
		return err
	}
	dir, err := os.Open(filepath.Dir(m.name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// clear takes the mark away if nobody else writes. What was not flushed is, now, if this process
// flushes at all.
func (m *Mark) clear() (err error) {
	f := m.file
	if f == nil {
		return nil
	}
	m.file = nil
	defer func() { err = errors.Join(err, f.Close()) }()
	if !vfs.Syncs(m.disk) {
		return flock.Unlock(f)
	}
	alone, err := flock.TryLock(f, flock.Exclusive)
	if err != nil || !alone {
		return err // the last one does it
	}
	s, err := read(f)
	if err == nil && s.unsynced {
		err = m.disk.SyncAll()
	}
	if err == nil {
		_, err = f.WriteAt(state{}.encode(), 0)
	}
	return errors.Join(err, flock.Unlock(f))
}

// Check looks whether the machine went down while the store was being written to. If so it calls
// verify with the time since when; once that has returned nil the mark is gone. Others that check
// meanwhile wait. Where the mark cannot be changed, nothing is verified.
func (m *Mark) Check(ctx context.Context, verify func(since time.Time) error) (err error) {
	f, err := os.Open(m.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := read(f)
	if err = errors.Join(err, f.Close()); err != nil || !m.old(s) {
		return err
	}
	if f, err = os.OpenFile(m.name, os.O_RDWR, 0); err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, flock.Unlock(f), f.Close()) }()
	if err := flock.Lock(ctx, f, flock.Exclusive); err != nil {
		return err
	}
	if s, err = read(f); err != nil || !m.old(s) {
		return err
	}
	if err := verify(s.since); err != nil {
		return err
	}
	_, err = f.WriteAt(state{}.encode(), 0)
	return err
}

// old tells a mark that whoever set it cannot take away any more.
func (m *Mark) old(s state) bool { return s.set && s.boot != m.disk.BootID() }

// Disk is fsys with the mark set before anything is written to a file of it.
func (m *Mark) Disk(fsys vfs.FS) vfs.FS { return markedDisk{fsys, m} }

type markedDisk struct {
	vfs.FS
	mark *Mark
}

func (d markedDisk) Create(name string, perm fs.FileMode) (vfs.File, error) {
	if err := d.mark.Write(); err != nil {
		return nil, err
	}
	return d.FS.Create(name, perm)
}

// A state is what the file says: a line of text, blanks up to unsyncedAt, and a word there if
// somebody wrote who does not flush.
type state struct {
	set      bool
	boot     string
	since    time.Time
	unsynced bool
}

const (
	head       = "stowage mark 1 "
	clean      = "clean"
	unsynced   = "unsynced\n"
	unsyncedAt = 256
	fileSize   = unsyncedAt + len(unsynced)
)

func (s state) encode() []byte {
	text := head + clean
	if s.set {
		text = head + s.boot + " " + s.since.UTC().Format(time.RFC3339Nano)
	}
	text += "\n"
	return []byte(text + strings.Repeat(" ", unsyncedAt-len(text)) + strings.Repeat(" ", len(unsynced)-1) + "\n")
}

// read reads the file. One that is empty was just being made, and what makes no sense is set since
// ever: it was damaged with all else.
func read(f io.ReaderAt) (state, error) {
	b := make([]byte, fileSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return state{}, err
	}
	return parse(string(b[:n])), nil
}

func parse(text string) state {
	if text == "" {
		return state{}
	}
	s := state{set: true, unsynced: strings.HasSuffix(text, unsynced)}
	line, _, _ := strings.Cut(text, "\n")
	rest, ok := strings.CutPrefix(line, head)
	if ok && rest == clean {
		return state{}
	}
	boot, at, _ := strings.Cut(rest, " ")
	since, err := time.Parse(time.RFC3339Nano, at)
	if ok && err == nil {
		s.boot, s.since = boot, since
	}
	return s
}

package metadata

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/flock"
	"github.com/stowage/stowage/internal/image"
)

// A journal is a file with a line for each name that was given, changed or taken away, so that
// names outlive the database. See doc/formats/names.md.
//
// A line that gives a name is written while the transaction that gives it has the database, so
// that the order of the lines is that of the transactions. One that takes a name away is written
// after the transaction, with the time of it: what a crash in between loses is a removal, and
// never a name. Lines are durable before the act is acknowledged.
type journal struct {
	path   string
	nosync bool
}

// Limits of the journal.
const (
	maxLine    = 256 << 10 // bytes of one line; a name whose labels are longer is kept without them
	maxJournal = 1 << 30   // bytes of the file that are read
	// slack is how much more than twice its length after a compaction the journal may grow.
	slack = 256 << 10
)

// A line of the journal: the head of a compacted one, or an act.
type line struct {
	Version int   `json:"version,omitempty"` // of the format, in a head
	Size    int64 `json:"size,omitempty"`    // bytes after the compaction, in a head

	At        time.Time         `json:"at,omitzero"`
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name,omitempty"`
	Target    *image.Descriptor `json:"target,omitempty"` // nil: the name was taken away
	Labels    map[string]string `json:"labels,omitempty"`
	Want      []image.Digest    `json:"want,omitempty"`
	CreatedAt time.Time         `json:"createdAt,omitzero"`
}

const journalVersion = 1

// KeepNames makes the store keep a journal of names in the file at path. With nosync it is left
// to the system when lines reach the disk. It returns s, which is not shared yet.
func (s *Store) KeepNames(path string, nosync bool) *Store {
	s.journal = &journal{path, nosync}
	return s
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// append writes l behind its checksum.
func (l line) append(b []byte) ([]byte, error) {
	p, err := json.Marshal(l)
	if err == nil && len(p) > maxLine-10 && l.Target != nil {
		l.Labels, l.Want = nil, nil
		l.Target = &image.Descriptor{MediaType: l.Target.MediaType, Digest: l.Target.Digest, Size: l.Target.Size}
		p, err = json.Marshal(l)
	}
	if err != nil {
		return b, err
	}
	b = fmt.Appendf(b, "%08x ", crc32.Checksum(p, castagnoli))
	return append(append(b, p...), '\n'), nil
}

// parseLine is the inverse of append, without the newline; false for what a crash or a disk left
// that is no line.
func parseLine(b []byte) (l line, ok bool) {
	sum, p, found := bytes.Cut(b, []byte{' '})
	if !found || string(sum) != fmt.Sprintf("%08x", crc32.Checksum(p, castagnoli)) || json.Unmarshal(p, &l) != nil {
		return line{}, false
	}
	if l.Version != 0 {
		return l, l.Version == journalVersion && l.Size >= 0
	}
	if CheckNamespace(l.Namespace) != nil || checkName(l.Name) != nil || checkLabels(l.Labels) != nil || checkDigests(l.Want...) != nil {
		return line{}, false
	}
	return l, l.Target == nil || image.CheckDescriptor(*l.Target) == nil
}

// readNames reads a journal: the names that stand at its end.
func readNames(r io.Reader) (map[namedImage]line, error) {
	names := map[namedImage]line{}
	lines := bufio.NewReaderSize(io.LimitReader(r, maxJournal), maxLine)
	for {
		b, err := lines.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			for err == bufio.ErrBufferFull {
				_, err = lines.ReadSlice('\n')
			}
			b = nil
		}
		if l, ok := parseLine(bytes.TrimSuffix(b, []byte{'\n'})); ok && l.Version == 0 {
			n := namedImage{l.Namespace, l.Name}
			switch before, known := names[n]; {
			case l.Target != nil:
				names[n] = l
			case known && !before.At.After(l.At): // else it was given again before this was written
				delete(names, n)
			}
		}
		if err == io.EOF {
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the journal of names: %w", err)
		}
	}
}

// checkEmpty tells whether it can be that the database is empty: it was lost if names were given.
// One is made before the first name is given.
func (j *journal) checkEmpty() error {
	names, err := j.names()
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("the database is empty, and its journal of names has %d: it was lost: %w", len(names), errdefs.ErrDataLoss)
	}
	return err
}

// names reads the journal. There are none without one.
func (j *journal) names() (names map[namedImage]line, err error) {
	if j == nil {
		return nil, nil
	}
	f, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readNames(f)
}

// write appends the acts that give names, or those that take them away.
func (j *journal) write(ctx context.Context, all acts, give bool) (err error) {
	if j == nil {
		return nil
	}
	var b []byte
	for _, l := range all {
		if (l.Target != nil) == give {
			if b, err = l.append(b); err != nil {
				return err
			}
		}
	}
	if len(b) == 0 {
		return nil
	}
	f, err := flock.Open(ctx, flock.Shared, func() (*os.File, error) {
		return os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	})
	if err != nil {
		return fmt.Errorf("write the journal of names: %w", err)
	}
	whole, err := endsLine(f)
	if err == nil {
		if !whole {
			b = append([]byte{'\n'}, b...)
		}
		_, err = f.Write(b)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the journal of names: %w", err)
	}
	return nil
}

// finish makes lines durable. It answers whether the journal lacks names that were given before there
// was one.
func (j *journal) finish() (lacks bool, err error) {
	f, err := os.Open(j.path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := j.sync(f); err != nil {
		return false, fmt.Errorf("write the journal of names: %w", err)
	}
	_, compacted, err := journalSize(f)
	return compacted == 0, err
}

// endsLine tells whether the file ends where a line does; a crash may have cut off the last.
func endsLine(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return true, err
	}
	var end [1]byte
	_, err = f.ReadAt(end[:], info.Size()-1)
	return end[0] == '\n', err
}

// journalSize reads the length of a journal, and what its head says: how long it was when it was
// last compacted. A journal without a head, which may lack names, was of length 0.
func journalSize(f *os.File) (now, compacted int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return 0, 0, err
	}
	first, _, _ := bytes.Cut(head[:n], []byte{'\n'})
	if l, ok := parseLine(first); ok && l.Version > 0 {
		return info.Size(), l.Size, nil
	}
	return info.Size(), 0, nil
}

// syncDir makes the name of the journal durable.
func (j *journal) syncDir() error {
	if j.nosync {
		return nil
	}
	d, err := os.Open(filepath.Dir(j.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// acts are what one transaction does to names, each name's last.
type acts map[namedImage]line

// given notes that a name is given or changed, if anything that the journal keeps of it is new.
func (a acts) given(v view, ns string, row *imageRow, at time.Time) error {
	now, err := json.Marshal(lineOf(ns, row, at))
	if err != nil {
		return err
	}
	old, err := v.image(ns, row.Name)
	if err == nil {
		if before, err := json.Marshal(lineOf(ns, &old, at)); err != nil || bytes.Equal(before, now) {
			return err
		}
	}
	a[namedImage{ns, row.Name}] = lineOf(ns, row, at)
	return nil
}

// lineOf is the line that gives the name of an image.
func lineOf(ns string, row *imageRow, at time.Time) line {
	return line{At: at, Namespace: ns, Name: row.Name, Target: &row.Target, Labels: row.Labels, Want: row.Want, CreatedAt: row.CreatedAt}
}

// taken notes that a name is taken away.
func (a acts) taken(ns, name string, at time.Time) {
	a[namedImage{ns, name}] = line{At: at, Namespace: ns, Name: name}
}

// recorded runs act, a transaction that writes, and keeps in the journal what it does to names.
// One that does nothing to them costs nothing.
func (s *Store) recorded(ctx context.Context, act func(acts, func() error) error) error {
	names := acts{}
	err := act(names, func() error { return s.journal.write(ctx, names, true) })
	if err != nil || s.journal == nil || len(names) == 0 {
		return err
	}
	ctx = context.WithoutCancel(ctx) // it is done, and only to be told
	if err := s.journal.write(ctx, names, false); err != nil {
		return err
	}
	lacks, err := s.journal.finish()
	if err != nil || !lacks {
		return err
	}
	return s.rewriteNames(ctx)
}

// CompactNames writes the journal of names anew, with what the rows say, if it has grown to twice
// its length. It waits for nobody and holds up those who give names for no longer than it takes
// to copy what they wrote meanwhile.
func (s *Store) CompactNames(ctx context.Context) (err error) {
	if s.journal == nil {
		return nil
	}
	f, err := os.Open(s.journal.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	now, compacted, err := journalSize(f)
	if err = errors.Join(err, f.Close()); err != nil || now <= 2*compacted+slack {
		return err
	}
	return s.rewriteNames(ctx)
}

// rewriteNames makes a new journal of the rows, and of the lines that are written meanwhile.
func (s *Store) rewriteNames(ctx context.Context) (err error) {
	j := s.journal
	fresh, err := flock.TryOpen(flock.Exclusive, func() (*os.File, error) {
		return os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE, 0o600)
	})
	if fresh == nil || err != nil {
		return err // another process is at it
	}
	defer func() { err = errors.Join(err, fresh.Close()) }()
	old, err := os.Open(j.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	from, rows, damaged, err := s.lines(ctx, old)
	if err == nil && len(damaged) > 0 {
		rows, err = j.keep(rows, damaged, io.NewSectionReader(old, 0, from))
	}
	if err != nil {
		return err
	}
	head, err := line{Version: journalVersion, Size: int64(len(rows)) + 1}.append(nil)
	if err != nil {
		return err
	}
	if err := fresh.Truncate(0); err != nil {
		return err
	}
	if _, err := fresh.Write(append(head, rows...)); err != nil {
		return err
	}
	if err := j.sync(fresh); err != nil {
		return err
	}
	return j.replace(ctx, fresh, old, from)
}

// replace puts the journal fresh into the place of old, with what old has behind from.
func (j *journal) replace(ctx context.Context, fresh, old *os.File, from int64) error {
	if err := flock.Lock(ctx, old, flock.Exclusive); err != nil {
		return err
	}
	if current, err := flock.Current(old); err != nil || !current {
		return err // it was removed; who writes the next line makes another
	}
	n, err := io.Copy(fresh, io.NewSectionReader(old, from, maxJournal))
	if err == nil && n > 0 {
		err = j.sync(fresh)
	}
	if err == nil {
		err = os.Rename(fresh.Name(), j.path)
	}
	if err != nil {
		return err
	}
	return j.syncDir()
}

// keep adds to b the lines of names whose rows are damaged.
func (j *journal) keep(b []byte, damaged []namedImage, old io.Reader) ([]byte, error) {
	names, err := readNames(old)
	if err != nil {
		return nil, err
	}
	for _, n := range damaged {
		if l, ok := names[n]; ok {
			if b, err = l.append(b); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// lines are those of a journal that has just what the rows say, but for rows that are damaged, and
// what old has behind from. They are read in short transactions; what changes between them is
// behind from.
func (s *Store) lines(ctx context.Context, old *os.File) (from int64, b []byte, damaged []namedImage, err error) {
	prefix := []byte(imageRows)
	for next, first := prefix, true; next != nil && err == nil; first = false {
		err = s.view(ctx, func(v view) error {
			if first {
				// No transaction that writes is under way: the rows have all that stands before here.
				info, err := old.Stat()
				if err != nil {
					return err
				}
				from = info.Size()
			}
			began, n := time.Now(), 0
			for e, err := range v.ScanFrom(prefix, next) {
				if err != nil && e.Key == nil {
					return err
				}
				if n++; n%16 == 0 && time.Since(began) > viewTime {
					next = bytes.Clone(e.Key)
					return nil
				}
				ns, name := cut(e.Key, prefix)
				var row imageRow
				if err != nil || decode(e.Key, e.Value, &row) != nil {
					damaged = append(damaged, namedImage{ns, name})
					continue
				}
				if b, err = lineOf(ns, &row, row.UpdatedAt).append(b); err != nil {
					return err
				}
			}
			next = nil
			return nil
		})
	}
	return from, b, damaged, err
}

// sync makes a journal durable.
func (j *journal) sync(f *os.File) error {
	if j.nosync {
		return nil
	}
	return f.Sync()
}

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

// Ingests implements [content.Store]. A small blob that is just being written is not listed: it
// has no state yet. What a process died over before there was a state is thrown away.
func (s *Store) Ingests(ctx context.Context) ([]content.Status, error) {
	entries, err := s.disk.ReadDir(ingestsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	var list []content.Status
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list ingests: %w", err)
		}
		if strings.Contains(e.Name(), ".") {
			s.clearState(e.Name(), entries)
			continue
		}
		if st, ok := s.status(ingestsDir + "/" + e.Name()); ok {
			list = append(list, st)
		}
	}
	return list, nil
}

// Status implements [content.Store].
func (s *Store) Status(_ context.Context, key string) (content.Status, error) {
	if err := content.ValidateIngest(key, content.Want{}); err != nil {
		return content.Status{}, fmt.Errorf("ingest %s: %w", key, err)
	}
	st, ok := s.status(ingestPath(key))
	if !ok {
		return content.Status{}, fmt.Errorf("ingest %s: %w", key, errdefs.ErrNotFound)
	}
	return st, nil
}

// status describes the ingest in the file path. What cannot be read is none: the next Begin of
// its key puts it right.
func (s *Store) status(path string) (content.Status, bool) {
	f, err := s.disk.Open(path)
	if err != nil {
		return content.Status{}, false
	}
	defer func() { _ = f.Close() }() // it was only read
	fi, err := f.Stat()
	if err != nil {
		return content.Status{}, false
	}
	free, err := f.TryLock()
	if err != nil {
		return content.Status{}, false
	}
	st, err := s.readState(path)
	if err != nil || ingestPath(st.Key) != path {
		if free && errors.Is(err, fs.ErrNotExist) {
			s.clear(path, f, fi)
		}
		return content.Status{}, false
	}
	offset := fi.Size()
	if free {
		offset = 0
		if st.trusted(fi.Size(), s.disk.BootID()) {
			offset = st.Offset
		}
	}
	return content.Status{
		Key: st.Key, Offset: offset, Size: st.Size, Digest: st.Digest,
		StartedAt: st.StartedAt, UpdatedAt: fi.ModTime(), Busy: !free,
	}, true
}

// clearState throws away a state whose ingest is not among entries. What cannot be removed is
// left to the next Begin.
func (s *Store) clearState(name string, entries []fs.DirEntry) {
	id, _, _ := strings.Cut(name, ".")
	isID := func(e fs.DirEntry) bool { return e.Name() == id }
	if strings.HasPrefix(name, id+stateSuffix) && !slices.ContainsFunc(entries, isID) {
		if err := s.disk.Remove(ingestsDir + "/" + name); err == nil {
			_ = s.disk.SyncDir(ingestsDir) // it must not come back beside the bytes of another
		}
	}
}

// clear throws away data without a state, whose lock we hold. What cannot be removed is left to
// the next Begin.
func (s *Store) clear(path string, f vfs.File, fi fs.FileInfo) {
	if now, err := s.disk.Lstat(path); err == nil && vfs.SameFile(fi, now) {
		_ = (&ingest{store: s, path: path, file: f}).discard()
	}
}

// Abort implements [content.Store].
func (s *Store) Abort(ctx context.Context, key string) error {
	if err := s.abort(ctx, key); err != nil {
		return fmt.Errorf("abort ingest %s: %w", key, absent(err))
	}
	return nil
}

func (s *Store) abort(ctx context.Context, key string) (err error) {
	if err := content.ValidateIngest(key, content.Want{}); err != nil {
		return err
	}
	path := ingestPath(key)
	f, err := s.disk.Open(path)
	if err != nil {
		return err
	}
	in := &ingest{store: s, path: path, key: key, file: f, hasState: true, synced: true}
	defer func() { err = in.end(err) }()
	if err := lock(ctx, f, false); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := s.disk.Lstat(path)
	if err != nil {
		return err
	}
	if !vfs.SameFile(fi, now) {
		return fmt.Errorf("another writer has begun it: %w", errdefs.ErrUnavailable)
	}
	return in.discard()
}

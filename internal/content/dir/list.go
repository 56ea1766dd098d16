package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

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
		if st, ok := s.status(ingestsDir + "/" + e.Name()); ok {
			list = append(list, st)
		}
	}
	return list, nil
}

// status describes the ingest in the folder dir. What cannot be read is none: the next Begin of
// its key puts it right.
func (s *Store) status(dir string) (content.Status, bool) {
	f, err := s.disk.Open(dir + "/data")
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
	st, err := s.readState(dir)
	if err != nil || ingestDir(st.Key) != dir {
		if free && errors.Is(err, fs.ErrNotExist) {
			s.clear(dir, f, fi)
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

// clear throws away data without a state, whose lock we hold. What cannot be removed is left to
// the next Begin.
func (s *Store) clear(dir string, f vfs.File, fi fs.FileInfo) {
	if now, err := s.disk.Lstat(dir + "/data"); err == nil && vfs.SameFile(fi, now) {
		_ = (&ingest{store: s, dir: dir, file: f}).discard()
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
	dir := ingestDir(key)
	f, err := s.disk.Open(dir + "/data")
	if err != nil {
		return err
	}
	in := &ingest{store: s, dir: dir, key: key, file: f, hasState: true, synced: true}
	defer func() { err = in.end(err) }()
	if err := lock(ctx, f, false); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := s.disk.Lstat(path.Join(dir, "data"))
	if err != nil {
		return err
	}
	if !vfs.SameFile(fi, now) {
		return fmt.Errorf("another writer has begun it: %w", errdefs.ErrUnavailable)
	}
	return in.discard()
}

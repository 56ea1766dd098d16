package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

const (
	// patience is how long one who does not want to wait waits all the same: a listing takes
	// the lock for a moment to see whether it is held.
	patience = 20 * time.Millisecond
	// tries bounds how often Begin starts over, which it does when another writer ended
	// meanwhile, or when it has put something away that was in its way.
	tries = 100
)

// ingestPath is the file of the ingest called key.
func ingestPath(key string) string {
	return ingestsDir + "/" + digest.SHA256.FromString(key).Encoded()
}

// statePath is the file of the state of the ingest in the file path.
func statePath(path string) string { return path + stateSuffix }

const stateSuffix = ".state"

// Begin implements [content.Store].
func (s *Store) Begin(ctx context.Context, key string, want content.Want) (content.Ingest, error) {
	in, err := s.begin(ctx, key, want)
	if err != nil {
		return nil, fmt.Errorf("begin ingest %s: %w", key, err)
	}
	return in, nil
}

func (s *Store) begin(ctx context.Context, key string, want content.Want) (*ingest, error) {
	if err := content.ValidateIngest(key, want); err != nil {
		return nil, err
	}
	for range tries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		stored, err := s.settled(ctx, want)
		if err != nil {
			return nil, err
		}
		if stored {
			return nil, fmt.Errorf("%s: %w", want.Digest, errdefs.ErrAlreadyExists)
		}
		in, err := s.try(ctx, key, want)
		if in != nil || err != nil {
			return in, err
		}
	}
	return nil, fmt.Errorf("it does not come to rest: %w", errdefs.ErrUnavailable)
}

// settled tells whether the wanted blob is there, with a name that a power loss cannot take.
func (s *Store) settled(ctx context.Context, want content.Want) (bool, error) {
	if want.Digest == "" {
		return false, nil
	}
	fi, err := s.disk.Lstat(blobPath(want.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.isSettled(fi) {
		return true, nil
	}
	r, err := s.open(want.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	settled, err := s.settle(ctx, r, want, fi.Mode().Perm())
	return settled, errors.Join(err, r.Close())
}

// settle brings to its end a commit that died between its rename and its end, or that was made
// while nothing was synced. It waits for one that is still under way.
func (s *Store) settle(ctx context.Context, r *reader, want content.Want, mode fs.FileMode) (bool, error) {
	if err := lock(ctx, r.File, want.Wait); err != nil {
		return false, err
	}
	if mode != sealed {
		// A power loss may have taken bytes that nobody flushed.
		_, err := content.Copy(ctx, io.Discard, r, want.Digest)
		if errdefs.IsDataLoss(err) {
			return false, s.disk.Remove(blobPath(want.Digest))
		}
		if err == nil {
			err = r.Sync()
		}
		if err != nil {
			return false, err
		}
	}
	if err := s.disk.SyncDir(algorithmDir(want.Algorithm())); err != nil {
		return false, err
	}
	_, done := s.modes()
	return true, s.disk.Chmod(blobPath(want.Digest), done)
}

func (s *Store) there(name string) (bool, error) {
	_, err := s.disk.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}

// lock takes the lock of f, or is [errdefs.ErrUnavailable] when it must not wait for it.
func lock(ctx context.Context, f vfs.File, wait bool) error {
	if wait {
		return f.Lock(ctx)
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := f.Lock(short)
	if err != nil && ctx.Err() == nil && short.Err() != nil {
		return fmt.Errorf("another writer has it: %w", errdefs.ErrUnavailable)
	}
	return err
}

// try makes the caller the writer of key. Nil and no error is a reason to start over.
func (s *Store) try(ctx context.Context, key string, want content.Want) (_ *ingest, err error) {
	path := ingestPath(key)
	f, err := s.disk.Create(path, 0o644)
	if err != nil {
		return nil, s.heal(path, err)
	}
	in := &ingest{store: s, path: path, key: key, want: want, file: f, started: time.Now(), hash: want.Algorithm().Hash()}
	ready, err := in.ready(ctx)
	if !ready || err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return in, nil
}

// ready takes the lock and what is there of the ingest. False without an error is a reason to
// start over.
func (in *ingest) ready(ctx context.Context) (bool, error) {
	if err := lock(ctx, in.file, in.want.Wait); err != nil {
		return false, err
	}
	fi, err := in.file.Stat()
	if err != nil {
		return false, err
	}
	now, err := in.store.disk.Lstat(in.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !vfs.SameFile(fi, now) {
		return false, nil // it was committed or thrown away while we waited
	}
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() { // a fifo
		return false, in.store.removeAll(in.path)
	}
	resumed, err := in.resume(fi)
	if err != nil {
		return false, err
	}
	if !resumed {
		return false, in.discard()
	}
	if in.want.Digest != "" {
		// Committed after we looked and before we made the file.
		there, err := in.store.there(blobPath(in.want.Digest))
		if err != nil {
			return false, err
		}
		if there {
			return false, in.discard()
		}
	}
	if large := in.want.Size < 0 || in.want.Size > slight; large && !in.hasState {
		in.checkpoint()
	}
	return true, nil
}

// resume goes on from the state that was kept. False without an error says that what is there
// cannot be trusted.
func (in *ingest) resume(fi fs.FileInfo) (bool, error) {
	st, err := in.store.readState(in.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fi.Size() == 0, nil
	}
	in.hasState, in.synced = true, true // until it is known to be otherwise
	if errors.Is(err, errState) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	onItsWay := fi.Mode().Perm()&0o200 == 0
	if st.Key != in.key || !in.want.Same(st.want()) || !st.trusted(fi.Size(), in.store.disk.BootID()) ||
		onItsWay && in.want.Digest == "" { // a crash may have left it a second name: a blob's
		return false, nil
	}
	h, err := st.restore()
	if err != nil {
		return false, nil // not a hash of this version of the format: start from zero
	}
	if fi.Size() > st.Offset {
		if err := in.file.Truncate(st.Offset); err != nil {
			return false, err
		}
	}
	in.hash, in.offset, in.saved, in.started, in.synced = h, st.Offset, st.Offset, st.StartedAt, st.Boot == ""
	return true, nil
}

// readState reads the state of the ingest in the file path. Errors: [fs.ErrNotExist], errState.
func (s *Store) readState(path string) (st state, err error) {
	f, err := s.disk.Open(statePath(path))
	if err != nil {
		return state{}, s.strange(statePath(path), err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	p := make([]byte, maxState+1)
	n, err := f.ReadAt(p, 0)
	if err != nil && err != io.EOF {
		return state{}, err
	}
	return decodeState(p[:n])
}

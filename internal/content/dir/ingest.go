package dir

import (
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/vfs"
)

const (
	// checkpointEvery is how many bytes a killed process can lose.
	checkpointEvery = 4 << 20
	// slight is how many bytes are sooner brought again than kept with care. So small a blob
	// has no state unless it is written in pieces, since making and removing the file would
	// double its cost; and a Close waits for the disk, to outlive a power loss, only above it.
	slight = 64 << 10
	// sideBySide is the size from which a write is hashed in a goroutine of its own while the
	// disk takes it. Measured with 256 MiB in writes of 256 KiB and of 1 MiB, on two cores with
	// other work to do: 1.15 times as fast.
	sideBySide = 64 << 10
)

// An ingest is a blob being written, whose lock we hold.
type ingest struct {
	store   *Store
	path    string
	key     string
	want    content.Want
	file    vfs.File // path
	started time.Time
	ended   bool

	offset int64
	hash   hash.Hash // of the bytes before offset

	hasState bool
	synced   bool  // the state may come back after a power loss
	saved    int64 // offset of the state
	pushed   int64 // bytes that the disk was asked to begin writing
}

// Key implements [content.Ingest].
func (in *ingest) Key() string { return in.key }

// Want implements [content.Ingest].
func (in *ingest) Want() content.Want { return in.want }

// Offset implements [content.Ingest].
func (in *ingest) Offset() int64 { return in.offset }

// Digest implements [content.Ingest].
func (in *ingest) Digest() digest.Digest { return digest.NewDigest(in.want.Algorithm(), in.hash) }

// WriteAt implements [content.Ingest].
func (in *ingest) WriteAt(p []byte, off int64) (n int, err error) {
	if err = in.usable(); err == nil {
		err = in.want.Room(in.offset, off, len(p))
	}
	if err == nil && len(p) > 0 {
		n, err = in.append(p)
	}
	if err != nil {
		return n, fmt.Errorf("write ingest %s: %w", in.key, err)
	}
	due := in.offset-in.saved >= checkpointEvery || !in.hasState
	if in.offset == in.want.Size {
		// A commit comes next, or a Close, which keeps it; but the commit may wait for other blobs.
		due = in.offset-in.saved >= slight
	}
	if due {
		vfs.Writeback(in.file, in.pushed, in.offset-in.pushed)
		in.pushed = in.offset
		in.checkpoint()
	}
	return n, nil
}

// append writes p and hashes what of it was written.
func (in *ingest) append(p []byte) (int, error) {
	if len(p) < sideBySide {
		n, err := in.file.WriteAt(p, in.offset)
		in.hash.Write(p[:n])
		in.offset += int64(n)
		return n, err
	}
	before, err := in.marshalHash()
	if err != nil {
		return 0, err
	}
	var hashing sync.WaitGroup
	hashing.Go(func() { in.hash.Write(p) })
	n, err := in.file.WriteAt(p, in.offset)
	hashing.Wait()
	if n < len(p) { // a full disk: hash only what it took
		if restoreErr := in.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(before); restoreErr != nil {
			return 0, errors.Join(err, restoreErr)
		}
		in.hash.Write(p[:n])
	}
	in.offset += int64(n)
	return n, err
}

func (in *ingest) usable() error {
	if in.ended {
		return fmt.Errorf("it has ended: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Reset implements [content.Ingest].
func (in *ingest) Reset() error {
	err := in.usable()
	if err == nil {
		err = in.forget()
	}
	if err == nil {
		err = in.file.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("reset ingest %s: %w", in.key, err)
	}
	in.hash.Reset()
	in.offset, in.saved, in.pushed = 0, 0, 0
	return nil
}

// Close implements [content.Ingest]. What is kept outlives a power loss, if it is over 64 KiB.
func (in *ingest) Close() error {
	if in.ended {
		return nil
	}
	keep := in.keep
	if in.offset == 0 {
		keep = in.discard
	}
	if err := in.end(keep()); err != nil {
		return fmt.Errorf("close ingest %s: %w", in.key, err)
	}
	return nil
}

// Abort implements [content.Ingest].
func (in *ingest) Abort() error {
	if in.ended {
		return nil
	}
	if err := in.end(in.discard()); err != nil {
		return fmt.Errorf("abort ingest %s: %w", in.key, err)
	}
	return nil
}

// end gives up the lock and adds what goes wrong to err.
func (in *ingest) end(err error) error {
	in.ended = true
	return errors.Join(err, in.file.Close())
}

// keep makes the bytes resumable.
func (in *ingest) keep() error {
	if in.offset <= slight || !vfs.Syncs(in.store.disk) {
		return in.save(false)
	}
	if err := in.file.Sync(); err != nil {
		return errors.Join(err, in.spoil())
	}
	return in.save(true)
}

// spoil makes sure that nothing is believed of bytes whose flush failed. The kernel tells of
// such a failure once and calls the bytes clean afterwards.
func (in *ingest) spoil() error { return in.file.Truncate(0) }

// checkpoint saves the state on the way, for the next process if this one is killed. Without it
// the ingest goes on all the same: from an older checkpoint, or from zero.
func (in *ingest) checkpoint() {
	if err := in.save(false); err != nil {
		_ = in.store.disk.Remove(statePath(in.path) + ".tmp")
	}
}

// save writes the state: durably, if the bytes are.
func (in *ingest) save(durable bool) error {
	sum, err := in.marshalHash()
	if err != nil {
		return err
	}
	st := state{
		Key: in.key, Digest: in.want.Digest, Size: in.want.Size, StartedAt: in.started, Offset: in.offset, Hash: sum,
	}
	if !durable {
		st.Boot = in.store.disk.BootID()
	}
	p, err := st.encode()
	if err != nil {
		return err
	}
	if err := in.store.replace(statePath(in.path), p, durable); err != nil {
		return err
	}
	in.hasState, in.saved, in.synced = true, in.offset, in.synced || durable
	if !durable {
		return nil
	}
	return in.store.disk.SyncDir(ingestsDir)
}

func (in *ingest) marshalHash() ([]byte, error) {
	return in.hash.(encoding.BinaryMarshaler).MarshalBinary()
}

// replace gives the file name the bytes p, all or none of them.
func (s *Store) replace(name string, p []byte, durable bool) error {
	tmp := name + ".tmp"
	f, err := s.disk.Create(tmp, 0o644)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(p, 0)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.disk.Rename(tmp, name)
}

// forget removes the state, for good if a power loss could bring it back: the bytes that it
// vouches for are about to go.
func (in *ingest) forget() error {
	if !in.hasState {
		return nil
	}
	if err := in.store.disk.Remove(statePath(in.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if in.synced {
		if err := in.store.disk.SyncDir(ingestsDir); err != nil {
			return err
		}
	}
	in.hasState, in.synced = false, false
	return nil
}

// discard throws everything away.
func (in *ingest) discard() error {
	if err := in.forget(); err != nil {
		return err
	}
	return in.store.disk.Remove(in.path)
}

package mem

import (
	"fmt"
	"hash"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

// An ingest is a blob being written. What was kept of it is its alone until it ends.
type ingest struct {
	store *Store
	key   string
	kept  *kept
	hash  hash.Hash
	ended bool
}

// Key implements [content.Ingest].
func (in *ingest) Key() string { return in.key }

// Want implements [content.Ingest].
func (in *ingest) Want() content.Want { return in.kept.want }

// Offset implements [content.Ingest].
func (in *ingest) Offset() int64 { return int64(len(in.kept.data)) }

// Digest implements [content.Ingest].
func (in *ingest) Digest() digest.Digest {
	return digest.NewDigest(in.kept.want.Algorithm(), in.hash)
}

// WriteAt implements [content.Ingest].
func (in *ingest) WriteAt(p []byte, off int64) (int, error) {
	err := in.usable()
	if err == nil {
		err = in.kept.want.Room(in.Offset(), off, len(p))
	}
	if err != nil {
		return 0, fmt.Errorf("write ingest %s: %w", in.key, err)
	}
	in.set(append(in.kept.data, p...))
	in.hash.Write(p)
	return len(p), nil
}

// set changes the bytes, which a listing may be counting.
func (in *ingest) set(data []byte) {
	in.store.mu.Lock()
	defer in.store.mu.Unlock()
	in.kept.data, in.kept.updatedAt = data, time.Now()
}

func (in *ingest) usable() error {
	if in.ended {
		return fmt.Errorf("it has ended: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Reset implements [content.Ingest].
func (in *ingest) Reset() error {
	if err := in.usable(); err != nil {
		return fmt.Errorf("reset ingest %s: %w", in.key, err)
	}
	in.set(nil)
	in.hash.Reset()
	return nil
}

// Close implements [content.Ingest].
func (in *ingest) Close() error {
	in.end(in.Offset() > 0)
	return nil
}

// Abort implements [content.Ingest].
func (in *ingest) Abort() error {
	in.end(false)
	return nil
}

func (in *ingest) end(keep bool) {
	if in.ended {
		return
	}
	in.ended = true
	in.store.mu.Lock()
	defer in.store.mu.Unlock()
	if !keep {
		delete(in.store.ingests, in.key)
	}
	close(in.kept.free)
	in.kept.free = nil
}

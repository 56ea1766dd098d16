package containerd

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

const (
	// idleTime is how long a blob stays open for somebody who may go on reading it.
	idleTime = time.Second
	// maxIdle bounds the blobs that are open so.
	maxIdle = 256
)

// readers are blobs that are open for who goes on reading them. Clients read a blob by a request for each
// piece, of 32 KiB with most programs; to look it up, and to open it, took longer than to read one. What
// is deleted meanwhile can be read on, as with any reader.
type readers struct {
	mu   sync.Mutex
	idle map[blobIn]*idleReader
}

// A blobIn is a blob of a namespace.
type blobIn struct {
	namespace string
	digest    digest.Digest
}

type idleReader struct {
	content.Reader
	end *time.Timer
}

// take gives a reader of a blob to the caller, if one is open.
func (r *readers) take(of blobIn) content.Reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	if idle := r.idle[of]; idle != nil {
		idle.end.Stop()
		delete(r.idle, of)
		return idle.Reader
	}
	return nil
}

// keep leaves a reader open for the next piece, or closes it.
func (r *readers) keep(of blobIn, reader content.Reader) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle[of] != nil || len(r.idle) >= maxIdle {
		return reader.Close()
	}
	idle := &idleReader{Reader: reader}
	idle.end = time.AfterFunc(idleTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.idle[of] == idle {
			delete(r.idle, of)
			_ = idle.Close() // it was only read
		}
	})
	r.idle[of] = idle
	return nil
}

// forget closes what is open of a blob that the namespace no longer has.
func (r *readers) forget(of blobIn) error {
	if reader := r.take(of); reader != nil {
		return reader.Close()
	}
	return nil
}

// Package content is the contract of the content store: blobs under their digests, and ingests,
// the blobs that are being written.
//
// A store keeps bytes and nothing else. Labels, namespaces, names and what keeps what alive are
// rows in metadata. Implementations are in the folders beneath; contenttest is the suite that
// each of them passes. [Copy], [ReadBlob] and [Put] are what most callers need of a store.
//
// Invariants:
//   - A blob is visible under its digest only when it is whole, verified and on stable storage;
//     its name is, too, once Commit has returned or Begin has said that it is there.
//   - Blobs never change. A blob may be deleted while it is read; open readers go on.
//   - An ingest has one writer at a time, in this process or another.
package content

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Store keeps blobs and ingests. Goroutines and processes may share it.
//
// Digests are sha256 or sha512; others, and malformed ones, are [errdefs.ErrInvalidArgument].
type Store interface {
	// Info describes a finished blob. Errors: [errdefs.ErrNotFound].
	Info(ctx context.Context, d digest.Digest) (Info, error)
	// Open opens a finished blob for reading; the caller closes it. Its bytes are as the disk
	// gives them: [Copy] checks them on the way. Errors: [errdefs.ErrNotFound].
	Open(ctx context.Context, d digest.Digest) (Reader, error)
	// Delete removes a blob. Errors: [errdefs.ErrNotFound].
	Delete(ctx context.Context, d digest.Digest) error
	// Quarantine moves a blob aside: it is no longer there under its digest, and its bytes are kept
	// for whoever wants to look at them, until they are removed by hand. It returns where they are, as a
	// person would look for them. Errors: [errdefs.ErrNotFound].
	Quarantine(ctx context.Context, d digest.Digest) (string, error)
	// Blobs yields every finished blob, in no order. A blob that comes or goes meanwhile may be
	// yielded or not. What is not a blob in the store's folders is passed over.
	Blobs(ctx context.Context) iter.Seq2[Info, error]
	// Digests is Blobs for who wants no more than their digests, in a fraction of the time.
	Digests(ctx context.Context) iter.Seq2[digest.Digest, error]

	// Begin starts or resumes the ingest called key, of 1 to [MaxKey] bytes of UTF-8, and makes
	// the caller its one writer. Who brings a blob whose digest is known uses the digest as
	// the key, so that two who bring the same blob meet. The same key with another want than before starts from zero.
	// Damage to what was kept of it is not an error: the ingest starts from zero, or from
	// the last point that can be trusted.
	//
	// Errors: [errdefs.ErrAlreadyExists] when want.Digest is stored already;
	// [errdefs.ErrUnavailable] when another writer has the key and want.Wait is not set.
	// With want.Wait it waits for that writer's end, or for the end of ctx.
	Begin(ctx context.Context, key string, want Want) (Ingest, error)
	// Commit makes ingests into blobs, all with one flush of the disk. Once it returns nil,
	// they survive a power loss. Every ingest given is closed when it returns.
	//
	// An ingest whose size or digest is not what was wanted is thrown away and reported as
	// [errdefs.ErrDataLoss] (a *[MismatchError], or a *[SizeError] when it is too long); one that
	// is too short is kept for another try and reported as a *[SizeError] of the kind
	// [errdefs.ErrOutOfRange]. When the disk fails, the bytes are kept for another try, except
	// when it was their flush that failed: nobody can tell then what the disk has. The others are committed all the same; errors are joined.
	Commit(ctx context.Context, ingests ...Ingest) error
	// Ingests lists what is being written or was left unfinished.
	Ingests(ctx context.Context) ([]Status, error)
	// Status describes one of them. Errors: [errdefs.ErrNotFound].
	Status(ctx context.Context, key string) (Status, error)
	// Abort throws away the bytes kept of an ingest. Errors: [errdefs.ErrNotFound];
	// [errdefs.ErrUnavailable] while it has a writer.
	Abort(ctx context.Context, key string) error
}

// MaxKey is the length of the longest key of an ingest, in bytes.
const MaxKey = 512

// Want is what an ingest is expected to become. The zero value expects no bytes at all, so that
// a size that was forgotten fails instead of leaving a stranger's bytes without a limit.
type Want struct {
	Digest digest.Digest // empty: any; sha256 is computed
	Size   int64         // bytes; negative: unknown
	Wait   bool          // wait for another writer of the same key
}

// An Ingest is a blob being written, by one goroutine at a time. It must be ended by
// [Store.Commit], Close or Abort.
type Ingest interface {
	// Key is the name it was begun with.
	Key() string
	// Want is what it is expected to become.
	Want() Want
	// Offset is how many bytes it has; the next write goes there.
	Offset() int64
	// WriteAt appends p; off must be Offset, anything else is [errdefs.ErrOutOfRange], which
	// guards against an answer to a range request that begins elsewhere. Bytes past
	// Want().Size are refused as a *[SizeError].
	WriteAt(p []byte, off int64) (int, error)
	// Reset throws away the bytes and starts from zero.
	Reset() error
	// Digest is the digest of the bytes so far.
	Digest() digest.Digest
	// Close gives up the lock and keeps the bytes and the state of their hash, so that a later
	// Begin, in any process, goes on from Offset without reading them. An ingest without bytes
	// leaves nothing behind. After Commit or Abort it does nothing.
	Close() error
	// Abort gives up the lock and throws the bytes away.
	Abort() error
}

// A Reader reads a finished blob. Several goroutines may call ReadAt.
type Reader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// A Voucher is a Reader whose store may vouch for the blob.
type Voucher interface {
	Reader
	// Vouched tells whether the bytes were verified when they were stored, and nothing has
	// touched them since.
	Vouched() bool
}

// A Streamer is a Reader that can be told how it will be read.
type Streamer interface {
	Reader
	// ReadAhead says that all of the blob is about to be read, from its beginning on. Two large
	// blobs that are not in memory are then read a quarter faster side by side.
	ReadAhead()
}

// Info describes a finished blob.
type Info struct {
	Digest    digest.Digest
	Size      int64 // bytes
	CreatedAt time.Time
	// ChangedAt is when anything of it was last changed, its mode and name included; zero where
	// the store cannot tell.
	ChangedAt time.Time
	// Settled says that a Begin would find it as it is. Another was stored by somebody who did
	// not sync, or in a commit that did not get to its end; a Begin makes up for that first.
	Settled bool
}

// Status describes an ingest.
type Status struct {
	Key       string
	Offset    int64 // bytes that are there
	Size      int64 // bytes expected; negative: unknown
	Digest    digest.Digest
	StartedAt time.Time
	UpdatedAt time.Time
	Busy      bool // it has a writer now
}

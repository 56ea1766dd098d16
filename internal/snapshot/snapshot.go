// Package snapshot keeps unpacked filesystems: chains of committed snapshots, one for each layer,
// and on top of them active ones, which are written, and views, which are looked at.
//
// The states are rows in metadata, with containerd's meaning of keys, names, kinds, parents and
// labels; they are the business of [Store]. Trees are the business of a [Driver], which keeps
// them in folders that it is given and makes mounts of them, and knows nothing of states. So the
// two cannot disagree: a folder that no row names is garbage, and is swept.
//
// Invariants:
//   - A committed snapshot's files are on stable storage, and its diffID matched, before its row
//     is written.
//   - A folder is locked by the process that fills it until a row names it. One that is neither
//     locked nor named is nobody's.
//   - A committed folder never changes. Snapshots of the same layer share one where the driver
//     can, whatever is below them.
package snapshot

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
)

// A Snapshot is a state of a filesystem.
type Snapshot = metadata.Snapshot

// A Kind says what a snapshot is for.
type Kind = metadata.SnapshotKind

// The kinds of snapshots.
const (
	Committed = metadata.Committed
	Active    = metadata.Active
	View      = metadata.View
)

// A Usage is what a snapshot takes on the disk, without its parent.
type Usage struct {
	Size   int64 `json:"size"` // bytes
	Inodes int64 `json:"inodes"`
}

// A Driver keeps trees in folders and makes mounts of them. A folder is given by its path; it is
// there, empty, and its caller's alone until a snapshot is made of it, and does not change
// afterwards. A chain is the folders of committed snapshots, lowest first; one folder may stand
// in it twice.
//
// The driver syncs nothing: that is done for the whole filesystem at once before a row is
// written. Goroutines may share it.
type Driver interface {
	// Unpack applies a layer to a folder without knowing what is below it, with r its
	// uncompressed tar, read to its end; it is an [errdefs.ErrFailedPrecondition] for drivers
	// that are not [Driver.Alone], which read nothing.
	Unpack(ctx context.Context, folder string, r io.Reader, o layer.Options) (layer.Result, error)
	// Alone tells whether Unpack and Fit work; if not, only UnpackOn does.
	Alone() bool
	// Fit makes a folder of Unpack stand on a chain. It may change the folder if that is own,
	// and answers whether it did; then the folder is good for this chain alone. A folder that
	// would have to be changed and is not own, or that cannot be, is an
	// [errdefs.ErrFailedPrecondition]: the layer has to be unpacked on the chain.
	Fit(ctx context.Context, folder string, chain []string, own bool) (changed bool, err error)
	// UnpackOn is Unpack for a layer on a known chain.
	UnpackOn(ctx context.Context, folder string, chain []string, r io.Reader, o layer.Options) (layer.Result, error)
	// Seal makes ready what a mount of a whole chain needs, so that mounting it later writes
	// nothing and cannot fail for what its layers say.
	Seal(ctx context.Context, chain []string) error

	// Prepare makes a folder into that of an active snapshot or a view on a chain.
	Prepare(ctx context.Context, folder string, chain []string, kind Kind) error
	// Mounts gives the mounts of an active snapshot or a view. Whatever they need that a reboot
	// takes away is made again.
	Mounts(ctx context.Context, folder string, chain []string, kind Kind) ([]mount.Mount, error)
	// Commit makes the folder of an active snapshot ready to be that of a committed one. Until
	// Tidy it is good for both: should its row not come to be written, the snapshot is still
	// active, and may be committed again.
	Commit(ctx context.Context, folder string, chain []string) (Usage, error)
	// Tidy removes from the folder of a committed snapshot what only an active one needs.
	Tidy(ctx context.Context, folder string) error
	// Tree reads a chain without mounting it, and Usage says what a folder takes. No chain is
	// [layer.Empty].
	Tree(ctx context.Context, chain []string) (layer.Tree, error)
	Usage(ctx context.Context, folder string) (Usage, error)
	// ActiveTree is Tree for a folder of Prepare on a chain. Where folders share what is below
	// them, what is unchanged has the same [layer.Node.Same] as in Tree of the chain.
	ActiveTree(ctx context.Context, folder string, chain []string) (layer.Tree, error)
	// Release takes away what Mounts made for a folder and the kernel still has.
	Release(ctx context.Context, folder string) error

	// Look says what makes the folder of an unpacked layer suspect, by what can be told without
	// reading its files: that anything there changed since a time before which it was unpacked, or
	// that its files have not the size in bytes that they came to then. Empty: nothing. What is
	// plainly damaged is an [errdefs.ErrDataLoss].
	Look(ctx context.Context, folder string, size int64, since time.Time) (why string, err error)
	// Audit reads what the topmost folder of a chain has beside its tree. Damage is an
	// [errdefs.ErrDataLoss].
	Audit(ctx context.Context, chain []string) error
}

// A Binder is a Driver some of whose mounts other programs cannot make.
type Binder interface {
	Driver
	// Bind is Mounts in kinds that every program can make: the rest is mounted within the folder,
	// until Release.
	Bind(ctx context.Context, folder string, chain []string, kind Kind) ([]mount.Mount, error)
}

// A Rebaser is a Driver whose active snapshots on no chain may be given one when they are committed, so
// that layers can be applied side by side.
type Rebaser interface {
	Driver
	// Rebases tells whether Rebase takes folders that others than Receive filled, too: with layers in
	// the form that the kernel's overlay has them in.
	Rebases() bool
	// Receive applies a layer to the folder of such a snapshot, into which nothing was put before,
	// without knowing what it will stand on.
	Receive(ctx context.Context, folder string, r io.Reader, o layer.Options) (layer.Result, error)
	// Rebase makes the folder stand on a chain, or on none, before Commit. A layer that cannot is an
	// [errdefs.ErrFailedPrecondition].
	Rebase(ctx context.Context, folder string, chain []string) error
}

// A Remover is a Driver that keeps something elsewhere for a folder.
type Remover interface {
	Driver
	// Remove takes it away, before the folder goes. What is not there is nothing to remove. Errors:
	// [errdefs.ErrFailedPrecondition] while what is kept for other folders stands on it.
	Remove(ctx context.Context, folder string) error
}

// A Remote is a Driver that may have a layer already, somewhere else, and then does not want it
// downloaded.
type Remote interface {
	Driver
	// Claim is asked for a layer, by what its image says of it, before it is fetched. It fills
	// the folder so that the layer can be mounted on the chain and answers true, or answers
	// false and leaves the folder empty.
	Claim(ctx context.Context, folder string, chain []string, labels map[string]string) (bool, error)
}

// Changed is what a driver's Look says of the last change that a survey shows, if it is later than
// it should be.
func Changed(at time.Time, path string, since time.Time) (why string) {
	if !at.After(since) {
		return ""
	}
	return fmt.Sprintf("%s changed at %s, after it was unpacked", path, at.UTC().Format(time.RFC3339))
}

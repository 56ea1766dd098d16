package stowage

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/doctor"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/transfer"
)

// The types that the library's functions take and give.
type (
	// Digest names exact bytes as algorithm:hex.
	Digest = image.Digest
	// Descriptor is a typed pointer to a blob.
	Descriptor = image.Descriptor
	// Platform is an operating system, an architecture, and what narrows them.
	Platform = image.Platform
	// Choice says which platforms of an image are meant.
	Choice = transfer.Choice

	// Image is a name with its root descriptor, and what of it is here.
	Image = metadata.Image
	// RemovedImage is a name that was taken away.
	RemovedImage = metadata.RemovedImage
	// State says how much of an image or a platform is here.
	State = metadata.State
	// Blob is a blob as the namespace knows it.
	Blob = metadata.Blob
	// Lease is a named hold that keeps what it lists from collection.
	Lease = metadata.Lease
	// Namespace separates the names of one user of a store from those of others.
	Namespace = metadata.Namespace
	// Edge says that one blob keeps another alive.
	Edge = metadata.Edge
	// IngestStatus describes a blob that is being written.
	IngestStatus = content.Status

	// RegistryOptions says how registries are reached.
	RegistryOptions = registry.Options
	// Credentials are what a registry is shown.
	Credentials = registry.Credentials
	// CredentialsFunc gives those for a registry.
	CredentialsFunc = registry.CredentialsFunc
	// Manner is how one request has registries reached.
	Manner = registry.Manner
	// PullOptions tunes [Store.Pull].
	PullOptions = transfer.PullOptions
	// PullResult is what a pull did.
	PullResult = transfer.PullResult
	// ImportOptions tunes [Store.Import].
	ImportOptions = transfer.ImportOptions
	// ImportResult is what an import brought.
	ImportResult = transfer.ImportResult
	// PushOptions tunes [Store.Push].
	PushOptions = transfer.PushOptions
	// PushResult is what a push did.
	PushResult = transfer.PushResult
	// CopyResult is what a copy did.
	CopyResult = transfer.PushResult
	// Endpoint is one end of a copy.
	Endpoint = transfer.Endpoint
	// PartialError reports an image of which only some platforms are whole.
	PartialError = transfer.PartialError
	// MissingError reports blobs of an image that are not in the store.
	MissingError = transfer.MissingError
	// LostError reports blobs that are not here and could not be had from anywhere.
	LostError = transfer.LostError
	// Refetched is a blob that was fetched again.
	Refetched = transfer.Refetched
	// Count is a number of blobs and their bytes.
	Count = transfer.Count

	// UnpackOptions say whether a transfer also unpacks what it brings.
	UnpackOptions = transfer.UnpackOptions

	// Snapshotter keeps unpacked filesystems.
	Snapshotter = snapshot.Store
	// Snapshot is a state of a filesystem.
	Snapshot = snapshot.Snapshot
	// SnapshotUsage is what a snapshot takes on the disk, without its parent.
	SnapshotUsage = snapshot.Usage
	// Mount is one mount to be made.
	Mount = mount.Mount
	// Loss is something that a tree lacks of what its layers say.
	Loss = layer.Loss

	// Finding is one thing that [Store.Doctor] found to be not as it should be.
	Finding = doctor.Finding
	// ImageFinding is what [Store.CheckImages] found of one image.
	ImageFinding = doctor.ImageFinding
	// VerifyOptions tunes [Store.Verify].
	VerifyOptions = doctor.VerifyOptions
	// BlobFinding is what [Store.Verify] found of one blob.
	BlobFinding = doctor.BlobFinding
	// PruneOptions tunes [Store.Prune].
	PruneOptions = gc.Options
	// EvictOptions tunes [Store.Evict].
	EvictOptions = gc.EvictOptions
	// Eviction is what was given up of images, or would be.
	Eviction = gc.Eviction

	// Watermark is how full a store may get.
	Watermark = gc.Watermark
	// Use is what an image is needed for, besides having a name.
	Use = metadata.Use

	// ProgressEvent is one thing that happened during a long operation.
	ProgressEvent = progress.Event
	// ProgressSink takes events, from several goroutines at once.
	ProgressSink = progress.Sink
)

// The states of images and platforms.
const (
	Complete = metadata.Complete
	Partial  = metadata.Partial
	Lazy     = metadata.Lazy
	Absent   = metadata.Absent
)

// The kinds of snapshots.
const (
	Committed = snapshot.Committed
	Active    = snapshot.Active
	View      = snapshot.View
)

// The ends of copies that need a store, and those that are files.
const (
	StoreTransport         = transfer.StoreTransport
	ArchiveTransport       = transfer.ArchiveTransport
	DockerArchiveTransport = transfer.DockerArchiveTransport
)

// The verdicts on blobs.
const (
	OK      = doctor.OK
	Corrupt = doctor.Corrupt
	Missing = doctor.Missing
)

// The kinds of progress events.
const (
	Resolving = progress.Resolving
	Resolved  = progress.Resolved
	Planned   = progress.Planned
	Started   = progress.Started
	Advanced  = progress.Advanced
	Done      = progress.Done
	Reused    = progress.Reused
	Fetched   = progress.Fetched
	Examining = progress.Examining
	Existing  = progress.Existing
	Mounted   = progress.Mounted
	Waiting   = progress.Waiting
	Retrying  = progress.Retrying
	Flushing  = progress.Flushing
	Finished  = progress.Finished
	Warning   = progress.Warning
)

// SerialProgress makes a sink that calls f for one event at a time.
func SerialProgress(f func(ProgressEvent)) ProgressSink { return progress.Serial(f) }

// ParsePlatform reads os/architecture[/variant]. Errors: [errdefs.ErrInvalidArgument].
func ParsePlatform(s string) (Platform, error) {
	p, err := image.ParsePlatform(s)
	if err != nil {
		return Platform{}, fmt.Errorf("want OS/ARCHITECTURE[/VARIANT], such as linux/arm64: %w", errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// FormatPlatform writes a platform as os/architecture[/variant].
func FormatPlatform(p Platform) string { return image.FormatPlatform(p) }

package metadata

import (
	"time"

	"github.com/stowage/stowage/internal/image"
)

// A State says how much of something is here.
type State string

// The states of an image and of each of its platforms.
const (
	Complete State = "complete" // every blob is here
	Partial  State = "partial"  // it was asked for, and blobs are missing
	Lazy     State = "lazy"     // what is missing can be fetched on demand
	Absent   State = "absent"   // of a platform: it was not asked for, and is not all here
)

// An Image is a name together with its root descriptor, and what of it is here.
type Image struct {
	Name      string            `json:"name"`
	Target    image.Descriptor  `json:"target"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`

	// The rest is found by the transaction that writes the record, from the documents and
	// blobs that are there.

	State     State           `json:"state"`
	Size      int64           `json:"size"` // bytes of its blobs that are here, each counted once
	Platforms []PlatformState `json:"platforms,omitempty"`
}

// A PlatformState is what is here of one manifest of an image.
type PlatformState struct {
	Platform image.Platform     `json:"platform"`
	Manifest image.Descriptor   `json:"manifest"`
	Wanted   bool               `json:"wanted,omitempty"` // asked for by a pull or an import
	State    State              `json:"state"`
	Size     int64              `json:"size"` // bytes of manifest, config and layers, here or not
	Missing  []image.Descriptor `json:"missing,omitempty"`
}

// A Blob is a blob as one namespace knows it.
type Blob struct {
	Digest    image.Digest      `json:"digest"`
	Size      int64             `json:"size"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`
}

// A Batch is what one act adds to a namespace: all of it or nothing.
type Batch struct {
	// Blobs are on stable storage already. A blob that the namespace knows keeps its other
	// labels and gains these; lists of its sources grow (see [SourceLabel]).
	Blobs []Blob
	// Documents are what manifests and indexes among the blobs (of this or an earlier batch)
	// say; edges are made from them.
	Documents []Document
	// Images are written last, after their blobs were checked. Only Name, Target, Labels and
	// Want matter. A name that exists is moved when it has another target.
	Images []PutImage
	// Unpacked are layers and snapshots, on stable storage already.
	Unpacked []Unpacked
	// Lease gets the blobs; empty: none. One that is not there is [errdefs.ErrNotFound].
	Lease string
	// Release ends the hold of the running operation in the same transaction.
	Release *Hold
}

// PutImage is a name to be given.
type PutImage struct {
	Name   string
	Target image.Descriptor
	Labels map[string]string
	// Want lists the manifests of the platforms asked for. They count as wanted from now on,
	// beside those of earlier acts on the same name and target. Empty: every platform that
	// is complete, and if none is, all.
	Want []image.Digest
	// Exclusive refuses a name that exists with another target: [errdefs.ErrAlreadyExists].
	Exclusive bool
	// New refuses every name that exists, with [errdefs.ErrAlreadyExists], and Known one that does
	// not, with [errdefs.ErrNotFound].
	New, Known bool
	// Relabel has Labels take the place of those that the name has; else they are added to them.
	Relabel bool
	// Unseen allows a target that is not here, or is no document. Until it is, the image is partial.
	Unseen bool
}

// A Document is a stored manifest or index with what its bytes say.
type Document struct {
	Digest image.Digest
	Size   int64
	image.Document
}

// A Lease is a named hold that keeps what it lists from collection until it expires.
type Lease struct {
	ID        string            `json:"id"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	ExpiresAt time.Time         `json:"expiresAt,omitzero"` // zero: never
	Digests   []image.Digest    `json:"digests,omitempty"`
	// Snapshots are kept with what is below them.
	Snapshots []SnapshotRef `json:"snapshots,omitempty"`
	// Images are kept though their time is over, by name.
	Images []string `json:"images,omitempty"`
	// Ingests are blobs that are being written under it, by whatever their writers call them.
	Ingests []string `json:"ingests,omitempty"`
	// Holder is set for the lease of a running operation: the lock file that its process
	// keeps locked. Such a lease ends with the operation or with the death of its process.
	Holder string `json:"holder,omitempty"`
	// All is set for a running operation that cannot know beforehand what it will need: it
	// holds everything.
	All bool `json:"all,omitempty"`
}

// LeaseResources are what is put under a lease, or taken from it: see [Lease].
type LeaseResources struct {
	Digests   []image.Digest
	Snapshots []SnapshotRef
	Images    []string
	Ingests   []string
}

// A SnapshotRef names a snapshot of a namespace.
type SnapshotRef struct {
	Snapshotter string `json:"snapshotter"`
	Key         string `json:"key"`
}

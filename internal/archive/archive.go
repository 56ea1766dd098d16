// Package archive reads and writes images as tar archives: OCI layouts, and what docker save
// writes, of every age. doc/formats/archive.md describes the forms.
//
// Archives are streams. Each blob goes past once, to or from a store that is known here only by
// small interfaces, and nothing but short lists is kept in memory. The bytes of documents and
// configs are never rewritten; where an archive has no manifest, one is built.
//
// An archive is hostile until it is read: its names resolve within itself alone, its lists have
// limits, and one that was cut short is an error wherever the cut is.
package archive

import (
	"context"
	"io"

	"github.com/stowage/stowage/internal/image"
)

// A Sink takes the blobs of an archive.
type Sink interface {
	// Blob stores and verifies one blob, of size bytes, that is read from r as it streams past.
	// want is empty when the archive does not say its digest. It returns digest and size.
	// Blob is called by one goroutine, in the order of the archive.
	Blob(ctx context.Context, want image.Digest, size int64, r io.Reader) (image.Descriptor, error)
}

// Contents is what an archive holds, beside its blobs.
type Contents struct {
	Images   []Entry
	Warnings []string // what was passed over, for a person to know
}

// An Entry is one name for one image, or an image without a name.
type Entry struct {
	Name   string // in normal form, or empty
	Tag    string // what a layout calls an image without a name, if anything
	Target image.Descriptor
}

const (
	// maxList bounds the files that list images. Docker's lists name every layer of every
	// image: two thousand images of 25 layers make 5 MB.
	maxList = 32 << 20
	// maxKept bounds what is kept in memory of an archive's small files.
	maxKept = 64 << 20
	// maxEntries bounds the entries of an archive, and maxName their names, in bytes.
	maxEntries = 250_000
	maxName    = 1024
	// maxLinks bounds how many links lead from a name to a file, and maxChain the layers of
	// an image in docker's first format.
	maxLinks = 16
	maxChain = 1000
	// maxTrailer bounds what may follow the end of a tar: padding.
	maxTrailer = 64 << 20
)

// Names of the files that list images.
const (
	layoutName       = "oci-layout"
	indexName        = "index.json"
	manifestName     = "manifest.json"
	repositoriesName = "repositories"
)

// Annotations that name images in an index.json.
const (
	annotationName = "io.containerd.image.name"
	annotationRef  = "org.opencontainers.image.ref.name"
)

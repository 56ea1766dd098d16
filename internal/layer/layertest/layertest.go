// Package layertest has odd layers, and the trees that they are to become.
//
// [Corpus] is a list of stacks, each about one thing that programs which apply layers differ in.
// [Reference] has GNU tar make the tree of one, with what the specification of images adds done
// by hand; [Describe] writes down a tree, so that two can be compared line by line.
package layertest

import "slices"

// A Case is a stack of layers.
type Case struct {
	Name   string   // fit for a path and for the name of a repository
	Layers [][]byte // uncompressed tars, bottom first
	// TarDiffers says what GNU tar alone would make else, and [Reference] does by hand. Empty: it
	// is the tree that GNU tar makes, but for times of folders.
	TarDiffers string
	// UmociDiffers says why umoci makes another tree, or none. Empty: the same, but for holes and
	// the times of folders.
	UmociDiffers string
}

// Corpus returns all cases. Their names are different.
func Corpus() []Case {
	return slices.Concat(
		plain(),
		hardLinks(),
		whiteouts(),
		opaqueFolders(),
		impliedFolders(),
		throughLinks(),
		replaced(),
		attributes(),
		names(),
		contents(),
		stacks(),
		shared(),
	)
}

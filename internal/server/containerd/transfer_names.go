package containerd

import (
	"strings"

	"github.com/containerd/containerd/api/types/transfer"

	"github.com/stowage/stowage"
)

// importedNames are those that an image of an archive gets, which the archive calls by a whole name, or by
// a tag, or not at all.
func importedNames(refs []*transfer.ImageReference, name, tag string, d stowage.Digest) (names []string) {
	for _, r := range refs {
		if !r.IsPrefix {
			continue // it is the name of something else
		}
		found := name
		switch {
		case name == "" && tag != "":
			found = r.Name + ":" + tag
		case !r.AllowOverwrite && !begins(name, r.Name):
			found = "" // it is of another repository
		}
		if found != "" {
			names = append(names, found)
		}
		if r.AddDigest && (found == "" || !r.SkipNamedDigest) {
			names = append(names, r.Name+"@"+d.String())
		}
	}
	return names
}

// begins tells whether a name is in a repository or below it.
func begins(name, repository string) bool {
	rest, ok := strings.CutPrefix(name, repository)
	return ok && (rest == "" || strings.ContainsRune("/:@", rune(rest[0])))
}

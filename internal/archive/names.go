package archive

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// cleanName brings the name of an entry into its one form, relative to the archive's root,
// which is ".". A name that leaves the archive is refused.
func cleanName(name string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("entry %.200q: %s: %w", name, why, errdefs.ErrInvalidArgument)
	}
	switch {
	case name == "":
		return refuse("it has no name")
	case len(name) > maxName:
		return refuse("its name is too long")
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return refuse("its name is not text")
	case strings.HasPrefix(name, "/"):
		return refuse("its name is absolute")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return refuse("its name contains '..'")
		}
	}
	return path.Clean(name), nil
}

// linkTarget finds where a symbolic link called name points to. Links may climb, as far as the
// archive's root.
func linkTarget(name, target string) (string, error) {
	to := path.Join(path.Dir(name), target)
	if target == "" || len(target) > maxName || path.IsAbs(target) || to == ".." || strings.HasPrefix(to, "../") {
		return "", fmt.Errorf("entry %.200q: the link to %.200q leaves the archive: %w", name, target, errdefs.ErrInvalidArgument)
	}
	return to, nil
}

// blobName tells the digest of the blob that name, in an OCI layout, holds.
func blobName(name string) (image.Digest, bool) {
	rest, ok := strings.CutPrefix(name, "blobs/")
	if !ok {
		return "", false
	}
	algorithm, hex, _ := strings.Cut(rest, "/")
	d := image.Digest(algorithm + ":" + hex)
	return d, image.CheckDigest(d) == nil
}

// configName tells the digest of the config that name, in a docker archive, holds; empty if the
// name does not say. Most writers call a config by the hex of its digest, some by the digest.
func configName(name string) image.Digest {
	base := path.Base(name)
	if hex, ok := strings.CutSuffix(base, ".json"); ok {
		base = "sha256:" + hex
	}
	if d := image.Digest(base); image.CheckDigest(d) == nil {
		return d
	}
	return ""
}

// blobPath is where an OCI layout holds d.
func blobPath(d image.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

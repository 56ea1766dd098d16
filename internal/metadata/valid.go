package metadata

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// MaxLease is how many things a lease can list.
const MaxLease = 10_000

// Limits of names and labels.
const (
	maxName  = 1 << 10 // bytes of an image's name
	maxLabel = 4096    // bytes of a label's key and value together
)

var identifier = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,75}$`)

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// CheckNamespace tells whether ns can be the name of a namespace: 1 to 76 letters, digits, dots,
// underscores and dashes, of which the first is a letter or a digit. Errors:
// [errdefs.ErrInvalidArgument].
func CheckNamespace(ns string) error { return checkIdentifier("namespace", ns) }

// CheckSnapshotter tells whether a snapshotter can be called name. Errors: [errdefs.ErrInvalidArgument].
func CheckSnapshotter(name string) error { return checkIdentifier("snapshotter", name) }

func checkIdentifier(what, s string) error {
	if !identifier.MatchString(s) {
		return invalid("%s %.100q: want 1 to 76 letters, digits, dots, underscores and dashes, a letter or digit first", what, s)
	}
	return nil
}

func checkName(name string) error { return checkText("image name", name) }

// checkLeaseID allows what containerd's clients make up.
func checkLeaseID(id string) error { return checkText("lease", id) }

func checkText(what, s string) error {
	if s == "" || len(s) > maxName || strings.Contains(s, "\x00") || !utf8.ValidString(s) {
		return invalid("%s %.100q: want 1 to %d bytes of UTF-8", what, s, maxName)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	for k, v := range labels {
		if k == "" || len(k)+len(v) > maxLabel || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return invalid("label %.100q has %d bytes where 1 to %d of UTF-8 are allowed", k, len(k)+len(v), maxLabel)
		}
	}
	return nil
}

func checkDigests(digests ...image.Digest) error {
	for _, d := range digests {
		if err := image.CheckDigest(d); err != nil {
			return err
		}
	}
	return nil
}

// Check tells whether a batch can be applied at all, whatever is in the database. Errors:
// [errdefs.ErrInvalidArgument].
func (b Batch) Check() error {
	for _, blob := range b.Blobs {
		if err := checkDigests(blob.Digest); err != nil {
			return err
		}
		if blob.Size < 0 {
			return invalid("blob %s of %d bytes", blob.Digest, blob.Size)
		}
		if err := checkLabels(blob.Labels); err != nil {
			return err
		}
	}
	for _, doc := range b.Documents {
		if err := doc.check(); err != nil {
			return err
		}
	}
	for _, img := range b.Images {
		if err := checkName(img.Name); err != nil {
			return err
		}
		if err := checkDigests(img.Target.Digest); err != nil {
			return err
		}
		if err := checkDigests(img.Want...); err != nil {
			return err
		}
		if err := checkLabels(img.Labels); err != nil {
			return err
		}
	}
	for _, u := range b.Unpacked {
		if err := u.check(); err != nil {
			return err
		}
	}
	return nil
}

// merge adds labels to old, of which an empty value removes; neither is changed.
func merge(old, labels map[string]string) map[string]string {
	merged := maps.Clone(old)
	for k, v := range labels {
		switch {
		case v == "":
			delete(merged, k)
		case merged == nil:
			merged = map[string]string{k: v}
		default:
			merged[k] = v
		}
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}

package metadata

import (
	"slices"
	"strings"
	"time"

	"github.com/stowage/stowage/internal/image"
)

// Labels that collection looks at, with containerd's meaning. One that names what cannot be, or
// a time that is none, is as if it were absent.
const (
	// PinLabel keeps whatever has it, with any value.
	PinLabel = "stowage.pin"

	rootLabel   = "containerd.io/gc.root"   // keeps what has it, with any value
	expireLabel = "containerd.io/gc.expire" // RFC 3339: keeps a blob or a snapshot until then; an image and a lease end then
	flatLabel   = "containerd.io/gc.flat"   // on a lease: it keeps what it lists, and nothing below
	// These keep what they name while the labelled thing is kept, and the other way round. Behind
	// them comes content, image or snapshot.<snapshotter>, and then, behind a dot or a slash,
	// whatever tells several apart.
	refLabel  = "containerd.io/gc.ref."
	brefLabel = "containerd.io/gc.bref."
)

// marks are those of a row's labels that collection looks at.
type marks map[string]string

func marksOf(labels map[string]string) (m marks) {
	for k, v := range labels {
		if k == PinLabel || strings.HasPrefix(k, "containerd.io/gc.") {
			if m == nil {
				m = marks{}
			}
			m[k] = v
		}
	}
	return m
}

// keep is the label that keeps what has them, whatever else does; empty if none does.
func (m marks) keep(now time.Time) string {
	for _, label := range []string{PinLabel, rootLabel} {
		if _, ok := m[label]; ok {
			return label
		}
	}
	if at, ok := m.expires(); ok && now.Before(at) {
		return expireLabel
	}
	return ""
}

// expired tells whether the time of an image or a lease is over.
func (m marks) expired(now time.Time) bool {
	at, ok := m.expires()
	return ok && !now.Before(at) && m.keep(now) == ""
}

func (m marks) expires() (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, m[expireLabel])
	return at, err == nil
}

// named yields the keys of what labels with a prefix name in a namespace.
func (m marks) named(prefix, ns string) (keys []string) {
	for k, v := range m {
		if kind, ok := strings.CutPrefix(k, prefix); ok {
			if key := namedBy(ns, kind, v); key != nil {
				keys = append(keys, string(key))
			}
		}
	}
	slices.Sort(keys)
	return keys
}

// namedBy is the key of what a label names; nil if it cannot name anything.
func namedBy(ns, kind, value string) []byte {
	if rest, ok := strings.CutPrefix(kind, "snapshot."); ok {
		snapshotter, _, _ := strings.Cut(rest, "/")
		if checkIdentifier("snapshotter", snapshotter) != nil || checkSnapshotKey(value) != nil {
			return nil
		}
		return snapshotKey(ns, SnapshotterName(snapshotter), value)
	}
	if i := strings.IndexAny(kind, "./"); i >= 0 {
		kind = kind[:i]
	}
	switch {
	case kind == "content" && image.CheckDigest(image.Digest(value)) == nil:
		return knownKey(ns, image.Digest(value))
	case kind == "image" && checkName(value) == nil:
		return key(imageRows, ns, value)
	}
	return nil
}

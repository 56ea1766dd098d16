package metadata

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// The kinds of rows, by the beginnings of their keys.
const (
	namespaceRows = "n/"
	imageRows     = "i/"
	targetRows    = "t/"
	knownRows     = "c/"
	leaseRows     = "l/"
	blobRows      = "b/"
	documentRows  = "d/"
	parentRows    = "u/"
	doomedRows    = "x/"
	snapshotRows  = "s/"
	layerRows     = "p/"
	lazyRows      = "z/"
	goneRows      = "v/"
	removedRows   = "r/"
	usedRows      = "a/"
	edgeRows      = "e/"
	folderRows    = "f/"
	markRows      = "g/"
)

// key joins the parts of a key behind its kind. A last part that is empty makes the prefix of
// all keys with the parts before it.
func key(kind string, parts ...string) []byte {
	k := []byte(kind)
	for i, p := range parts {
		if i > 0 {
			k = append(k, 0)
		}
		k = append(k, p...)
	}
	return k
}

// last is the part of a key behind prefix, copied.
func last(key, prefix []byte) string { return string(key[len(prefix):]) }

// cut divides the parts of a key behind prefix at their first zero byte.
func cut(key, prefix []byte) (before, after string) {
	b, a, _ := bytes.Cut(key[len(prefix):], []byte{0})
	return string(b), string(a)
}

// maxDigestKey is the length of a key of one digest, and nearly of one of two.
const maxDigestKey = 80

// digestKey is the key behind kind of what digests name together.
func digestKey(kind string, digests ...image.Digest) []byte {
	k := append(make([]byte, 0, maxDigestKey), kind...)
	for _, d := range digests {
		k = appendDigest(k, d)
	}
	return k
}

func blobKey(d image.Digest) []byte     { return digestKey(blobRows, d) }
func documentKey(d image.Digest) []byte { return digestKey(documentRows, d) }
func doomedKey(d image.Digest) []byte   { return digestKey(doomedRows, d) }

func knownKey(ns string, d image.Digest) []byte {
	return appendDigest(key(knownRows, ns, ""), d)
}

func parentKey(child, parent image.Digest) []byte {
	return digestKey(parentRows, child, parent)
}

func targetKey(d image.Digest, ns, name string) []byte {
	k := append(digestKey(targetRows, d), ns...)
	return append(append(k, 0), name...)
}

// edgePrefix begins the keys of the rows that name the one under key.
func edgePrefix(key string) []byte {
	return append(append(append(make([]byte, 0, 2*maxDigestKey), edgeRows...), key...), 0)
}

// markKey is the key of the marks of the row under key.
func markKey(key string) []byte { return append([]byte(markRows), key...) }

// folderKey is the key by which the folder of the row under key is found.
func folderKey(snapshotter, folder string, row []byte) []byte {
	return append(key(folderRows, snapshotter, folder, ""), row...)
}

// An algorithm makes digests that keys may hold.
type algorithm struct {
	name string // as in a digest's text
	code byte   // its number among multihashes, which stands for it
	size int    // bytes
}

// algorithms lists them in the order of their names, which is that of their codes.
var algorithms = [...]algorithm{{"sha256", 0x12, 32}, {"sha512", 0x13, 64}}

// appendDigest appends the short form of d, whose first byte tells its length. What cannot be a
// digest gets a form that is in no row.
func appendDigest(b []byte, d image.Digest) []byte {
	name, text, _ := strings.Cut(string(d), ":")
	for _, a := range algorithms {
		if name != a.name || len(text) != 2*a.size || strings.ContainsAny(text, "ABCDEF") {
			continue
		}
		if long, err := hex.AppendDecode(append(b, a.code), []byte(text)); err == nil {
			return long
		}
	}
	return append(append(b, 0), d...)
}

// cutDigest reads the digest that b begins with.
func cutDigest(b []byte) (d image.Digest, rest []byte, ok bool) {
	for _, a := range algorithms {
		if len(b) > a.size && b[0] == a.code {
			text := append(make([]byte, 0, 2*maxDigestKey), a.name...)
			text = hex.AppendEncode(append(text, ':'), b[1:1+a.size])
			return image.Digest(text), b[1+a.size:], true
		}
	}
	return "", nil, false
}

// lastDigest is the digest behind prefix that ends a key.
func lastDigest(key, prefix []byte) (image.Digest, error) {
	d, rest, ok := cutDigest(key[len(prefix):])
	if !ok || len(rest) > 0 {
		return "", badKey(key)
	}
	return d, nil
}

// parseTargetKey is the inverse of targetKey.
func parseTargetKey(key []byte) (d image.Digest, ns, name string, err error) {
	d, rest, ok := cutDigest(key[len(targetRows):])
	if !ok {
		return "", "", "", badKey(key)
	}
	ns, name = cut(rest, nil)
	return d, ns, name, nil
}

// parseKnownKey is the inverse of knownKey.
func parseKnownKey(key []byte) (ns string, d image.Digest, err error) {
	before, after, _ := bytes.Cut(key[len(knownRows):], []byte{0})
	d, rest, ok := cutDigest(after)
	if !ok || len(rest) > 0 {
		return "", "", badKey(key)
	}
	return string(before), d, nil
}

func badKey(key []byte) error {
	return fmt.Errorf("the key of row %q: %w", key, errdefs.ErrDataLoss)
}

// A digestPrefix is a beginning of digests in one algorithm.
type digestPrefix struct {
	text  string // as it begins
	short []byte // as much of the short form as whole bytes make
}

// digestPrefixes are the beginnings of digests that a person may mean by prefix: one in full, as
// algorithm:hex, or the hex alone.
func digestPrefixes(prefix string) (list []digestPrefix) {
	for _, a := range algorithms {
		text := prefix
		if !strings.Contains(prefix, ":") {
			text = a.name + ":" + prefix
		}
		digits, ok := strings.CutPrefix(text, a.name+":")
		if !ok {
			continue
		}
		if short, err := hex.AppendDecode([]byte{a.code}, []byte(digits[:len(digits)&^1])); err == nil {
			list = append(list, digestPrefix{text, short})
		}
	}
	return list
}

// of tells whether d begins so.
func (p digestPrefix) of(d image.Digest) bool { return strings.HasPrefix(string(d), p.text) }

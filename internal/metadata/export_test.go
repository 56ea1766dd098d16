package metadata

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
)

// ReadNames reads a journal: the target and labels of each name.
func ReadNames(r io.Reader) (map[string]string, error) {
	names, err := readNames(r)
	said := map[string]string{}
	for n, l := range names {
		said[n.namespace+" "+n.name] = fmt.Sprint(l.Target.Digest, " ", l.Labels)
	}
	return said, err
}

// RewriteNames compacts a journal, however long it is.
func RewriteNames(ctx context.Context, s *Store) error { return s.rewriteNames(ctx) }

// Checksummed puts the right checksum before each line.
func Checksummed(b []byte) (out []byte) {
	for l := range bytes.Lines(b) {
		l = bytes.TrimSuffix(l, []byte("\n"))
		out = fmt.Appendf(out, "%08x %s\n", crc32.Checksum(l, castagnoli), l)
	}
	return out
}

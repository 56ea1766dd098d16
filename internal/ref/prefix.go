package ref

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

// minPrefix is how many hex digits name an image at least.
const minPrefix = 6

// ParseDigestPrefix reads a digest, or the beginning of one, of at least six hex digits. The
// algorithm is sha256 if it is left out. What it accepts may be a name as well: cafe42 is both.
func ParseDigestPrefix(s string) (algorithm, hex string, ok bool) {
	a := digest.SHA256
	if name, rest, found := strings.Cut(s, ":"); found {
		a, s = digest.Algorithm(name), rest
	}
	if a != digest.SHA256 && a != digest.SHA512 {
		return "", "", false
	}
	if len(s) < minPrefix || len(s) > 2*a.Size() || strings.Trim(s, "0123456789abcdef") != "" {
		return "", "", false
	}
	return a.String(), s, true
}

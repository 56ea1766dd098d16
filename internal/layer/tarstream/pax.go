package tarstream

import (
	"bytes"
	"encoding/base64"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
)

// extended is what the extended headers before an entry say. Strings are empty and numbers
// negative where they say nothing.
type extended struct {
	pending bool // there is one that belongs to the next entry

	name, link         string
	longName, longLink string // of GNU's own headers

	size         int64
	uid, gid     int64
	major, minor int64
	mtime        time.Time
	timed        bool
	flags        string
	textACL      bool
	xattrs       []Xattr
	second       []Xattr // of LIBARCHIVE
	sparse       paxMap
}

// isExtended tells whether a header says something about the entries behind it. GNU's volume label
// counts, as it says nothing.
func isExtended(kind byte) bool {
	switch kind {
	case 'x', 'X', 'g', 'L', 'K', 'V':
		return true
	}
	return false
}

func (x *extended) clear() {
	x.pending = false
	x.longName, x.longLink = "", ""
	x.clearPAX()
}

// clearPAX forgets what pax headers said.
func (x *extended) clearPAX() {
	x.name, x.link = "", ""
	x.size, x.uid, x.gid, x.major, x.minor = -1, -1, -1, -1, -1
	x.mtime, x.timed = time.Time{}, false
	x.flags, x.textACL = "", false
	x.xattrs, x.second = x.xattrs[:0], x.second[:0]
	x.sparse = paxMap{runs: x.sparse.runs[:0], size: -1, blocks: -1, major: -1, minor: -1}
}

// add takes in an extended header. A second one of the same kind replaces the first. Global ones
// are left out: layers are put together by programs that do not know them.
func (x *extended) add(kind byte, body []byte, at int64) error {
	switch kind {
	case 'L', 'K':
		value := string(text(body[:min(len(body), maxName+1)]))
		if len(value) > maxName {
			return malformed(at, "a name of more than %d bytes", maxName)
		}
		x.pending = true
		if kind == 'L' {
			x.longName = value
		} else {
			x.longLink = value
		}
	case 'x', 'X': // X is what Solaris wrote
		x.pending = true
		x.clearPAX()
		for len(body) > 0 {
			key, value, rest, ok := paxRecord(body)
			if !ok {
				return malformed(at, "a record of the extended header is malformed")
			}
			if reason := x.record(string(key), value); reason != "" {
				return malformed(at, "record %q: %s", key, reason)
			}
			body = rest
		}
		return x.finish(at)
	}
	return nil
}

// paxRecord splits off one record: its length in decimal, a blank, the key, "=", the value and
// the end of the line.
func paxRecord(b []byte) (key, value, rest []byte, ok bool) {
	blank := bytes.IndexByte(b[:min(len(b), 8)], ' ')
	if blank <= 0 {
		return nil, nil, nil, false
	}
	length, ok := decimal(b[:blank])
	if !ok || length > int64(len(b)) || length < int64(blank)+3 || b[length-1] != '\n' {
		return nil, nil, nil, false
	}
	key, value, ok = bytes.Cut(b[blank+1:length-1], []byte("="))
	ok = ok && len(key) > 0 && key[0] != ' ' && bytes.IndexByte(key, 0) < 0
	return key, value, b[length:], ok
}

// record takes in one record and says what is wrong with it. An empty value takes back what is
// in the header, which then counts as if there were no record.
func (x *extended) record(key string, value []byte) string {
	if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
		return addXattr(&x.xattrs, xattrName(name), value)
	}
	if name, ok := strings.CutPrefix(key, "LIBARCHIVE.xattr."); ok {
		return x.addEncoded(name, value)
	}
	if part, ok := strings.CutPrefix(key, "GNU.sparse."); ok {
		return x.sparse.record(part, value)
	}
	switch key {
	case "path":
		return setName(&x.name, value)
	case "linkpath":
		return setName(&x.link, value)
	case "size":
		return setNumber(&x.size, value, math.MaxInt64)
	case "uid":
		return setNumber(&x.uid, value, math.MaxUint32-1)
	case "gid":
		return setNumber(&x.gid, value, math.MaxUint32-1)
	case "SCHILY.devmajor":
		return setNumber(&x.major, value, math.MaxUint32)
	case "SCHILY.devminor":
		return setNumber(&x.minor, value, math.MaxUint32)
	case "SCHILY.fflags":
		x.flags = string(value)
	case "SCHILY.acl.access", "SCHILY.acl.default", "SCHILY.acl.ace":
		x.textACL = x.textACL || len(value) > 0
	case "mtime":
		var ok bool
		if x.timed = len(value) > 0; x.timed {
			if x.mtime, ok = paxTime(value); !ok {
				return "no time"
			}
		}
	}
	return ""
}

// finish puts the records of one header together.
func (x *extended) finish(at int64) error {
	if reason := x.sparse.finish(); reason != "" {
		return malformed(at, "%s", reason)
	}
	if x.sparse.used && x.sparse.name != "" {
		x.name = x.sparse.name
	}
	for _, a := range x.second {
		if !slices.ContainsFunc(x.xattrs, func(b Xattr) bool { return a.Name == b.Name }) {
			x.xattrs = append(x.xattrs, a)
		}
	}
	if len(x.xattrs) > maxXattrs {
		return malformed(at, "more than %d extended attributes", maxXattrs)
	}
	slices.SortFunc(x.xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func setName(name *string, value []byte) string {
	switch {
	case len(value) > maxName:
		return "the name is too long"
	case bytes.IndexByte(value, 0) >= 0:
		return "a NUL in a name"
	}
	*name = string(value)
	return ""
}

func setNumber(n *int64, value []byte, limit int64) string {
	if len(value) == 0 {
		*n = -1
		return ""
	}
	parsed, ok := decimal(value)
	if !ok || parsed > limit {
		return "no number, or out of range"
	}
	*n = parsed
	return ""
}

// addEncoded takes in an attribute as libarchive writes it, beside the other form.
func (x *extended) addEncoded(name string, value []byte) string {
	name, err := url.PathUnescape(name)
	if err != nil {
		return "the name is malformed"
	}
	plain, err := base64.RawStdEncoding.AppendDecode(nil, bytes.TrimRight(value, "="))
	if err != nil {
		return "the value is malformed"
	}
	return addXattr(&x.second, name, plain)
}

// xattrName takes back how GNU tar writes the characters that cannot be in a key.
func xattrName(key string) string {
	if !strings.Contains(key, "%") {
		return key
	}
	return strings.NewReplacer("%3D", "=", "%25", "%").Replace(key)
}

// addXattr adds an attribute, or replaces the value of one with the same name.
func addXattr(list *[]Xattr, name string, value []byte) string {
	switch {
	case name == "" || len(name) > maxXattrName || strings.Contains(name, "\x00"):
		return "no name of an attribute"
	case len(value) > maxXattrValue:
		return "the attribute is too large"
	}
	for i := range *list {
		if (*list)[i].Name == name {
			(*list)[i].Value = string(value)
			return ""
		}
	}
	if len(*list) == maxXattrs {
		return "too many attributes"
	}
	*list = append(*list, Xattr{name, string(value)})
	return ""
}

// decimal reads digits and nothing else.
func decimal(b []byte) (int64, bool) {
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' || n > (math.MaxInt64-9)/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(b) > 0
}

// paxTime reads seconds with a fraction, and rounds down what is beyond nanoseconds.
func paxTime(b []byte) (time.Time, bool) {
	whole, fraction, pointed := bytes.Cut(b, []byte("."))
	whole, negative := bytes.CutPrefix(whole, []byte("-"))
	seconds, ok := decimal(whole)
	if !ok || seconds > maxTime || pointed && len(fraction) == 0 {
		return time.Time{}, false
	}
	nanos, unit, beyond := int64(0), int64(1e9), false
	for _, c := range fraction {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
		unit /= 10
		nanos += int64(c-'0') * unit
		beyond = beyond || unit == 0 && c != '0'
	}
	if negative {
		seconds, nanos = -seconds, -nanos
		if beyond {
			nanos--
		}
	}
	return time.Unix(seconds, nanos), true
}

package layer_test

import (
	"fmt"
	"strings"
)

// An entry is a member of a tar, as strange as it may be.
type entry struct {
	kind         byte
	name, target string
	mode         int64 // 0: 0644
	uid, gid     int64
	mtime        int64
	major, minor int64
	content      string
	pax          []string // keys and values in turn
	sum          int      // is added to the checksum
}

// archive is a tar with its end.
func archive(entries ...entry) []byte {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.bytes())
	}
	b.WriteString(strings.Repeat("\x00", 1024))
	return []byte(b.String())
}

func (e entry) bytes() string {
	var before string
	if len(e.pax) > 0 {
		var records strings.Builder
		for i := 0; i < len(e.pax); i += 2 {
			records.WriteString(paxRecord(e.pax[i], e.pax[i+1]))
		}
		before = entry{kind: 'x', name: "pax", content: records.String()}.bytes()
	}
	if len(e.name) > 100 {
		before += entry{kind: 'L', name: "long", content: e.name + "\x00"}.bytes()
	}
	if len(e.target) > 100 {
		before += entry{kind: 'K', name: "long", content: e.target + "\x00"}.bytes()
	}
	if e.mode == 0 {
		e.mode = 0o644
	}
	h := make([]byte, 512)
	copy(h, e.name[:min(len(e.name), 100)])
	copy(h[100:], number(8, e.mode))
	copy(h[108:], number(8, e.uid))
	copy(h[116:], number(8, e.gid))
	copy(h[124:], number(12, int64(len(e.content))))
	copy(h[136:], number(12, e.mtime))
	copy(h[148:], "        ")
	h[156] = e.kind
	copy(h[157:], e.target[:min(len(e.target), 100)])
	copy(h[257:], "ustar  \x00")
	copy(h[329:], number(8, e.major))
	copy(h[337:], number(8, e.minor))
	sum := e.sum
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return before + string(h) + e.content + strings.Repeat("\x00", -len(e.content)&511)
}

// number is octal, or binary if it does not fit.
func number(width int, n int64) string {
	if octal := fmt.Sprintf("%0*o", width-1, n); n >= 0 && len(octal) < width {
		return octal + "\x00"
	}
	b := make([]byte, width)
	for i := width - 1; i >= 0; i-- {
		b[i] = byte(n)
		n >>= 8
	}
	b[0] |= 0x80
	return string(b)
}

func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	length := len(rest) + 1
	for len(fmt.Sprint(length))+len(rest) != length {
		length++
	}
	return fmt.Sprint(length) + rest
}

func file(name, content string) entry   { return entry{kind: '0', name: name, content: content} }
func folder(name string) entry          { return entry{kind: '5', name: name, mode: 0o755} }
func symlink(name, target string) entry { return entry{kind: '2', name: name, target: target} }
func hardlink(name, target string) entry {
	return entry{kind: '1', name: name, target: target}
}

func device(name string, kind byte, major, minor int64) entry {
	return entry{kind: kind, name: name, major: major, minor: minor}
}

// with adds an extended header.
func (e entry) with(pax ...string) entry {
	e.pax = append(e.pax, pax...)
	return e
}

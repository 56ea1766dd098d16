package layertest

import (
	"archive/tar"
	"fmt"
	"strings"
)

const blockSize = 512

// A run is a part of a sparse file.
type run struct {
	offset int64
	data   string
}

// rawHeader makes the block of a header as GNU tar does, after which it can be edited.
func rawHeader(kind byte, name string, size int64) []byte {
	b := make([]byte, blockSize)
	put := func(offset int, format string, value any) { copy(b[offset:], fmt.Sprintf(format, value)) }
	put(0, "%s", name)
	put(100, "%07o\x00", 0o644)
	put(108, "%07o\x00", 0)
	put(116, "%07o\x00", 0)
	put(124, "%011o\x00", size)
	put(136, "%011o\x00", timeOf(name).Unix())
	b[156] = kind
	put(257, "%s", "ustar  \x00")
	return b
}

// seal sets the checksum of a header and returns it.
func seal(b []byte) string {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return string(b)
}

func padded(content string) string {
	return content + strings.Repeat("\x00", -len(content)&(blockSize-1))
}

// paxHeader is an extended header with records, keys and values in turn: also those that
// archive/tar keeps to itself.
func paxHeader(records ...string) string {
	var body strings.Builder
	for i := 0; i < len(records); i += 2 {
		rest := " " + records[i] + "=" + records[i+1] + "\n"
		length := len(rest) + 1
		for len(fmt.Sprint(length))+len(rest) != length {
			length++
		}
		fmt.Fprintf(&body, "%d%s", length, rest)
	}
	h := rawHeader(tar.TypeXHeader, "PaxHeaders/x", int64(body.Len()))
	copy(h[257:], "ustar\x0000")
	return seal(h) + padded(body.String())
}

// gnuLong is a name or target in a header of its own.
func gnuLong(kind byte, value string) string {
	return seal(rawHeader(kind, "././@LongLink", int64(len(value)+1))) + padded(value+"\x00")
}

// oldSparse is a sparse file as GNU tar first wrote them: four runs in the header, the others in
// blocks behind it.
func oldSparse(name string, size int64, runs []run) entry {
	fields, content := []string{}, ""
	for _, r := range append(runs, run{offset: size}) {
		fields = append(fields, fmt.Sprintf("%011o\x00%011o\x00", r.offset, len(r.data)))
		content += r.data
	}
	h := rawHeader(tar.TypeGNUSparse, name, int64(len(content)))
	copy(h[386:482], strings.Join(fields[:min(4, len(fields))], ""))
	copy(h[483:], fmt.Sprintf("%011o\x00", size))
	fields = fields[min(4, len(fields)):]
	if len(fields) > 0 {
		h[482] = 1
	}
	blocks := seal(h)
	for len(fields) > 0 {
		more := make([]byte, blockSize)
		copy(more[:504], strings.Join(fields[:min(21, len(fields))], ""))
		fields = fields[min(21, len(fields)):]
		if len(fields) > 0 {
			more[504] = 1
		}
		blocks += string(more)
	}
	return entry{raw: blocks + padded(content)}
}

// paxSparse is a sparse file in one of the versions 0.0, 0.1 and 1.0.
func paxSparse(version, name string, size int64, runs []run) entry {
	runs = append(runs, run{offset: size})
	content := ""
	for _, r := range runs {
		content += r.data
	}
	var records []string
	switch version {
	case "0.0":
		records = []string{"GNU.sparse.size", fmt.Sprint(size), "GNU.sparse.numblocks", fmt.Sprint(len(runs))}
		for _, r := range runs {
			records = append(records, "GNU.sparse.offset", fmt.Sprint(r.offset), "GNU.sparse.numbytes", fmt.Sprint(len(r.data)))
		}
	case "0.1":
		var list []string
		for _, r := range runs {
			list = append(list, fmt.Sprintf("%d,%d", r.offset, len(r.data)))
		}
		records = []string{
			"GNU.sparse.size", fmt.Sprint(size), "GNU.sparse.numblocks", fmt.Sprint(len(runs)),
			"GNU.sparse.name", name, "GNU.sparse.map", strings.Join(list, ","),
		}
	case "1.0":
		records = []string{
			"GNU.sparse.major", "1", "GNU.sparse.minor", "0",
			"GNU.sparse.name", name, "GNU.sparse.realsize", fmt.Sprint(size),
		}
		list := fmt.Sprintf("%d\n", len(runs))
		for _, r := range runs {
			list += fmt.Sprintf("%d\n%d\n", r.offset, len(r.data))
		}
		content = padded(list) + content
	default:
		panic("layertest: no version " + version)
	}
	stored := name
	if version != "0.0" {
		stored = "GNUSparseFile/" + name
	}
	h := rawHeader(tar.TypeReg, stored, int64(len(content)))
	copy(h[136:], fmt.Sprintf("%011o\x00", timeOf(name).Unix()))
	copy(h[257:], "ustar\x0000")
	return entry{raw: paxHeader(records...) + seal(h) + padded(content)}
}

package layertest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// An entry is what one member of a layer is made of: a header with content, or raw blocks.
type entry struct {
	header  tar.Header
	content string
	raw     string
}

// An option changes a header.
type option func(*tar.Header)

func member(kind byte, name string, permissions int64, options []option) entry {
	h := tar.Header{Typeflag: kind, Name: name, Mode: permissions, ModTime: timeOf(name)}
	for _, o := range options {
		o(&h)
	}
	return entry{header: h}
}

// timeOf makes times that tell entries apart: two years, a second each.
func timeOf(name string) time.Time {
	h := fnv.New32()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return time.Unix(1_600_000_000+int64(h.Sum32()%60_000_000), 0)
}

func file(name, content string, options ...option) entry {
	e := member(tar.TypeReg, name, 0o644, options)
	e.header.Size = int64(len(content))
	e.content = content
	return e
}

func dir(name string, options ...option) entry { return member(tar.TypeDir, name, 0o755, options) }

func fifo(name string, options ...option) entry { return member(tar.TypeFifo, name, 0o644, options) }

func symlink(name, target string, options ...option) entry {
	return member(tar.TypeSymlink, name, 0o777, append(options, linkTo(target)))
}

func hardLink(name, target string, options ...option) entry {
	return member(tar.TypeLink, name, 0o644, append(options, linkTo(target)))
}

func device(kind byte, name string, major, minor int64, options ...option) entry {
	e := member(kind, name, 0o660, options)
	e.header.Devmajor, e.header.Devminor = major, minor
	return e
}

// whiteout hides path, and opaque all in a folder.
func whiteout(path string) entry {
	i := strings.LastIndexByte(path, '/') + 1
	return file(path[:i]+".wh."+path[i:], "")
}

func opaque(folder string) entry { return file(folder+"/.wh..wh..opq", "") }

func linkTo(target string) option   { return func(h *tar.Header) { h.Linkname = target } }
func mode(permissions int64) option { return func(h *tar.Header) { h.Mode = permissions } }
func owner(uid, gid int) option     { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }
func modified(s, ns int64) option   { return func(h *tar.Header) { h.ModTime = time.Unix(s, ns) } }
func format(form tar.Format) option { return func(h *tar.Header) { h.Format = form } }
func xattr(name, value string) option {
	return func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
}

// layer is a tar of entries.
func layer(entries ...entry) []byte {
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	check := func(err error) {
		if err != nil {
			panic(fmt.Sprintf("layertest: %v", err)) // the corpus itself is wrong
		}
	}
	for _, e := range entries {
		if e.raw != "" {
			check(w.Flush())
			all.WriteString(e.raw)
			continue
		}
		h := e.header
		if h.ModTime.Nanosecond() != 0 { // rounded, unless it is asked for
			h.Format = tar.FormatPAX
		}
		check(w.WriteHeader(&h))
		_, err := w.Write([]byte(e.content))
		check(err)
	}
	check(w.Close())
	return all.Bytes()
}

// stack is layers, bottom first.
func stack(layers ...[]byte) [][]byte { return layers }

package hosts

import (
	"bytes"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// An outline is what decoding a file into a struct loses: the order of its keys, and where each
// stands.
type outline struct {
	data    []byte
	at      map[string]int      // key to the offset of where it is first named
	beneath map[string][]string // key to the names right beneath it, in the order of the file
	headed  map[string]bool     // keys that are in the header of a table
}

// readOutline reads the outline of a file that was decoded without error.
func readOutline(b []byte) outline {
	o := outline{data: b, at: map[string]int{}, beneath: map[string][]string{}, headed: map[string]bool{}}
	var p unstable.Parser
	p.Reset(b)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = o.key(nil, e.Key())
			for i := range table {
				o.headed[id(table[:i+1])] = true
			}
		case unstable.KeyValue:
			o.value(table, e)
		}
	}
	return o
}

// value notes a key and, if it holds an inline table, the keys within.
func (o *outline) value(table []string, kv *unstable.Node) {
	key := o.key(table, kv.Key())
	if v := kv.Value(); v.Kind == unstable.InlineTable {
		for items := v.Children(); items.Next(); {
			o.value(key, items.Node())
		}
	}
}

// key notes a key and all that it implies: host."x".ca is in host."x", a host.
func (o *outline) key(table []string, parts unstable.Iterator) []string {
	key := table[:len(table):len(table)]
	for parts.Next() {
		n := parts.Node()
		in := id(key)
		key = append(key, string(n.Data))
		if _, seen := o.at[id(key)]; !seen {
			o.at[id(key)] = int(n.Raw.Offset)
			o.beneath[in] = append(o.beneath[in], string(n.Data))
		}
	}
	return key
}

// id is a key as one string.
func id(key []string) string { return strings.Join(key, "\x00") }

// has tells whether the file names a key.
func (o *outline) has(key ...string) bool {
	_, ok := o.at[id(key)]
	return ok
}

// line is where a key stands, or else what it is in; 0 when it is not in the file.
func (o *outline) line(key []string) int {
	for ; len(key) > 0; key = key[:len(key)-1] {
		if offset, ok := o.at[id(key)]; ok {
			return 1 + bytes.Count(o.data[:offset], []byte{'\n'})
		}
	}
	return 0
}

package hosts

import (
	"bytes"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// An outline is what decoding a file into a struct loses: the order of its host tables, and where
// each key stands.
type outline struct {
	data  []byte
	hosts []string       // names of the host tables, in the order of the file
	at    map[string]int // key to the offset of where it is first named
}

// readOutline reads the outline of a file that was decoded without error.
func readOutline(b []byte) outline {
	o := outline{data: b, at: map[string]int{}}
	var p unstable.Parser
	p.Reset(b)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = o.key(nil, e.Key())
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
		key = append(key, string(n.Data))
		id := strings.Join(key, "\x00")
		if _, seen := o.at[id]; seen {
			continue
		}
		o.at[id] = int(n.Raw.Offset)
		if len(key) == 2 && key[0] == "host" {
			o.hosts = append(o.hosts, key[1])
		}
	}
	return key
}

// line is where a key stands, or else what it is in; 0 when it is not in the file.
func (o *outline) line(key []string) int {
	for ; len(key) > 0; key = key[:len(key)-1] {
		if offset, ok := o.at[strings.Join(key, "\x00")]; ok {
			return 1 + bytes.Count(o.data[:offset], []byte{'\n'})
		}
	}
	return 0
}

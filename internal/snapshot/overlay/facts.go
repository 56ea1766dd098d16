package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
)

// factsFile is where they are in a folder.
const factsFile = "layer.json"

// maxFacts bounds what is read of them, in bytes: a layer of a million whiteouts has fewer.
const maxFacts = 256 << 20

// facts is what a layer is beside its files.
type facts struct {
	Root   bool        `json:"root,omitempty"`   // it has an entry for the root
	Opaque bool        `json:"opaque,omitempty"` // it hides everything below it
	Needs  layer.Needs `json:"-"`                // as long as it may stand on any stack
}

// needs is [layer.Needs] as it is written. JSON is for UTF-8 alone and names are bytes, so they are
// quoted as in Go.
type needs struct {
	Folders   []quoted `json:"folders,omitempty"`
	Through   []quoted `json:"through,omitempty"`
	Links     []quoted `json:"links,omitempty"`
	Whiteouts []quoted `json:"whiteouts,omitempty"`
}

// A quoted is a name.
type quoted string

// MarshalText implements [encoding.TextMarshaler].
func (q quoted) MarshalText() ([]byte, error) {
	return strconv.AppendQuoteToASCII(nil, string(q)), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (q *quoted) UnmarshalText(b []byte) error {
	s, err := strconv.Unquote(string(b))
	*q = quoted(s)
	return err
}

// written is all that is in the file.
type written struct {
	facts
	Needs needs `json:"needs,omitzero"`
}

// convert copies names.
func convert[A, B ~string](names []A) []B {
	list := make([]B, len(names))
	for i, name := range names {
		list[i] = B(name)
	}
	return list
}

func writeFacts(folder string, f facts) error {
	n := f.Needs
	b, err := json.Marshal(written{f, needs{
		convert[string, quoted](n.Folders), convert[string, quoted](n.Through),
		convert[string, quoted](n.Links), convert[string, quoted](n.Whiteouts),
	}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, factsFile), b, 0o644)
}

func readFacts(folder string) (f facts, err error) {
	name := filepath.Join(folder, factsFile)
	info, err := os.Stat(name)
	if err == nil && info.Size() > maxFacts {
		err = fmt.Errorf("%d bytes, where at most %d are read", info.Size(), maxFacts)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(name)
	}
	if err == nil {
		var w written
		err = json.Unmarshal(b, &w)
		f = w.facts
		f.Needs = layer.Needs{
			Folders: convert[quoted, string](w.Needs.Folders), Through: convert[quoted, string](w.Needs.Through),
			Links: convert[quoted, string](w.Needs.Links), Whiteouts: convert[quoted, string](w.Needs.Whiteouts),
		}
	}
	if err != nil {
		return facts{}, fmt.Errorf("snapshot folder %s: %w", folder, errors.Join(err, errdefs.ErrDataLoss))
	}
	return f, nil
}

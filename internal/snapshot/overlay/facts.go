package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
)

// Files in a folder, and how much of them is read, in bytes. A layer of a million whiteouts needs
// less.
const (
	factsFile = "layer.json"
	maxFacts  = 4 << 10
	needsFile = "needs.json"
	maxNeeds  = 256 << 20
)

// facts is what every mount has to know of a layer.
type facts struct {
	Root   bool `json:"root,omitempty"`   // it has an entry for the root
	Opaque bool `json:"opaque,omitempty"` // it hides everything below it
}

func writeFacts(folder string, f facts) error { return writeFile(folder, factsFile, f) }

func readFacts(folder string) (f facts, err error) {
	err = readFile(folder, factsFile, maxFacts, &f)
	return f, err
}

// hasFacts tells whether they were written. Of an active snapshot they are when it received a layer, or
// was about to be committed.
func hasFacts(folder string) (bool, error) {
	_, err := os.Lstat(filepath.Join(folder, factsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// needs is [layer.Needs] as it is written, of a layer that may stand on any stack. JSON is for
// UTF-8 alone and names are bytes, so they are quoted as in Go.
type needs struct {
	Folders   []quoted `json:"folders,omitempty"`
	Through   []quoted `json:"through,omitempty"`
	Links     []quoted `json:"links,omitempty"`
	Whiteouts []quoted `json:"whiteouts,omitempty"`
}

func writeNeeds(folder string, n layer.Needs) error {
	return writeFile(folder, needsFile, needs{
		convert[string, quoted](n.Folders), convert[string, quoted](n.Through),
		convert[string, quoted](n.Links), convert[string, quoted](n.Whiteouts),
	})
}

func readNeeds(folder string) (layer.Needs, error) {
	var n needs
	if err := readFile(folder, needsFile, maxNeeds, &n); err != nil {
		return layer.Needs{}, err
	}
	return layer.Needs{
		Folders: convert[quoted, string](n.Folders), Through: convert[quoted, string](n.Through),
		Links: convert[quoted, string](n.Links), Whiteouts: convert[quoted, string](n.Whiteouts),
	}, nil
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

// convert copies names.
func convert[A, B ~string](names []A) []B {
	list := make([]B, len(names))
	for i, name := range names {
		list[i] = B(name)
	}
	return list
}

func writeFile(folder, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, name), b, 0o644)
}

func readFile(folder, name string, limit int64, v any) error {
	path := filepath.Join(folder, name)
	info, err := os.Stat(path)
	if err == nil && info.Size() > limit {
		err = fmt.Errorf("it has %d bytes, where at most %d are read", info.Size(), limit)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("%s of snapshot folder %s: %w: %w", name, folder, err, errdefs.ErrDataLoss)
	}
	return nil
}

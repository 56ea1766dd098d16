// Package filter reads filters as containerd's clients write them, and tells what they match.
//
// A filter is a list of expressions, of which one must match. An expression is selectors with commas
// between, which must all match:
//
//	name                          the field is there
//	labels."app.kind"==cache      it has this value; a quoted part may hold anything
//	target.digest!=sha256:…       it has another, or is not there
//	name~=/^docker\.io//,labels.a the value, empty if it is not there, matches a pattern
//
// A value without quotes ends at a comma or a space. Quoted ones are in "…", patterns also in /…/ and
// |…|, with the escapes of Go's strings. Patterns are those of package regexp.
package filter

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/containerd/errdefs"
)

// Limits of a filter.
const (
	maxLength  = 64 << 10 // bytes of all expressions together
	maxPattern = 64 << 10 // steps that all patterns together are compiled to, about
)

// A Filter tells what was asked for. The zero value matches everything. Goroutines may share it.
type Filter struct {
	any [][]selector // an empty list matches
}

// Fields gives the value of a field of what is looked at, and whether it is there. The path is as it
// was written between the dots, and has one part at least.
type Fields func(path []string) (value string, ok bool)

// Label is the label that the end of a field's path names: the dots of its key divide the path as well.
func Label(labels map[string]string, path []string) (value string, ok bool) {
	value, ok = labels[strings.Join(path, ".")]
	return value, ok
}

// Match tells whether the filter matches what has these fields.
func (f Filter) Match(fields Fields) bool {
	for _, all := range f.any {
		if matchAll(all, fields) {
			return true
		}
	}
	return len(f.any) == 0
}

func matchAll(list []selector, fields Fields) bool {
	for _, s := range list {
		if !s.match(fields) {
			return false
		}
	}
	return true
}

// A selector is what one field must be.
type selector struct {
	path    []string
	op      operator
	value   string
	pattern *regexp.Regexp
}

type operator string

const (
	present  operator = ""
	equal    operator = "=="
	unequal  operator = "!="
	matching operator = "~="
)

func (s selector) match(fields Fields) bool {
	value, ok := fields(s.path)
	switch s.op {
	case equal:
		return ok && value == s.value
	case unequal:
		return value != s.value
	case matching:
		return s.pattern.MatchString(value)
	default:
		return ok
	}
}

// Parse reads the expressions of a filter. None, and an empty one, match everything. Errors:
// [errdefs.ErrInvalidArgument], also for a pattern that is none, which containerd lets match nothing,
// and for filters of more than 64 KiB or with patterns of too many steps.
func Parse(list ...string) (Filter, error) {
	var f Filter
	length, steps := 0, 0
	for _, text := range list {
		if length += len(text); length > maxLength {
			return Filter{}, fmt.Errorf("filters of more than %d bytes: %w", maxLength, errdefs.ErrInvalidArgument)
		}
		all, err := parse(text, &steps)
		if err != nil {
			return Filter{}, fmt.Errorf("filter %.200q: %w: %w", text, err, errdefs.ErrInvalidArgument)
		}
		f.any = append(f.any, all)
	}
	return f, nil
}

// compile makes a pattern, and counts its steps.
func compile(text string, steps *int) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if *steps += size(tree); *steps > maxPattern {
		return nil, fmt.Errorf("patterns of more than %d steps", maxPattern)
	}
	return regexp.Compile(text)
}

// size is about how many steps a pattern is compiled to: what is repeated counts each time.
func size(tree *syntax.Regexp) int {
	n := 1 + len(tree.Rune)
	for _, sub := range tree.Sub {
		n += size(sub)
	}
	if tree.Op == syntax.OpRepeat {
		n *= max(1, tree.Min, tree.Max)
	}
	return n
}

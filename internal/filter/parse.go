package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A parser reads an expression from its front.
type parser struct {
	rest  string
	steps *int // of patterns, so far
}

func parse(text string, steps *int) (list []selector, err error) {
	if text == "" {
		return nil, nil
	}
	p := parser{rest: text, steps: steps}
	for {
		s, err := p.selector()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		if p.rest == "" {
			return list, nil
		}
		if !p.skip(",") {
			return nil, p.unexpected("a comma")
		}
	}
}

// unexpected is an error that tells what was found where something else should be.
func (p *parser) unexpected(want string) error {
	if p.rest == "" {
		return fmt.Errorf("it ends where %s should be", want)
	}
	return fmt.Errorf("%.40q is where %s should be", p.rest, want)
}

// skip passes text if it comes next.
func (p *parser) skip(text string) (ok bool) {
	p.rest, ok = strings.CutPrefix(p.rest, text)
	return ok
}

// space passes what separates; containerd allows it before fields, operators and values.
func (p *parser) space() { p.rest = strings.TrimLeftFunc(p.rest, unicode.IsSpace) }

// take passes the runes of which f is true.
func (p *parser) take(f func(rune) bool) string {
	n := strings.IndexFunc(p.rest, func(r rune) bool { return !f(r) })
	if n < 0 {
		n = len(p.rest)
	}
	taken := p.rest[:n]
	p.rest = p.rest[n:]
	return taken
}

func (p *parser) selector() (s selector, err error) {
	for {
		part, err := p.field()
		if err != nil {
			return selector{}, err
		}
		s.path = append(s.path, part)
		if !p.skip(".") {
			break
		}
	}
	if p.rest == "" || p.rest[0] == ',' {
		return s, nil
	}
	p.space()
	s.op = operator(p.take(func(r rune) bool { return strings.ContainsRune("=!~", r) }))
	switch s.op {
	case equal, unequal:
		s.value, err = p.value(`"`)
	case matching:
		if s.value, err = p.value(`"/|`); err == nil {
			s.pattern, err = compile(s.value, p.steps)
		}
	case present:
		err = p.unexpected("an operator")
	default:
		err = fmt.Errorf("%.40q is no operator: want ==, != or ~=", s.op)
	}
	return s, err
}

// field reads one part of a path.
func (p *parser) field() (string, error) {
	p.space()
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	name := p.take(func(r rune) bool {
		return r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
	})
	if name == "" {
		return "", p.unexpected("a field")
	}
	return name, nil
}

// value reads a value, which may be in one of the quotes.
func (p *parser) value(quotes string) (string, error) {
	p.space()
	switch r, size := utf8.DecodeRuneInString(p.rest); {
	case strings.ContainsRune(quotes, r):
		return p.quoted()
	case !inText(r), strings.ContainsRune(`"/|.,=!~`, r):
		return "", p.unexpected("a value")
	default:
		first := p.rest[:size]
		p.rest = p.rest[size:]
		return first + p.take(func(r rune) bool {
			return inText(r) && r != ',' && !unicode.IsSpace(r) && unicode.IsGraphic(r)
		}), nil
	}
}

// inText tells whether a rune can be in a filter at all.
func inText(r rune) bool { return r != 0 && r != utf8.RuneError }

var errQuoted = errors.New("what is quoted does not end, or has an escape that is none")

// quoted reads what is between two of the quote that comes first.
func (p *parser) quoted() (string, error) {
	quote := p.rest[0]
	p.rest = p.rest[1:]
	var b []byte
	for {
		switch r, size := utf8.DecodeRuneInString(p.rest); {
		case !inText(r) || r == '\n':
			return "", errQuoted
		case r == rune(quote):
			p.rest = p.rest[1:]
			return string(b), nil
		case r != '\\':
			b = append(b, p.rest[:size]...)
			p.rest = p.rest[size:]
		case len(p.rest) > 1 && p.rest[1] == quote:
			b = append(b, quote)
			p.rest = p.rest[2:]
		default:
			// A quote other than its own is no escape, and Go's strings have no others.
			c, multibyte, rest, err := strconv.UnquoteChar(p.rest, 0)
			if err != nil {
				return "", errQuoted
			}
			if multibyte {
				b = utf8.AppendRune(b, c)
			} else {
				b = append(b, byte(c))
			}
			p.rest = rest
		}
	}
}
